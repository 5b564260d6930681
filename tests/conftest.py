"""Every test runs offline and with caches of its own run; what goes to a Hub goes to a local server by subprocess."""

import os
import tempfile


# These are read when the libraries are first imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="hf-home-")
os.environ["OMP_WAIT_POLICY"] = "passive"  # workers share the cores: threads must not wait for each other busily

import pytest
from transformers import PreTrainedTokenizerBase

from gpt_embeddings import load_tokenizer


@pytest.fixture(scope="session")
def gpt2_tokenizer() -> PreTrainedTokenizerBase:
    return load_tokenizer()
