"""Cards: what is written, and that all but our section is the user's."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configuration_gpt_embeddings import GPTEmbeddingsConfig
from gpt_embeddings.hub.cards import (
    SECTION,
    CardMetadata,
    choose_card,
    parse_card,
    write_dataset_card,
    write_model_card,
)
from modeling_gpt_embeddings import GPTEmbeddingsForSequenceClassification, GPTEmbeddingsModel


@pytest.fixture(scope="module")
def write(gpt2_tokenizer):
    """Write the card of a small model, over an older one."""
    config = GPTEmbeddingsConfig(n_embd=4, n_positions=32)

    def write(old=None, kind=GPTEmbeddingsModel, **metadata):
        parsed = parse_card(old) if isinstance(old, str) else old
        return write_model_card(kind(config), gpt2_tokenizer, "me/tides", CardMetadata(**metadata), parsed)

    return write


@pytest.fixture(scope="module")
def fresh(write):
    return write()


def test_a_new_card_says_what_the_model_is(fresh):
    assert parse_card(fresh).metadata == {
        "library_name": "transformers",
        "pipeline_tag": "feature-extraction",
        "tags": ["gpt-embeddings", "embeddings", "sentence-transformers"],
    }
    assert fresh.startswith("---\nlibrary_name: transformers\n") and "\n# tides\n" in fresh
    assert "| Vocabulary (`vocab_size`) | 50,257 tokens |" in fresh
    assert "| Longest sequence (`n_positions`) | 32 tokens |" in fresh
    assert "| Parameters | 201,156, float32 |" in fresh  # (50257 + 32) x 4
    assert "The publisher has not stated a source checkpoint or training data." in fresh
    assert "The publisher has not stated a licence for the tables." in fresh
    assert not re.search(r"[{}]{2}|{%|\bNone\b", fresh)


def test_what_is_stated_is_written(write):
    stated = {"license": "mit", "base_model": "openai-community/gpt2", "datasets": "me/text"}
    card = write(**stated, training={"steps": 12, "loss": 3.25})
    assert parse_card(card).metadata.items() >= {**stated, "datasets": ["me/text"]}.items()
    assert "- Source checkpoint: openai-community/gpt2\n- Training data: me/text\n- steps: 12\n- loss: 3.25\n" in card
    assert "The tables: mit." in card and "has not stated" not in card


def test_a_classifier_over_another_model(write, fresh):
    for before, after in (("feature-extraction", "text-classification"), ("other", "other")):
        old = fresh.replace("pipeline_tag: feature-extraction", f"pipeline_tag: {before}")
        card = write(old, GPTEmbeddingsForSequenceClassification)
        assert parse_card(card).metadata["pipeline_tag"] == after


def test_metadata_of_the_user_stands_and_is_completed(write, fresh):
    edited = fresh.replace(
        "library_name: transformers", "license: cc0-1.0\nlibrary_name: mine  # why not\nlanguage: pt"
    )
    kept = write(edited)
    assert "library_name: mine  # why not\n" in kept  # nothing to complete: verbatim, with its comment
    assert "The tables: cc0-1.0." in kept
    assert parse_card(write(edited, license="mit")).metadata == {**parse_card(edited).metadata, "license": "mit"}
    tags = parse_card(write("---\ntags:\n- sea\n---\nMine.\n")).metadata["tags"]
    assert tags == ["sea", "gpt-embeddings", "embeddings", "sentence-transformers"]
    # A card without our section gets it at its end.
    card = write("# Tides\n\nBy me.\n")
    assert parse_card(card).body.startswith("# Tides\n\nBy me.\n\n<!-- gpt-embeddings section")
    assert len(SECTION.findall(card)) == 1


TEXT = st.text(st.characters(codec="utf-8"))


@settings(deadline=None, max_examples=15)
@given(before=TEXT, after=TEXT, inside=TEXT)
def test_all_around_the_section_is_kept_byte_for_byte(write, fresh, before, after, inside):
    body = parse_card(fresh).body
    head, opening = fresh.removesuffix(body) + before, SECTION.search(body).group().split("\n", 1)[0]
    tail = "<!-- end of the gpt-embeddings section -->" + after
    old = head + opening + inside + tail
    if len(SECTION.findall(old)) != 1 or before.lstrip("\ufeff").startswith("---"):
        return
    card = write(old)
    assert card.startswith(head + opening) and card.endswith(tail)
    assert write(card) == card


def test_which_card_is_kept(fresh, caplog):
    """The Hub's, unless the user has written something into the folder's."""
    local = remote = parse_card(fresh)
    assert choose_card(local, None, "") is local and choose_card(None, remote, "") is remote
    assert choose_card(None, None, "") is None
    there, here, by_hand = map(parse_card, (fresh + "\nThere.\n", fresh + "\nHere.\n", "# Mine\n\nWords\n"))
    assert choose_card(local, there, "").text == there.text and choose_card(local, by_hand, "").text == by_hand.text
    assert choose_card(here, remote, "").text == choose_card(here, here, "").text == here.text
    assert "replaces" not in caplog.text
    assert choose_card(here, there, "me/tides at 0123").text == here.text
    assert "replaces different text on the Hub, which is still in me/tides at 0123." in caplog.text


def test_metadata_of_the_other_card_is_added(write, fresh):
    licensed = parse_card(fresh.replace("---\n", "---\nlicense: mit\nlanguage: pt\n", 1))
    there = parse_card(fresh.replace("---\n", "---\nlicense: cc0-1.0\n", 1) + "\nThere.\n")
    card = parse_card(write(choose_card(licensed, there, "")))
    assert (card.metadata["license"], card.metadata["language"]) == ("cc0-1.0", "pt")
    assert card.body == there.body.replace(
        "The publisher has not stated a licence for the tables.", "The tables: cc0-1.0."
    )


def test_metadata_that_cannot_be_read():
    for head in ("---\nlicense: [mit\n---\n", "---\n- a list\n---\n"):
        with pytest.raises(ValueError, match=r"metadata block at the head of README.md .* cannot be read"):
            parse_card(head + "# Mine\n")


def test_a_dataset_card_names_the_model():
    base = "---\nlicense: mit\nconfigs:\n- config_name: default\n---\n# Mine\n"
    values = {"repo_id": "me/v", "split": "test", "column": "embedding", "n_embd": 4}
    values |= {"model_id": "me/tides", "model_revision": "0123456789" * 4}
    card = write_dataset_card(parse_card(base), **values)
    assert "# Mine\n\n<!-- gpt-embeddings section" in card
    assert "[me/tides](https://huggingface.co/me/tides) at revision\n`" + "0123456789" * 4 + "`" in card
    assert "vectors of 4 dimensions" in card and 'split="test"' in card
    assert card.startswith(base[: base.index("---\n#")])
    assert write_dataset_card(parse_card(card), **values) == card
