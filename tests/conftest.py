"""Every test runs offline and with caches of its own run; what goes to a Hub goes to a local server by subprocess."""

import gc
import os
import tempfile
from contextlib import contextmanager

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


@pytest.fixture(scope="session")
def small_tokenizer(gpt2_tokenizer, tmp_path_factory):
    """GPT-2's algorithm with 500 tokens, learned from a story: quick to save and load, and with a folder."""
    from command import STORY

    from gpt_embeddings import load_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    lines = STORY.read_text(encoding="utf-8").split("\n")
    gpt2_tokenizer.train_new_from_iterator(lines, 500, show_progress=False).save_pretrained(folder)
    return load_tokenizer(folder)


@pytest.fixture(scope="session")
def saved(tmp_path_factory, gpt2_tokenizer):
    """A model before and after something like training, each with its tokenizer."""
    from tiny import new_model

    folder, model = tmp_path_factory.mktemp("models"), new_model(n_embd=16, n_positions=64)
    for name in ("before", "after"):
        model.save_pretrained(folder / name)
        gpt2_tokenizer.save_pretrained(folder / name)
        model.wte.weight.data += 0.02
    for language, words in {"en": "cat king queen", "pt": "gato gatos rainha rei"}.items():
        (folder / "after" / f"words.{language}.txt").write_text(words.replace(" ", "\n") + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def sources(small_tokenizer, tmp_path_factory):
    """A folder with a tiny GPT-2, whose tokenizer does not know its longest sequence, and a static model."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tiny import new_gpt

    folder = tmp_path_factory.mktemp("sources")
    new_gpt(vocab_size=500, n_positions=32, n_embd=8).save_pretrained(folder / "gpt")
    small_tokenizer.save_pretrained(folder / "gpt")
    static = StaticEmbedding(small_tokenizer.backend_tokenizer, embedding_dim=8)
    SentenceTransformer(modules=[static], device="cpu").save(str(folder / "static"))
    return folder


@pytest.fixture(scope="session")
def story():
    from command import STORY
    from datasets import Dataset

    return Dataset.from_dict({"text": [STORY.read_text(encoding="utf-8"), None]})


@pytest.fixture
def interrupted(monkeypatch):
    """A context in which training ends with Ctrl-C after its first checkpoint."""
    from gpt_embeddings.training.runs import RunFolder

    def stop(self, step, state):
        save(self, step, state)
        raise KeyboardInterrupt

    save = RunFolder.save_state

    @contextmanager
    def context():
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(RunFolder, "save_state", stop)
            yield

    return context
