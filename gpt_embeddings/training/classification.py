"""Training a classifier: a linear layer on the pooled vector of a text, and the table behind it, together."""

import copy
import os
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from datasets import ClassLabel, Dataset, IterableDataset
from transformers import PreTrainedTokenizerBase

from gpt_embeddings.exceptions import ColumnError
from gpt_embeddings.progress import Bar
from gpt_embeddings.text.columns import check_column, check_texts, find_blank, take_column
from gpt_embeddings.text.sources import read_blocks
from gpt_embeddings.text.tokenizer import check_vocabulary
from gpt_embeddings.training.options import ClassesOptions
from gpt_embeddings.training.runs import Bags, Rows, RunFolder
from modeling_gpt_embeddings import GPTEmbeddingsForSequenceClassification, GPTEmbeddingsModel


HEAD_ROWS = 100_000  # the layer starts from at most so many rows
DROPOUT = 0.5  # of the pooled vector; with it twice the learning rate is best


def train_classes(
    model: GPTEmbeddingsModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset | IterableDataset,
    output: str | os.PathLike[str],
    options: ClassesOptions = ClassesOptions(),  # noqa: B008 -- frozen
    *,
    label_column: str = "label",
    validation: Dataset | IterableDataset | None = None,
    column: str = "text",
    data_name: str = "a dataset",
) -> dict[str, Any]:
    """Train a `GPTEmbeddingsForSequenceClassification`, and save it; the same call continues an unfinished run.

    Args:
        model: The table to start from; it is trained in place, with its own pooling.
        tokenizer: The tokenizer that belongs to it.
        dataset: Texts and their labels.
        output: Folder to make; it appears when the run is complete.
        options: How to train.
        label_column: The column of labels: strings, integers, booleans or a `ClassLabel`.
        validation: Rows to evaluate on. None holds out one row in ten of each class, which is then not trained on.
        column: The column of texts.
        data_name: Name of the data in the metadata.

    Returns:
        The content of `training_metadata.json`: data, classes, steps, accuracy and macro F1 of held-out rows.

    Raises:
        ValueError: A column is missing, labels are null, there is a single class; and what [`RunFolder`] raises.
    """
    check_vocabulary(tokenizer, model.config.vocab_size)
    texts, values, names, skipped = _read(dataset, column, label_column)
    classes = sorted(set(values)) if names is None else list(range(len(names)))
    names = [str(value) for value in classes] if names is None else names
    numbers, n_rows = {value: i for i, value in enumerate(classes)}, len(texts)
    if validation is not None:
        more, more_values, _, more_skipped = _read(validation, column, label_column, least=1)
        if unknown := set(more_values) - numbers.keys():
            raise ColumnError(
                f"Column {label_column!r} of the validation rows has classes that the training rows lack: "
                f"{', '.join(sorted(map(repr, unknown))[:5])}. Leave these rows out, or train on such rows too."
            )
        texts, values, skipped = texts + more, values + more_values, skipped + more_skipped
    labels = np.array([numbers[value] for value in values], np.int64)
    train, held_out = np.split(np.arange(len(labels)), [n_rows])
    if validation is None:
        train, held_out = _split(labels, options.seed)
    bags = Bags.of(texts, tokenizer, model.config.n_positions)
    settings = {
        "columns": (column, label_column),
        "classes": names,
        "data": data_name,
        "rows": bags.digest(labels, held_out),
        "n_embd": model.config.n_embd,
        "pooling": model.config.pooling,
    }
    with RunFolder(output, "train classes", tokenizer, options, **settings) as run:
        targets = torch.from_numpy(labels).to(model.wte.weight.device)
        classifier = _make_classifier(model, names, bags, train, targets)
        start = _evaluate(classifier, bags, held_out, labels)
        steps = {}
        if not options.frozen:

            def loss(rows: Rows, step: int) -> torch.Tensor:
                vectors = classifier.transformer.embed_bags(*bags.take(train[rows]))
                kept = np.random.default_rng([options.seed, step]).random(vectors.shape) >= DROPOUT  # as in any resume
                vectors = vectors * torch.from_numpy(kept).to(vectors.device) / (1 - DROPOUT)
                return F.cross_entropy(classifier.score(vectors), targets[train[rows]])

            steps = run.fit(classifier, len(train), loss)
        accuracy, f1 = _evaluate(classifier, bags, held_out, labels)
        before = ("", "") if options.frozen else (f" ({start[0]:.1%} before)", f" ({start[1]:.3f} before)")
        most = np.bincount(labels[held_out]).max() / len(held_out)
        metadata = {
            "Objective": "classes of texts (cross-entropy)" + (", the table as it was" if options.frozen else ""),
            "Data": f"{data_name}; {len(train):,} rows, {len(held_out):,} held out"
            + (f", {skipped:,} rows skipped without text" if skipped else ""),
            "Classes": f"{len(names)} in column {label_column!r}; the most frequent has {most:.1%} of held-out rows",
            **steps,
            "Held-out accuracy": f"{accuracy:.1%}{before[0]}",
            "Held-out macro F1": f"{f1:.3f}{before[1]}",
        }
        return run.save(classifier, metadata)


def _read(
    dataset: Dataset | IterableDataset, column: str, label_column: str, least: int = 2
) -> tuple[list[str], list[Any], list[str] | None, int]:
    """Return texts, the values of their labels, the names of a `ClassLabel`, and how many rows had no text."""
    if column == label_column:
        raise ColumnError(f"Column {column!r} cannot hold both texts and labels. Choose another `--label-column`.")
    check_texts(dataset, column)
    texts: list[Any] = []
    values: list[Any] = []
    if dataset.column_names is not None:
        check_column(dataset.column_names, label_column, "label_column")
        dataset = dataset.select_columns([column, label_column])
    for table in Bar(read_blocks(dataset, 1000), desc="Reading", unit="batch", leave=False):
        check_column(table.column_names, label_column, "label_column")
        texts += take_column(table, column).to_pylist()
        values += table[label_column].to_pylist()
    feature = (dataset.features or {}).get(label_column)
    names = feature.names if isinstance(feature, ClassLabel) else None
    kinds = {type(value) for value in values if value is not None}
    if not (kinds <= {str} or kinds <= {int, bool}):
        raise ColumnError(
            f"Column {label_column!r} must hold strings, integers or booleans, one class a row; it holds "
            f"{', '.join(sorted(kind.__name__ for kind in kinds))}. Numbers to predict and several labels a row are "
            "for `transformers.Trainer` with `GPTEmbeddingsForSequenceClassification` (docs/classification.md)."
        )
    # A `ClassLabel` has -1 where it has none.
    missing = [i for i, label in enumerate(values) if label is None or not str(label).strip() or (names and label < 0)]
    if missing:
        raise ColumnError(
            f"Column {label_column!r} is null or blank in {len(missing):,} of {len(values):,} rows; the first is row "
            f"{missing[0]}. Give these rows a label or leave them out."
        )
    rows = np.flatnonzero(~find_blank(texts)).tolist()
    found = {values[i] for i in rows}
    if len(found) < least:
        only = f"a single class, {next(iter(found))!r}, in {len(rows):,} rows" if found else "no rows"
        raise ColumnError(
            f"Column {label_column!r} has {only} with text; at least two classes are needed. Give more data or "
            "another `--label-column` (`label_column=` in Python)."
        )
    if least > 1 and 2 * len(found) > len(rows):
        raise ColumnError(
            f"Column {label_column!r} has {len(found):,} classes in {len(rows):,} rows; at least two rows per class "
            "are needed. Is it the column of labels (`--label-column`, `label_column=` in Python)?"
        )
    return [texts[i] for i in rows], [values[i] for i in rows], names, len(texts) - len(rows)


def _split(labels: Rows, seed: int) -> tuple[Rows, Rows]:
    """Return training and held-out rows: one in ten of each class, at least one of a class with two rows.

    >>> labels = np.repeat([0, 1, 2], [40, 20, 1])
    >>> train, held_out = _split(labels, seed=0)
    >>> np.bincount(labels[train]).tolist(), np.bincount(labels[held_out]).tolist()
    ([36, 18, 1], [4, 2])
    """
    order = np.lexsort((np.random.default_rng(seed).random(len(labels)), labels))
    first = np.searchsorted(labels[order], np.arange(labels.max() + 1))
    within = np.arange(len(order)) - first[labels[order]]  # 0, 1, ... in each class
    held = within % 10 == 1
    return np.sort(order[~held]), np.sort(order[held])


@torch.no_grad()
def _make_classifier(
    model: GPTEmbeddingsModel, names: list[str], bags: Bags, rows: Rows, targets: torch.Tensor
) -> GPTEmbeddingsForSequenceClassification:
    """Put a layer on the very tables of a model: the logistic regression of its vectors of some rows.

    The vectors are centred and of length 1 on average. The penalty is scikit-learn's for several classes at
    C = log2(n_classes): the more classes, the larger the logits.
    """
    config, n_classes = copy.deepcopy(model.config), len(names)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: i for i, name in enumerate(names)}
    config.problem_type = "single_label_classification"
    config.classifier_dropout = DROPOUT
    classifier: Any = GPTEmbeddingsForSequenceClassification(config)
    classifier.transformer = model
    classifier.to(model.wte.weight).eval()
    if len(rows) > HEAD_ROWS:
        rows = rows[np.linspace(0, len(rows) - 1, HEAD_ROWS).astype(np.int64)]
    vectors, labels = model.embed_bags(*bags.take(rows)).float(), targets[torch.from_numpy(rows)]
    mean = vectors.mean(0)
    vectors -= mean
    length = vectors.square().sum(1).mean().sqrt().clamp(min=1e-30)
    vectors /= length
    weight = vectors.new_zeros(n_classes, vectors.shape[1]).requires_grad_()
    bias = vectors.new_zeros(n_classes).requires_grad_()
    penalty = 1 / (2 * len(rows) * np.log2(n_classes))
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    @torch.enable_grad()
    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(vectors, weight, bias), labels) + penalty * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    classifier.score.weight.copy_(weight / length)
    classifier.score.bias.copy_(bias - weight @ mean / length)
    return classifier


@torch.no_grad()
def _evaluate(
    classifier: GPTEmbeddingsForSequenceClassification, bags: Bags, rows: Rows, labels: Rows
) -> tuple[float, float]:
    """Return accuracy and macro F1, the mean over classes that are there or were found, as scikit-learn has it."""
    logits = classifier.score(classifier.transformer.embed_bags(*bags.take(rows)))
    found = logits.argmax(1).cpu().numpy()
    right, n_classes = labels[rows], classifier.config.num_labels
    true, both = (np.bincount(part, minlength=n_classes) for part in (right[found == right], np.append(right, found)))
    return float((found == right).mean()), float((2 * true[both > 0] / both[both > 0]).mean())
