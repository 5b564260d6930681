"""Every test runs offline and with caches of its own run; what goes to a Hub goes to a local server by subprocess."""

import gc
import os
import tempfile

import pytest


# These are read when the libraries are first imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="hf-home-")
os.environ["OMP_WAIT_POLICY"] = "passive"  # workers share the cores: threads must not wait for each other busily


def pytest_collection_finish():
    """Have no collection look at what was imported: in a forked process that takes half a second, to copy it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def gpt2_tokenizer():
    from gpt_embeddings import load_tokenizer  # here: the process that hands the tests out runs none of them

    return load_tokenizer()
