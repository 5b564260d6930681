"""Windows of several corpora by weight."""

import json
from itertools import islice

import pytest
from datasets import Dataset, interleave_datasets
from datasets.distributed import split_dataset_by_node
from windows_reference import TOKENIZER, reference, words

from gpt_embeddings import TokenWindows, WindowCollator
from gpt_embeddings.windows.stored_windows import read_windows


WEIGHTS = (0.7, 0.2, 0.1)


def corpora(kind="list", sizes=(120, 40, 30)):
    texts = [[f"{i} {text}" for text in words(size, seed=i)] for i, size in enumerate(sizes)]
    if kind == "list":
        return texts
    rows = [Dataset.from_dict({"text": part}) for part in texts]
    return rows if kind == "rows" else [part.to_iterable_dataset(num_shards=8) for part in rows]


def mixture(kind="list", weights=WEIGHTS, **options):
    return TokenWindows(corpora(kind), TOKENIZER, 8, weights=weights, **options)


def rows(loader):
    names = ("source_ids", "input_ids", "target_ids")
    return [row for batch in loader for row in zip(*(batch[name].tolist() for name in names), strict=True)]


def by_hand(parts, restart):
    """The same, window by window: whichever corpus is furthest behind its share is next."""
    found, taken, passes = [], [0] * len(parts), [0] * len(parts)
    while not (all if restart else any)(passes):
        behind = [weight * (len(found) + 1) - n for weight, n in zip(WEIGHTS, taken, strict=True)]
        k = behind.index(max(behind))
        at = taken[k] - passes[k] * len(parts[k])
        if at == len(parts[k]):
            passes[k] += 1
        else:
            found.append((k, *map(list, parts[k][at])))
            taken[k] += 1
    return found


@pytest.mark.parametrize("stopping_strategy", ["first_exhausted", "all_exhausted"])
@pytest.mark.parametrize("kind", ["list", "rows", "streaming"])
def test_equals_one_made_by_hand(kind, stopping_strategy):
    parts = [reference(texts, 8, 8) for texts in corpora()]
    wanted = by_hand(parts, stopping_strategy == "all_exhausted")
    windows = mixture(kind, stopping_strategy=stopping_strategy)
    assert rows(windows.dataloader(4)) == wanted
    assert windows.count().windows == len(wanted)
    for k, share in enumerate(WEIGHTS):
        assert abs(sum(row[0] == k for row in wanted) - share * len(wanted)) <= 1


@pytest.mark.parametrize(("kind", "shuffle"), [("list", False), ("rows", "windows"), ("streaming", True)])
def test_resumes_exactly(kind, shuffle):
    def loader():
        options = {"shuffle": shuffle, "num_streams": 2, "stopping_strategy": "all_exhausted"}
        return mixture(kind, **options).dataloader(4)

    whole = loader()
    epochs = [list(whole), list(whole)]
    wanted = rows(epochs[0])
    assert (wanted != rows(epochs[1])) is bool(shuffle)
    for n in range(1, len(epochs[0]), len(epochs[0]) // 5):
        stopped, resumed = loader(), loader()
        seen = list(islice(stopped, n))
        resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
        assert rows(seen) + rows(resumed) == wanted, n
    assert rows(resumed) == rows(epochs[1])


@pytest.mark.slow
def test_workers_and_ranks():
    def batches(**options):
        return rows(mixture("rows", shuffle=True, num_streams=2, **options).dataloader(4))

    assert rows(mixture("rows", shuffle=True, num_streams=2).dataloader(4, num_workers=2)) == batches()
    shards = [batches(rank=rank, world_size=2) for rank in (0, 1)]
    assert all(len(shard) > 50 for shard in shards) and shards[0] != shards[1]


def test_rows_and_a_stream_that_are_split_by_node_are_each_split_once():
    rows, stream = corpora("rows")[0], corpora("streaming")[1]
    for k, data in enumerate((rows, stream)):
        read = []
        for rank in (0, 1):
            parts = [split_dataset_by_node(each, rank, 2) for each in (rows, stream)]
            (documents,) = TokenWindows(parts, TOKENIZER, 8, weights=[1, 1]).corpus.partition(0, k)
            read += [text for _, texts in documents(None) for text in texts]
        assert sorted(read) == sorted(row["text"] for row in data)


def test_stored_and_collated(tmp_path):
    stored = mixture().to_dataset(tmp_path / "stored")
    streamed = rows(mixture().dataloader(4))
    assert rows(read_windows(stored, 4)) == streamed
    assert WindowCollator()([stored[i] for i in range(6)])["source_ids"].tolist() == [row[0] for row in streamed[:6]]


def test_interleave_datasets_does_not_do():
    """Its shares are of rows, and its rows depend on the number of shards."""
    long, short = (Dataset.from_dict({"text": [text] * 40}).to_iterable_dataset(4) for text in ("a " * 50, "a"))
    mixed = interleave_datasets([long, short], probabilities=[0.5, 0.5], seed=0, stopping_strategy="all_exhausted")
    texts = [row["text"] for row in mixed]
    assert sum(len(text) for text in texts if text == "a") < 0.05 * sum(map(len, texts))
    assert sum(sum(1 for _ in mixed.shard(4, i)) for i in range(4)) != len(texts)


def test_another_mixture_is_refused():
    with pytest.raises(ValueError, match=r"`weights` is \[1.0, 1.0, 1.0\] and was \[0.7, 0.2, 0.1\]"):
        mixture(weights=(1, 1, 1)).load_state_dict(mixture().state_dict())
    windows = TokenWindows([["a b c d"], [""]], TOKENIZER, 2, weights=[1, 1], stopping_strategy="all_exhausted")
    with pytest.raises(ValueError, match="Corpus 1 has no window"):
        list(windows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": (0.5, 0.5)}, "`weights` has 2 numbers and needs a list of as many corpora, got 3 in a list"),
        ({"weights": (1, 1, 0)}, r"`weights` must be positive numbers, got \[1, 1, 0\]"),
        ({"weights": (1, 1, float("nan"))}, "must be positive numbers"),
        ({"stopping_strategy": "any"}, "must be one of 'first_exhausted', 'all_exhausted', got 'any'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        mixture(**options)
