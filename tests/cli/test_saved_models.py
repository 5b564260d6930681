"""What the commands that write a model leave behind: one model, one vector, in sentence-transformers as here."""

import numpy as np
import pytest
import torch
from command import run
from sentence_transformers import SentenceTransformer

from gpt_embeddings import Embedder
from gpt_embeddings.checkpoints.loading import load_model_and_tokenizer


TEXTS = ["The tide clerk", "", "Olá!", "A longer text, cut at the last position. " * 9]
pytestmark = [
    pytest.mark.slow,  # each starts a command
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A folder with what the commands learn from."""
    folder = tmp_path_factory.mktemp("texts")
    sentences = [f"The {word} came in again, and it was the {i}th {word}." for i, word in enumerate("abcdefgh" * 8)]
    (folder / "text.txt").write_text("\n\n".join(sentences), encoding="utf-8")
    labelled = "".join(f'"{sentence}",{i % 2}\n' for i, sentence in enumerate(sentences))
    (folder / "labels.csv").write_text("text,label\n" + labelled, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    "command",
    [
        "extract {gpt}",
        "extract {gpt} --position-embedding-type none",
        "extract {static}",
        "train clm {texts}/text.txt --tokenizer {gpt} --max-length 16",
        "train contrastive {texts}/text.txt --tokenizer {gpt} --batch-size 4 --epochs 1 --sample-by document",
        "train distil {texts}/text.txt --teacher {static} --tokenizer {gpt} --n-embd 4 --epochs 1 --phrases 9",
        "train classes {texts}/labels.csv --label-column label --model {gpt}",
        "train weights {gpt} {texts}/text.txt",
    ],
)
def test_one_model_one_vector(command, sources, texts, tmp_path):
    output = str(tmp_path / "out")
    paths = {"gpt": sources / "gpt", "static": sources / "static", "texts": texts}
    run(*command.format(**paths).split(), "--output", output)
    model, tokenizer = load_model_and_tokenizer(output)
    batch = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**batch).pooler_output
    found = SentenceTransformer(output, device="cpu").encode(TEXTS)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    ours = Embedder(model, tokenizer).encode(TEXTS)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)
