"""A vocabulary of one's own: what the script trains, and its way through the library."""

import importlib.util

import numpy as np
import pytest
from command import ROOT
from transformers import AutoTokenizer

from gpt_embeddings import encode_flat, load_tokenizer
from gpt_embeddings.text import gigatoken_backend
from gpt_embeddings.text.encoding import prepare
from gpt_embeddings.text.tokenizer import check_vocabulary


ENGLISH = ["The cat sleeps on the sofa.", "A cat and a dog sleep.", "The dog barks."] * 20
PORTUGUESE = ["A raposa não dorme no sofá.", "O cão ladra, e a raposa foge."] * 20


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("train_vocabulary", ROOT / "scripts" / "train_vocabulary.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.COUNTED = 30_000  # words, of millions
    return module


@pytest.fixture(scope="module")
def folder(script, tmp_path_factory):
    tokenizer, shares = script.train([ENGLISH, PORTUGUESE], vocab_size=311, frequent=6, share=1.0)
    assert shares == [1.0, 1.0]
    place = tmp_path_factory.mktemp("vocabulary")
    script.save(tokenizer, place)
    return place


def test_it_is_gpt2s_form_with_frequent_words_as_tokens(folder):
    for tokenizer in (load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)):
        assert len(tokenizer) == 311 and tokenizer.eos_token_id == 310 and tokenizer.eos_token == "<|endoftext|>"
        assert [tokenizer.decode(i) for i in tokenizer("THE\nNÃO")["input_ids"]] == [" the", " não"]
        assert tokenizer.decode(tokenizer("Any text: 12 €, ação!")["input_ids"]) == " any text: 12 €, ação!"


def test_the_library_treats_it_as_any_other(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(gigatoken_backend, "_CHARACTERS", range(0x80, 0x3400))  # of all of Unicode
    monkeypatch.setattr(gigatoken_backend, "_verdicts", lambda: tmp_path)
    tokenizer = load_tokenizer(folder)
    prepare(tokenizer)  # it warns if gigatoken cannot be used
    check_vocabulary(tokenizer, len(tokenizer))
    texts = [*ENGLISH, *PORTUGUESE, "Straße\r\n\tİ ǅ 🙂"]
    ids, offsets = encode_flat(texts, tokenizer)
    wanted = tokenizer(texts)["input_ids"]
    assert np.array_equal(ids, np.concatenate(wanted)) and np.array_equal(np.diff(offsets), [len(x) for x in wanted])
    with pytest.raises(ValueError, match="311 entries, more than the model's `vocab_size` 300"):
        check_vocabulary(tokenizer, 300)
    check_vocabulary(tokenizer, 311 + 1023)  # a table padded to a multiple of 1024
    with pytest.raises(ValueError, match="311 entries, but the model's `vocab_size` is 50257"):
        check_vocabulary(tokenizer, 50_257)


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([ENGLISH], {"vocab_size": 257}, "above 257 .*, got 257"),
        ([ENGLISH], {"vocab_size": 5_000, "frequent": 2}, r"fills \d+ of 5,000 entries"),
        ([ENGLISH, [""]], {}, "language 2 has no words"),
        ([ENGLISH, PORTUGUESE], {"words": [["the"]]}, "2 languages in `--text` and 1 in `--words`"),
        ([ENGLISH], {"vocab_size": 262, "frequent": 9}, r"one token are \d.*%; 95% was asked"),
    ],
)
def test_bad_input(script, texts, options, message, monkeypatch):
    monkeypatch.setattr(script, "FLOORS", script.FLOORS[-1:])
    with pytest.raises(ValueError, match=message):
        script.train(texts, **options)
