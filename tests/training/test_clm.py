"""`gpt-embeddings train clm`: the result of a run, how it resumes after a kill, and its error messages."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments
from typer.testing import CliRunner

import gpt_embeddings.training.clm
from gpt_embeddings import TokenWindows, WindowCollator
from gpt_embeddings.training.bigrams import BigramCounts
from gpt_embeddings.training.clm import ClmOptions, train_clm
from gpt_embeddings.training.runs import COMPLETE, RunFolder
from gpt_embeddings_cli import app
from modeling_gpt_embeddings import GPTEmbeddingsConfig, GPTEmbeddingsForCausalLM


STORY = Path(__file__).parents[2] / "data" / "the_tide_clerk.txt"
LOSS = "Loss on the training text"


def make_model(**options) -> GPTEmbeddingsForCausalLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": 500, "n_embd": 4, "n_positions": 16, "embd_pdrop": 0.0}
    return GPTEmbeddingsForCausalLM(GPTEmbeddingsConfig(**{**sizes, **options}))


def loss_of(model, rows) -> float:
    """The mean loss of all targets at once, without any code of the training."""
    with torch.no_grad():
        logits = model.eval()(torch.as_tensor(rows["input_ids"]).long()).logits
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.as_tensor(rows["target_ids"]).long().flatten(), ignore_index=-100
    ).item()


@pytest.mark.slow
def test_a_run(small_tokenizer, story, tmp_path):
    model = make_model(n_embd=16)
    options = ClmOptions(max_length=16, batch_size=16, epochs=2, learning_rate=0.05)
    metadata = train_clm(model, small_tokenizer, story, tmp_path / "out", options, data_name="the story")
    assert json.loads((tmp_path / "out" / "training_metadata.json").read_text()) == metadata
    assert not list(tmp_path.glob(".*")), "the work of the run is gone"

    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").model_max_length == model.config.n_positions

    windows = TokenWindows(story, small_tokenizer, 16).to_dataset().with_format("torch")
    kept = len(windows) - len(windows) // 100
    for rows, name in ((windows[:kept], LOSS), (windows[kept:], "Loss on held-out text")):
        counts = BigramCounts(500, 16)
        counts.add(rows["input_ids"], rows["target_ids"])
        got, bound = metadata[name].split("; no model without layers can have less than ")
        assert float(got) == pytest.approx(loss_of(loaded, rows), abs=2e-4)
        assert float(bound) == pytest.approx(counts.bound(), abs=2e-4)
        assert float(bound) < float(got)
    assert float(metadata[LOSS].split(";")[0]) < loss_of(make_model(n_embd=16), windows[:kept]) - 1


def test_a_padded_window_counts_by_its_targets(small_tokenizer, tmp_path):
    """`Trainer.evaluate` gives it the weight of a full one, which is why it is not used."""
    dataset, options = (
        Dataset.from_dict({"text": ["The tide came in, and the clerk wrote it down. It went out again."]}),
        ClmOptions(max_length=16),
    )
    model = make_model(initializer_range=1.0)
    metadata = train_clm(model, small_tokenizer, dataset, tmp_path / "out", options)
    windows = TokenWindows(dataset, small_tokenizer, 16).to_dataset().with_format("numpy")
    assert len(windows) > 1 and (windows[-1]["target_ids"] == -100).any()
    exact = loss_of(model, windows[:])
    assert float(metadata[LOSS].split(";")[0]) == pytest.approx(exact, abs=1e-4)
    settings = {
        "per_device_eval_batch_size": 1,
        "remove_unused_columns": False,
        "report_to": "none",
        "dataloader_pin_memory": False,
    }
    arguments = TrainingArguments(str(tmp_path), disable_tqdm=True, prediction_loss_only=True, **settings)
    theirs = Trainer(model, arguments, data_collator=WindowCollator()).evaluate(windows)["eval_loss"]
    assert abs(theirs - exact) > 0.01


@pytest.mark.slow
def test_a_long_text_is_evaluated_on_some_of_its_windows(small_tokenizer, story, tmp_path, monkeypatch):
    monkeypatch.setattr(gpt_embeddings.training.clm, "EVALUATED_WINDOWS", 9)
    model, options = make_model(), ClmOptions(max_length=16, batch_size=64)
    metadata = train_clm(model, small_tokenizer, story, tmp_path / "out", options)
    loss, words = metadata[LOSS].split(";")
    assert words.endswith(" (loss of 9 windows, bound of all)")
    windows = TokenWindows(story, small_tokenizer, 16).to_dataset().with_format("numpy")
    kept = len(windows) - len(windows) // 100
    some = windows[np.linspace(0, kept - 1, 9).astype(int)]  # from the first to the last
    assert float(loss) == pytest.approx(loss_of(model, some), abs=2e-4)


@pytest.fixture
def command(small_tokenizer, tmp_path):
    """A command with dropout, so that the state of random numbers matters, and with its output as last argument."""
    sizes = {"vocab_size": 500, "n_embd": 64, "n_positions": 16, "embd_pdrop": 0.2}
    GPTEmbeddingsConfig(**sizes).to_json_file(tmp_path / "config.json")
    options = ["--max-length", "16", "--batch-size", "16", "--save-steps", "5"]
    return ["train", "clm", str(STORY), "--config", str(tmp_path / "config.json"), "--tokenizer",
            small_tokenizer.name_or_path, *options, "--output"]  # fmt: skip


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_weights(command, tmp_path):
    """The one test of all training that kills a process."""
    whole = CliRunner().invoke(app, [*command, str(tmp_path / "whole")])
    assert whole.exit_code == 0, whole.output
    code = f"import torch; torch.set_num_threads({torch.get_num_threads()}); from gpt_embeddings_cli import app; app()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *command, str(tmp_path / "killed")], stderr=subprocess.PIPE
    )
    wanted = tmp_path / ".killed.partial" / "checkpoints" / "checkpoint-5" / COMPLETE
    while not wanted.exists() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert wanted.exists(), process.communicate()[1]
    process.communicate()
    assert not (tmp_path / "killed").exists(), "killed too late to tell anything"
    again = CliRunner().invoke(app, [*command, str(tmp_path / "killed")])
    assert again.exit_code == 0, again.output
    for name in ("model.safetensors", "training_metadata.json", "config.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="limits of files are POSIX")
def test_a_full_disk(command, tmp_path):
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**5, before[1]))
    try:
        full = CliRunner().invoke(app, [*command, str(tmp_path / "out")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert full.exit_code == 1
    assert "The checkpoint of step 5 could not be written" in full.stderr and "Free some disk space" in full.stderr
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / ".out.partial" / "checkpoints").iterdir())
    assert CliRunner().invoke(app, [*command, str(tmp_path / "out")]).exit_code == 0


@pytest.mark.slow
def test_stopped_after_the_last_step(small_tokenizer, story, tmp_path, monkeypatch):
    def stop(self):
        raise KeyboardInterrupt

    model, options = make_model(), ClmOptions(max_length=16, batch_size=64)
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            train_clm(model, small_tokenizer, story, tmp_path / "out", options)
    train_clm(make_model(), small_tokenizer, story, tmp_path / "out", options)
    loaded = GPTEmbeddingsForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)


@pytest.mark.slow
@pytest.mark.parametrize("save_steps", [2, 100], ids=["at a checkpoint", "at a log"])
def test_a_loss_that_is_not_finite(save_steps, small_tokenizer, story, tmp_path):
    options = ClmOptions(max_length=16, batch_size=16, learning_rate=1e38, save_steps=save_steps)
    with pytest.raises(ValueError, match=r"After step \d+ .*lower learning rate"):
        train_clm(make_model(), small_tokenizer, story, tmp_path / "o", options)
    assert not list(tmp_path.rglob("model.safetensors"))


class TestBadInput:
    @pytest.mark.parametrize(
        ("model", "texts", "length", "message"),
        [
            ({}, [" ", None], 16, "gives no window: a window needs 2 tokens"),
            ({}, ["a b c"], 128, "`max_length` is 128, above the model's `n_positions` = 16"),
            ({"vocab_size": 100}, ["a"], 16, "more than the model's `vocab_size` 100"),
        ],
        ids=["no text", "windows longer than the model", "a tokenizer that is too large"],
    )
    def test_data(self, model, texts, length, message, small_tokenizer, tmp_path):
        with pytest.raises(ValueError, match=message):
            train_clm(make_model(**model), small_tokenizer, Dataset.from_dict({"text": texts}), tmp_path / "out",
                      ClmOptions(max_length=length))  # fmt: skip

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--model", "x", "--config", "y"], "not both"),
            (["--model", "nowhere", "--tokenizer", "gpt2"], "No model at 'nowhere'"),
        ],
    )
    def test_command(self, options, message, tmp_path):
        done = CliRunner().invoke(app, ["train", "clm", str(STORY), "--output", str(tmp_path / "out"), *options])
        assert done.exit_code == 1
        assert message in done.stderr


def test_only_complete_checkpoints_count(tmp_path):
    folder = RunFolder(tmp_path / "run", "train clm", {})
    assert folder.last_checkpoint() is None
    for step, complete in ((9, True), (10, True), (11, False)):
        checkpoint = folder.checkpoints / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        if complete:
            (checkpoint / COMPLETE).touch()
    assert folder.last_checkpoint().name == "checkpoint-10"
    assert not (folder.checkpoints / "checkpoint-11").exists()
