"""Training the zero-layer GPT on next tokens with `transformers.Trainer`, compared with the entropy of the bigrams.

Windows are stored first, so that they can be shuffled as a whole and a run can go on at any step without reading the
text again. Left out: objectives on whole texts (`distillation`), and training a GPT with blocks.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, IterableDataset, load_from_disk
from torch import nn

from gpt_embeddings.progress import Bar
from gpt_embeddings.text.tokenizer import check_vocabulary
from gpt_embeddings.training.bigrams import BigramCounts
from gpt_embeddings.training.runs import (
    COMPLETE,
    KEPT_CHECKPOINTS,
    RunFolder,
    check_options,
    checkpoint_error,
    non_finite_error,
    versions,
)
from gpt_embeddings.windows.collator import WindowCollator
from gpt_embeddings.windows.token_windows import TokenWindows
from modeling_gpt_embeddings import GPTEmbeddingsForCausalLM


try:
    from transformers import (
        PreTrainedTokenizerBase,
        PrinterCallback,
        Trainer,
        TrainerCallback,
        TrainerControl,
        TrainerState,
        TrainingArguments,
    )
except ImportError as error:  # accelerate is not here, and transformers says it in other words
    raise ImportError("Training on next tokens needs accelerate: `pip install 'gpt-embeddings[train]'`.") from error


COUNTED_WINDOWS = 1024  # at a time
MODEL_SETTINGS = (
    "vocab_size",
    "n_positions",
    "n_embd",
    "embd_pdrop",
    "position_embedding_type",
    "tie_word_embeddings",
)
EVALUATED_WINDOWS = 4096  # of the training text at the end: all of them would cost a third of an epoch
HELD_OUT_SHARE = 100  # one window of so many, from the end, where no held-out text is given


@dataclass(frozen=True, kw_only=True)
class ClmOptions:
    """How a zero-layer GPT is trained."""

    max_length: int = 128
    """Tokens of a window; at most the model's `n_positions`."""

    batch_size: int = 32
    """Windows of a step."""

    epochs: float = 1.0
    """How often the windows are gone through."""

    learning_rate: float = 0.01
    """Of AdamW without weight decay; it falls to 0 in a straight line."""

    save_steps: int = 500
    """Steps from checkpoint to checkpoint: what a killed run has to do again at most."""

    seed: int = 0
    """Of the order of windows and of dropout."""

    def __post_init__(self) -> None:
        check_options(self, whole=("max_length", "batch_size", "save_steps"), above_0=("epochs", "learning_rate"))


def train_clm(
    model: GPTEmbeddingsForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset | IterableDataset,
    output: str | os.PathLike[str],
    options: ClmOptions = ClmOptions(),
    *,
    held_out: Dataset | IterableDataset | None = None,
    column: str = "text",
    data_name: str = "a dataset",
) -> dict[str, Any]:
    """Train on next tokens and save model, tokenizer and the metadata of the run.

    The same call goes on after an interruption, a full disk or SIGKILL, and ends with the very same weights as a run
    that was left alone (on the same machine, with the same number of threads).

    Args:
        model: The model; it is trained in place.
        tokenizer: The tokenizer that belongs to it.
        dataset: The text.
        output: Folder to make; it appears when the run is complete.
        options: How to train.
        held_out: Text to evaluate on. Without it the last of every hundred windows at the end of the text are kept
            out of training for that, if there are as many.
        column: The column of texts.
        data_name: What the metadata calls the data.

    Returns:
        The metadata that `training_metadata.json` has: data, tokens, steps, losses, bounds, versions.

    Raises:
        OSError: The output exists, or could not be written; the last good checkpoint stays.
        ValueError: The data gives no window, the settings are not those of the unfinished run at this place, or the
            loss is not finite.
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
        **{name: getattr(model.config, name) for name in MODEL_SETTINGS},
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
        trainer.train(resume_from_checkpoint=None if last is None else str(last))
        metadata = {
            "Objective": "next token (clm), cross-entropy in nats",
            "Data": data_name,
            "Tokens": f"{counts.n_pairs:,} targets, {len(train):,} windows of {options.max_length}",
            "Steps": f"{trainer.state.global_step:,} of {options.batch_size} windows, {options.epochs:g} epochs",
            "Learning rate": f"{options.learning_rate:g}, AdamW, falling to 0; seed {options.seed}",
            "Loss on the training text": _with_bound(_evaluate(trainer, _some(train)), bound),
        }
        if len(train) > EVALUATED_WINDOWS:
            metadata["Loss on the training text"] += f" (loss of {EVALUATED_WINDOWS:,} windows, bound of all)"
        if evaluation is not None:
            metadata["Loss on held-out text"] = _with_bound(
                _evaluate(trainer, evaluation), _count(evaluation, model)[1]
            )
        metadata["Versions"] = versions()
        run.save(model, tokenizer, metadata)
    return metadata


class _ClmTrainer(Trainer):
    """A Trainer whose checkpoints are complete and sane.

    A checkpoint is marked when all of it is on the disk. A step whose loss is not finite ends the run before anything
    of it is saved.
    """

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        if not math.isfinite(loss.item()):
            raise non_finite_error(self.state.global_step, f"the loss is {loss.item()}")
        return loss

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        for name, parameter in model.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                raise non_finite_error(self.state.global_step, f"{name} holds values that are not finite")
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
            (folder / COMPLETE).touch()
        except Exception as error:  # each of the writers behind it has errors of its own
            raise checkpoint_error(self.state.global_step, folder, error) from error


class _ProgressBar(TrainerCallback):
    """A bar with the loss, what it is to be evaluated by, and the tokens a second.

    Args:
        title: Name of the run.
        tokens_per_step: Tokens of a step.
        bound: The least loss that is possible.
    """

    def __init__(self, title: str, tokens_per_step: float, bound: float) -> None:
        self.title, self.tokens_per_step = title, tokens_per_step
        self._bar: Any = None
        self._shown: dict[str, str] = {"loss": "-", "bound": f"{bound:.3f}"}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the bar where the run begins or goes on."""
        self._bar = Bar(total=state.max_steps, initial=state.global_step, desc=self.title, unit="step")
        self._first = state.global_step

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Move the bar."""
        self._bar.update(state.global_step - self._bar.n)
        seconds = self._bar.format_dict["elapsed"]
        if seconds:
            self._shown["tokens/s"] = f"{(state.global_step - self._first) * self.tokens_per_step / seconds:,.0f}"
            self._bar.set_postfix(self._shown, refresh=False)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Show the loss."""
        logs = kwargs.get("logs") or {}
        if "loss" in logs:
            self._shown["loss"] = f"{float(logs['loss']):.3f}"
            if self._bar is not None:
                self._bar.set_postfix(self._shown)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the bar."""
        self._bar.close()


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
        max_grad_norm=0.0,  # off: the norm of the tables costs as much as a good part of a step
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
    trainer = _ClmTrainer(model, arguments, data_collator=WindowCollator(), train_dataset=windows)
    trainer.pop_callback(PrinterCallback)
    trainer.add_callback(_ProgressBar("Training", options.batch_size * options.max_length, bound))
    return trainer


def _store(windows: TokenWindows, folder: Path) -> Dataset:
    stored = load_from_disk(str(folder)) if folder.exists() else windows.to_dataset(folder)
    return stored.with_format("numpy")


def _count(windows: Dataset, model: GPTEmbeddingsForCausalLM) -> tuple[BigramCounts, float]:
    """Count the pairs of stored windows; return them and the bound that holds for the model."""
    placed = model.config.position_embedding_type != "none"
    length = len(windows[0]["input_ids"])
    counts = BigramCounts(model.config.vocab_size, length if placed else None)
    batches = windows.iter(batch_size=COUNTED_WINDOWS)
    for batch in Bar(batches, desc="Counting bigrams", total=math.ceil(len(windows) / COUNTED_WINDOWS), leave=False):
        counts.add(np.asarray(batch["input_ids"]), np.asarray(batch["target_ids"]))
    return counts, counts.bound()


def _some(windows: Dataset) -> Dataset:
    """Return windows that are spread evenly over the text, at most `EVALUATED_WINDOWS`."""
    if len(windows) <= EVALUATED_WINDOWS:
        return windows
    return windows.select(np.linspace(0, len(windows) - 1, EVALUATED_WINDOWS).astype(np.int64))


def _evaluate(trainer: Trainer, windows: Dataset) -> float:
    """Return the mean loss of every target, which is not the mean over batches where windows are padded."""
    model: Any = trainer.model
    model.eval()
    total, scored, size = 0.0, 0, trainer.args.per_device_eval_batch_size
    collate = WindowCollator()
    with torch.inference_mode():
        for start in Bar(range(0, len(windows), size), desc="Evaluating", leave=False):
            stop = min(start + size, len(windows))
            batch: Mapping[str, torch.Tensor] = collate([windows[i] for i in range(start, stop)])
            inputs = {name: values.to(model.device) for name, values in batch.items()}
            loss = model(**inputs, num_items_in_batch=1, logits_to_keep=torch.arange(0)).loss
            total, scored = total + float(loss), scored + int((batch["shift_labels"] >= 0).sum())
    return total / scored


def _with_bound(loss: float, bound: float) -> str:
    return f"{loss:.4f}; no model without layers can have less than {bound:.4f}"
