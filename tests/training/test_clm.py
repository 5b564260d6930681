"""`gpt-embeddings train clm`: the result of a run, how it resumes after a kill, and its error messages."""

import json
import multiprocessing
import os
import signal
import sys

import numpy as np
import pytest
import torch
from command import STORY, refuse, run
from datasets import Dataset
from tiny import new_model
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

import gpt_embeddings.training.clm
from gpt_embeddings import TokenWindows, WindowCollator
from gpt_embeddings.training.bigrams import BigramCounts
from gpt_embeddings.training.clm import ClmOptions, train_clm
from gpt_embeddings.training.runs import RunFolder
from modeling_gpt_embeddings import GPTEmbeddingsConfig, GPTEmbeddingsForCausalLM


LOSS = "Loss on the training text"
SENTENCES = Dataset.from_dict({"text": ["The tide came in, and the clerk wrote it down. It went out again."]})


def make_model(**fields) -> GPTEmbeddingsForCausalLM:
    sizes = {"vocab_size": 500, "n_embd": 4, "embd_pdrop": 0.0, **fields}
    return new_model(GPTEmbeddingsForCausalLM, **sizes)


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
    model = make_model(initializer_range=1.0)
    metadata = train_clm(model, small_tokenizer, SENTENCES, tmp_path / "out", ClmOptions(max_length=16, batch_size=1))
    windows = TokenWindows(SENTENCES, small_tokenizer, 16).to_dataset().with_format("numpy")
    assert len(windows) > 1 and (windows[-1]["target_ids"] == -100).any()
    assert float(metadata[LOSS].split(";")[0]) == pytest.approx(loss_of(model, windows[:]), abs=1e-4)


def test_the_steps_are_those_of_trainer(small_tokenizer, tmp_path):
    """In one batch, whose order does not matter; `Trainer` has AdamW and the same schedule."""
    ours, theirs = make_model(), make_model()
    train_clm(ours, small_tokenizer, SENTENCES, tmp_path / "out", ClmOptions(max_length=16, epochs=3))
    windows = TokenWindows(SENTENCES, small_tokenizer, 16).to_dataset()
    arguments = TrainingArguments(
        str(tmp_path / "theirs"), num_train_epochs=3, per_device_train_batch_size=32, learning_rate=0.01,
        max_grad_norm=0, remove_unused_columns=False, dataloader_pin_memory=False, use_cpu=True, disable_tqdm=True,
        report_to="none",
    )  # fmt: skip
    Trainer(theirs, arguments, data_collator=WindowCollator(), train_dataset=windows).train()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-4, atol=1e-6)


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
    options += ["--config", tmp_path / "config.json", "--tokenizer", small_tokenizer.name_or_path]
    return ["train", "clm", STORY, *options, "--output"]


def run_and_die(arguments):
    save = RunFolder.save_state

    def save_and_die(self, step, state):
        save(self, step, state)
        os.kill(os.getpid(), signal.SIGKILL)

    RunFolder.save_state = save_and_die
    run(*arguments)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_killed_run_ends_with_the_same_weights(command, tmp_path):
    """The one test of all training that kills a process."""
    run(*command, tmp_path / "whole")
    arguments = [*command, tmp_path / "killed"]
    killed = multiprocessing.get_context("spawn").Process(target=run_and_die, args=(arguments,))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert (tmp_path / ".killed.partial" / "state.pt").exists() and not (tmp_path / "killed").exists()
    run(*arguments)
    for name in ("model.safetensors", "training_metadata.json", "config.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="limits of files are POSIX")
def test_a_full_disk(command, tmp_path):
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**5, before[1]))
    try:
        said = refuse("state.pt' could not be written", *command, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "Free some disk space" in said
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / ".out.partial" / "state.pt").exists()
    run(*command, tmp_path / "out")


@pytest.mark.slow
def test_stopped_after_the_last_step(small_tokenizer, tmp_path, monkeypatch):
    def stop(self):
        raise KeyboardInterrupt

    model, options = make_model(), ClmOptions(max_length=16)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RunFolder, "finish", stop)
        train_clm(model, small_tokenizer, SENTENCES, tmp_path / "out", options)
    train_clm(make_model(), small_tokenizer, SENTENCES, tmp_path / "out", options)
    loaded = GPTEmbeddingsForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)


@pytest.mark.slow
def test_a_loss_that_is_not_finite(small_tokenizer, story, tmp_path):
    options = ClmOptions(max_length=16, batch_size=16, learning_rate=1e38)
    with pytest.raises(ValueError, match=r"After step \d+ the loss is .*lower learning rate"):
        train_clm(make_model(), small_tokenizer, story, tmp_path / "o", options)
    assert not list(tmp_path.rglob("model.safetensors"))


def test_data_that_does_not_fit_the_model(small_tokenizer, tmp_path):
    for model, texts, length, message in (
        ({}, [" ", None], 16, "gives no window: a window needs 2 tokens"),
        ({}, ["a b c"], 128, "`max_length` is 128, above the model's `n_positions` = 16"),
        ({"vocab_size": 100}, ["a"], 16, "more than the model's `vocab_size` 100"),
    ):
        data, options = Dataset.from_dict({"text": texts}), ClmOptions(max_length=length)
        with pytest.raises(ValueError, match=message):
            train_clm(make_model(**model), small_tokenizer, data, tmp_path / "out", options)


def test_errors_of_the_command(tmp_path):
    arguments = ["train", "clm", STORY, "--output", tmp_path / "out"]
    refuse("`learning_rate` must be above 0", *arguments, "--learning-rate", 0)
    refuse("not both", *arguments, "--model", "x", "--config", "y")
    refuse("No model at 'nowhere'", *arguments, "--model", "nowhere", "--tokenizer", "gpt2")
