"""What tokenizers put around a text: one model gives one vector, by every way in."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from tiny import new_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, XGLMTokenizer, pipeline

from gpt_embeddings import Embedder, TokenWindows, embed_dataset, encode_flat, load_tokenizer, save_folder
from gpt_embeddings.checkpoints.loading import load_model_and_tokenizer
from gpt_embeddings.text.tokenizer import SpecialTokens, find_special_tokens


WORDS = "<pad> <s> </s> <unk> the tide came in again and went out of it".split()
TEXTS = ["the tide came in", "tide", "the tide came in and went out of it again and again", "</s> the", "zzz the"]
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:The accelerated tokenizer:UserWarning"
)


def words(template=None):
    """A tokenizer of words, with a post-processor like that of a real one."""
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if template is not None:
        special = [(token, WORDS.index(token)) for token in ("<s>", "</s>")]
        backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def xglm():
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(f"▁{word}", -float(i)) for i, word in enumerate(WORDS[4:], start=1)]
    return XGLMTokenizer(vocab=pieces)


TOKENIZERS = {
    "gpt2, openai-gpt, gpt_neo, gpt_bigcode, ctrl": (words, SpecialTokens()),
    "opt, biogpt": (lambda: words("</s> $A"), SpecialTokens((2,))),
    "xglm": (xglm, SpecialTokens((2,))),
    "llama": (lambda: words("<s> $A"), SpecialTokens((1,))),
    "t5": (lambda: words("$A </s>"), SpecialTokens((), (2,))),
    "roberta": (lambda: words("<s> $A </s>"), SpecialTokens((1,), (2,))),
    "canonical": (lambda: load_tokenizer(canonical=True), SpecialTokens()),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_special_tokens_of(name):
    make, expected = TOKENIZERS[name]
    assert find_special_tokens(make()) == expected


def test_a_post_processor_that_was_exchanged():
    tokenizer = words("</s> $A")
    assert encode_flat(["the"], tokenizer)[0].tolist() == [2, 4]
    tokenizer(["the"], padding="max_length", truncation=True, max_length=2)  # which the backend keeps as its own
    assert encode_flat(["the tide came in", ""], tokenizer)[0].tolist() == [2, 4, 5, 6, 7, 2]
    assert tokenizer.backend_tokenizer.truncation["max_length"] == tokenizer.backend_tokenizer.padding["length"] == 2
    tokenizer.backend_tokenizer.post_processor = words("<s> $A </s>").backend_tokenizer.post_processor
    assert encode_flat(["the"], tokenizer)[0].tolist() == [1, 4, 2]
    tokenizer.backend_tokenizer.post_processor = None
    assert encode_flat(["the"], tokenizer)[0].tolist() == [4]


def test_a_post_processor_that_does_more():
    message = r"TemplateProcessing does not add the same ids to every text: 'The tide came in\.'"
    with pytest.raises(ValueError, match=message):
        encode_flat(["the"], words("$A </s> $A"))


@pytest.mark.parametrize("max_length", [None, 2, 3, 5])
@pytest.mark.parametrize("name", ["opt, biogpt", "xglm", "roberta"])
def test_flat_ids_are_those_of_the_tokenizer(name, max_length):
    """But for special tokens that a text spells out, which stay plain text."""
    tokenizer = TOKENIZERS[name][0]()
    texts = [TEXTS[0], "", TEXTS[1], TEXTS[2], "", TEXTS[4]]
    options = {} if max_length is None else {"truncation": True, "max_length": max_length}
    if max_length is None or max_length >= len(find_special_tokens(tokenizer)):
        expected = tokenizer(texts, **options).input_ids
        input_ids, offsets = encode_flat(texts, tokenizer, max_length=max_length)
        assert input_ids.dtype == np.int32 and offsets.dtype == np.int64
        assert [input_ids[i:j].tolist() for i, j in pairwise(offsets)] == expected
    plain, _ = encode_flat(texts, tokenizer, add_special_tokens=False)
    assert plain.tolist() == [token for ids in tokenizer(texts, add_special_tokens=False).input_ids for token in ids]


@pytest.mark.parametrize("text", [" </s> the", "the </s>"])
def test_a_special_token_in_a_text_is_plain_text(text):
    tokenizer = words("</s> $A")
    assert encode_flat([text], tokenizer)[0].tolist() == [2, *encode_flat([text], words())[0].tolist()]
    assert encode_flat([text], tokenizer, special_tokens=True)[0].tolist() == tokenizer(text).input_ids


@pytest.mark.filterwarnings("ignore:Token indices sequence length")
@pytest.mark.parametrize("name", ["opt, biogpt", "xglm", "roberta", "canonical"])
def test_one_model_one_vector(name, tmp_path):
    tokenizer = TOKENIZERS[name][0]()
    model = new_model(vocab_size=len(tokenizer), n_positions=8, n_embd=16)
    tokenizer.model_max_length = model.config.n_positions
    texts = [TEXTS[0], TEXTS[1], TEXTS[2], TEXTS[4], "A  MUG\né"]  # one is longer than the model reads
    with torch.no_grad():
        batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        expected = model(**batch).pooler_output.numpy()
    embedder = Embedder(model, tokenizer)
    dataset = Dataset.from_dict({"text": texts})
    save_folder(tmp_path / "model", model, tokenizer)
    found = {
        "encode_flat": model.embed_bags(*encode_flat(texts, tokenizer, max_length=8)).detach().numpy(),
        "Embedder": embedder.encode(texts),
        "map": np.stack(dataset.map(embedder, batched=True).with_format("numpy")["embedding"]),
        "embed_dataset": np.stack(embed_dataset(dataset, model, tokenizer).with_format("numpy")["embedding"]),
        "load_model_and_tokenizer": Embedder(*load_model_and_tokenizer(str(tmp_path / "model"))).encode(texts),
        "sentence-transformers": SentenceTransformer(str(tmp_path / "model"), device="cpu").encode(texts),
    }
    for name, vectors in found.items():
        np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-7, err_msg=name)
    extract = pipeline("feature-extraction", model=str(tmp_path / "model"))
    for text, vector in zip(texts, expected, strict=True):
        tokens = np.array(extract(text, truncation=True)[0])
        np.testing.assert_allclose(tokens.mean(0), vector, rtol=0, atol=1e-7)
        of_tokens = Embedder(model, tokenizer, pooling="none").encode([text])
        np.testing.assert_allclose(of_tokens, tokens, rtol=0, atol=1e-7)


def test_a_text_that_is_missing_has_no_special_tokens():
    tokenizer = words("</s> $A")
    embedder = Embedder(new_model(vocab_size=len(tokenizer)), tokenizer)
    table = embedder(pa.table({"text": pa.chunked_array([["the", None], ["", "tide"]])}))
    vectors = np.array(table["embedding"].to_pylist())
    assert not vectors[1].any()
    np.testing.assert_allclose(vectors[[0, 2, 3]], embedder.encode(["the", "", "tide"]), rtol=0, atol=1e-7)
    assert vectors[2].any()  # `</s>` alone, as `tokenizer("")` gives it
    np.testing.assert_array_equal(embedder({"text": ["the", None, "", "tide"]})["embedding"], vectors)


def test_training_windows_have_plain_text():
    windows = TokenWindows(["the tide", "came in"], words("</s> $A"), 3)
    assert [window["input_ids"].tolist() for window in windows] == [[4, 5, 2], [6, 7, 2]]
