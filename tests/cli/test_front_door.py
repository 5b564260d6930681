"""What is asked of the command line itself, what it imports, consoles and pipes, and what is not installed."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command import STORY, refuse
from typer.testing import CliRunner

from gpt_embeddings_cli import app, check_names, load_libraries


TEXT = str(STORY)
LIBRARIES = {"datasets", "gpt_embeddings", "huggingface_hub", "numpy", "pyarrow", "torch", "transformers"}
# Runs commands one after another and prints the answer to each, and which modules were imported in the end.
PROGRAM = """
import json, sys
from typer.testing import CliRunner
from gpt_embeddings_cli import app
answers = [CliRunner().invoke(app, command) for command in json.loads(sys.argv[1])]
print(json.dumps([[(answer.exit_code, answer.output) for answer in answers], sorted(sys.modules)]))
"""


ANSWERS = [
    (["--help"], 0, "windows"),
    (["--version"], 0, "."),
    (["embed", "--help"], 0, "<mean|weighted|last|none>"),
    (["train", "distil", "--help"], 0, "--teacher"),
    (["embed", TEXT, "--outptu", "x"], 2, "No such option: --outptu"),
    (["embed", TEXT, "--output", "x", "--pooling", "max"], 2, "'mean', 'weighted', 'last', 'none'"),
    (["embed", TEXT, "--output", "x", "--dtype", "int4"], 2, "'float32', 'float16'"),
    (["train", "clm", TEXT, "--output", "x", "--batch-size", "0"], 2, "Invalid value for '--batch-size'"),
    (["windows", TEXT, "--dry-run", "--sample-by", "word"], 2, "'line', 'paragraph', 'document'"),
    (["embed", "none.txt", "--output", "x"], 1, "The input 'none.txt' does not exist."),
    (["embed", "*.parquet", "--output", "x"], 1, "No file matches the input '*.parquet'."),
    (["embed", TEXT, "--model", "./none", "--output", "x"], 1, "The folder './none' does not exist."),
    (["windows", "none.jsonl.gz", "--dry-run"], 1, "does not exist."),
    (["train", "clm", "/none/at/all", "--output", "x"], 1, "does not exist."),
    (["extract", "/none/at/all", "--output", "x"], 1, "does not exist"),
    (["push", "none", "me/none"], 1, "The folder 'none' does not exist."),
]


@pytest.mark.slow
def test_answers_without_the_library(tmp_path):
    commands = json.dumps([arguments for arguments, *_ in ANSWERS])
    environment = {**os.environ, "COLUMNS": "120", "TERM": "dumb"}
    program = [sys.executable, "-c", PROGRAM, commands]
    done = subprocess.run(program, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    answers, modules = json.loads(done.stdout)
    for (arguments, code, words), (exit_code, said) in zip(ANSWERS, answers, strict=True):
        assert (exit_code, words in said) == (code, True), (arguments, said)
    assert {name.partition(".")[0] for name in modules}.isdisjoint(LIBRARIES)


# Imports the package, then runs the program with one command after another; prints the modules after each step.
IN_TURN = """
import json, sys
import gpt_embeddings
from transformers import AutoConfig
assert type(AutoConfig.for_model("gpt_embeddings")) is gpt_embeddings.GPTEmbeddingsConfig
assert "TokenWindows" in dir(gpt_embeddings)
print("ENDED", json.dumps([0, sorted(sys.modules)]))
from gpt_embeddings_cli import main
for command in json.loads(sys.argv[1]):
    sys.argv[1:] = command
    try:
        main()
    except SystemExit as end:
        print("ENDED", json.dumps([end.code, sorted(sys.modules)]), flush=True)
"""


@pytest.mark.slow
def test_what_is_imported_by_the_package_and_by_each_command(tmp_path):
    """All in one process, in which each command adds its own."""
    (tmp_path / "small.json").write_text('{"n_embd": 8, "n_positions": 64}')
    (tmp_path / "text.txt").write_text("The tide came in, and the lamp went out. " * 9)
    commands = [
        ["windows", "text.txt", "--dry-run"],
        ["embed", "text.txt", "--output", "vectors"],
        ["train", "clm", "text.txt", "--config", "small.json", "--max-length", "64", "--output", "model"],
    ]
    program = [sys.executable, "-c", IN_TURN, json.dumps(commands)]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True)
    ends = [json.loads(line.removeprefix("ENDED ")) for line in done.stdout.splitlines() if line.startswith("ENDED ")]
    assert [code for code, _ in ends] == [0, 0, 0, 0], done.stdout + done.stderr
    package, windows, embed, train = (set(modules) for _, modules in ends)
    assert "torch" in package
    assert train.isdisjoint(["gpt_embeddings.explore", "gpt_embeddings.hub", "gradio", "plotly", "ray"])
    assert embed.isdisjoint(["transformers.trainer", "gpt_embeddings.training", "gradio", "ray", "faiss"])
    assert "gpt_embeddings.embedding" not in windows and package.isdisjoint(["datasets", "pyarrow"])


INTERRUPTED = """
import os, signal, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background ignores Ctrl-C
sys.meta_path.insert(0, Interrupt())
from gpt_embeddings_cli import app
app(sys.argv[2:])
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has other signals")
def test_interrupted_while_it_imports(tmp_path):
    command = ["torch.nn", "train", "clm", TEXT, "--output", "x"]
    done = subprocess.run([sys.executable, "-c", INTERRUPTED, *command], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Interrupted.\n")
    assert not list(tmp_path.iterdir())


def test_a_terminal_says_that_libraries_are_loaded(monkeypatch):
    handler, terminal = signal.getsignal(signal.SIGINT), io.StringIO()
    terminal.isatty = lambda: True
    for stream, said in ((terminal, "Loading PyTorch and transformers ...\n"), (io.StringIO(), "")):
        monkeypatch.setattr(sys, "stderr", stream)
        load_libraries()
        assert stream.getvalue() == said and signal.getsignal(signal.SIGINT) == handler


def test_what_may_be_there_passes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("notes[1].txt").touch()
    check_names(["notes[1].txt"])  # a file is a file, whatever its name
    check_names(["notes*.txt", "-", "hf://datasets/me/texts/*.parquet"])
    check_names(["ag_news"])
    check_names(["Salesforce/wikitext-103.v1"])
    check_names([], "openai-community/gpt2", None, ".")
    for names in (["ag_news", "none"], ["a/b/c"], ["other[1].txt"]):
        with pytest.raises(FileNotFoundError):
            check_names(names)


def test_completion():
    """What `--install-completion` has a shell ask."""
    environment = {"_GPT_EMBEDDINGS_COMPLETE": "complete_bash", "COMP_WORDS": "gpt-embeddings em", "COMP_CWORD": "1"}
    assert CliRunner().invoke(app, env=environment, prog_name="gpt-embeddings").stdout.split() == ["embed"]


PRINTS = """
import sys
import gpt_embeddings_cli
def write():
    for _ in range(int(sys.argv[1])):
        print("mar\u00e9 \U0001f30a")
    print("done", file=sys.stderr)
gpt_embeddings_cli.app = write
gpt_embeddings_cli.main()
"""


def test_characters_that_the_encoding_lacks_are_replaced():
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run([sys.executable, "-c", PRINTS, "1"], env=environment, capture_output=True)
    assert (done.returncode, done.stderr.strip()) == (0, b"done")
    assert done.stdout.decode("cp1252").split() == ["mar\u00e9", "?"]


def test_a_reader_that_leaves_early_is_no_error():
    """As `gpt-embeddings search ... | head -1`."""
    for arguments, said in (
        (["-c", PRINTS, "100000"], b"done"),
        (["-c", "import gpt_embeddings_cli; gpt_embeddings_cli.main()", "--help"], b""),
    ):
        reads, writes = os.pipe()
        os.close(reads)
        done = subprocess.run([sys.executable, *arguments], stdout=writes, stderr=subprocess.PIPE)
        os.close(writes)
        assert (done.returncode, done.stderr.strip()) == (0, said)


@pytest.mark.slow
def test_an_extra_that_is_not_installed_is_told_before_any_work(tmp_path, monkeypatch):
    for extra, module, command in (
        ("train", "sentence_transformers", ["train", "distil", TEXT, "--teacher", "any", "--output"]),
        ("ray", "ray", ["embed", TEXT, "--ray", "auto", "--output"]),
        ("onnx", "onnxscript", ["export", "gpt-embeddings-english", "--format", "onnx", "--output"]),
    ):
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
        refuse(f"pip install 'gpt-embeddings[{extra}]'", *command, tmp_path / "out")
        assert not list(tmp_path.iterdir())


def test_figures_need_the_extra_explore(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("gpt_embeddings.explore")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(ImportError, match=r"missing: plotly\): `pip install 'gpt-embeddings\[explore\]'"):
        from gpt_embeddings.explore import figures  # noqa: F401
