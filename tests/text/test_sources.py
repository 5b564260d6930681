"""Files as people have them, read to the texts that a person would say they hold, streamed and not."""

import bz2
import gzip
import io
import lzma
import os
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, IterableDataset, Value, concatenate_datasets
from packaging.version import Version

from gpt_embeddings.exceptions import ColumnError, NotStringsError, UnreadableFileError
from gpt_embeddings.text.discovery import format_of
from gpt_embeddings.text.files import ReadOptions, read_tables
from gpt_embeddings.text.sources import load_source, read_blocks


BOTH_WAYS = pytest.mark.parametrize("streaming", [False, True], ids=["kept", "streaming"])


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / ".cache")
    return tmp_path


def write(name, content):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return name


def texts(inputs, **options):
    column = options.get("column", "text")
    return [row[column] for row in load_source(inputs, **options)]


@BOTH_WAYS
class TestNames:
    def test_a_name_is_no_pattern_and_a_pattern_comes_sorted(self, streaming):
        for name in ("b.txt", "a.txt", "deep/c.txt", "notes[1].md", "notes1.md", "what?.md", "whats.md"):
            write(name, name + "\n")
        assert texts("notes[1].md", streaming=streaming) == ["notes[1].md"]
        assert texts(["what?.md", "notes[1].md"], streaming=streaming) == ["what?.md", "notes[1].md"]
        assert texts("*.txt", streaming=streaming) == ["a.txt", "b.txt"]
        assert texts("**/*.txt", streaming=streaming) == ["a.txt", "b.txt", "deep/c.txt"]
        with pytest.raises(FileNotFoundError, match=r"No file matches the input 'c\*\.txt'"):
            load_source("c*.txt", streaming=streaming)

    def test_a_folder_is_its_files_of_one_format(self, streaming):
        for name in ("d/b.txt", "d/a.txt", "d/e/c.txt", "d/.hidden.txt", "d/_made/x.txt", "d/README.md"):
            write(name, name + "\n")
        assert texts(Path("d"), streaming=streaming) == ["d/a.txt", "d/b.txt", "d/e/c.txt"]
        write("d/picture.png", "x")
        with pytest.warns(UserWarning, match=r"1 files of unknown suffixes are not read: picture\.png"):
            assert len(texts("d", streaming=streaming)) == 3
        write("empty/x.bin", "")
        with pytest.raises(FileNotFoundError, match="holds no file of a known suffix"):
            load_source("empty", streaming=streaming)
        write("d/e/b.csv", "text\nb\n")
        with pytest.raises(ValueError, match=r"mix the formats \.csv, \.txt\. .*by a pattern"):
            load_source("d/e", streaming=streaming)

    def test_the_standard_input(self, streaming, monkeypatch):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("one\nágua\n".encode())))
        dataset = load_source("-", streaming=streaming)
        assert [list(dataset), list(dataset)] == [[{"text": "one"}, {"text": "água"}]] * 2

    @pytest.mark.parametrize(
        ("inner", "suffix"),
        [(".txt", ".bz2"), (".csv", ".xz"), (".jsonl", ".gz"), (".jsonl", ".zst")],
    )
    def test_compressed(self, streaming, suffix, inner):
        content = {".txt": b"zipped\n", ".csv": b"text\nzipped\n", ".jsonl": b'{"text": "zipped"}\n'}[inner]
        compress = {
            ".gz": gzip.compress,
            ".bz2": bz2.compress,
            ".xz": partial(lzma.compress, preset=0),  # the default takes 90 MB and a second
            ".zst": lambda content: pa.compress(content, "zstd", asbytes=True),
        }[suffix]
        write(f"a{inner}{suffix}", compress(content))
        assert texts(f"a{inner}{suffix}", streaming=streaming) == ["zipped"]
        write(f"cut{inner}{suffix}", compress(np.random.default_rng(0).bytes(2**16).hex().encode())[:-9000])
        with pytest.raises(UnreadableFileError, match=rf"cut{inner}{suffix} could not be read"):
            texts(f"cut{inner}{suffix}", streaming=streaming)

    def test_saved_datasets_and_arrow(self, streaming):
        saved = Dataset.from_dict({"text": ["a", None]})
        saved.save_to_disk("saved [x]")
        DatasetDict({"test": saved}).save_to_disk("splits")
        assert texts("saved [x]", streaming=streaming) == ["a", None]
        assert texts(["saved [x]", "saved [x]"], streaming=streaming) == ["a", None, "a", None]
        assert texts("splits", split="test", streaming=streaming) == ["a", None]
        with pytest.raises(ValueError, match="no split 'train'; choose from test"):
            load_source("splits", streaming=streaming)
        with pa.OSFile("file.arrow", "wb") as file, pa.RecordBatchFileWriter(file, saved.data.schema) as writer:
            writer.write_table(saved.data.table)
        assert texts("file.arrow", streaming=streaming) == ["a", None]
        assert texts("saved [x]/data-00000-of-00001.arrow", streaming=streaming) == ["a", None]

    def test_an_address(self, streaming):
        import fsspec

        with fsspec.open("memory://place/b.txt", "wb") as file:
            file.write(b"there\n")
        for name in ("memory://place/b.txt", "memory://place", "memory://place/*.txt"):
            assert texts(name, streaming=streaming) == ["there"]
        with pytest.raises(FileNotFoundError, match=r"There is no file 'memory://place/c\.txt'"):
            load_source("memory://place/c.txt", streaming=streaming)


class TestText:
    """Streamed: the readers are the same in both ways."""

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le"])
    @pytest.mark.parametrize(
        ("suffix", "content"),
        [("txt", "água\r\nvento\r\n"), ("csv", "text\r\nágua\r\nvento\r\n"), ("json", '["água", "vento"]')],
    )
    def test_byte_order_marks_are_no_text(self, encoding, suffix, content):
        mark = "" if encoding == "utf-16" else "\ufeff"  # this one writes a mark of its own
        name = write(f"a.{suffix}", f"{mark}{content}".encode(encoding))
        assert texts(name, encoding=encoding, streaming=True) == ["água", "vento"]

    @pytest.mark.parametrize(("begin", "newline"), [("", "\n"), ("\ufeff\n \n", "\n"), ("", "\r\n")])
    def test_paragraphs_are_the_same_whatever_stands_between_them_and_wherever_a_block_ends(self, begin, newline):
        paragraphs = [f"{i} " + "word\n" * (i % 7) + "end" for i in range(300)]
        blank = ["\n", "\n\n\n", " \t \n", "\u3000\n \n\n"]
        content = begin + "".join(f"{text}\n{blank[i % 4]}" for i, text in enumerate(paragraphs)) + "  "
        write("a.txt", content.replace("\n", newline))
        reading = ReadOptions(format="text", sample_by="paragraph")
        for size in (3, 7, 64):
            found = [text for table in read_tables("a.txt", reading, size=size) for text in table["text"].to_pylist()]
            assert found == paragraphs
        assert texts("a.txt", sample_by="paragraph", streaming=True) == paragraphs

    def test_lines_documents_and_what_is_between_marks(self):
        write("a.txt", "one\r\n\r\ntwo\x0b\u2028three")
        assert texts("a.txt", streaming=True) == ["one", "", "two\x0b\u2028three"]
        assert texts("a.txt", sample_by="document", streaming=True) == ["one\n\ntwo\x0b\u2028three"]
        write("b.txt", "<|endoftext|>Hello, do you like tea? <|endoftext|> In the\nterraces.<|endoftext|>")
        expected = ["Hello, do you like tea? ", " In the\nterraces."]
        assert texts("b.txt", sample_by="endoftext", streaming=True) == expected
        with pytest.raises(ValueError, match=r"`sample_by` must be one of 'line', .*, got 'word'"):
            load_source("a.txt", sample_by="word", streaming=True)

    @pytest.mark.parametrize("suffix", ["txt", "csv", "jsonl"])
    def test_another_encoding_is_told_in_the_same_words(self, suffix):
        rows = {"txt": "água\nã\n", "csv": "text\nã\n", "jsonl": '{"text": "x"}\n{"text": "ã"}\n'}
        name = write(f"a.{suffix}", rows[suffix].replace("á", "x").encode("cp1252"))
        message = rf"a\.{suffix} could not be read: line 2 is not valid UTF-8 \(byte 0xe3\).*--encoding cp1252"
        with pytest.raises(UnreadableFileError, match=message):
            texts(name, streaming=True)
        assert texts(name, encoding="cp1252", streaming=True)[-1] == "ã"
        with pytest.raises(ValueError, match="no encoding 'none'"):
            load_source(name, encoding="none", streaming=True)


@BOTH_WAYS
class TestTables:
    def test_only_an_empty_field_of_csv_is_missing(self, streaming):
        write("a.csv", 'text,n\nNone,1\nnull,2\nNA,3\nnan,4\n,5\n"a ""q"", b\nc",6\n')
        rows = [(row["text"], row["n"]) for row in load_source("a.csv", streaming=streaming)]
        assert rows == list(zip(["None", "null", "NA", "nan", None, 'a "q", b\nc'], range(1, 7), strict=True))

    @pytest.mark.parametrize(
        ("spellings", "values"),
        [
            (["10254939386542155530", "10254939386542155531"], [10254939386542155530, 10254939386542155531]),
            (["-0.0", "1.5", "", "1e+20"], [-0.0, 1.5, None, 1e20]),
            (["False", "True"], [False, True]),
            *((two, two) for two in (["007", "1"], ["1", "1.0"], ["1.5", "2"], ["True", "true"], ["0", "-0"])),
            *(([one], [one]) for one in ("1.10", "12e3", "1e400", "0x10", "nan", "1.2345678901234567890")),
        ],
    )
    def test_a_column_of_csv_is_numbers_only_if_that_loses_no_spelling(self, streaming, spellings, values):
        write("a.csv", "text,n,none\n" + "".join(f"{n},{n},\n" for n in spellings))
        rows = list(load_source("a.csv", streaming=streaming))
        assert [repr(row["n"]) for row in rows] == list(map(repr, values))
        assert [(row["text"] or "", row["none"]) for row in rows] == [(n, None) for n in spellings]

    @pytest.mark.parametrize("pair", [("1", "1.0"), ("2.0", "1.5")])
    def test_another_spelling_further_on(self, streaming, pair):
        spellings = [pair[0]] * 5_000 + [pair[1]] * 10
        write("a.csv", "text,n\n" + "".join(f"{'x' * 60},{n}\n" for n in spellings))
        numbers = pair == ("2.0", "1.5")
        if streaming and not numbers:
            with pytest.raises(ValueError, match=r"a\.csv: Column 'n' holds .* and, further on, "):
                list(load_source("a.csv", streaming=True))
        else:
            found = [row["n"] for row in load_source("a.csv", streaming=streaming)]
            assert found == ([float(n) for n in spellings] if numbers else spellings)

    def test_numbers_of_json_lose_nothing(self, streaming):
        ids = [10254939386542155531, 10254939386542155532]
        write("a.jsonl", "".join(f'{{"text": "a", "id": {i}}}\n' for i in ids))
        assert [row["id"] for row in load_source("a.jsonl", streaming=streaming)] == ids
        write("b.jsonl", '{"text": "a", "n": 9007199254740993, "x": 1.10}\n{"text": "b", "n": 1.5, "x": 2}\n')
        rows = list(load_source("b.jsonl", streaming=streaming))
        assert [(row["n"], row["x"]) for row in rows] == [("9007199254740993", 1.1), ("1.5", 2.0)]
        write("c.jsonl", '{"text": "a", "n": [9007199254740993, 1.5]}\n')
        message = r"c\.jsonl.*column .n.: Integer value 9007199254740993 is outside"
        with pytest.raises(UnreadableFileError, match=message):
            texts("c.jsonl", streaming=streaming)
        write("d.jsonl", '{"text": "a", "n": 0.5}\n')
        with pytest.raises(ValueError, match=r"b\.jsonl: Column 'n' holds double and, further on, string"):
            texts(["d.jsonl", "b.jsonl"], streaming=streaming)

    def test_a_field_of_many_lines_across_blocks(self, streaming):
        fields = ["plain", 'with "quotes"', "two\nlines", "", "a,b", "x" * 90, "last\r\nlines"]
        rows = [(text, i) for i in range(5) for text in ["plain"] * 9 + fields]
        lines = ['"{}",{}\n'.format(text.replace('"', '""'), i) for text, i in rows]
        write("a.csv", "text,n\n" + "".join(lines))
        found = [(row["text"] or "", row["n"]) for row in load_source("a.csv", streaming=streaming)]
        assert found == rows
        for size in (11, 100, 1000):
            tables = list(read_tables("a.csv", ReadOptions(format="csv", texts=("text",)), size=size))
            assert [text or "" for table in tables for text in table["text"].to_pylist()] == [row[0] for row in rows]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ('text,n\na,1\n"b,2\nc,3\nd,4\n', "line 3: a field begins with a quote and has none at its end"),
            ("text,n\na,1\nb,2,3\n", "line 3 has 3 fields, the first line names 2 columns"),
            ("text,text\na,1\n", "two columns have the name 'text'"),
        ],
    )
    def test_csv_that_is_not_balanced_names_the_line(self, streaming, content, message):
        write("a.csv", content)
        with pytest.raises(UnreadableFileError, match=rf"a\.csv could not be read: {message}"):
            texts("a.csv", streaming=streaming)

    def test_tsv_has_no_quotes(self, streaming):
        write("a.tsv", 'text\tn\n"open\t1\nb\t2\nc"\t3\n"whole"\t4\n\t5\n')
        rows = [(row["text"], row["n"]) for row in load_source("a.tsv", streaming=streaming)]
        assert rows == [('"open', 1), ("b", 2), ('c"', 3), ('"whole"', 4), (None, 5)]

    @pytest.mark.parametrize(
        ("content", "found"),
        [
            ('{"text": "a"}\n\n{"text": null}\n{"other": 1}', ["a", None, None]),
            ('[{"text": "a"},\n {"text": "b"}]', ["a", "b"]),
            ('["a",\n "b"]', ["a", "b"]),
            ('{\n "text": "a"\n}\n', ["a"]),
            ('{"more": {"n": 1}\n, "text": "a"\n}\n', ["a"]),
        ],
    )
    def test_json_as_lines_list_or_object(self, streaming, content, found):
        assert texts(write("a.json", content), streaming=streaming) == found

    def test_json_dates_stay_texts(self, streaming):
        write("a.jsonl", '{"text": "2020-01-01", "when": "2020-01-01"}\n{"text": "b", "when": "soon"}\n')
        write("b.jsonl", '{"text": "2020-01-01", "when": "2020-01-01"}\n')
        rows = list(load_source(["b.jsonl", "a.jsonl"], streaming=streaming))
        assert [row["when"] for row in rows] == ["2020-01-01", "2020-01-01", "soon"]
        assert [row["text"] for row in rows] == ["2020-01-01", "2020-01-01", "b"]

    @pytest.mark.parametrize(
        ("content", "error", "message"),
        [
            ('{"text": "a"}\n{"text": \n', UnreadableFileError, r"a\.jsonl could not be read: line 2 is not JSON"),
            ('{"text": "a"}\n{"n": ' + "9" * 5000 + "}\n", UnreadableFileError, "line 2 is not JSON .*4300 digits"),
            ('{"text": "a"}\n{"n": ' + "[" * 99999 + "}\n", UnreadableFileError, "line 2 is not JSON .*recursion"),
            ('{"text": "a"}\n["a"]\n', UnreadableFileError, "line 2 is not an object with columns"),
            ('{"n": 1.5}\n{"n": true}\n', UnreadableFileError, "column 'n': Expected a number"),
            ('{"text": 5}\n', NotStringsError, r"a\.jsonl: Column 'text' must hold strings, it holds int\."),
            ('{"data": [{"type": "text", "text": "a"}]}\n', ColumnError, "no column 'text'; the columns are data"),
        ],
    )
    def test_json_that_is_broken(self, streaming, content, error, message):
        write("a.jsonl", content)
        with pytest.raises(error, match=message):
            texts("a.jsonl", streaming=streaming)

    @pytest.mark.parametrize(
        ("first", "texts_only"), [("", True), ("", False), ('"text": null, "tag": null, ', False)]
    )
    def test_json_whose_texts_begin_late(self, streaming, texts_only, first):
        """Several blocks before the first text, with and without its key."""
        pads = "".join(f'{{{first}"id": {i}, "pad": "{"x" * 80}"}}\n' for i in range(6000))
        tag = ', "tag": "late"' if first else ""
        late = "".join(f'{{"id": {i}, "text": "late"{tag}}}\n' for i in range(10))
        write("a.jsonl", pads + late)
        dataset = load_source("a.jsonl", streaming=streaming, texts_only=texts_only)
        for name in ("text", "tag") if first else ("text",):
            assert dataset.features[name] == Value("string")
            assert [row[name] for row in dataset] == [None] * 6000 + ["late"] * 10
        write("b.jsonl", pads + late.replace("text", "pad"))
        if first:
            assert texts("b.jsonl", streaming=streaming, texts_only=texts_only) == [None] * 6010
            return
        with pytest.raises(ColumnError, match=r"b\.jsonl: There is no column 'text'; the columns are id, pad"):
            load_source("b.jsonl", streaming=streaming, texts_only=texts_only)

    def test_texts_alone_of_columns(self, streaming):
        for name, content in (("a.csv", 'n,text,m\n1,a,"x"\n2,,\n'), ("a.tsv", "n\ttext\n1\ta\n2\t\n")):
            rows = list(load_source(write(name, content), texts_only=True, streaming=streaming))
            assert rows == [{"text": "a"}, {"text": None}]

    def test_every_type_of_strings(self, streaming):
        can_write_views = Version(pa.__version__) >= Version("21")
        view = pa.string_view() if can_write_views else pa.string()
        kinds = {
            "text": pa.array(["a", None], view),
            "large": pa.array(["b", "c"], pa.large_string()),
            "codes": pa.array(["u", "v"]).dictionary_encode(),
            "inside": pa.array([["x"], []], pa.list_(view)),
        }
        pq.write_table(pa.table(kinds), "a.parquet")
        rows = list(load_source("a.parquet", streaming=streaming))
        assert rows[0] == {"text": "a", "large": "b", "codes": "u", "inside": ["x"]}
        assert rows[1] == {"text": None, "large": "c", "codes": "v", "inside": []}
        for name in ("large", "codes"):
            assert texts("a.parquet", column=name, streaming=streaming) == [row[name] for row in rows]

    def test_columns_that_cannot_be_kept_are_named(self, streaming):
        arrays = [pa.array(["a"]), pa.array([1]), pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64()))]
        pq.write_table(pa.Table.from_arrays([*arrays[:2], arrays[1]], ["text", "n", "n"]), "a.parquet")
        pq.write_table(pa.Table.from_arrays([arrays[0], arrays[2]], ["text", "m"]), "b.parquet")
        for name, message in (("a", "two columns have the name 'n'"), ("b", "column 'm' is of the type map<")):
            with pytest.raises(ValueError, match=rf"{name}\.parquet.*{message}.*texts_only=True"):
                load_source(f"{name}.parquet", streaming=streaming)
            assert list(load_source(f"{name}.parquet", texts_only=True, streaming=streaming)) == [{"text": "a"}]

    @pytest.mark.parametrize("suffix", ["parquet", "txt"])
    def test_files_without_rows(self, streaming, suffix):
        for name, rows in (("a", []), ("b", ["b"])):
            if suffix == "txt":
                write(f"{name}.txt", "\n".join(rows))
            else:
                pq.write_table(pa.table({"text": pa.array(rows, pa.string())}), f"{name}.parquet")
        for names in ("ab", "ba"):
            assert texts([f"{name}.{suffix}" for name in names], streaming=streaming) == ["b"]
        with pytest.raises(ValueError, match=rf"a\.{suffix}: there are no rows; the input is empty"):
            load_source(f"a.{suffix}", streaming=streaming)

    def test_files_whose_types_differ_are_joined_or_named(self, streaming):
        pq.write_table(pa.table({"text": pa.nulls(2), "n": [1, 2], "tag": pa.nulls(2)}), "a.parquet")
        pq.write_table(pa.table({"text": ["x"], "n": [1.5], "tag": ["t"], "more": [True]}), "b.parquet")
        assert list(load_source(["a.parquet", "b.parquet"], streaming=streaming)) == [
            {"text": None, "n": 1.0, "tag": None, "more": None},
            {"text": None, "n": 2.0, "tag": None, "more": None},
            {"text": "x", "n": 1.5, "tag": "t", "more": True},
        ]
        write("a.jsonl", '{"text": "a", "n": 1}\n')
        write("b.jsonl", '{"text": "b", "n": "one"}\n')
        with pytest.raises(ValueError, match=r"b\.jsonl: Column 'n' holds int64 and, further on, string"):
            load_source(["a.jsonl", "b.jsonl"], streaming=streaming)
        read = load_source(["a.jsonl", "b.jsonl"], texts_only=True, streaming=streaming)
        assert list(read) == [{"text": "a"}, {"text": "b"}]


def test_types_that_come_late_are_joined_where_all_is_read_first():
    rows = ['{"text": "a", "n": 1}'] * 20000 + ['{"text": "b", "n": 1.5, "late": "x"}']
    write("a.jsonl", "\n".join(rows))
    dataset = load_source("a.jsonl")
    assert dataset[20000] == {"text": "b", "n": 1.5, "late": "x"}
    assert dataset[0] == {"text": "a", "n": 1.0, "late": None}


def test_what_is_kept_is_read_anew_when_the_file_changes():
    write("a.txt", "one\n")
    first = load_source("a.txt")
    again = load_source("a.txt")
    assert (again._fingerprint, again.cache_files) == (first._fingerprint, first.cache_files)
    os.utime("a.txt", (1, 1))
    write("a.txt", "two\n")
    changed = load_source("a.txt")
    assert changed[:] == {"text": ["two"]}
    assert changed._fingerprint != first._fingerprint
    assert first[:] == {"text": ["one"]}


def test_a_cache_that_cannot_be_written_is_named(monkeypatch):
    write("a.txt", "one\n")
    write("file", "")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", Path("file", "cache"))
    with pytest.raises(OSError, match=r"cache of `datasets`, 'file/cache', cannot be written .*HF_HOME.*--streaming"):
        load_source("a.txt")
    assert texts("a.txt", streaming=True) == ["one"]


def test_a_stream_goes_on_from_its_state():
    for i in range(3):
        write(f"{i}.txt", "".join(f"{i} {j}\n" for j in range(50)))
    dataset = load_source("*.txt", streaming=True)
    assert dataset.num_shards == 3
    rows = iter(dataset)
    seen = [next(rows) for _ in range(70)]
    state = dataset.state_dict()
    resumed = load_source("*.txt", streaming=True)
    resumed.load_state_dict(state)
    assert seen + list(resumed) == list(dataset)


ROWS = [{"text": None, "n": 1}, {"text": "a", "n": 2}, {"text": "b", "n": None}]


class TestBlocks:
    @pytest.mark.parametrize("rows", [2, 100])
    def test_a_null_in_any_place(self, rows):
        write("a.jsonl", '{"text": null, "n": 1}\n{"text": "a", "n": 2}\n{"text": "b", "n": null}\n')
        read = load_source("a.jsonl", streaming=True)
        made = IterableDataset.from_generator(lambda: iter(ROWS))
        halves = [Dataset(pa.table({"text": pa.nulls(1), "n": [1]})), Dataset.from_list(ROWS[1:])]
        shown = Dataset.from_dict({"i": range(3)}).with_transform(
            lambda batch: {name: [ROWS[i][name] for i in batch["i"]] for name in ("text", "n")}
        )
        sources = {
            "kept": Dataset.from_list(ROWS),
            "read": read,
            "filtered": read.filter(lambda row: True),
            "mapped": read.map(lambda row: row),
            "generated": made,
            "generated, mapped": made.map(lambda row: {"n": row["n"]}),
            "joined": concatenate_datasets([half.to_iterable_dataset() for half in halves]),
            "shown": shown,
        }
        for name, dataset in sources.items():
            dataset = dataset if name == "shown" else dataset.with_format("arrow")
            blocks = list(read_blocks(dataset, rows))
            assert [row for block in blocks for row in block.to_pylist()] == ROWS, name
            assert all(block.num_rows <= rows for block in blocks), name
            found = list(read_blocks(dataset, rows, ["text"]))
            assert [text for block in found for text in block["text"].to_pylist()] == [None, "a", "b"], name
            assert {block.schema.field("text").type for block in found} <= {pa.string(), pa.large_string()}, name

    def test_types_that_do_not_join(self):
        rows = [{"text": "a", "n": 1}, {"text": "b", "n": "one"}]
        dataset = IterableDataset.from_generator(lambda: iter(rows)).with_format("arrow")
        with pytest.raises(ValueError, match="Column 'n' holds int64 and, further on, string"):
            list(read_blocks(dataset, 10))
        shown = Dataset.from_dict({"i": [0, 1]}).with_transform(lambda batch: {"text": ["a", "b"], "n": [1, "one"]})
        for given in (dataset, shown):
            found = [block.to_pylist() for block in read_blocks(given, 10, ["text"])]
            assert found == [[{"text": "a"}, {"text": "b"}]]
        with pytest.raises(ColumnError, match="There is no column 'review'; the columns are text, n"):
            list(read_blocks(dataset, 10, ["review"]))


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.txt"])
def test_a_reader_that_the_end_of_the_program_closes_is_silent(name, monkeypatch):
    """Modules have lost their names by then, and an `except` around a `yield` would look one up."""
    write(name, '{"text": 1}\n' if name == "a.jsonl" else "text\na\n")
    faults = []
    tables = read_tables(name, ReadOptions(format=format_of([name])))
    next(tables)
    with monkeypatch.context() as end:
        end.setattr("sys.unraisablehook", faults.append)
        end.setattr("pyarrow.ArrowInvalid", None)
        del tables
    assert not faults
