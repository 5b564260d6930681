"""Training the zero-layer GPT on next tokens with `transformers.Trainer`, compared with the entropy of the bigrams.

Windows are stored first, so that they can be shuffled as a whole, and a run can resume at any step without reading the
text again. Left out: objectives on whole texts (`distillation`, `contrastive`), and training a GPT with blocks.
"""

import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, IterableDataset, load_from_disk
from torch.utils.data import DataLoader

from gpt_embeddings.progress import Bar
from gpt_embeddings.text.tokenizer import check_vocabulary
from gpt_embeddings.training.bigrams import BigramCounts
from gpt_embeddings.training.options import ClmOptions
from gpt_embeddings.training.runs import (
    COMPLETE,
    KEPT_CHECKPOINTS,
    RunFolder,
    checkpoint_error,
    describe_steps,
    non_finite_error,
    versions,
)
from gpt_embeddings.windows.collator import WindowCollator
from gpt_embeddings.windows.token_windows import TokenWindows
from modeling_gpt_embeddings import GPTEmbeddingsForCausalLM


try:
    import accelerate  # noqa: F401 -- transformers' own message names another extra
    from transformers import (
        PreTrainedTokenizerBase,
        PrinterCallback,
        Trainer,
        TrainerCallback,
        TrainerControl,
        TrainerState,
        TrainingArguments,
    )
except ImportError as error:
    raise ImportError("Training on next tokens needs accelerate: `pip install 'gpt-embeddings[train]'`.") from error


COUNTED_WINDOWS = 1024  # at a time
SETTINGS = ("vocab_size", "n_positions", "n_embd", "embd_pdrop", "position_embedding_type", "tie_word_embeddings")
EVALUATED_WINDOWS = 4096  # of the training text, after training: all of them would cost a third of an epoch
HELD_OUT_SHARE = 100  # one window in a hundred, from the end, is held out if no held-out text is given


def train_clm(
    model: GPTEmbeddingsForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset | IterableDataset,
    output: str | os.PathLike[str],
    options: ClmOptions = ClmOptions(),  # noqa: B008 -- frozen
    *,
    held_out: Dataset | IterableDataset | None = None,
    column: str = "text",
    data_name: str = "a dataset",
) -> dict[str, Any]:
    """Train on next tokens, and save model, tokenizer and metadata.

    After an interruption, a full disk or SIGKILL the same call continues, and ends with the same weights as a run
    without interruption (on the same machine, with the same number of threads).

    Args:
        model: The model; it is trained in place.
        tokenizer: The tokenizer that belongs to it.
        dataset: The text.
        output: Folder to make; it appears when the run is complete.
        options: How to train.
        held_out: Text to evaluate on. Without it the last hundredth of the windows is held out, if there are a
            hundred.
        column: The column of texts.
        data_name: Name of the data in the metadata.

    Returns:
        The content of `training_metadata.json`: data, tokens, steps, losses, bounds, versions.

    Raises:
        OSError: The output exists, or could not be written; the last good checkpoint stays.
        ValueError: The data gives no window, the settings differ from those of the unfinished run, or the loss is not
            finite.
    """
    check_vocabulary(tokenizer, model.config.vocab_size)
    if options.max_length > model.config.n_positions:
        raise ValueError(
            f"`max_length` is {options.max_length}, above the model's `n_positions` = {model.config.n_positions}. "
            "Take shorter windows, or make the model longer with `resize_position_embeddings`."
        )
    windows = TokenWindows(dataset, tokenizer, options.max_length, column=column)
    other = None if held_out is None else TokenWindows(held_out, tokenizer, options.max_length, column=column)
    settings = {
        **asdict(options),
        **{name: getattr(model.config, name) for name in SETTINGS},
        "data": data_name,
        "windows": windows.state_dict()["settings"],
        "held_out": None if other is None else other.state_dict()["settings"],
    }
    with RunFolder(output, "train clm", settings) as run:
        train = _store(windows, run.folder / "windows")
        evaluation = None if other is None else _store(other, run.folder / "held_out")
        if other is None and len(train) >= HELD_OUT_SHARE:
            kept = len(train) - len(train) // HELD_OUT_SHARE
            train, evaluation = train.select(range(kept)), train.select(range(kept, len(train)))

        counts, bound = _count(train, model)
        trainer = _trainer(model, train, options, run, bound)
        last = run.last_checkpoint()
        try:
            trainer.train(resume_from_checkpoint=None if last is None else str(last))
        except Exception as error:  # the writers of a checkpoint raise errors of many kinds
            if not run.delete_incomplete():
                raise
            raise checkpoint_error(trainer.state.global_step, run.checkpoints, error) from error
        metadata = {
            "Objective": "next token (clm), cross-entropy in nats",
            "Data": data_name,
            "Tokens": f"{counts.n_pairs:,} targets, {len(train):,} windows of {options.max_length}",
            **describe_steps(options, "AdamW"),
            "Loss on the training text": _with_bound(_evaluate(model, _some(train), options.batch_size), bound),
        }
        if len(train) > EVALUATED_WINDOWS:
            metadata["Loss on the training text"] += f" (loss of {EVALUATED_WINDOWS:,} windows, bound of all)"
        if evaluation is not None:
            loss = _evaluate(model, evaluation, options.batch_size)
            metadata["Loss on held-out text"] = _with_bound(loss, _count(evaluation, model)[1])
        metadata["Versions"] = versions()
        run.save(model, tokenizer, metadata)
    return metadata


class _Callback(TrainerCallback):
    """Shows a bar with loss, bound and tokens per second, marks complete checkpoints, and stops at values not finite.

    `ProgressCallback` prints a line for each log, and draws its bar in logs too.

    Args:
        run: The folder of the run.
        bound: The lower bound of the loss.
        tokens_per_step: Tokens of a batch.
    """

    def __init__(self, run: RunFolder, bound: float, tokens_per_step: int) -> None:
        self.run, self.bound, self.tokens_per_step, self.loss = run, bound, tokens_per_step, math.nan

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Open the bar at the step where the run begins or resumes."""
        self.bar = Bar(total=state.max_steps, initial=state.global_step, desc="Training", unit="step")

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Advance the bar; check the weights before they are saved."""
        self.bar.update(state.global_step - self.bar.n)
        tokens = (self.bar.format_dict["rate"] or 0) * self.tokens_per_step
        shown = {"loss": f"{self.loss:.3f}", "bound": f"{self.bound:.3f}", "tokens/s": f"{tokens:,.0f}"}
        self.bar.set_postfix(shown, refresh=False)
        if control.should_save:
            for name, parameter in kwargs["model"].named_parameters():
                if not bool(torch.isfinite(parameter).all()):
                    raise non_finite_error(state.global_step, f"{name} holds values that are not finite")

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Note the mean loss of the last steps."""
        self.loss = float(logs.get("loss", self.loss))
        if "loss" in logs and not math.isfinite(self.loss):
            raise non_finite_error(state.global_step, f"the loss is {self.loss}")

    def on_save(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Mark the checkpoint as complete."""
        (self.run.checkpoints / f"checkpoint-{state.global_step}" / COMPLETE).touch()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the bar."""
        self.bar.close()


def _trainer(
    model: GPTEmbeddingsForCausalLM, windows: Dataset, options: ClmOptions, run: RunFolder, bound: float
) -> Trainer:
    arguments = TrainingArguments(
        str(run.checkpoints),
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=options.batch_size,
        num_train_epochs=options.epochs,
        learning_rate=options.learning_rate,
        weight_decay=0.0,
        max_grad_norm=0.0,  # off: the norm of the tables costs a good part of a step
        save_steps=options.save_steps,
        save_total_limit=KEPT_CHECKPOINTS,
        seed=options.seed,
        logging_steps=10,
        logging_nan_inf_filter=False,
        prediction_loss_only=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        report_to="none",
    )
    trainer = Trainer(model, arguments, data_collator=WindowCollator(), train_dataset=windows)
    trainer.pop_callback(PrinterCallback)
    trainer.add_callback(_Callback(run, bound, options.batch_size * options.max_length))
    return trainer


def _store(windows: TokenWindows, folder: Path) -> Dataset:
    stored = load_from_disk(str(folder)) if folder.exists() else windows.to_dataset(folder)
    return stored.with_format("numpy")


def _count(windows: Dataset, model: GPTEmbeddingsForCausalLM) -> tuple[BigramCounts, float]:
    """Count the bigrams of stored windows; return them and the bound for the model."""
    positions = model.config.position_embedding_type != "none"
    length = len(windows[0]["input_ids"])
    counts = BigramCounts(model.config.vocab_size, length if positions else None)
    batches = windows.iter(batch_size=COUNTED_WINDOWS)
    for batch in Bar(batches, desc="Counting bigrams", total=math.ceil(len(windows) / COUNTED_WINDOWS), leave=False):
        counts.add(np.asarray(batch["input_ids"]), np.asarray(batch["target_ids"]))
    return counts, counts.bound()


def _some(windows: Dataset) -> Dataset:
    """Return at most `EVALUATED_WINDOWS` windows, spread evenly over the text."""
    if len(windows) <= EVALUATED_WINDOWS:
        return windows
    return windows.select(np.linspace(0, len(windows) - 1, EVALUATED_WINDOWS).astype(np.int64))


@torch.no_grad()
def _evaluate(model: GPTEmbeddingsForCausalLM, windows: Dataset, batch_size: int) -> float:
    """Return the mean loss of all targets; `Trainer.evaluate` gives a padded window the weight of a full one."""
    model.eval()
    total, n_targets = 0.0, 0
    batches = DataLoader(windows, batch_size, collate_fn=WindowCollator())
    for batch in Bar(batches, desc="Evaluating", leave=False):
        inputs = {name: values.to(model.device) for name, values in batch.items()}
        # With 1 item in the batch the loss is a sum; `logits_to_keep` leaves the logits out.
        total += float(model(**inputs, num_items_in_batch=1, logits_to_keep=torch.arange(0)).loss)
        n_targets += int((batch["shift_labels"] >= 0).sum())
    return total / n_targets


def _with_bound(loss: float, bound: float) -> str:
    return f"{loss:.4f}; no model without layers can have less than {bound:.4f}"
