"""`shuffle="windows"`: the windows of the whole text in random order, as the book's loader gives them."""

import pytest
import torch
from datasets import Dataset
from datasets.distributed import split_dataset_by_node
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from windows_reference import (
    TOKENIZER,
    Lines,
    batched,
    book_tokenizer,
    create_dataloader_v1,
    joined,
    order_of,
    plain,
    reference,
    words,
)

from gpt_embeddings import TokenWindows


with open("data/the_tide_clerk.txt", encoding="utf-8") as story:
    TEXT = story.read()


class TestCreateDataloaderV1:
    @pytest.mark.parametrize(("stride", "drop_last"), [(4, True), (32, False)])
    def test_its_windows_in_the_order_of_seed_and_epoch(self, stride, drop_last):
        theirs = create_dataloader_v1(TEXT, book_tokenizer(), 4, 32, stride, drop_last=drop_last)
        windows = TokenWindows([TEXT], TOKENIZER, 32, stride, tail="drop", shuffle="windows", seed=3)
        ours = windows.dataloader(4, drop_last=drop_last)
        assert len(ours) == len(theirs)
        for epoch in (0, 1):
            order = order_of(len(theirs.dataset), 3, epoch)
            same = DataLoader(theirs.dataset, batch_size=4, sampler=order, drop_last=drop_last)
            for batch, (inputs, targets) in zip(ours, same, strict=True):
                assert torch.equal(batch["input_ids"], inputs) and torch.equal(batch["target_ids"], targets)


texts = st.lists(st.one_of(st.none(), st.just(""), st.sampled_from(words(20))), min_size=1, max_size=25)
cuts = st.integers(1, 12).flatmap(lambda length: st.tuples(st.just(length), st.integers(1, length)))


@pytest.mark.filterwarnings("ignore:Epoch 0 has no window")
@settings(deadline=None, max_examples=60)
@given(
    texts, cuts, st.sampled_from(["stream", "document"]), st.sampled_from(["pad", "drop"]), st.integers(1, 3),
    st.integers(1, 2),
)  # fmt: skip
def test_equals_the_slow_reference(documents, length_and_stride, packing, tail, streams, ranks):
    length, stride = length_and_stride
    whole = reference(documents, length, stride, packing, tail)
    order, parts = order_of(len(whole), 7, 0), streams * ranks
    bounds = [len(whole) * i // parts for i in range(parts + 1)]
    for rank in range(ranks):
        mine = range(rank * streams, (rank + 1) * streams)
        wanted = [[whole[i] for i in order[bounds[n] : bounds[n + 1]]] for n in mine]
        cut = {"stride": stride, "packing": packing, "tail": tail}
        shuffled = {"shuffle": "windows", "seed": 7, "num_streams": streams, "rank": rank, "world_size": ranks}
        windows = TokenWindows(documents, TOKENIZER, length, **cut, **shuffled)
        assert plain(windows.dataloader(3)) == batched(wanted, 3)
        counted = TokenWindows(documents, TOKENIZER, length, **cut).count()
        assert windows.count() == (*counted[:2], sum(map(len, wanted)))
        assert len(windows) == sum(map(len, wanted))


def shuffled(**options):
    dataset = Dataset.from_dict({"text": words(60)})
    return TokenWindows(dataset, TOKENIZER, 8, **{"shuffle": "windows", "num_streams": 2, **options})


def test_other_text_is_refused():
    state = TokenWindows(["a b c d", "e f g", "h"], TOKENIZER, 2, shuffle="windows").dataloader(1)
    next(iter(state))
    state = state.state_dict()
    other = TokenWindows(["a b c d", "x y z", "h"], TOKENIZER, 2, shuffle="windows").dataloader(1)
    other.load_state_dict(state)
    with pytest.raises(ValueError, match="has different text at the saved position"):
        next(iter(other))
    for shuffle in (True, False):
        with pytest.raises(ValueError, match=r"`shuffle` is .* and was 'windows'"):
            TokenWindows(["a b c d", "e f g", "h"], TOKENIZER, 2, shuffle=shuffle).load_state_dict(state)


def test_stored_in_that_order(tmp_path):
    stored = shuffled().to_dataset(tmp_path / "stored")
    assert stored["input_ids"][:] == [w for part in (0, 1) for w in of_stream(part)]


def of_stream(part):
    """Windows of a stream by another way: two ranks of one stream are dealt as one rank of two streams."""
    windows = shuffled(num_streams=1, rank=part, world_size=2)
    return [window["input_ids"].tolist() for window in windows]


def test_a_dataset_that_is_split_by_node_is_the_corpus():
    half = split_dataset_by_node(Dataset.from_dict({"text": words(60)}), 1, 2)
    windows = TokenWindows(half, TOKENIZER, 8, shuffle="windows")
    assert sorted(joined(plain(windows.dataloader(4)))) == sorted(reference(half["text"], 8, 8))


class TestRefusedOrTold:
    @pytest.mark.parametrize("kind", ["stream", "iterable"])
    def test_streams_are_refused(self, kind):
        corpus = Lines(words(9)) if kind == "iterable" else Dataset.from_dict({"text": words(9)}).to_iterable_dataset()
        with pytest.raises(ValueError, match=r"needs a corpus with random access.*store the windows with `to_dataset"):
            TokenWindows(corpus, TOKENIZER, 8, shuffle="windows")

    def test_other_values(self):
        with pytest.raises(ValueError, match="`shuffle` must be one of False, True, 'windows', got 1"):
            TokenWindows(words(3), TOKENIZER, 8, shuffle=1)

    def test_one_document_or_shard_is_told(self):
        for corpus in ([TEXT], Dataset.from_dict({"text": [TEXT]})):
            with pytest.warns(UserWarning, match=r'there is one: every epoch.*`shuffle="windows"` shuffles') as told:
                TokenWindows(corpus, TOKENIZER, 8, shuffle=True)
            assert told[0].filename == __file__
        TokenWindows([TEXT], TOKENIZER, 8, shuffle="windows", num_streams=2)
        stream = Dataset.from_dict({"text": words(9)}).to_iterable_dataset()
        with pytest.warns(UserWarning, match=r"a single shard: every epoch has the same order.*`to_dataset\(folder"):
            TokenWindows(stream, TOKENIZER, 8, shuffle=True)
