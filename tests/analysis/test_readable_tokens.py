"""Readable tokens, and the parts of a text's vectors."""

import numpy as np
import pytest
import torch
from tiny import new_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from gpt_embeddings.analysis.decomposition import measure, position_vectors, split_parts, token_vectors
from gpt_embeddings.analysis.readable_tokens import readable_pieces, show, whole_words, word_ids


def make_word_tokenizer():
    vocab = {"[UNK]": 0, "tide": 1, "clerk": 2}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")


def test_every_piece_of_gpt2_is_one_visible_line(gpt2_tokenizer):
    for text, pieces in {
        "O gato sentou": ["O", "␣g", "ato", "␣sent", "ou"],
        "a\n\tb": ["a", "⏎", "⇥", "b"],
        " 😀": ["␣⟨F0 9F 98⟩", "⟨80⟩"],
        "<b>": ["<", "b", ">"],
        "é": ["é"],
        "\u202e": ["⟨E2 80⟩", "⟨AE⟩"],
        "\x00": ["\\x00"],
    }.items():
        assert readable_pieces(gpt2_tokenizer, gpt2_tokenizer(text).input_ids) == pieces
    pieces = readable_pieces(gpt2_tokenizer, range(50257))
    assert all(piece and piece.isprintable() for piece in pieces)
    assert pieces[50256] == "<|endoftext|>"


def test_other_vocabularies_and_rows_without_a_token(gpt2_tokenizer):
    assert readable_pieces(make_word_tokenizer(), [1, 0]) == ["tide", "[UNK]"]
    assert show("▁tide\u200b") == "␣tide\\u200b"
    assert readable_pieces(gpt2_tokenizer, [50300]) == ["row 50300"]


@pytest.mark.filterwarnings("ignore:The accelerated tokenizer")  # it does not know word-level vocabularies
def test_a_word_is_taken_as_within_a_sentence(gpt2_tokenizer):
    assert word_ids(gpt2_tokenizer, " cat ").tolist() == gpt2_tokenizer(" cat").input_ids
    assert word_ids(gpt2_tokenizer, "gato").tolist() == gpt2_tokenizer(" gato").input_ids
    assert word_ids(gpt2_tokenizer, "ization").tolist() == [1634]  # after a space it takes two
    with pytest.raises(ValueError, match="no word"):
        word_ids(gpt2_tokenizer, " \n")
    with pytest.raises(ValueError, match="no tokens for 'gato'"):
        word_ids(make_word_tokenizer(), "gato")
    assert word_ids(make_word_tokenizer(), "tide").tolist() == [1]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"position_embedding_type": "sinusoidal"},
        {"position_embedding_type": "none"},
        {"position_offset": 2, "padding_position": -1, "word_embed_proj_dim": 4, "token_scale": 3.0},
        {"scale_inputs_embeds": True, "token_scale": 2.5},
    ],
    ids=["gpt2", "sinusoidal", "none", "opt", "ctrl"],
)
def test_the_parts_add_up_to_what_the_model_gives(gpt2_tokenizer, fields):
    model = new_model(**fields)
    parts = split_parts(model, gpt2_tokenizer, "The sea came in.")
    expected = model(torch.tensor([gpt2_tokenizer("The sea came in.").input_ids]))
    assert torch.equal(parts.total, expected.last_hidden_state[0])
    assert torch.equal(parts.token, token_vectors(model, parts.input_ids))
    whole = token_vectors(model)[parts.input_ids]
    if model.project_in is None:
        assert torch.equal(parts.token, whole)
    else:  # some processors multiply many rows in another order than few
        torch.testing.assert_close(parts.token, whole, rtol=1e-6, atol=1e-8)
    rows = position_vectors(model)
    assert len(rows) == (0 if fields.get("position_embedding_type") == "none" else 16)


def test_measures_equal_numpy(gpt2_tokenizer):
    parts = split_parts(new_model(), gpt2_tokenizer, "The sea came in.")
    token, position = parts.token.double().numpy(), parts.position.double().numpy()
    total, measures = token + position, measure(parts)
    np.testing.assert_allclose(measures["‖sum‖"], np.linalg.norm(total, axis=1), rtol=1e-5)
    vectors = {"token": token, "position": position, "sum": total}
    for name in ("cos(sum, token)", "cos(sum, position)", "cos(token, position)"):
        a, b = (vectors[part] for part in name[4:-1].split(", "))
        cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        np.testing.assert_allclose(measures[name], cosines, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(measures["share of token"], (token * total).sum(1) / (total**2).sum(1), rtol=1e-4)
    np.testing.assert_allclose(measures["share of token"] + measures["share of position"], 1, rtol=1e-5)


def test_measures_of_zero_tables_are_zeros_and_not_nan(gpt2_tokenizer):
    measures = measure(split_parts(new_model(initializer_range=0.0), gpt2_tokenizer, "The sea"))
    assert all((values == 0).all() for values in measures.values())


def test_texts_that_are_too_long_or_have_no_parts(gpt2_tokenizer):
    parts = split_parts(new_model(), gpt2_tokenizer, "tide " * 30)
    assert len(parts.input_ids) == 16 and parts.n_tokens == len(gpt2_tokenizer("tide " * 30).input_ids)
    with pytest.raises(ValueError, match="text is empty"):
        split_parts(new_model(), gpt2_tokenizer, "")
    with pytest.raises(ValueError, match="50257 entries, more than the model's `vocab_size` 100"):
        split_parts(new_model(vocab_size=100), gpt2_tokenizer, "tide")


def test_words_of_a_vocabulary(gpt2_tokenizer):
    words = whole_words(gpt2_tokenizer)
    assert all(gpt2_tokenizer.decode([i]) == f" {word}" for word, i in list(words.items())[::500])
    assert "harbour" in words and "!" not in words and "I" not in words
