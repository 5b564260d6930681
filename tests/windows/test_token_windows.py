"""Windows against their definition, the book's loader, transformers' collator, and bad input."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from command import STORY
from datasets import Dataset, IterableDataset, concatenate_datasets, interleave_datasets
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import new_gpt
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.utils.data import DataLoader
from transformers import DataCollatorWithFlattening, PreTrainedTokenizerFast
from windows_reference import (
    EOT,
    TOKENIZER,
    GPTDatasetV1,
    Lines,
    batched,
    book_tokenizer,
    cut,
    encode,
    joined,
    order_of,
    plain,
    reference,
    words,
)

from gpt_embeddings import TokenWindows, WindowCollator, load_source, load_tokenizer
from gpt_embeddings.windows.stored_windows import read_windows
from gpt_embeddings.windows.streams import TokenStream


TEXT = STORY.read_text(encoding="utf-8")
documents_of_any_kind = st.lists(
    st.one_of(st.none(), st.just(""), st.text(max_size=12), st.sampled_from(words(20))), min_size=1, max_size=25
)
cuts = st.integers(1, 12).flatmap(lambda length: st.tuples(st.just(length), st.integers(1, length)))


def split(rows, n):
    return [rows[len(rows) * i // n : len(rows) * (i + 1) // n] for i in range(n)]


class TestDefinition:
    def test_worked_by_hand(self):
        windows = TokenWindows(["The cat sat", "A mat"], TOKENIZER, 2, packing="document")
        wanted = [([464, 3797], [3797, 3332]), ([3332, EOT], [EOT, -100]), ([32, 2603], [2603, EOT])]
        assert plain(windows.dataloader(8)) == [wanted]

    @pytest.mark.filterwarnings("ignore:Epoch . has no", "ignore:`shuffle=True` shuffles")
    @settings(deadline=None, max_examples=150)
    @given(
        documents_of_any_kind, cuts, st.sampled_from(["stream", "document"]), st.sampled_from(["pad", "drop"]),
        st.integers(1, 7), st.integers(1, 4), st.integers(1, 2), st.booleans(),
        st.sampled_from([False, True, "windows"]), st.integers(0, 1),
    )  # fmt: skip
    def test_equals_the_slow_reference(
        self, documents, length_and_stride, packing, tail, batch_size, streams, ranks, drop_last, shuffle, epoch
    ):
        cut = (*length_and_stride, packing, tail)
        whole = reference(documents, *cut)
        streams = min(streams, max(1, len(documents) // ranks))
        options = {"packing": packing, "tail": tail, "shuffle": shuffle, "seed": 7, "num_streams": streams}
        for rank in range(ranks):
            if shuffle == "windows":
                read, order = documents, order_of(len(whole), 7, epoch)
                wanted = split([whole[i] for i in order], ranks * streams)[rank * streams : (rank + 1) * streams]
            else:
                read = split(documents, ranks)[rank]
                order = order_of(len(read), 7, epoch) if shuffle else range(len(read))
                wanted = [reference(part, *cut) for part in split([read[i] for i in order], streams)]
            windows = TokenWindows(documents, TOKENIZER, *length_and_stride, **options, rank=rank, world_size=ranks)
            windows.set_epoch(epoch)
            lengths = [len(encode(text)) for text in read if text and encode(text)]
            assert windows.count() == (len(lengths), sum(lengths), sum(map(len, wanted)))
            assert plain(windows.dataloader(batch_size, drop_last=drop_last)) == batched(wanted, batch_size, drop_last)
            windows.set_epoch(epoch)
            singly = [(window["input_ids"].tolist(), window["target_ids"].tolist()) for window in windows]
            assert [[pair] for pair in singly] == batched(wanted, 1)

    @pytest.mark.filterwarnings("ignore:Epoch 0 has no", "ignore:`shuffle=True` shuffles")
    @settings(deadline=None, max_examples=60)
    @given(documents_of_any_kind, cuts, st.integers(1, 4), st.integers(1, 2), st.booleans(), st.data())
    def test_shards_of_a_streaming_dataset(self, documents, length_and_stride, shards, ranks, shuffle, data):
        shards = min(shards, len(documents))
        dataset = Dataset.from_dict({"text": documents}).to_iterable_dataset(num_shards=shards)
        order = order_of(shards, 7, 0) if shuffle else range(shards)
        parts = [[row["text"] for row in dataset.shard(shards, i)] for i in order]
        whole_shards = shards % ranks == 0
        streams = data.draw(st.integers(1, shards // ranks if whole_shards else shards))
        options = {"shuffle": shuffle, "seed": 7, "num_streams": streams, "world_size": ranks}
        for rank in range(ranks):
            mine = parts[rank::ranks] if whole_shards else [part[rank::ranks] for part in parts]
            wanted = [reference(joined(mine[stream::streams]), *length_and_stride) for stream in range(streams)]
            windows = TokenWindows(dataset, TOKENIZER, *length_and_stride, rank=rank, **options)
            assert plain(windows.dataloader(3)) == batched(wanted, 3)

    def test_tensors_are_contiguous_int64(self):
        for batch in TokenWindows(words(50), TOKENIZER, 16, 4, return_position_ids=True).dataloader(4):
            for values in batch.values():
                assert values.dtype == torch.int64 and values.is_contiguous() and values.shape[1] == 16


class TestBook:
    @pytest.mark.parametrize("shuffle", [False, "windows"])
    @pytest.mark.parametrize(("stride", "drop_last"), [(4, True), (32, False)])
    def test_batches_are_those_of_its_loader_in_the_order_of_seed_and_epoch(self, stride, drop_last, shuffle):
        book = GPTDatasetV1(TEXT, book_tokenizer(), 32, stride)
        windows = TokenWindows([TEXT], TOKENIZER, 32, stride, tail="drop", shuffle=shuffle, seed=3)
        ours = windows.dataloader(4, drop_last=drop_last)
        for epoch in (0, 1):
            order = order_of(len(book), 3, epoch) if shuffle else range(len(book))
            theirs = DataLoader(book, batch_size=4, sampler=order, drop_last=drop_last)
            assert len(ours) == len(theirs) > 15
            for batch, (inputs, targets) in zip(ours, theirs, strict=True):
                assert torch.equal(batch["input_ids"], inputs) and torch.equal(batch["target_ids"], targets)

    def test_documents_joined_by_end_of_text(self):
        documents = [text.replace("<|endoftext|>", "").strip() for text in words(60)]
        documents = [text for text in documents if text]
        book = GPTDatasetV1("<|endoftext|>".join(documents), book_tokenizer(), 16, 4)
        wanted = [(inputs.tolist(), targets.tolist()) for inputs, targets in book]
        assert joined(plain(TokenWindows(documents, TOKENIZER, 16, 4, tail="drop").dataloader(8))) == wanted


class TestPositions:
    @pytest.mark.filterwarnings("ignore:Epoch 0 has no")
    @settings(deadline=None, max_examples=40)
    @given(documents_of_any_kind, st.integers(2, 12))
    def test_equal_a_count_token_by_token(self, documents, length):
        windows = TokenWindows(documents, TOKENIZER, length, return_position_ids=True, return_document_ids=True)
        for window in windows:
            position, document, wanted = 0, 0, []
            real = 1 + int((window["target_ids"] != -100).sum())
            for token in window["input_ids"].tolist()[:real]:
                wanted.append((position, document))
                position, document = (0, document + 1) if token == EOT else (position + 1, document)
            wanted += [(0, -1)] * (length - len(wanted))
            found = zip(window["position_ids"].tolist(), window["document_ids"].tolist(), strict=True)
            assert list(found) == wanted[:length]


class TestCollator:
    @pytest.mark.parametrize("packing", ["stream", "document"])
    def test_loss_equals_one_worked_by_hand(self, packing):
        model = new_gpt(vocab_size=50257, n_positions=16)
        items = list(TokenWindows(words(9), TOKENIZER, 16, packing=packing))
        batch = WindowCollator()(items)
        targets = torch.cat([item["target_ids"] for item in items])
        with torch.no_grad():
            logits = model(input_ids=batch["input_ids"]).logits.flatten(0, 1).double()
            wanted = torch.nn.functional.cross_entropy(logits, targets, ignore_index=-100)
            assert model(**batch).loss.item() == pytest.approx(wanted.item(), rel=1e-5)

    def test_labels_are_unshifted_and_stored_rows_give_the_same(self):
        windows = TokenWindows(words(9), TOKENIZER, 16)
        batch, of_stored = WindowCollator()(list(windows)), WindowCollator()(list(windows.to_dataset()))
        shifted = batch["labels"][:, 1:]
        assert torch.equal(shifted, batch["shift_labels"][:, :-1])  # what the model makes of them, but for the last
        assert torch.equal(batch["labels"][:-1], batch["input_ids"][:-1])
        assert (batch["shift_labels"] == -100).any()
        assert all(torch.equal(batch[name], of_stored[name]) for name in batch)

    def test_missing_columns(self):
        with pytest.raises(ValueError, match="remove_unused_columns=False"):
            WindowCollator()([{"input_ids": torch.zeros(4)}])
        with pytest.raises(ValueError, match="return_document_ids=True"):
            WindowCollator(return_flash_attn_kwargs=True)(list(TokenWindows(words(9), TOKENIZER, 16)))

    @pytest.mark.parametrize("packing", ["stream", "document"])
    def test_flattened_loss_equals_that_with_a_block_mask(self, packing):
        model = new_gpt(vocab_size=50257, n_positions=16)
        windows = TokenWindows(words(9, longest=12), TOKENIZER, 16, packing=packing, return_document_ids=True)
        items = list(windows)
        flat = WindowCollator(return_flash_attn_kwargs=True)(items)
        batch = WindowCollator()(items)
        documents = batch.pop("document_ids")
        causal = torch.ones(16, 16, dtype=torch.bool).tril()
        same = (documents[:, None, :, None] == documents[:, None, None, :]) & causal  # (batch, 1, position, position)
        starts = torch.ones_like(documents, dtype=torch.bool)
        starts[:, 1:] = documents[:, 1:] != documents[:, :-1]
        count = torch.arange(16)
        positions = count - torch.where(starts, count, 0).cummax(-1).values
        with torch.no_grad():
            wanted = model(**batch, attention_mask=same, position_ids=positions).loss
            apart = model(**batch).loss
            found = model(**flat, use_cache=False).loss
        assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
        assert packing == "document" or found.item() != pytest.approx(apart.item(), rel=1e-5)

    def test_flattened_names_and_values_are_those_of_transformers(self):
        windows = TokenWindows(["The cat sat", "A mat"], TOKENIZER, 4, return_document_ids=True)
        found = WindowCollator(return_flash_attn_kwargs=True)(list(windows))
        parts = [{"input_ids": ids} for ids in ([464, 3797, 3332, EOT], [32, 2603])]
        theirs = DataCollatorWithFlattening(return_flash_attn_kwargs=True)(parts)
        targets = found.pop("shift_labels")
        assert targets.tolist() == [[3797, 3332, EOT, 32, 2603, -100]]
        assert set(found) == set(theirs)
        for name, value in theirs.items():
            assert torch.equal(found[name], value) if torch.is_tensor(value) else found[name] == value, name


class TestShuffle:
    def test_one_document_or_shard_is_told(self):
        for corpus in ([TEXT], Dataset.from_dict({"text": [TEXT]})):
            with pytest.warns(UserWarning, match=r'there is one: every epoch.*`shuffle="windows"` shuffles') as told:
                TokenWindows(corpus, TOKENIZER, 8, shuffle=True)
            assert told[0].filename == __file__
        TokenWindows([TEXT], TOKENIZER, 8, shuffle="windows", num_streams=2)
        stream = Dataset.from_dict({"text": words(9)}).to_iterable_dataset()
        with pytest.warns(UserWarning, match=r"a single shard: every epoch has the same order.*`to_dataset\(folder"):
            TokenWindows(stream, TOKENIZER, 8, shuffle=True)
        for corpus in (stream, Lines(words(9))):
            with pytest.raises(ValueError, match=r"needs a corpus with random access.*store the windows with `to"):
                TokenWindows(corpus, TOKENIZER, 8, shuffle="windows")

    def test_what_cannot_be_resumed_is_refused(self):
        corpus = Dataset.from_dict({"text": words(20)}).to_iterable_dataset(num_shards=2)
        shuffled = corpus.shuffle(seed=0)
        mixed = interleave_datasets([corpus, corpus], probabilities=[0.5, 0.5], seed=0)
        for dataset, error, message in (
            (shuffled, ValueError, "buffer that is not saved"),
            (concatenate_datasets([shuffled.select_columns("text"), corpus]), ValueError, "buffer that is not saved"),
            (mixed, ValueError, r"Use `TokenWindows\(\[one, other\], ..., weights="),
            (iter(words(20)), TypeError, "read only once"),
        ):
            with pytest.raises(error, match=message):
                TokenWindows(dataset, TOKENIZER, 8)


class TestStored:
    @pytest.mark.parametrize(
        ("tail", "streams", "shuffle"), [("pad", 3, False), ("drop", 1, False), ("pad", 2, "windows")]
    )
    def test_equal_the_streamed(self, tmp_path, tail, streams, shuffle):
        documents = words(300)
        windows = TokenWindows(documents, TOKENIZER, 16, 6, tail=tail, num_streams=streams, shuffle=shuffle)
        if shuffle:
            whole = reference(documents, 16, 6, tail=tail)
            wanted = [whole[i] for i in order_of(len(whole), 0, 0)]
        else:
            wanted = joined(reference(part, 16, 6, tail=tail) for part in split(documents, streams))
        for stored in (windows.to_dataset(), windows.to_dataset(tmp_path / "stored")):
            assert list(zip(stored["input_ids"], stored["target_ids"], strict=True)) == wanted
            kinds = [stored.features[name].feature.dtype for name in ("input_ids", "target_ids")]
            assert kinds == ["uint16", "uint16" if tail == "drop" else "int32"]
            assert plain(read_windows(stored, 5)) == batched([wanted], 5)
            assert plain(read_windows(stored, 5, drop_last=True)) == batched([wanted], 5, drop_last=True)
            picked = stored.select(range(len(stored) - 1, -1, -3))
            assert plain(read_windows(picked, 5)) == batched([wanted[::-3]], 5)

    def test_several_files(self, tmp_path, monkeypatch):
        monkeypatch.setattr("gpt_embeddings.windows.stored_windows.FILE_BYTES", 10_000)
        windows = TokenWindows(words(300), TOKENIZER, 16, 6)
        stored = windows.to_dataset(tmp_path / "stored")
        assert len(list((tmp_path / "stored").glob("*.arrow"))) > 5
        assert stored[:] == windows.to_dataset()[:]
        assert [path.name for path in tmp_path.iterdir()] == ["stored"]

    def test_a_folder_that_exists_and_a_text_without_a_window_are_refused(self, tmp_path):
        with pytest.raises(FileExistsError, match="choose another"):
            TokenWindows(words(30), TOKENIZER, 16).to_dataset(tmp_path)
        with pytest.raises(ValueError, match=r"no window: a window needs 17 tokens"):
            TokenWindows(["short"], TOKENIZER, 16, tail="drop").to_dataset(tmp_path / "stored")
        assert not list(tmp_path.iterdir())


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"max_length": 1025}, r"`max_length` is 1025, above the 1024 positions \(`n_positions`\)"),
            ({"max_length": True}, "`max_length` must be an integer of at least 1, got True"),
            ({"stride": 9}, "`stride` must be an integer from 1 to 8, got 9. A stride above `max_length` would skip"),
            ({"packing": "wrapped"}, "`packing` must be one of 'stream', 'document', got 'wrapped'"),
            ({"num_streams": 4}, "`num_streams` is 4, more than the 3 rows"),
            ({"shuffle": 1}, "`shuffle` must be one of False, True, 'windows', got 1"),
            ({"rank": 2, "world_size": 2}, "`rank` must be an integer from 0 to 1, got 2"),
        ],
    )
    def test_arguments(self, options, message):
        with pytest.raises(ValueError, match=message):
            TokenWindows(words(3), TOKENIZER, **{"max_length": 8, **options})

    def test_numbers_of_streams_workers_and_rows_of_a_batch(self):
        corpus = Dataset.from_dict({"text": words(20)}).to_iterable_dataset(num_shards=2)
        with pytest.raises(ValueError, match=r"more than the 2 shards \(files\).*into more files"):
            TokenWindows(corpus, TOKENIZER, 8, num_streams=3)
        windows = TokenWindows(words(3), TOKENIZER, 8)
        with pytest.raises(ValueError, match="raise `num_streams` to have more"):
            windows.dataloader(num_workers=2)
        with pytest.raises(ValueError, match="`batch_size` must be an integer of at least 1, got 0"):
            windows.dataloader(0)
        with pytest.raises(ValueError, match="there are no workers to keep"):
            windows.dataloader(persistent_workers=True)

    def test_no_corpus(self):
        for dataset in ("one string", b"bytes", {"text": ["a"]}, 3):
            with pytest.raises(TypeError, match=r"must be a `datasets.Dataset`, an `IterableDataset` or an iterable"):
                TokenWindows(dataset, TOKENIZER, 8)
        for dataset in ([], Dataset.from_dict({"text": []})):
            with pytest.raises(ValueError, match="has no rows"):
                TokenWindows(dataset, TOKENIZER, 8)
        windows = TokenWindows(IterableDataset.from_generator(lambda: iter([])), TOKENIZER, 8)
        with pytest.warns(UserWarning, match="Epoch 0 has no window: a window needs 2 tokens"):
            assert list(windows) == []
        assert windows.count() == (0, 0, 0)

    def test_columns(self):
        dataset = Dataset.from_dict({"body": ["a"], "n": [1]})
        for corpus in (dataset, dataset.to_iterable_dataset()):
            with pytest.raises(ValueError, match="There is no column 'text'; the columns are body, n"):
                TokenWindows(corpus, TOKENIZER, 8)
            with pytest.raises(ValueError, match="Column 'n' must hold strings"):
                TokenWindows(corpus, TOKENIZER, 8, column="n")

    def test_what_is_missing_is_no_document_in_any_kind_of_corpus(self):
        texts = ["The cat", None, "sat", None]
        rows = Dataset.from_dict({"text": texts, "other": range(4)})
        indices = Dataset.from_dict({"text": texts[::-1]}).select(range(3, -1, -1))
        generator = IterableDataset.from_generator(lambda: ({"text": text} for text in texts))
        shown = Dataset.from_dict({"i": range(4)}).with_transform(
            lambda batch: {"text": [[*texts[:3], float("nan")][i] for i in batch["i"]]}
        )
        lists = [[float("nan") if text is None else text for text in texts], [text or pd.NA for text in texts], texts]
        for corpus in (*lists, Lines(texts), rows, rows.to_iterable_dataset(), indices, generator, shown):
            windows = TokenWindows(corpus, TOKENIZER, 4)
            assert plain(windows.dataloader(1)) == [[w] for w in cut([464, 3797, EOT, 49720], 4, 4, "pad")]
            assert windows.count() == (2, 3, 1)
        for options in ({}, {"shuffle": "windows"}, {"num_streams": 2}):
            states = [TokenWindows(corpus, TOKENIZER, 4, **options).state_dict()["settings"] for corpus in lists]
            assert states[0] == states[1] == states[2]
        with pytest.warns(UserWarning, match="Epoch 0 has no window"):
            assert list(TokenWindows(Dataset.from_dict({"text": [None, None]}), TOKENIZER, 4)) == []

    def test_a_transform_is_what_is_read(self, tmp_path):
        shown, numbers = words(60), Dataset.from_dict({"i": range(60)})
        rows = numbers.with_transform(lambda batch: {"text": [shown[i] for i in batch["i"]]})
        for options in ({}, {"num_streams": 3, "shuffle": True}, {"shuffle": "windows"}, {"rank": 1, "world_size": 2}):
            ours = TokenWindows(rows, TOKENIZER, 8, **options)
            wanted = TokenWindows(Dataset.from_dict({"text": shown}), TOKENIZER, 8, **options)
            assert plain(ours.dataloader(4)) == plain(wanted.dataloader(4)) and len(ours) == len(wanted)
            assert ours.state_dict()["settings"] == wanted.state_dict()["settings"]
        stored = TokenWindows(rows, TOKENIZER, 8).to_dataset(tmp_path / "stored")
        assert list(zip(stored["input_ids"], stored["target_ids"], strict=True)) == reference(shown, 8, 8)
        with pytest.raises(ValueError, match="There is no column 'body'; the columns are text"):
            TokenWindows(rows, TOKENIZER, 8, column="body")
        with pytest.raises(TypeError, match="Text 0 must be a string, got int: 0"):
            TokenWindows(numbers.with_transform(lambda batch: {"text": batch["i"]}), TOKENIZER, 8)

    def test_numpy_integers(self):
        numbers = {"max_length": 8, "stride": 4, "seed": 3, "num_streams": 2, "rank": 1, "world_size": 2}
        ours = TokenWindows(words(60), TOKENIZER, shuffle=True, **{k: np.int64(n) for k, n in numbers.items()})
        ours.set_epoch(np.int32(1))
        wanted = TokenWindows(words(60), TOKENIZER, shuffle=True, **numbers)
        wanted.set_epoch(1)
        assert json.dumps(ours.state_dict()) == json.dumps(wanted.state_dict())
        assert plain(ours.dataloader(np.int64(4), num_workers=np.int64(0))) == plain(wanted.dataloader(4))

    def test_an_epoch_without_windows_is_warned_of_once(self):
        def windows():
            return TokenWindows(["oi"], TOKENIZER, 4, tail="drop")

        message = "Epoch 0 has no window: a window needs 5 tokens"
        for each in (windows(), windows().dataloader(4), windows().dataloader(4, drop_last=True)):
            with pytest.warns(UserWarning, match=message):
                assert list(each) == []
            assert list(each) == []  # warnings are errors here
        with pytest.raises(UserWarning, match=message):  # in the worker, for the same reason
            list(DataLoader(windows(), batch_size=4, num_workers=1))
        few = TokenWindows(words(9), TOKENIZER, 8).dataloader(10_000, drop_last=True)
        message = r"Epoch 0 has no batch of 10000 windows: no stream has that many\. Use a"
        with pytest.warns(UserWarning, match=message):
            assert list(few) == []

    def test_wrong_elements_and_tokenizers(self):
        with pytest.raises(TypeError, match=r"Text 2 must be a string, got float: 1\.5"):
            list(TokenWindows(["a", None, 1.5], TOKENIZER, 8))
        with pytest.raises(ValueError, match=r"Text 1 holds the lone surrogate .* has no UTF-8 form"):
            list(TokenWindows(["a", "b\ud800"], TOKENIZER, 8))
        with pytest.raises(TypeError, match="must be a fast tokenizer"):
            TokenWindows(["a"], object(), 8)
        without = load_tokenizer()
        without.eos_token = None
        with pytest.raises(ValueError, match="no end-of-text token"):
            TokenWindows(["a"], without, 8)

    def test_invalid_utf8_in_parquet_names_it(self, tmp_path):
        pq.write_table(pa.table({"text": ["good"] * 10}), tmp_path / "0.parquet")
        pq.write_table(pa.table({"text": pa.array([b"\xff\xfe"]).view(pa.string())}), tmp_path / "1.parquet")
        corpus = load_source([str(tmp_path / f"{i}.parquet") for i in (0, 1)], streaming=True)
        with pytest.raises(ValueError, match=r"1\.parquet could not be read: a row is not valid UTF-8"):
            list(TokenWindows(corpus, TOKENIZER, 8))

    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_a_corrupt_shard_in_mid_stream_names_the_file(self, tmp_path, num_workers):
        for i in range(4):
            pq.write_table(pa.table({"text": words(3000, seed=i)}), tmp_path / f"{i}.parquet")
        content = bytearray((tmp_path / "2.parquet").read_bytes())
        content[2000:-2000] = bytes(len(content) - 4000)
        (tmp_path / "2.parquet").write_bytes(content)
        corpus = load_source([str(tmp_path / f"{i}.parquet") for i in range(4)], streaming=True)
        windows = TokenWindows(corpus, TOKENIZER, 64, num_streams=2)
        seen = 0
        with pytest.raises(ValueError, match=r"2\.parquet could not be read"):
            for _ in windows.dataloader(8, num_workers=num_workers):
                seen += 1
        assert seen > 50


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The accelerated tokenizer")  # it has no WordLevel
def test_ids_beyond_sixteen_bits_are_stored_whole():
    """A vocabulary with holes has larger ids than entries."""
    vocabulary = {"[UNK]": 0, "<eos>": 1, "a": 2, "big": 70000}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", unk_token="[UNK]")
    stored = TokenWindows(["a big a big"], tokenizer, max_length=4).to_dataset()
    assert stored["input_ids"][:] == [[2, 70000, 2, 70000]]


def test_a_formatted_dataset_has_a_state_which_is_small_and_json():
    dataset = Dataset.from_dict({"text": words(200)})
    for kind in ("arrow", "pandas", "numpy"):
        state = TokenWindows(dataset.with_format(kind), TOKENIZER, max_length=8, num_streams=4).state_dict()
        assert len(json.dumps(state)) < 1500
        TokenWindows(dataset, TOKENIZER, max_length=8, num_streams=4).load_state_dict(json.loads(json.dumps(state)))


def test_documents_without_a_window_are_not_kept():
    windows = TokenWindows(["short"] * 20000, TOKENIZER, max_length=64, packing="document", tail="drop")
    stream = TokenStream(windows.corpus.partition(0)[0], TOKENIZER, windows.corpus.spec, None)
    assert len(stream.take(8)) == 0
    assert not stream._packer._read and len(stream._packer._tokens) < 100
