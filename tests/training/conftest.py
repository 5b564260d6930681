from contextlib import contextmanager

import pytest
from command import STORY
from datasets import Dataset


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
