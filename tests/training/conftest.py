from contextlib import contextmanager
from pathlib import Path

import pytest
from datasets import Dataset

from gpt_embeddings import load_tokenizer


STORY = Path(__file__).parents[2] / "data" / "the_tide_clerk.txt"


@pytest.fixture(scope="session")
def small_tokenizer(tmp_path_factory):
    """A tokenizer of GPT-2's kind with 500 entries, saved and loaded, so that every process has the same."""
    folder = tmp_path_factory.mktemp("tokenizer")
    load_tokenizer().train_new_from_iterator([STORY.read_text(encoding="utf-8")], 500).save_pretrained(folder)
    return load_tokenizer(folder)


@pytest.fixture(scope="session")
def story() -> Dataset:
    return Dataset.from_dict({"text": [STORY.read_text(encoding="utf-8"), None]})


@pytest.fixture
def interrupted(monkeypatch):
    """A context in which a run ends with Ctrl-C after its first checkpoint."""
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
