"""Training classifiers: figures against scikit-learn's, words that a table learns, resume, errors."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from command import run
from datasets import ClassLabel, Dataset, Features, Value
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from tiny import new_model
from transformers import pipeline

from gpt_embeddings import GPTEmbeddingsForSequenceClassification, GPTEmbeddingsModel
from gpt_embeddings.training.classification import _evaluate, _make_classifier, _split, train_classes
from gpt_embeddings.training.options import ClassesOptions
from gpt_embeddings.training.runs import Bags


OPTIONS = ClassesOptions(batch_size=16, epochs=10, learning_rate=0.02, save_steps=20)
WORDS = ["ebb", "low", "slack", "flood", "high", "spring"]  # three of each class


def rows(n: int = 200) -> dict[str, list]:
    """Texts of one telling word among three others; the class is that of the word."""
    rng = np.random.default_rng(0)
    telling = rng.integers(6, size=n)
    others = np.array("the a of tide was in on water".split())[rng.integers(8, size=(n, 3))]
    return {
        "text": [" ".join([*three, WORDS[i]]) for three, i in zip(others, telling, strict=True)],
        "label": [("out", "in")[i // 3] for i in telling],
    }


def make_model(**fields) -> GPTEmbeddingsModel:
    """A table of random rows of length 1, whose means differ a lot from text to text."""
    sizes = {"n_embd": 4, "n_positions": 32, "initializer_range": 0.5, "position_embedding_type": "none", **fields}
    return new_model(**sizes)


def train(model, tokenizer, output, data=None, options=OPTIONS, **more):
    return train_classes(model, tokenizer, Dataset.from_dict(data or rows()), output, options, **more)


@pytest.mark.parametrize("n_classes", [2, 5])
def test_head_and_figures_are_those_of_scikit_learn(n_classes, gpt2_tokenizer):
    model, rng = make_model(n_embd=8), np.random.default_rng(1)
    bags = Bags.of(rows()["text"], gpt2_tokenizer, 32)
    labels = rng.integers(n_classes, size=200)
    names = [str(i) for i in range(n_classes)]
    classifier = _make_classifier(model, names, bags, np.arange(150), torch.from_numpy(labels))
    vectors = model.embed_bags(bags.input_ids, bags.offsets).detach().double().numpy()
    mean = vectors[:150].mean(0)
    length = np.sqrt(((vectors[:150] - mean) ** 2).sum(1).mean())
    strength = np.log2(n_classes) * (2 if n_classes == 2 else 1)  # theirs has one row of weights for two classes
    expected = LogisticRegression(C=strength, tol=1e-8, max_iter=1000)
    expected.fit((vectors[:150] - mean) / length, labels[:150])
    found = classifier.score(torch.from_numpy(vectors).float()).softmax(1).detach().numpy()
    np.testing.assert_allclose(found, expected.predict_proba((vectors - mean) / length), atol=2e-3)
    held_out, guess = np.arange(150, 200), found[150:].argmax(1)
    accuracy, f1 = _evaluate(classifier, bags, held_out, labels)
    assert accuracy == pytest.approx(accuracy_score(labels[150:], guess))
    assert f1 == pytest.approx(f1_score(labels[150:], guess, average="macro"))


@pytest.mark.parametrize("sizes", [[2, 2], [100, 11, 9], [1000, 3]])
def test_the_split_is_stratified(sizes):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    parts = _split(labels, seed=0)
    assert sorted(np.concatenate(parts)) == list(range(len(labels)))
    assert np.bincount(labels[parts[1]]).tolist() == [-(-(size - 1) // 10) for size in sizes]
    assert not np.array_equal(parts[1], _split(labels, seed=1)[1])


@pytest.mark.parametrize(("frozen", "kind"), [(False, "none"), (False, "learned"), (True, "none")])
def test_words_are_learned_by_the_table(frozen, kind, gpt2_tokenizer, tmp_path):
    model, before = make_model(position_embedding_type=kind), make_model(position_embedding_type=kind)
    options = replace(OPTIONS, frozen=frozen)
    metadata = train(model, gpt2_tokenizer, tmp_path / "out", options=options, data_name="tides")
    assert metadata["Data"] == "tides; 180 rows, 20 held out"
    accuracy = float(metadata["Held-out accuracy"].split("%")[0])
    assert (50 < accuracy < 95) if frozen else accuracy == 100
    loaded = GPTEmbeddingsForSequenceClassification.from_pretrained(tmp_path / "out")
    assert torch.equal(loaded.transformer.wte.weight, before.wte.weight) == frozen
    untouched = gpt2_tokenizer(" harbour").input_ids
    assert torch.equal(loaded.transformer.wte.weight[untouched], before.wte.weight[untouched])
    assert loaded.config.label2id == {"in": 0, "out": 1}
    assert loaded.config.problem_type == "single_label_classification"
    if not frozen:
        classify = pipeline("text-classification", model=str(tmp_path / "out"))
        assert [one["label"] for one in classify(["it was high water", "it was low water"])] == ["in", "out"]


def test_an_interrupted_run_resumes_exactly(gpt2_tokenizer, tmp_path, interrupted):
    expected = train(make_model(), gpt2_tokenizer, tmp_path / "whole")
    with interrupted():
        train(make_model(), gpt2_tokenizer, tmp_path / "out")
    other = rows()
    other["label"][7] = "in" if other["label"][7] == "out" else "out"
    with pytest.raises(ValueError, match=r"`rows` is .* and was "):
        train(make_model(), gpt2_tokenizer, tmp_path / "out", other)
    assert train(make_model(), gpt2_tokenizer, tmp_path / "out") == expected
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "out")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (pa.array([10, 9] * 20), ["9", "10"]),
        (pa.array([True, False] * 20), ["False", "True"]),
        (pa.array(["b", "a"] * 20).dictionary_encode(), ["a", "b"]),
        (ClassLabel(names=["z", "never", "a"]), ["z", "never", "a"]),
    ],
    ids=["integers", "booleans", "dictionary", "ClassLabel"],
)
def test_names_of_labels(labels, names, gpt2_tokenizer, tmp_path):
    texts = ["ebb", "flood"] * 20
    if isinstance(labels, ClassLabel):
        features = Features({"text": Value("string"), "kind": labels, "other": Value("int64")})
        data = Dataset.from_dict({"text": texts, "kind": [2, 0] * 20, "other": range(40)}, features)
    else:
        data = Dataset(pa.table({"text": texts, "kind": labels}))
    stream = data.to_iterable_dataset()
    options = ClassesOptions(epochs=1)
    train_classes(make_model(), gpt2_tokenizer, stream, tmp_path / "o", options, label_column="kind")
    assert list(json.loads((tmp_path / "o" / "config.json").read_text())["id2label"].values()) == names


def test_bad_labels(gpt2_tokenizer, tmp_path):
    for data, message in (
        ({"text": ["a"] * 4, "kind": ["x", "y"] * 2}, "no column 'label'; .* text, kind. Choose .* `--label-col"),
        ({"text": ["a"] * 4, "label": ["x", None, " ", "y"]}, "'label' is null or blank in 2 of 4 rows; .* row 1"),
        ({"text": ["a"] * 4, "label": [1, None, 0, 0]}, "'label' is null or blank in 1 of 4 rows; .* row 1"),
        ({"text": ["a", None, "b", ""], "label": ["x", "y"] * 2}, "a single class, 'x', in 2 rows with text; at lea"),
        ({"text": [None] * 4, "label": ["x"] * 4}, "no rows with text"),
        ({"text": ["a"] * 4, "label": [1, 2, 3, 4]}, "4 classes in 4 rows; at least two rows per class"),
        ({"text": ["a"] * 4, "label": [0.5] * 4}, "must hold strings, integers or booleans.*it holds float"),
        ({"text": ["a"] * 4, "label": [["x"]] * 4}, "must hold strings, integers or booleans.*list"),
        ({"label": ["x", "y"] * 2}, "no column 'text'"),
    ):
        with pytest.raises(ValueError, match=message):
            train(make_model(), gpt2_tokenizer, tmp_path / "out", data)
        assert not list(tmp_path.iterdir())


def test_validation(gpt2_tokenizer, tmp_path):
    other = {"text": ["low ebb", None, "high flood"], "label": ["out", "in", "in"]}
    metadata = train(make_model(), gpt2_tokenizer, tmp_path / "out", validation=Dataset.from_dict(other))
    assert metadata["Data"] == "a dataset; 200 rows, 2 held out, 1 rows skipped without text"
    assert metadata["Held-out accuracy"].startswith("100.0% (")
    other["label"][0] = "neap"
    with pytest.raises(ValueError, match="classes that the training rows lack: 'neap'"):
        train(make_model(), gpt2_tokenizer, tmp_path / "more", validation=Dataset.from_dict(other))


@pytest.mark.slow
def test_command(tmp_path):
    Dataset.from_dict(rows()).to_csv(tmp_path / "tides.csv")
    make_model().save_pretrained(tmp_path / "model")
    command = ["train", "classes", tmp_path / "tides.csv", "--label-column", "label", "--epochs", 10]
    command += ["--learning-rate", 0.02, "--batch-size", 16, "--model", tmp_path / "model", "--output"]
    said = run(*command, tmp_path / "out").stdout
    assert "Held-out accuracy: 100.0% (" in said and "Held-out macro F1: 1.000 (" in said
    assert "the table as it was" in run(*command, tmp_path / "frozen", "--frozen").stdout
