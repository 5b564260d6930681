"""The figures of sentence-transformers' evaluators and of scipy, and the command `evaluate`."""

import csv
import json

import numpy as np
import pytest
from command import STORY, refuse, run
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import (
    EmbeddingSimilarityEvaluator,
    InformationRetrievalEvaluator,
)
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from gpt_embeddings import Embedder
from gpt_embeddings.analysis.evaluation import evaluate_retrieval, evaluate_scores, similar_pairs, spearman
from gpt_embeddings.analysis.similarity import unit_rows


pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

LINES = [line for line in STORY.read_text(encoding="utf-8").split("\n") if len(line) > 40]


@pytest.fixture(scope="module")
def box():
    return Embedder.from_pretrained("gpt-embeddings-english")


@pytest.fixture(scope="module")
def theirs(box):
    """The tokens' rows of the same table as a model of sentence-transformers, which its evaluators take."""
    rows = box.model.wte.weight.detach().numpy()
    return SentenceTransformer(
        modules=[StaticEmbedding(box.tokenizer.backend_tokenizer, embedding_weights=rows)], device="cpu"
    )


@pytest.mark.parametrize("dim", [256, 64])
def test_scored_pairs_as_sentence_transformers_has_them(theirs, dim):
    first, second = LINES[:-1], LINES[1:]
    scores = np.random.default_rng(0).integers(0, 6, len(first)) / 5  # with ties
    evaluator = EmbeddingSimilarityEvaluator(first, second, scores, main_similarity="cosine", truncate_dim=dim)
    ours = evaluate_scores(theirs.encode, first, second, scores, dims=[dim])
    assert ours[dim] == pytest.approx(evaluator(theirs)["spearman_cosine"], abs=1e-6)


@pytest.mark.parametrize("dim", [256, 32])
def test_retrieval_as_sentence_transformers_has_it(theirs, dim):
    """Beginnings of lines ask for their ends; some have two answers, some share one."""
    questions = [line[:20] for line in LINES] + [LINES[0][:20], LINES[1][:20], "Quite another question"]
    answers = [line[20:] for line in LINES] + [LINES[5][20:], LINES[1][20:], LINES[2][20:]]
    documents = {answer: str(i) for i, answer in enumerate(dict.fromkeys(answers))}
    relevant = {question: set() for question in questions}
    for question, answer in zip(questions, answers, strict=True):
        relevant[question].add(documents[answer])
    evaluator = InformationRetrievalEvaluator(
        {question: question for question in questions},
        {number: answer for answer, number in documents.items()},
        relevant,
        truncate_dim=dim,
        precision_recall_at_k=[1, 10],
    )
    expected = evaluator(theirs)
    ours = evaluate_retrieval(theirs.encode, questions, answers, dims=[dim])[dim]
    assert ours == {name: pytest.approx(expected[f"cosine_{name.lower()}"]) for name in ours}
    assert 0 < ours["recall@1"] < ours["recall@10"] < 1


def test_few_answers_and_blocks(box, monkeypatch):
    """Fewer answers than ten; and the numbers do not depend on how many questions are compared at a time."""
    found = evaluate_retrieval(
        box.encode, ["How deep is the sea?", "Who bakes?"], ["The baker.", "The ocean's depth."]
    )
    assert found[256]["recall@10"] == 1
    questions, answers = [line[:25] for line in LINES], [line[25:] for line in LINES]
    whole = evaluate_retrieval(box.encode, questions, answers)
    monkeypatch.setattr("gpt_embeddings.analysis.evaluation.BLOCK_QUESTIONS", 7)
    assert evaluate_retrieval(box.encode, questions, answers) == whole
    assert list(whole) == [256, 128, 64, 32]


def test_what_cannot_be_evaluated(box):
    for evaluate, arguments, message in (
        (evaluate_scores, (["a"] * 3, ["b"] * 3, [1, 2]), "got 3 and 3 texts and 2 scores"),
        (evaluate_scores, (["a"] * 2, ["b"] * 2, [1, 2]), "at least 3: got 2"),
        (evaluate_scores, (["a"] * 3, ["b"] * 3, [1, float("nan"), 2]), "The score of pair 1 is nan"),
        (evaluate_scores, (["a"] * 3, ["b"] * 3, [1, 1, 1]), "All scores are 1; a correlation"),
        (evaluate_retrieval, ([], []), "got 0 questions"),
        (evaluate_retrieval, (["a"], ["b"], [300]), "`dims` has 300, but the vectors have 256"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(box.encode, *arguments)
    with pytest.raises(ValueError, match=r"returned the shape \(256,\) for 1 texts"):
        evaluate_retrieval(lambda texts: box.encode(texts[0]), ["a"], ["b"])


@given(st.lists(st.integers(0, 9), min_size=4, max_size=30).filter(lambda values: len(set(values)) > 1), st.randoms())
def test_spearman_is_scipys_also_for_equal_values(values, random):
    others = random.sample(values, len(values))
    assert spearman(np.array(values), np.array(others)) == pytest.approx(spearmanr(values, others)[0], abs=1e-12)


def test_similar_pairs_have_the_ranks_they_claim():
    vectors = unit_rows(np.random.default_rng(0).normal(size=(600, 5)))
    first, second, cosines = similar_pairs(vectors, seed=1)
    assert (first == np.arange(600)).all() and (first != second).all()
    np.testing.assert_allclose(cosines, (vectors[first] * vectors[second]).sum(1), atol=1e-6)
    nearer = ((vectors @ vectors.T)[first] > cosines[:, None] + 1e-6).sum(1)  # than the partner, the text itself too
    assert set(nearer) == {1, 2, 4, 10, 30, 100, 500}
    assert (similar_pairs(vectors, seed=1)[1] == second).all()


def evaluate(folder, rows):
    """Return the command that evaluates the English table on pairs in a file of CSV."""
    with (folder / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return ["evaluate", "gpt-embeddings-english", file.name]


def test_command_with_scored_pairs(box, tmp_path):
    rows = [(a, b, i % 4) for i, (a, b) in enumerate(zip(LINES, LINES[3:], strict=False))]
    named = [("sentence1", "sentence2", "score"), *rows, ("alone", "", 3), (" \t", "blank", 2)]
    done = run(*evaluate(tmp_path, named), "--json")
    facts = json.loads(done.stdout.splitlines()[-1])
    assert (facts["pairs"], facts["skipped"]) == (len(rows), 2)
    first, second = (box.encode([row[side] for row in rows]) for side in (0, 1))
    expected = spearmanr((unit_rows(first) * unit_rows(second)).sum(1), [row[2] for row in rows])[0]
    assert facts["dimensions"]["256"]["spearman"] == pytest.approx(expected, abs=1e-6)


def test_command_with_questions_by_the_names_of_their_columns(tmp_path):
    command = evaluate(tmp_path, [("asked", "said"), *((line[:20], line[20:]) for line in LINES)])
    said = refuse("the columns are asked, said. Name the two columns of texts with --columns.", *command)
    assert "Without it, they must be sentence1 and sentence2; question and answer; " in said
    done = run(*command, "--columns", "asked", "said")
    assert f"{len(LINES):,} pairs (asked, said)" in done.stdout
    assert "recall@1   recall@10      MRR@10" in " ".join(done.stdout.splitlines())


def test_the_command_names_the_columns_that_there_are(tmp_path):
    command = evaluate(tmp_path, [("question", "answer", "n"), ("Who?", "She.", 1), ("Where?", "There.", 2)])
    has = "the columns are question, answer, n"
    refuse(f"There is no column 'points' of scores; {has}", *command, "--score", "points")
    refuse(f"There is no column 'm'; {has}", *command, "--columns", "question", "m")
    refuse("at least 3", *command, "--score", "n")
