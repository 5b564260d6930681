"""Training the zero-layer GPT on next tokens, compared with the entropy of the bigrams.

Windows are stored first, so that they can be shuffled as a whole, and a run can resume at any step without reading the
text again.
"""

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, IterableDataset, load_from_disk
from transformers import PreTrainedTokenizerBase

from gpt_embeddings.progress import Bar
from gpt_embeddings.text.tokenizer import check_vocabulary
from gpt_embeddings.training.bags import Rows
from gpt_embeddings.training.bigrams import BigramCounts
from gpt_embeddings.training.options import ClmOptions
from gpt_embeddings.training.runs import RunFolder
from gpt_embeddings.windows.token_windows import TokenWindows
from modeling_gpt_embeddings import GPTEmbeddingsForCausalLM


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
        **{name: getattr(model.config, name) for name in SETTINGS},
        "data": data_name,
        "windows": windows.state_dict()["settings"],
        "held_out": None if other is None else other.state_dict()["settings"],
    }
    with RunFolder(output, "train clm", tokenizer, options, **settings) as run:
        train = _store(windows, run.folder / "windows")
        evaluation = None if other is None else _store(other, run.folder / "held_out")
        if other is None and len(train) >= HELD_OUT_SHARE:
            kept = len(train) - len(train) // HELD_OUT_SHARE
            train, evaluation = train.select(range(kept)), train.select(range(kept, len(train)))

        counts, bound = _count(train, model)
        device: Any = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
        model.to(device).train()

        def loss(rows: Rows, step: int) -> torch.Tensor:
            torch.manual_seed(options.seed + step)  # dropout, as in any resume
            return model(**_tensors(train[rows], model)).loss

        n_tokens = options.batch_size * options.max_length
        title = f"Training (bound {bound:.3f})"
        run.fit(model, len(train), loss, title=title, sparse=False, tokens_per_step=n_tokens)
        metadata = {
            "Objective": "next token (clm), cross-entropy in nats",
            "Data": data_name,
            "Tokens": f"{counts.n_pairs:,} targets, {len(train):,} windows of {options.max_length}",
            **run.describe_steps(),
            "Loss on the training text": _with_bound(_evaluate(model, _some(train), options.batch_size), bound),
        }
        if len(train) > EVALUATED_WINDOWS:
            metadata["Loss on the training text"] += f" (loss of {EVALUATED_WINDOWS:,} windows, bound of all)"
        if evaluation is not None:
            found = _evaluate(model, evaluation, options.batch_size)
            metadata["Loss on held-out text"] = _with_bound(found, _count(evaluation, model)[1])
        return run.save(model, metadata)


def _store(windows: TokenWindows, folder: Path) -> Dataset:
    stored = load_from_disk(str(folder)) if folder.exists() else windows.to_dataset(folder)
    return stored.with_format("numpy")


def _count(windows: Dataset, model: GPTEmbeddingsForCausalLM) -> tuple[BigramCounts, float]:
    """Count the bigrams of stored windows; return them and the bound for the model."""
    positions = model.config.position_embedding_type != "none"
    length = len(windows[0]["input_ids"])
    counts = BigramCounts(model.config.vocab_size, length if positions else None)
    for batch in _batches(windows, COUNTED_WINDOWS, "Counting bigrams"):
        counts.add(batch["input_ids"], batch["target_ids"])
    return counts, counts.bound()


def _some(windows: Dataset) -> Dataset:
    """Return at most `EVALUATED_WINDOWS` windows, spread evenly over the text."""
    if len(windows) <= EVALUATED_WINDOWS:
        return windows
    return windows.select(np.linspace(0, len(windows) - 1, EVALUATED_WINDOWS).astype(np.int64))


@torch.no_grad()
def _evaluate(model: GPTEmbeddingsForCausalLM, windows: Dataset, batch_size: int) -> float:
    """Return the mean loss of all targets."""
    model.eval()
    total, n_targets = 0.0, 0
    for batch in _batches(windows, batch_size, "Evaluating"):
        # With 1 item in the batch the loss is a sum; `logits_to_keep` leaves the logits out.
        total += float(model(**_tensors(batch, model), num_items_in_batch=1, logits_to_keep=torch.arange(0)).loss)
        n_targets += int((batch["target_ids"] >= 0).sum())
    return total / n_targets


def _batches(windows: Dataset, size: int, title: str) -> Iterable[dict[str, Any]]:
    return Bar(windows.iter(size), desc=title, total=math.ceil(len(windows) / size), leave=False)


def _tensors(batch: Mapping[str, Any], model: GPTEmbeddingsForCausalLM) -> dict[str, torch.Tensor]:
    """Return the arguments of the model for a batch of windows."""
    names = {"input_ids": "input_ids", "shift_labels": "target_ids"}
    return {name: torch.from_numpy(batch[of]).long().to(model.device) for name, of in names.items()}


def _with_bound(loss: float, bound: float) -> str:
    return f"{loss:.4f}; no model without layers can have less than {bound:.4f}"
