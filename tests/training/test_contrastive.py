"""Training on pairs: against sentence-transformers' own loss, on pairs that can be learned, and what stops it."""

import json
import math

import numpy as np
import pytest
import torch
from command import run
from datasets import Dataset
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny import new_model

from gpt_embeddings import GPTEmbeddingsModel
from gpt_embeddings.training.contrastive import ContrastiveOptions, _Pairs, train_contrastive


# The second text says in other words what the first one says.
WORDS = [
    "one two three four five six seven eight nine ten".split(),
    "un deux trois quatre cinq six sept huit neuf dix".split(),
]
OPTIONS = ContrastiveOptions(batch_size=32, epochs=15, learning_rate=0.05, save_steps=30)


def make_pairs(n: int = 300) -> list[tuple[str, str]]:
    rng = np.random.default_rng(0)
    drawn = [rng.choice(10, 3, replace=False) for _ in range(n)]
    return [tuple(" ".join(words[i] for i in row) for words in WORDS) for row in drawn]


def dataset() -> Dataset:
    first, second = zip(*make_pairs(), strict=True)
    return Dataset.from_dict({"number": first, "nombre": second})


def train(model, tokenizer, output, **options):
    return train_contrastive(model, tokenizer, dataset(), output, OPTIONS, columns=("number", "nombre"), **options)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_the_loss_is_that_of_sentence_transformers(gpt2_tokenizer):
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesSymmetricRankingLoss

    model, pairs = new_model(), sorted(set(make_pairs(30)))[:20]  # theirs takes an equal text for a wrong one
    ours = _Pairs(pairs, gpt2_tokenizer, 32).loss(model, np.arange(20))

    def vectors(features):
        return {"sentence_embedding": features["vectors"]}

    sides = []
    for side in zip(*pairs, strict=True):
        batch = gpt2_tokenizer(list(side), padding=True, return_tensors="pt")
        sides.append({"vectors": model(**batch).pooler_output})
    theirs = MultipleNegativesSymmetricRankingLoss(vectors)(sides, torch.zeros(20))
    torch.testing.assert_close(ours, theirs)


LETTERS = {"a": [1, 0], "b": [0, 1], "c": [0, 1], "x": [1, 0], "y": [0, 1]}  # whose cosines are 0 and 1


@pytest.fixture(scope="module")
def letters(gpt2_tokenizer):
    model = new_model(n_embd=2, position_embedding_type="none")
    for letter, row in LETTERS.items():
        model.wte.weight.data[gpt2_tokenizer(letter).input_ids] = torch.tensor(row).float()
    return model


def by_definition(pairs) -> float:
    """Both directions at a temperature of 1; what belongs to a text, or is the text itself, is no negative of it."""
    losses = []
    for first, second in pairs:
        own = np.dot(LETTERS[first], LETTERS[second])
        forth = [(first, other) for _, other in pairs if (first, other) not in pairs and first != other]
        back = [(other, second) for other, _ in pairs if (other, second) not in pairs and other != second]
        for wrong in (forth, back):
            losses.append(math.log(1 + sum(math.exp(np.dot(LETTERS[a], LETTERS[b]) - own) for a, b in wrong)))
    return float(np.mean(losses))


@settings(deadline=None)
@given(pairs=st.lists(st.tuples(st.sampled_from("abcxy"), st.sampled_from("abcxy")), min_size=1, max_size=6))
@example(pairs=[("a", "x"), ("b", "x"), ("c", "y")])
@example(pairs=[("a", "b"), ("b", "c")])
def test_what_belongs_to_a_text_is_no_negative_of_it(pairs, letters, gpt2_tokenizer):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpt_embeddings.training.contrastive.TEMPERATURE", 1.0)
        loss = _Pairs([*pairs, *4 * [("c", "c")]], gpt2_tokenizer, 32).loss(letters, np.arange(len(pairs)))
    assert loss.item() == pytest.approx(by_definition(pairs), abs=1e-6)
    loss.backward()
    assert torch.isfinite(letters.wte.weight.grad).all()


def test_equal_texts_are_found(letters, gpt2_tokenizer):
    """Of 40 pairs the last 4 are evaluated: a and b, each twice, find x and y, each there twice, or x alone."""
    for seconds, found in (("xy", 1), ("xx", 1), ("yx", 0)):
        pairs = _Pairs(20 * list(zip("ab", seconds, strict=True)), gpt2_tokenizer, 32)
        assert pairs.evaluate(letters) == found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["none", "learned"])
def test_pairs_are_found(kind, gpt2_tokenizer, tmp_path):
    model = new_model(position_embedding_type=kind)
    metadata = train(model, gpt2_tokenizer, tmp_path / "out", data_name="numbers")
    before, after = metadata["Recall@1 of held-out pairs"].split(" at the start, ")
    assert float(before.removesuffix("%")) < 30 < 90 < float(after.removesuffix("% trained"))
    loaded = GPTEmbeddingsModel.from_pretrained(tmp_path / "out")
    assert torch.equal(loaded.wte.weight, model.wte.weight)
    untouched = gpt2_tokenizer(" harbour").input_ids
    assert torch.equal(loaded.wte.weight[untouched], new_model(position_embedding_type=kind).wte.weight[untouched])


def test_other_pairs_do_not_continue_a_run(gpt2_tokenizer, tmp_path, interrupted):
    """As many pairs of the same name, but one of them edited."""
    with interrupted():
        train(new_model(), gpt2_tokenizer, tmp_path / "out")
    rows = dataset().to_dict()
    rows["nombre"][7] = "douze"
    columns = {"columns": ("number", "nombre")}
    with pytest.raises(ValueError, match=r"`pairs` is .* and was "):
        train_contrastive(new_model(), gpt2_tokenizer, Dataset.from_dict(rows), tmp_path / "out", OPTIONS, **columns)


def test_weights_that_are_not_finite_are_not_saved(gpt2_tokenizer, tmp_path):
    """In a row that no text has, so that the loss does not show it."""
    model = new_model()
    model.wte.weight.data[50_256] = torch.inf
    with pytest.raises(ValueError, match=r"After step \d+ weights are not finite.*lower learning rate"):
        train(model, gpt2_tokenizer, tmp_path / "o")
    assert not list(tmp_path.rglob("state.pt"))


def test_sentences_that_follow_each_other(gpt2_tokenizer, tmp_path):
    text = "The tide came in. It went out again. It went out again. The clerk wrote.\n\nA short day ended. Ab."
    texts = Dataset.from_dict({"text": [text, None, "Only one sentence here."] * 2})
    options = ContrastiveOptions(batch_size=4, epochs=1)
    metadata = train_contrastive(new_model(), gpt2_tokenizer, texts, tmp_path / "out", options)
    # Of each 3: in and out, out and wrote, wrote and ended.
    assert metadata["Data"] == "a dataset; 5 pairs, 1 held out"


@pytest.mark.slow
def test_command(tmp_path):
    rows = [("number", "nombre"), *make_pairs(40), ("one", "")]
    (tmp_path / "pairs.csv").write_text("".join(f"{first},{second}\n" for first, second in rows))
    new_model().save_pretrained(tmp_path / "model")
    arguments = ["train", "contrastive", tmp_path / "pairs.csv", "--columns", "number", "nombre", "--epochs", 1]
    said = run(*arguments, "--model", tmp_path / "model", "--batch-size", 8, "--output", tmp_path / "out").stdout
    assert "Data: pairs.csv; 36 pairs, 4 held out, 1 rows skipped without both texts\n" in said
    assert json.loads((tmp_path / "out" / "training_metadata.json").read_text())["Steps"] == "1 epochs in batches of 8"


def test_bad_input(gpt2_tokenizer, tmp_path):
    for model, data, columns, message in (
        ({}, {"text": ["One sentence."]}, None, "The data has 0 pairs; at least 4"),
        ({}, {"a": ["one"], "b": ["un"]}, ("a", "answer"), "no column 'answer'; the columns are a, b"),
        ({"vocab_size": 100}, {"a": ["one"], "b": ["un"]}, ("a", "b"), "more than the model's `vocab_size` 100"),
    ):
        with pytest.raises(ValueError, match=message):
            train_contrastive(
                new_model(**model), gpt2_tokenizer, Dataset.from_dict(data), tmp_path / "o", columns=columns
            )
