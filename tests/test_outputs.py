"""An output appears whole or not at all, whichever commands meet at it."""

import multiprocessing
import os
import time
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import pytest
from command import refuse
from tiny import new_model

from gpt_embeddings import Embedder, push_to_hub, save_folder
from gpt_embeddings.checkpoints.export import export_model
from gpt_embeddings.checkpoints.saving import save_int8
from gpt_embeddings.outputs import AtomicOutput, atomic_file, check_output, write_json


COMMANDS = {  # by the kind of output; the output itself is added
    "embed": "embed story.txt --output",
    "windows": "windows story.txt --output",
    "train clm": "train clm story.txt --output",
    "train distil": "train distil story.txt --teacher no-model --output",
    "train contrastive": "train contrastive story.txt --output",
    "train classes": "train classes story.txt --label-column label --output",
    "train weights": "train weights no-model story.txt --output",
    "extract": "extract no-model --output",
    "export": "export no-model --output",
    "explore --export": "explore no-model --export",
    "explore --report": "explore no-model --report",
}
NEEDS = {"train distil": "sentence_transformers", "explore --export": "gradio", "explore --report": "gradio"}

# sentence-transformers warns of its own coming changes.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", COMMANDS)
def test_every_command_refuses_what_is_not_its_own_before_any_work(kind, tmp_path, monkeypatch):
    """An output that a process is making, that another kind has begun, that exists, or with a misleading name."""
    if kind in NEEDS:
        pytest.importorskip(NEEDS[kind])
    monkeypatch.chdir(tmp_path)
    Path("story.txt").write_text("The tide came in.")
    command = COMMANDS[kind].split(" ")
    busy, begun, made = (tmp_path / name for name in ("busy", "begun", "made"))
    with begin(begun, "another kind"):
        pass
    made.write_text("made")
    with begin(busy, kind):
        before = contents(tmp_path)
        for output, message in (
            (busy, f"Another process (pid {os.getpid()}) is writing"),
            (begun, "contains unfinished work of `another kind`, which `"),
            (made, "exists; choose another"),
        ):
            refuse(message, *command, output)
    for name in ("out.csv", "out.zip" if kind in ("embed", "explore --report") else "out.parquet"):
        refuse(f"The output {name!r} is named as a .{name[4:]} file, which `", *command, name)
    refuse("is a URL, but", *command, "s3://bucket/out.parquet")
    assert contents(tmp_path).items() <= before.items()


def test_names_of_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("s3:").mkdir()
    for name in ("v1.5", "C:", "gpt2-embeddings", "out.d", "s3:/out"):  # the last is in a folder that is there
        check_output(name, "embed")
    for name in ("jsonl", "ARROW", "txt", "pq", "html"):
        with pytest.raises(ValueError, match=rf"is named as a \.{name} file, which `windows` does not write"):
            check_output(f"out.{name}", "windows")


def test_names_that_are_refused(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    names = ["", ".", "..", "/", " ", "\t", "here/ "]
    for name, make in product([*names, *map(Path, names)], (check_output, AtomicOutput)):
        with pytest.raises(ValueError, match="has a blank name, or is the current folder or one above it"):
            make(name, "embed", overwrite=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["here"]


def test_no_model_is_saved_to_or_read_from_a_folder_without_a_name(tmp_path, monkeypatch, gpt2_tokenizer):
    """`Path("")` is the current folder."""
    monkeypatch.chdir(tmp_path)
    model = new_model()
    for use, name in product(
        (
            Embedder(model, gpt2_tokenizer).save_pretrained,
            lambda folder: save_folder(folder, model, gpt2_tokenizer),
            lambda folder: save_int8(model, folder),
            lambda folder: export_model(model, gpt2_tokenizer, folder, "static", drop_positions=True),
            lambda folder: push_to_hub(folder, "me/model"),
        ),
        ("", " "),
    ):
        with pytest.raises(ValueError, match=f"The folder {name!r} has a blank name"):
            use(name)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="the system has no /proc")
def test_a_place_that_cannot_be_written():
    for name in ("/proc/x", "/proc/x/y"):
        with pytest.raises(OSError, match=rf"The output '{name}' cannot be written: .*Choose another place"):
            AtomicOutput(name, "embed")


@contextmanager
def begin(path: Path, kind: str = "embed", settings=None, **options):
    """Leave work as a killed process does: the folder stays, the lock is gone."""
    with AtomicOutput(path, kind, {} if settings is None else settings, **options) as output:
        output.result.mkdir(exist_ok=True)
        (output.result / "new").write_text("new")
        yield output


def test_the_same_job_goes_on_and_another_is_refused(tmp_path):
    with begin(tmp_path / "out", settings={"seed": 0, "a": [1, {"b": None}]}):
        pass
    for resume, advice in ((None, "delete that folder"), (True, r"give `resume=False` \(--no-resume\)")):
        with pytest.raises(ValueError, match=rf"`seed` is 1 and was 0\. Run it again .* or {advice} to start anew"):
            AtomicOutput(tmp_path / "out", "embed", {"seed": 1, "a": (1, {"b": None})}, resume=resume).__enter__()
    with pytest.raises(ValueError, match="unfinished work of `embed`, which `windows` does not touch"):
        AtomicOutput(tmp_path / "out", "windows", {"seed": 0}, resume=False)
    with AtomicOutput(tmp_path / "out", "embed", {"seed": 0, "a": (1, {"b": None})}) as output:
        assert (output.result / "new").exists()
        output.finish()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "new"]


def test_what_is_thrown_away(tmp_path):
    with begin(tmp_path / "out", settings={"seed": 0}):
        pass
    with AtomicOutput(tmp_path / "out", "embed", {"seed": 1}, resume=False) as output:
        assert not output.result.exists()
    assert not list(tmp_path.iterdir())  # no work was kept, so nothing stays
    with AtomicOutput(tmp_path / "out", "extract") as output:
        output.result.write_text("half")
    assert not list(tmp_path.iterdir())  # a job that does not go on leaves nothing


def test_a_folder_that_nobody_knows_is_left_alone(tmp_path):
    partial, foreign = tmp_path / ".out.partial", '{"digest": "1", "dataset": "2", "format": "arrow"}'
    partial.mkdir()
    (partial / "settings.json").write_text("{}")
    for mark, options in product((None, foreign, '{"kind": "emb'), ({}, {"resume": False})):
        if mark is not None:
            (partial / "job.json").write_text(mark)
        before = contents(tmp_path)
        with pytest.raises(ValueError, match="of an earlier version, or another program"):
            AtomicOutput(tmp_path / "out", "embed", {}, **options)
        assert contents(tmp_path) == before
    (tmp_path / ".file.partial").write_text("x")  # a file in the place of the folder
    with pytest.raises(ValueError, match="of an earlier version, or another program"):
        check_output(tmp_path / "file", "embed")


def test_overwriting(tmp_path):
    for name in ("folder", "file"):
        (tmp_path / "folder").mkdir(exist_ok=True)
        (tmp_path / "folder" / "old").write_text("old")
        (tmp_path / "file").write_text("old")
        old = contents(tmp_path)
        with pytest.raises(FileExistsError, match=r"exists; choose another, or delete it\."):
            AtomicOutput(tmp_path / name, "embed")
        with pytest.raises(FileExistsError, match=r"delete it, or give --overwrite"):
            AtomicOutput(tmp_path / name, "embed", overwrite=False)
        with pytest.raises(ValueError, match=f"{name}' is not what `embed` writes; --overwrite replaces nothing else"):
            AtomicOutput(tmp_path / name, "embed", overwrite=True, overwritable=("*.parquet",))
        with begin(tmp_path / name, overwrite=True, overwritable=("old", "file")) as output:
            assert {path: output.folder.parent.joinpath(path).exists() for path in old} == dict.fromkeys(old, True)
            output.finish()
        assert (tmp_path / name / "new").read_text() == "new"
        assert len(list(tmp_path.iterdir())) == 2
        (tmp_path / name / "new").unlink()
        (tmp_path / name).rmdir()


def test_killed_between_the_two_renames_of_a_replacement(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    replace = os.replace

    def killed(source, target):
        if Path(target) == tmp_path / "out":
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt), begin(tmp_path / "out", overwrite=True) as output:
        output.finish()
    monkeypatch.undo()
    assert not (tmp_path / "out").exists()
    with pytest.raises(FileExistsError):
        AtomicOutput(tmp_path / "out", "embed", {})
    assert (tmp_path / "out" / "old").read_text() == "old"
    with AtomicOutput(tmp_path / "out", "embed", {}, overwrite=True) as output:
        output.finish()
    assert contents(tmp_path).keys() == {"out/new"}


def hold(path, held):
    with AtomicOutput(path, "embed", {}):
        held.send(True)
        time.sleep(600)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_the_lock_of_a_dead_process_is_no_obstacle(tmp_path):
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()
    other = fork.Process(target=hold, args=(tmp_path / "out", theirs))
    other.start()
    ours.recv()
    for _ in range(2):  # the first refusal leaves the name of the holder
        with pytest.raises(OSError, match=rf"Another process \(pid {other.pid}\) is writing"):
            AtomicOutput(tmp_path / "out", "embed", {})
    other.kill()
    other.join()
    assert (tmp_path / ".out.lock").exists()
    with AtomicOutput(tmp_path / "out", "windows", {}) as output:  # what was begun holds no work
        output.result.mkdir()
        output.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    write_json({"a": 1}, tmp_path / "a.json")
    with pytest.raises(TypeError):
        write_json({"a": object()}, tmp_path / "a.json")
    with pytest.raises(KeyboardInterrupt), atomic_file(tmp_path / "a.json") as path:
        path.write_text("{")
        raise KeyboardInterrupt
    assert contents(tmp_path).keys() == {"a.json"}
    assert (tmp_path / "a.json").read_text() == '{\n  "a": 1\n}\n'
