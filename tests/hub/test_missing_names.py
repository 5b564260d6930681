"""A name that can be had from nowhere is refused at once, where the Hub's client would try for half a minute."""

import json
import os

import pytest
import warm_python


pytestmark = pytest.mark.slow

ASK = """
import json, time
from gpt_embeddings.checkpoints.loading import load_model_and_tokenizer
from gpt_embeddings.text.tokenizer import load_tokenizer
from gpt_embeddings.training.teacher import load_teacher
from gpt_embeddings.hub.push import check_push

slept, said = [], []
time.sleep = slept.append
for ask in (load_model_and_tokenizer, load_tokenizer, load_teacher, check_push):
    try:
        ask("nobody/none")
    except Exception as error:
        said.append(str(error))
print(json.dumps([sum(slept), said]))
"""


def test_without_waiting(tmp_path):
    pytest.importorskip("sentence_transformers")
    offline = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    here = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "HF_TOKEN": "hf_abc"}  # nobody listens
    done = warm_python.run(["-c", ASK], env={**offline, **here})
    assert done.returncode == 0, done.stderr
    slept, said = json.loads(done.stdout.splitlines()[-1])
    assert slept == 0 and "Retry" not in done.stderr
    words = ("could not be fetched", "No tokenizer at", "could not be fetched", "connection to the")
    assert len(said) == len(words)
    for word, sentence in zip(words, said, strict=True):
        assert word in sentence
