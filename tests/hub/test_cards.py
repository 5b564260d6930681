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
    stamp_card,
    write_dataset_card,
    write_model_card,
)
from gpt_embeddings.text.tokenizer import load_tokenizer
from modeling_gpt_embeddings import GPTEmbeddingsModel


@pytest.fixture(scope="module")
def model():
    return GPTEmbeddingsModel(GPTEmbeddingsConfig(n_embd=4, n_positions=32))


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer()


@pytest.fixture(scope="module")
def fresh(model, tokenizer):
    return write_model_card(model, tokenizer, "me/tides", CardMetadata())


def push(local, remote, model, tokenizer):
    """Return the card that a push of this local card over that remote one leaves on the Hub."""
    card = write_model_card(model, tokenizer, "me/tides", CardMetadata(), choose_card(local, remote))
    return parse_card(stamp_card(card, local, remote))


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
    assert "The publisher has stated neither a source checkpoint nor training data." in fresh
    assert "The publisher has stated none for the tables." in fresh
    assert not re.search(r"[{}]{2}|{%|\bNone\b", fresh)


def test_what_is_stated_is_written(model, tokenizer):
    facts = CardMetadata(
        license="mit", base_model="openai-community/gpt2", datasets=["me/text"], training={"steps": 12, "loss": 3.25}
    )
    card = write_model_card(model, tokenizer, "me/tides", facts)
    metadata = parse_card(card).metadata
    assert (metadata["license"], metadata["base_model"]) == ("mit", "openai-community/gpt2")
    assert metadata["datasets"] == ["me/text"]
    assert "- Source checkpoint: openai-community/gpt2\n- Training data: me/text\n- steps: 12\n- loss: 3.25\n" in card
    assert "The tables: mit." in card and "has stated" not in card


def test_one_dataset_may_be_a_string(model, tokenizer):
    card = write_model_card(model, tokenizer, "me/tides", CardMetadata(datasets="me/text"))
    assert parse_card(card).metadata["datasets"] == ["me/text"]


def test_metadata_of_the_user_stands_and_is_completed(model, tokenizer, fresh):
    edited = parse_card(
        fresh.replace("library_name: transformers", "license: cc0-1.0\nlibrary_name: mine  # why not\nlanguage: pt")
    )
    kept = write_model_card(model, tokenizer, "me/tides", CardMetadata(), edited)
    assert "library_name: mine  # why not\n" in kept  # nothing to complete: verbatim, with its comment
    assert "The tables: cc0-1.0." in kept

    completed = write_model_card(model, tokenizer, "me/tides", CardMetadata(license="mit"), edited)
    assert parse_card(completed).metadata == {**edited.metadata, "license": "mit"}
    tagged = parse_card("---\ntags:\n- sea\n---\nMine.\n")
    tags = parse_card(write_model_card(model, tokenizer, "me/tides", CardMetadata(), tagged)).metadata["tags"]
    assert tags == ["sea", "gpt-embeddings", "embeddings", "sentence-transformers"]


def test_a_card_without_our_section_gets_it_at_its_end(model, tokenizer):
    card = write_model_card(model, tokenizer, "me/tides", CardMetadata(), parse_card("# Tides\n\nBy me.\n"))
    assert parse_card(card).body.startswith("# Tides\n\nBy me.\n\n<!-- gpt-embeddings section")
    assert len(SECTION.findall(card)) == 1


@pytest.mark.slow
@settings(deadline=None)
@given(
    before=st.text(st.characters(codec="utf-8")),
    after=st.text(st.characters(codec="utf-8")),
    inside=st.text(st.characters(codec="utf-8")),
)
def test_all_around_the_section_is_kept_byte_for_byte(model, tokenizer, fresh, before, after, inside):
    parsed = parse_card(fresh)
    section = SECTION.search(parsed.body)
    opening, closing = section.group().split("\n", 1)[0], "<!-- end of the gpt-embeddings section -->"
    body = before + opening + inside + closing + after
    if len(SECTION.findall(body)) != 1 or before.lstrip("\ufeff").startswith("---"):
        return
    card = write_model_card(model, tokenizer, "me/tides", CardMetadata(), parse_card(parsed.head + body))
    assert card.startswith(parsed.head + before + opening)
    assert card.endswith(closing + after)
    again = write_model_card(model, tokenizer, "me/tides", CardMetadata(), parse_card(card))
    assert again == card


class TestChoice:
    """Which of two cards is kept: the one that was edited."""

    @pytest.fixture
    def local(self, fresh):
        return parse_card(fresh)

    @pytest.fixture
    def push(self, model, tokenizer):
        return lambda local, remote: push(local, remote, model, tokenizer)

    @pytest.fixture
    def remote(self, local, push):
        return push(local, None)

    @staticmethod
    def edit(card, words="Edited."):
        return parse_card(card.text + f"\n{words}\n")

    def test_the_only_one(self, local):
        assert choose_card(local, None) is local
        assert choose_card(None, local) is local
        assert choose_card(None, None) is None

    def test_neither_was_edited(self, local, remote):
        assert choose_card(local, remote) is remote

    def test_edited_on_the_hub(self, local, remote):
        edited = self.edit(remote)
        assert choose_card(local, edited) is edited

    def test_edited_here(self, local, remote):
        edited = self.edit(local)
        assert choose_card(edited, remote) is edited

    def test_edited_here_then_on_the_hub(self, local, remote, push):
        first = self.edit(local, "Here.")
        second = self.edit(push(first, remote), "There.")
        assert choose_card(first, second) is second

    def test_an_edit_on_the_hub_outlives_pushes_that_kept_it(self, local, remote, push):
        edited = self.edit(remote, "There.")
        kept = push(None, push(local, edited))
        assert "There." in kept.text
        with pytest.raises(ValueError, match="edited both"):
            choose_card(self.edit(local, "Here."), kept)

    def test_metadata_that_a_push_adds_is_no_edit(self, local, remote, push):
        completed = push(local, parse_card(remote.text.replace("- embeddings\n", "", 1)))
        assert push(local, remote).written == push(local, remote).digest
        assert "- embeddings\n" in completed.text

    def test_edited_in_both_places(self, local, remote):
        with pytest.raises(ValueError, match=r"edited both here and on the Hub.*hf download"):
            choose_card(self.edit(local, "Here."), self.edit(remote, "There."))

    def test_the_way_out_of_that_is_to_take_the_hubs(self, local, remote, push):
        there = self.edit(remote, "There.")
        pushed = push(there, there)
        again = self.edit(there, "And here.")
        assert choose_card(again, pushed) is again

    def test_made_by_hand_on_the_hub(self, local):
        by_hand = parse_card("# Mine\n")
        assert choose_card(local, by_hand) is by_hand


@pytest.mark.parametrize("head", ["---\nlicense: [mit\n---\n", "---\n- a list\n---\n"], ids=["broken", "no mapping"])
def test_metadata_that_cannot_be_read(head):
    with pytest.raises(ValueError, match=r"metadata block at the head of README.md .* cannot be read"):
        parse_card(head + "# Mine\n")


def test_a_dataset_card_names_the_model():
    facts = {"repo_id": "me/v", "split": "test", "column": "embedding", "n_embd": 4}
    made_by = {"model_id": "me/tides", "model_revision": "0123456789" * 4}
    base = "---\nlicense: mit\nconfigs:\n- config_name: default\n---\n# Mine\n"
    card = write_dataset_card(base, **facts, **made_by)
    assert "# Mine\n\n<!-- gpt-embeddings section" in card
    assert "[me/tides](https://huggingface.co/me/tides) at revision\n`" + "0123456789" * 4 + "`" in card
    assert "vectors of 4 dimensions" in card and 'split="test"' in card
    assert "license: mit\nconfigs:\n- config_name: default\n" in card
    assert write_dataset_card(card, **facts, **made_by) == card
