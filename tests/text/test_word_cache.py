"""The word cache against `tokenizers`' own ids."""

from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers

from gpt_embeddings import load_tokenizer
from gpt_embeddings.text import gigatoken_backend as other
from gpt_embeddings.text import word_cache as module
from gpt_embeddings.text.word_cache import WordCache, find_word_cache


def new_backend():
    backend = Tokenizer.from_str(load_tokenizer().backend_tokenizer.to_str())
    backend.encode_special_tokens = True
    return backend


@pytest.fixture(scope="module")
def backend():
    return new_backend()


def expected(backend, texts):
    return [encoding.ids for encoding in backend.encode_batch(texts, add_special_tokens=False)]


def reference(backend):
    def encode(texts):
        ids = expected(backend, texts)
        return np.array(list(chain(*ids)), dtype=np.int32), np.cumsum([0, *map(len, ids)])

    return encode


def check(cache, backend, texts):
    input_ids, offsets = cache.encode(texts)
    assert (input_ids.dtype, offsets.dtype) == (np.int32, np.int64)
    assert input_ids.flags.writeable
    found = [ids.tolist() for ids in np.split(input_ids, offsets[1:-1])] if texts else []
    assert found == expected(backend, texts)


@pytest.fixture(scope="module")
def cache(backend):
    found = find_word_cache(backend, False, reference(backend))
    assert isinstance(found, WordCache)
    return found


@pytest.mark.parametrize(
    "texts",
    [
        [],
        [""],
        ["", "a", ""],
        ["Hello, world!  It's 3 o'clock.\n\n\tdon't  stop   \n"],
        ["O gato sentou no tapete.", "O rato não.", "日本語の文章", "🙂👍🏽 ok"],
        ["<|endoftext|>a<|endoftext|>", "\0\x1c\x85\u200b\ufeff"],
        ["a" * 10_000, " " * 10_000, "x" + "\n" * 999 + "y"],
    ],
)
def test_equals_tokenizers(cache, backend, texts):
    check(cache, backend, texts)


@pytest.mark.slow
def test_equals_tokenizers_on_the_probes_of_the_other_engine(cache, backend):
    assigned, unassigned = other._chosen_characters()
    texts = [*other.probes(backend), *other._around(assigned), *other._beside(unassigned)]
    assert len(texts) > 60_000
    check(cache, backend, texts)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), max_size=5))
def test_equals_tokenizers_on_any_text(cache, backend, texts):
    check(cache, backend, texts)


@pytest.mark.slow
def test_equals_tokenizers_on_every_character_that_is_not_left_to_it(cache, backend):
    characters = [chr(i) for start, stop in ((0, 0x80), *module.COMPARED) for i in range(start, stop)]
    for start in range(0, len(characters), 2**14):
        some = characters[start : start + 2**14]
        check(cache, backend, [f"a{c}1{c}!{c} {c}  {c}a'{c}" for c in some])


def test_a_text_with_a_character_of_a_newer_unicode_goes_to_the_reference(backend):
    asked = []

    def encode(texts):
        asked.extend(texts)
        return reference(backend)(texts)

    cache = WordCache(backend, encode)
    doubtful = ["\ua7da is a letter since Unicode 16", "\U00020000 was not compared"]
    check(cache, backend, ["an old text", doubtful[0], "é", doubtful[1]])
    assert set(asked) <= set(doubtful)
    assert doubtful[1] in asked


def test_the_cache_is_bounded(backend, monkeypatch):
    monkeypatch.setattr(module, "MAX_CHARACTERS", 20)
    cache = WordCache(backend, reference(backend))
    for text in ("one two three", "four five", "one two", "incomprehensibilities and more of them", "a b c"):
        check(cache, backend, [text])
        assert cache._size == sum(map(len, cache._ids)) <= max(20, len(text))


@pytest.mark.slow
def test_words_that_do_not_stand_alone_are_left_to_tokenizers(backend):
    engine = reference(backend)
    assert find_word_cache(backend, True, engine) is None
    changed = new_backend()
    changed.normalizer = normalizers.Lowercase()
    assert find_word_cache(changed, False, engine) is None
    changed = new_backend()
    changed.add_tokens([AddedToken("the sea", special=False)])
    assert find_word_cache(changed, False, engine) is None
    changed = new_backend()
    changed.model.dropout = 0.1
    assert find_word_cache(changed, False, engine) is None
    for cutter in (
        pre_tokenizers.ByteLevel(add_prefix_space=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        pre_tokenizers.Whitespace(),
    ):
        changed = new_backend()
        changed.pre_tokenizer = cutter
        assert find_word_cache(changed, False, engine) is None
