"""`gpt-embeddings train clm`: what a run leaves, how it goes on after a kill, and what it says when it cannot."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import warm_python
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

import gpt_embeddings.training.clm
from gpt_embeddings import TokenWindows
from gpt_embeddings.training.bigrams import BigramCounts
from gpt_embeddings.training.clm import ClmOptions, train_clm
from gpt_embeddings.training.runs import COMPLETE, RunFolder
from gpt_embeddings_cli import app
from modeling_gpt_embeddings import GPTEmbeddingsConfig, GPTEmbeddingsForCausalLM


ROOT = Path(__file__).parents[2]
STORY = ROOT / "data" / "the_tide_clerk.txt"
OPTIONS = ["--max-length", "16", "--batch-size", "4", "--save-steps", "5", "--sample-by", "line"]


def make_model(**options) -> GPTEmbeddingsForCausalLM:
    torch.manual_seed(0)
    sizes = {"n_embd": 4, "n_positions": 16, "embd_pdrop": 0.0}
    return GPTEmbeddingsForCausalLM(GPTEmbeddingsConfig(**{**sizes, **options}))


def command(output: Path, folder: Path, *options: str, before: str = "") -> list[str]:
    config = folder / "config.json"
    if not config.exists():  # dropout, so that the state of random numbers matters
        GPTEmbeddingsConfig(n_embd=4, n_positions=16, embd_pdrop=0.2).to_json_file(config)
    code = f"{before}\nfrom gpt_embeddings_cli import app\napp()"
    arguments = ["train", "clm", str(STORY), "--output", str(output), "--config", str(config), *OPTIONS, *options]
    return ["-c", code, *arguments]


def run(*arguments, **options) -> subprocess.CompletedProcess[str]:
    return warm_python.run(command(*arguments, **options), cwd=ROOT)


@pytest.mark.slow
def test_a_run(gpt2_tokenizer, tmp_path):
    texts = [line for line in STORY.read_text(encoding="utf-8").split("\n") if line]
    dataset = Dataset.from_dict({"text": texts})
    model, options = make_model(n_embd=16), ClmOptions(max_length=16, batch_size=8, epochs=2, learning_rate=0.05)
    metadata = train_clm(model, gpt2_tokenizer, dataset, tmp_path / "out", options, data_name="the story")
    assert json.loads((tmp_path / "out" / "training_metadata.json").read_text()) == metadata
    assert not list(tmp_path.glob(".*")), "the work of the run is gone"

    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").model_max_length == model.config.n_positions

    # The losses and bounds by another way: all windows at once, the last one of 132 held out.
    windows = TokenWindows(texts, gpt2_tokenizer, 16).to_dataset().with_format("torch")
    train, held_out = windows[: len(windows) - len(windows) // 100], windows[-(len(windows) // 100) :]
    for rows, name in ((train, "Loss on the training text"), (held_out, "Loss on held-out text")):
        inputs, targets = rows["input_ids"].long(), rows["target_ids"].long()
        with torch.no_grad():
            loss = loaded(inputs, shift_labels=targets).loss
        counts = BigramCounts(50257, 16)
        counts.add(inputs, targets)
        got, bound = metadata[name].split("; no model without layers can have less than ")
        assert float(got) == pytest.approx(loss.item(), abs=2e-4)
        assert float(bound) == pytest.approx(counts.bound(), abs=2e-4)
        assert float(bound) < float(got)
    with torch.no_grad():
        before = make_model(n_embd=16)(train["input_ids"].long(), shift_labels=train["target_ids"].long()).loss
    assert float(metadata["Loss on the training text"].split(";")[0]) < before - 1


@pytest.mark.slow
def test_a_long_text_is_judged_by_some_of_its_windows(gpt2_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(gpt_embeddings.training.clm, "EVALUATED_WINDOWS", 9)
    seen = []
    evaluate = gpt_embeddings.training.clm._evaluate
    monkeypatch.setattr(
        gpt_embeddings.training.clm, "_evaluate", lambda trainer, rows: seen.append(rows[:]) or evaluate(trainer, rows)
    )
    dataset, options = Dataset.from_dict({"text": [STORY.read_text()]}), ClmOptions(max_length=16, batch_size=64)
    metadata = train_clm(make_model(), gpt2_tokenizer, dataset, tmp_path / "out", options)
    assert metadata["Loss on the training text"].endswith(" (loss of 9 windows, bound of all)")
    windows = TokenWindows([STORY.read_text()], gpt2_tokenizer, 16).to_dataset().with_format("numpy")[:]["input_ids"]
    kept = len(windows) - len(windows) // 100
    assert len(seen[0]["input_ids"]) == 9
    assert (seen[0]["input_ids"][[0, -1]] == windows[[0, kept - 1]]).all(), "from the first to the last"


@pytest.mark.slow
def test_killed_runs_end_with_the_same_weights(tmp_path):
    whole = run(tmp_path / "whole", tmp_path)
    assert whole.returncode == 0, whole.stderr
    for mark in ("checkpoint-10", "checkpoint-25"):  # killed twice: in the middle, and again after going on
        process = warm_python.start(
            command(tmp_path / "killed", tmp_path), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wanted = tmp_path / ".killed.partial" / "checkpoints" / mark / COMPLETE
        deadline = time.monotonic() + 200
        while not wanted.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert wanted.exists()
        process.send_signal(signal.SIGKILL)
        process.wait()
    again = run(tmp_path / "killed", tmp_path)
    assert again.returncode == 0, again.stderr
    for name in ("model.safetensors", "training_metadata.json", "config.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="limits of files are POSIX")
def test_a_full_disk(tmp_path):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))"
    full = run(tmp_path / "out", tmp_path, before=limit)
    assert full.returncode == 1
    assert "The checkpoint of step 5 could not be written" in full.stderr
    assert "Make room on the disk" in full.stderr and "Traceback" not in full.stderr
    assert not (tmp_path / "out").exists()
    again = run(tmp_path / "out", tmp_path)
    assert again.returncode == 0, again.stderr


@pytest.mark.slow
def test_killed_after_the_last_step(gpt2_tokenizer, tmp_path, monkeypatch):
    dataset, options = Dataset.from_dict({"text": [STORY.read_text()]}), ClmOptions(max_length=16, batch_size=64)
    model = make_model()
    finish = RunFolder.finish

    def killed(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "finish", killed)
    with pytest.raises(KeyboardInterrupt):
        train_clm(model, gpt2_tokenizer, dataset, tmp_path / "out", options)
    monkeypatch.setattr(RunFolder, "finish", finish)
    train_clm(make_model(), gpt2_tokenizer, dataset, tmp_path / "out", options)
    loaded = GPTEmbeddingsForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
    with pytest.raises(FileExistsError):
        train_clm(make_model(), gpt2_tokenizer, dataset, tmp_path / "out", options)


@pytest.mark.slow
def test_a_loss_that_is_no_number(gpt2_tokenizer, tmp_path):
    options = ClmOptions(max_length=16, batch_size=4, learning_rate=1e38, save_steps=2)
    with pytest.raises(ValueError, match=r"After step \d+ .*lower learning rate"):
        train_clm(
            make_model(), gpt2_tokenizer, Dataset.from_dict({"text": [STORY.read_text()]}), tmp_path / "o", options
        )
    assert not (tmp_path / "o").exists()
    for weights in (tmp_path / ".o.partial").rglob("model.safetensors"):
        assert torch.isfinite(GPTEmbeddingsForCausalLM.from_pretrained(weights.parent).lm_head.weight).all()


class TestBadInput:
    def test_no_text(self, gpt2_tokenizer, tmp_path):
        with pytest.raises(ValueError, match="gives no window: a window needs 2 tokens"):
            train_clm(make_model(), gpt2_tokenizer, Dataset.from_dict({"text": [" ", None]}), tmp_path / "out",
                      ClmOptions(max_length=16))  # fmt: skip

    def test_an_output_that_exists(self, gpt2_tokenizer, tmp_path):
        with pytest.raises(FileExistsError, match="exists; choose another"):
            options = ClmOptions(max_length=16)
            train_clm(make_model(), gpt2_tokenizer, Dataset.from_dict({"text": ["a b c"]}), tmp_path, options)

    def test_windows_longer_than_the_model(self, gpt2_tokenizer, tmp_path):
        with pytest.raises(ValueError, match="`max_length` is 128, above the model's `n_positions` = 16"):
            train_clm(make_model(), gpt2_tokenizer, Dataset.from_dict({"text": ["a b c"]}), tmp_path / "out")

    def test_a_tokenizer_that_is_too_large(self, gpt2_tokenizer, tmp_path):
        with pytest.raises(ValueError, match="more than the model's `vocab_size` 100"):
            train_clm(make_model(vocab_size=100), gpt2_tokenizer, Dataset.from_dict({"text": ["a"]}), tmp_path / "out")

    @pytest.mark.parametrize(
        "options", [{"epochs": 0}, {"learning_rate": float("nan")}, {"batch_size": 0}, {"seed": -1}]
    )
    def test_options(self, options):
        with pytest.raises(ValueError, match=f"`{next(iter(options))}` must be"):
            ClmOptions(**options)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--model", "x", "--config", "y"], "not both"),
            (["--model", "nowhere", "--tokenizer", "gpt2"], "No model at 'nowhere'"),
            (["--learning-rate", "0"], "`learning_rate` must be above 0"),
        ],
    )
    def test_command(self, options, message, tmp_path):
        done = CliRunner().invoke(app, ["train", "clm", str(STORY), "--output", str(tmp_path / "out"), *options])
        assert done.exit_code == 1
        assert message in done.stderr


class TestRunFolder:
    def test_other_settings(self, tmp_path):
        for _ in range(2):
            with RunFolder(tmp_path / "run", "train clm", {"seed": 0, "epochs": 1.0}) as run:
                run.save_state(1, {})
        with pytest.raises(ValueError, match="`seed` is 1 and was 0"):
            RunFolder(tmp_path / "run", "train clm", {"seed": 1, "epochs": 1.0})

    def test_only_complete_checkpoints_count(self, tmp_path):
        folder = RunFolder(tmp_path / "run", "train clm", {})
        assert folder.last_checkpoint() is None
        for step, complete in ((9, True), (10, True), (11, False)):
            checkpoint = folder.checkpoints / f"checkpoint-{step}"
            checkpoint.mkdir(parents=True)
            if complete:
                (checkpoint / COMPLETE).touch()
        assert folder.last_checkpoint().name == "checkpoint-10"
        assert not (folder.checkpoints / "checkpoint-11").exists()
