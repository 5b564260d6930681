"""Training the zero-layer GPT on next tokens, stored as windows first, compared with the entropy of the bigrams."""

import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from datasets import Dataset, IterableDataset, load_from_disk
from transformers import PreTrainedTokenizerBase

from gpt_embeddings.progress import Bar
from gpt_embeddings.text.tokenizer import check_vocabulary
from gpt_embeddings.training.bigrams import BigramCounts
from gpt_embeddings.training.options import ClmOptions
from gpt_embeddings.training.runs import Rows, RunFolder
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
    """Train on next tokens, and save model, tokenizer and metadata; the same call continues an unfinished run.

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
        ValueError: The data gives no window; and what [`RunFolder`] raises.
    """
    check_vocabulary(tokenizer, model.config.vocab_size)
    if options.max_length > model.config.n_positions:
        raise ValueError(
            f"`max_length` is {options.max_length}, above the model's `n_positions` = {model.config.n_positions}. "
            "Take shorter windows, or make the model longer with `resize_position_embeddings`."
        )
    texts = {"windows": dataset} if held_out is None else {"windows": dataset, "held_out": held_out}
    parts = {name: TokenWindows(text, tokenizer, options.max_length, column=column) for name, text in texts.items()}
    settings = {
        **{name: getattr(model.config, name) for name in SETTINGS},
        "data": data_name,
        **{name: part.state_dict()["settings"] for name, part in parts.items()},
    }
    with RunFolder(output, "train clm", tokenizer, options, **settings) as run:
        stored = {}
        for name, part in parts.items():
            folder = run.folder / name
            found = load_from_disk(str(folder)) if folder.exists() else part.to_dataset(folder)
            stored[name] = found.with_format("numpy")
        train, evaluation = stored["windows"], stored.get("held_out")
        if evaluation is None and len(train) >= HELD_OUT_SHARE:
            kept = len(train) - len(train) // HELD_OUT_SHARE
            train, evaluation = train.select(range(kept)), train.select(range(kept, len(train)))
        counts = _count(train, model)
        device: Any = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
        model.to(device).train()

        def loss(rows: Rows, step: int) -> torch.Tensor:
            torch.manual_seed(options.seed + step)  # dropout, as in any resume
            return _loss(model, train[rows])

        bar = {"desc": f"Training (bound {counts.bound():.3f})", "unit": "token"}
        n_tokens = options.batch_size * options.max_length
        steps = run.fit(model, len(train), loss, sparse=False, unit_scale=n_tokens, **bar)
        some, more = train, ""
        if len(train) > EVALUATED_WINDOWS:
            spread = np.linspace(0, len(train) - 1, EVALUATED_WINDOWS).astype(np.int64)
            some, more = train.select(spread), f" (loss of {EVALUATED_WINDOWS:,} windows, bound of all)"
        metadata = {
            "Objective": "next token (clm), cross-entropy in nats",
            "Data": data_name,
            "Tokens": f"{counts.n_pairs:,} targets, {len(train):,} windows of {options.max_length}",
            **steps,
            "Loss on the training text": _evaluate(model, some, options.batch_size, counts) + more,
        }
        if evaluation is not None:
            own = _count(evaluation, model)
            metadata["Loss on held-out text"] = _evaluate(model, evaluation, options.batch_size, own)
        return run.save(model, metadata)


def _count(windows: Dataset, model: GPTEmbeddingsForCausalLM) -> BigramCounts:
    """Count the bigrams of stored windows, at their positions if the model has some."""
    positions = model.config.position_embedding_type != "none"
    counts = BigramCounts(model.config.vocab_size, len(windows[0]["input_ids"]) if positions else None)
    n_batches = math.ceil(len(windows) / COUNTED_WINDOWS)
    for batch in Bar(windows.iter(COUNTED_WINDOWS), desc="Counting bigrams", total=n_batches, leave=False):
        counts.add(batch["input_ids"], batch["target_ids"])
    return counts


@torch.no_grad()
def _evaluate(model: GPTEmbeddingsForCausalLM, windows: Dataset, batch_size: int, counts: BigramCounts) -> str:
    """Return the mean loss of all targets, with its bound."""
    model.eval()
    total, n_targets = 0.0, 0
    n_batches = math.ceil(len(windows) / batch_size)
    for batch in Bar(windows.iter(batch_size), desc="Evaluating", total=n_batches, leave=False):
        # With 1 item in the batch the loss is a sum; `logits_to_keep` leaves the logits out.
        total += float(_loss(model, batch, num_items_in_batch=1, logits_to_keep=torch.arange(0)))
        n_targets += int((batch["target_ids"] >= 0).sum())
    return f"{total / n_targets:.4f}; no model without layers can have less than {counts.bound():.4f}"


def _loss(model: GPTEmbeddingsForCausalLM, batch: Mapping[str, Any], **options: Any) -> torch.Tensor:
    ids, targets = (torch.from_numpy(batch[name]).long().to(model.device) for name in ("input_ids", "target_ids"))
    return model(input_ids=ids, shift_labels=targets, **options).loss
