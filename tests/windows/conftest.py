import pytest

from gpt_embeddings.text import encoding


@pytest.fixture(autouse=True, scope="module")
def without_a_proof():
    """Leave the texts to `tokenizers` itself: the proof of the accelerated backend takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "find_gigatoken", lambda *arguments: None)
        yield
