"""`encode_flat` on both of its backends: the same ids and errors, in threads and in forked and spawned processes."""

import copy
import functools
import json
import multiprocessing
import os
import pickle
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from command import STORY
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from gpt_embeddings.text import encoding
from gpt_embeddings.text import gigatoken_backend as module
from gpt_embeddings.text.encoding import as_texts, encode_by_reference, encode_flat, fill_missing, prepare
from gpt_embeddings.text.gigatoken_backend import GigatokenBackend
from gpt_embeddings.text.tokenizer import load_tokenizer


TEXT = STORY.read_text(encoding="utf-8")
# Large enough for a batch call of gigatoken to want threads, which a forked child does not have.
DOCUMENTS = [TEXT[i : i + 2000] for i in range(0, len(TEXT), 2000)] * 8


def forking(test):
    """Mark a test of forks beside threads, of which Python warns."""
    test = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")(test)
    return pytest.mark.slow(pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")(test))


@pytest.fixture(autouse=True)
def fast_at_once(monkeypatch):
    monkeypatch.setattr(encoding, "SLOW_CHARACTERS", -1)
    monkeypatch.setattr(encoding, "SHORT_CALL", 0)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """GPT-2's tokenizer, proved on all characters, and on fewer where texts may contain special tokens."""
    tokenizer = load_tokenizer()
    prepare(tokenizer)
    with pytest.MonkeyPatch.context() as patch:
        as_new_process(patch, tmp_path_factory.mktemp("verdicts"), characters=range(0x80, 0x3400))
        prepare(tokenizer, special_tokens=True)
    return tokenizer


@pytest.fixture(scope="module")
def other_gpt2():
    return load_tokenizer()


@pytest.fixture(params=["gigatoken", "tokenizers"])
def tokenizer(request, monkeypatch, gpt2, other_gpt2):
    if request.param == "gigatoken":
        return gpt2
    monkeypatch.setitem(sys.modules, "gigatoken", None)  # as if the extra `fast` were not installed
    return other_gpt2


@functools.cache
def plain_backend(tokenizer, special_tokens=False):
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    backend.encode_special_tokens = not special_tokens
    return backend


def reference_ids(tokenizer, texts, special_tokens=False):
    """Ids by the plainest call of `tokenizers`."""
    backend = plain_backend(tokenizer, special_tokens)
    return [backend.encode(text, add_special_tokens=False).ids for text in texts]


def backend_of(tokenizer):
    """The backend behind `encode_flat`; None is `tokenizers`."""
    return getattr(encoding.find_backend(tokenizer, False).prepare(), "__self__", None)


def split(input_ids, offsets):
    return [ids.tolist() for ids in np.split(input_ids, offsets[1:-1])]


def test_the_first_texts_and_short_calls_do_not_wait_for_gigatoken(monkeypatch, tmp_path):
    """A short job must not wait for a proof, nor a server's question that happens to fill the first megabyte."""
    as_new_process(monkeypatch, tmp_path)
    monkeypatch.setattr(encoding, "SLOW_CHARACTERS", 1000)
    monkeypatch.setattr(encoding, "SHORT_CALL", 60)
    tokenizer, question, text = small_tokenizer(), ["clerk " * 8], ["clerk " * 80]
    for texts in [text, text, *[question] * 10]:
        assert split(*encode_flat(texts, tokenizer)) == reference_ids(tokenizer, texts)
        assert not module._backends
    assert split(*encode_flat(text, tokenizer)) == reference_ids(tokenizer, text)
    assert len(module._backends) == 1
    prepare(tokenizer, special_tokens=True)
    assert len(module._backends) == 2


def test_literal_ids(tokenizer, gpt2):
    assert isinstance(backend_of(gpt2), GigatokenBackend)
    # The ids of OpenAI's own encoder.
    input_ids, offsets = encode_flat(["Hello world", "", " Hello, I'm"], tokenizer)
    assert input_ids.tolist() == [15496, 995, 18435, 11, 314, 1101]
    assert offsets.tolist() == [0, 2, 2, 6]
    assert (input_ids.dtype, offsets.dtype) == (np.int32, np.int64)
    assert input_ids.flags.writeable
    input_ids, offsets = encode_flat([], tokenizer)
    assert input_ids.shape == (0,) and offsets.tolist() == [0]

    # Special tokens are plain text unless asked for.
    assert encode_flat(["a<|endoftext|>b"], tokenizer)[0].tolist() == [64, 27, 91, 437, 1659, 5239, 91, 29, 65]
    assert encode_flat(["a<|endoftext|>b"], tokenizer, special_tokens=True)[0].tolist() == [64, 50256, 65]


@pytest.mark.parametrize(
    "array",
    [
        pa.array(["Hello", "", " world"], pa.string_view()),
        pa.chunked_array([["Hello"], [], ["", " world"]]),
        pa.array(["no", "Hello", "", " world", "no"]).slice(1, 3),
        np.array(["Hello", "", " world"]),
        ("Hello", "", " world"),
    ],
    ids=["string_view", "chunked", "sliced", "numpy", "tuple"],
)
def test_other_sequences(tokenizer, array):
    input_ids, offsets = encode_flat(array, tokenizer)
    assert input_ids.tolist() == [15496, 995] and offsets.tolist() == [0, 1, 1, 2]


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        (["a", None], TypeError, 'Text 1 must be a string, got NoneType: None. Use "" for what is missing'),
        (["a", "b", 3], TypeError, "Text 2 must be a string, got int: 3"),
        (["a", "b\ud800"], ValueError, r"Text 1 holds the lone surrogate '\\ud800' at character 1"),
        (pa.array(["a", None]), TypeError, "Text 1 must be a string, got NoneType: None"),
        (pa.array([b"a", b"\xff"]).view(pa.string()), ValueError, "Text 1 is not valid UTF-8"),
        ("text", TypeError, "`texts` must be a sequence of strings, got one str"),
    ],
    ids=["none", "int", "surrogate", "null", "utf8", "one"],
)
def test_errors_are_the_same_in_both_backends(tokenizer, texts, error, message):
    with pytest.raises(error, match=message):
        encode_flat(texts, tokenizer)


def test_what_is_missing_in_a_list_or_a_column_of_pandas():
    texts, found = fill_missing(as_texts(["a", None, np.float32("nan"), pd.NA, pd.NaT, "b"]))
    assert texts == ["a", "", "", "", "", "b"] and found.tolist() == [False, True, True, True, True, False]
    for dtype in (None, "string", "category"):
        texts, found = fill_missing(as_texts(pd.Series([np.nan, np.nan], dtype=dtype)))
        assert list(map(str, texts)) == ["", ""] and found.tolist() == [True, True]
        assert len(as_texts(pd.Series([], dtype=dtype))) == 0


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (pd.Series(["a", 5, "b"]), "Text 1 must be a string, got int: 5"),
        (pd.DataFrame({"body": ["a"], "n": [1]}), "one column of them, .*got DataFrame with the columns body, n"),
        (datasets.Dataset.from_dict({"body": ["a"]}), "got Dataset with the columns body"),
        (np.array([["a", "b"]]), "must be a string, a list of strings or one column .*got ndarray"),
        ({"a"}, "got set"),
        ({"text": ["a"]}, "got dict"),
    ],
)
def test_what_is_not_a_column_of_texts_is_refused(gpt2, texts, message):
    with pytest.raises(TypeError, match=message) as caught:
        encode_flat(as_texts(texts), gpt2)
    assert not type(caught.value).__name__.startswith("_")


# Of Unicode 17, which gigatoken 0.10 knows and `tokenizers` 0.23 does not: a letter of Arabic, one of Kannada, a digit
# of Tolong Siki, the last ideograph of extension J.
LATER_CHARACTERS = "\u088f\u0cdc\U00011de0\U00033479"
COMMON = st.text(" \n\t'absS1é=<|endoftext|>\0\u3000", max_size=40)
ANY = COMMON | st.text() | st.text(LATER_CHARACTERS + " a1!'s\n", max_size=12)


@settings(max_examples=200, deadline=None)
@given(st.tuples(st.lists(ANY, max_size=8), st.just(False)) | st.tuples(st.lists(COMMON, max_size=8), st.just(True)))
def test_ids_are_those_of_tokenizers(gpt2, texts_and_special):
    texts, special = texts_and_special
    wanted = reference_ids(gpt2, ["x", *texts], special)
    assert split(*encode_flat(["x", *texts], gpt2, special_tokens=special)) == wanted


def test_a_changed_tokenizer_gets_a_new_engine(monkeypatch, tmp_path):
    as_new_process(monkeypatch, tmp_path)
    tokenizer = small_tokenizer()
    assert 256 not in encode_flat(["a tidewaiter"], tokenizer)[0]
    tokenizer.add_tokens(["tidewaiter"])
    assert encode_flat(["a tidewaiter"], tokenizer)[0].tolist()[2:] == [256]


def small_tokenizer(**added):
    """A word-level tokenizer, quick to prove."""
    backend = Tokenizer(models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if added:
        backend.add_tokens([AddedToken("clerk", **added)])
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def split_by(pattern):
    parts = [pre_tokenizers.Split(Regex(pattern), "isolated")]
    return pre_tokenizers.Sequence([*parts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


@pytest.mark.parametrize(
    ("single_word", "pattern", "reason"),
    [
        (True, None, ".*`single_word`"),
        (False, "[aeiou]+", r"it cannot load this tokenizer \(Unknown pre_tokenizer .*\)\. Enc"),
    ],
)
def test_what_gigatoken_cannot_do_is_left_to_tokenizers_with_one_warning(single_word, pattern, reason):
    tokenizer, texts = small_tokenizer(single_word=single_word), ["clerk", "clerks clerk"]
    if pattern is not None:
        tokenizer.backend_tokenizer.pre_tokenizer = split_by(pattern)
    with pytest.warns(UserWarning, match=f"gigatoken.*is not used: {reason}"):
        first = encode_flat(texts, tokenizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = encode_flat(texts, tokenizer)
    assert split(*first) == split(*again) == reference_ids(tokenizer, texts)


def test_the_proof_finds_another_pattern(gpt2):
    """cl100k's pattern differs from GPT-2's in details: contractions in capitals, runs of digits, line ends."""
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    other = Tokenizer.from_str(gpt2.backend_tokenizer.to_str())
    other.pre_tokenizer = split_by(pattern)
    reference = functools.partial(encode_by_reference, gpt2.backend_tokenizer)
    verdict = module._prove(GigatokenBackend(other.to_str(), reference), gpt2.backend_tokenizer, reference)
    assert verdict.startswith("its ids differ from those of `tokenizers` for ")


def test_the_proof_finds_characters_that_only_one_of_the_two_knows(gpt2):
    """Without being left to `tokenizers` they would be encoded differently, or this test proves nothing."""
    backend = backend_of(gpt2)
    for character in LATER_CHARACTERS:
        text = f"{character}'s 1{character}'s"
        assert backend._encode([text])[0].tolist() != reference_ids(gpt2, [text])[0]
        assert any(first <= ord(character) <= last for first, last in backend.fallback)


def test_a_handle_that_has_read_much_is_made_anew(monkeypatch):
    """It remembers words without end."""
    monkeypatch.setattr(module, "MAX_TOKENS", 1000)
    tokenizer, handles = small_tokenizer(), set()
    backend = GigatokenBackend(tokenizer.backend_tokenizer.to_str(), None)
    for document in DOCUMENTS[:4]:
        assert split(*backend.encode([document])) == reference_ids(tokenizer, [document])
        handles.add(backend._handle)
    assert len(handles) > 1


def as_new_process(monkeypatch, folder, characters=range(0x80, 0x180)):
    """Forget the backends that this process has, keep verdicts in `folder`, and prove on fewer characters."""
    monkeypatch.setattr(module, "_CHARACTERS", characters)
    monkeypatch.setattr(module, "_backends", {})
    monkeypatch.setattr(module, "_verdicts", lambda: folder)


def test_verdicts_are_kept_and_obeyed(tmp_path, monkeypatch):
    as_new_process(monkeypatch, tmp_path)
    expected = encode_flat(["clerk"], small_tokenizer())[0].tolist()
    (verdict,) = tmp_path.iterdir()
    kept = json.loads(verdict.read_text())
    assert kept == {"verdict": "equal", "fallback": []}

    verdict.write_text('{"verdict": "its ids differ", "fallback": []}')
    as_new_process(monkeypatch, tmp_path)
    with pytest.warns(UserWarning, match="is not used: its ids differ. Encoding goes on"):
        assert encode_flat(["clerk"], small_tokenizer())[0].tolist() == expected

    # A broken file is no verdict: the proof is made again.
    for broken in ("{", '{"verdict": "equal"}', '"equal"'):
        verdict.write_text(broken)
        as_new_process(monkeypatch, tmp_path)
        assert encode_flat(["clerk"], small_tokenizer())[0].tolist() == expected
        assert json.loads(verdict.read_text()) == kept
        assert list(tmp_path.iterdir()) == [verdict]

    as_new_process(monkeypatch, verdict)  # a folder that cannot be written does no harm
    assert encode_flat(["clerk"], small_tokenizer())[0].tolist() == expected
    assert list(module._backends.values()) != [None]


def count_ids(tokenizer):
    prepare(tokenizer)  # in a process that was spawned, too
    input_ids, offsets = encode_flat(DOCUMENTS, tokenizer)
    return len(input_ids), int(input_ids.sum()), offsets.tolist()


def encode_in_child(gpt2):
    unknown = small_tokenizer()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepare(unknown)
    found = split(*encode_flat(DOCUMENTS, unknown))
    assert isinstance(backend_of(unknown), GigatokenBackend) and found == reference_ids(unknown, DOCUMENTS)
    return gpt2(DOCUMENTS).input_ids


@forking
def test_a_forked_child_makes_an_engine_of_its_own_and_encodes_on_one_thread(gpt2, monkeypatch, tmp_path):
    """With this variable, `tokenizers` would use the threads of the parent, which a child does not have."""
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    expected = gpt2(DOCUMENTS).input_ids
    count_ids(gpt2)  # with threads, too
    as_new_process(monkeypatch, tmp_path)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for result in [pool.apply_async(encode_in_child, (gpt2,)) for _ in range(2)]:
            assert result.get() == expected
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"  # the parent keeps it


def test_threads(gpt2):
    expected = count_ids(gpt2)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(count_ids, [gpt2] * 8)) == [expected] * 8


@forking
def test_forks_while_a_thread_encodes(gpt2):
    expected = count_ids(gpt2)
    stop = threading.Event()

    def encode():
        while not stop.is_set():
            encode_flat(DOCUMENTS, gpt2)

    thread = threading.Thread(target=encode)
    thread.start()
    try:
        for _ in range(5):
            child = os.fork()
            if child == 0:
                os._exit(0 if count_ids(gpt2) == expected else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        stop.set()
        thread.join()


def test_a_pickled_tokenizer_finds_its_backend(gpt2):
    count_ids(gpt2)
    before = len(module._backends)
    assert count_ids(pickle.loads(pickle.dumps(gpt2))) == count_ids(gpt2)
    assert len(module._backends) == before


@pytest.mark.slow
def test_sweep(gpt2):
    """A third of Unicode's blocks, and past the assigned planes a few; a story, programs, and long runs."""
    texts = [TEXT, *(unit * 20_000 for unit in (" ", "\n", "a", "=", " a", "\t"))]
    texts += [path.read_text(encoding="utf-8") for path in sorted(Path(module.__file__).parent.glob("*.py"))]
    for start in [*range(0, 0x34000, 192), *range(0x34000, sys.maxunicode + 1, 2048)]:
        if not 0xD800 <= start < 0xE000:
            block = ["a{0} {0}1".format(chr(c)) for c in range(start, start + 64)]
            # Some alone, as a character that is left to the reference takes its text with it.
            texts += ["\n".join(block), *block[::17]]
    for found, wanted in zip(encode_flat(texts, gpt2), encode_by_reference(plain_backend(gpt2), texts), strict=True):
        assert np.array_equal(found, wanted)
