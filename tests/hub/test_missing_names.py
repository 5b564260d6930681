"""A name that is nowhere is refused at once, where the Hub's client would retry for half a minute."""

import pytest
from huggingface_hub import constants

from gpt_embeddings.checkpoints.loading import load_model_and_tokenizer
from gpt_embeddings.hub.push import check_push
from gpt_embeddings.text.tokenizer import load_tokenizer
from gpt_embeddings.training.teacher import load_teacher


def test_without_waiting(monkeypatch, tmp_path):
    pytest.importorskip("sentence_transformers")
    slept = []
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", slept.append)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", "hf_abc")
    for ask, message in (
        (load_model_and_tokenizer, "could not be fetched"),
        (load_tokenizer, "No tokenizer at"),
        (load_teacher, "could not be fetched"),
        (check_push, "refused"),
    ):
        with pytest.raises(Exception, match=message):
            ask("nobody/none")
    assert not slept
