"""The canonical form: one spelling of each word, with the ids of `tokenizers`."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import new_model
from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from gpt_embeddings import Embedder, encode_flat, load_tokenizer, save_folder
from gpt_embeddings.bundled import BUNDLED
from gpt_embeddings.checkpoints.loading import load_model_and_tokenizer
from gpt_embeddings.text import encoding
from gpt_embeddings.text.gigatoken_backend import BatchNormalizer, GigatokenBackend
from gpt_embeddings.text.tokenizer import CANONICAL_FORM, tokenizer_digest


TEXTS = ["Mug", "A MUG of Tea.", "Água  é VIDA", "ΟΔΟΣ", "\nİstanbul\t\r\n\u1c89", "the “Tide” Clerk", "ALREADY  two"]


@pytest.fixture(scope="module")
def canonical():
    return load_tokenizer(canonical=True)


@pytest.fixture(scope="module")
def fast(canonical):
    """The accelerated backend, which `encode_flat` uses from the second megabyte on."""
    encoding.prepare(canonical)
    backend = encoding.find_backend(canonical, False).prepare().__self__
    assert isinstance(backend, GigatokenBackend)
    return backend


def split(input_ids, offsets):
    return [input_ids[i:j].tolist() for i, j in pairwise(offsets)]


def test_every_spelling_has_the_same_ids(canonical):
    assert canonical(["Mug", " mug", "mug", "MUG"]).input_ids == [[25152]] * 4
    assert split(*encode_flat(["Mug", " mug", "mug", "MUG", "", " "], canonical)) == [[25152]] * 4 + [[], [220]]
    assert type(canonical) is PreTrainedTokenizerFast
    gpt2 = load_tokenizer()
    assert canonical.get_vocab() == gpt2.get_vocab()
    assert canonical.special_tokens_map == gpt2.special_tokens_map
    assert gpt2("Mug").input_ids == [44, 1018]


def test_a_saved_tokenizer_keeps_its_form(canonical, tmp_path):
    save_folder(tmp_path, new_model(n_positions=8), canonical)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer_digest(again) == tokenizer_digest(canonical) == tokenizer_digest(load_tokenizer(tmp_path))
    assert again(TEXTS).input_ids == canonical(TEXTS).input_ids
    assert again.model_max_length == 8
    saved = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert saved["model_input_names"] == ["input_ids", "attention_mask"]  # transformers 4 has other defaults
    # transformers 4 knows this class alone, and resets the pre-tokenizer to this option.
    assert (saved["tokenizer_class"], saved["add_prefix_space"]) == ("PreTrainedTokenizerFast", True)


@pytest.mark.parametrize("name", BUNDLED)
def test_the_bundled_tables_read_it(name, canonical):
    model, tokenizer = load_model_and_tokenizer(name)
    form = [json.loads(one.backend_tokenizer.to_str()) for one in (tokenizer, canonical)]
    assert all(form[0][key] == form[1][key] for key in ("normalizer", "pre_tokenizer"))
    assert tokenizer.model_max_length == model.config.n_positions
    vectors = Embedder(model, tokenizer).encode(["Mug", " mug", "mug", "MUG"])
    assert (vectors == vectors[0]).all() and vectors.any()


def test_a_tokenizer_that_is_not_byte_level_is_refused(tmp_path):
    other = PreTrainedTokenizerFast(tokenizer_object=load_tokenizer().backend_tokenizer)
    other.backend_tokenizer.pre_tokenizer = None
    other.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="`canonical` needs a byte-level tokenizer such as GPT-2's"):
        load_tokenizer(tmp_path, canonical=True)


def test_a_batch_is_normalized_like_each_text_but_for_the_characters_that_are_found(canonical, fast):
    """All assigned planes of Unicode; `str.lower` would not do, since it looks at what is around a sigma."""
    each, batch = canonical.backend_tokenizer.normalizer, BatchNormalizer(CANONICAL_FORM["normalizer"])
    found = {chr(c) for first, last in fast.fallback for c in range(first, last + 1)}
    characters = [chr(c) for c in range(0x34000) if not 0xD800 <= c < 0xE000 and chr(c) not in found]
    assert "İ" in found
    for start in range(0, len(characters), 2**16):
        some = characters[start : start + 2**16]
        assert "".join(batch.apply(some).to_pylist()) == each.normalize_str("".join(some))
    assert batch.apply(["ΑΣ", "A\r\n\tB"]).to_pylist() == [each.normalize_str("ΑΣ"), "a   b"]
    assert each.normalize_str("ΑΣ") != "ΑΣ".lower()


@pytest.mark.parametrize(("pattern", "content"), [({"Regex": "a"}, " "), ({"String": "-"}, "")])
def test_other_normalizers_are_refused(pattern, content):
    with pytest.raises(NotImplementedError, match="the normalizer Replace of"):
        BatchNormalizer({"type": "Replace", "pattern": pattern, "content": content})
    with pytest.raises(NotImplementedError, match="the normalizer NFKC"):
        BatchNormalizer({"type": "Sequence", "normalizers": [{"type": "Lowercase"}, {"type": "NFKC"}]})


@given(st.lists(st.sampled_from(TEXTS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=40), max_size=5))
def test_the_fast_backend_has_the_ids_of_tokenizers(fast, canonical, texts):
    expected = [canonical.backend_tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    assert split(*fast.encode(texts)) == expected  # a few short texts go one by one
    assert split(*fast.encode(texts * 20)) == expected * 20


def test_added_tokens_in_texts_that_are_normalized_are_left_to_tokenizers():
    tokenizer = load_tokenizer(canonical=True)
    tokenizer.add_tokens([AddedToken("Tide", special=False)])
    with pytest.warns(UserWarning, match="gigatoken. is not used: this tokenizer normalizes texts and looks for add"):
        encoding.prepare(tokenizer)
    assert split(*encode_flat(TEXTS, tokenizer)) == tokenizer(TEXTS).input_ids
