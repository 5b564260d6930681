"""What the commands that write a model leave behind: one model, one vector, in sentence-transformers as here."""

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from transformers import GPT2Config, GPT2LMHeadModel
from typer.testing import CliRunner

from gpt_embeddings import Embedder
from gpt_embeddings.checkpoints.loading import load_model_and_tokenizer
from gpt_embeddings_cli import app


TEXTS = ["The tide clerk", "wrote down what the sea did.", "Olá!"]
pytestmark = [
    pytest.mark.slow,  # each starts a command
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def things(tmp_path_factory, small_tokenizer):
    """A folder with what the commands begin with."""
    folder = tmp_path_factory.mktemp("things")
    sentences = [f"The {word} came in again, and it was the {i}th {word}." for i, word in enumerate("abcdefgh" * 8)]
    (folder / "text.txt").write_text("\n\n".join(sentences), encoding="utf-8")
    labelled = "".join(f'"{sentence}",{i % 2}\n' for i, sentence in enumerate(sentences))
    (folder / "labels.csv").write_text("text,label\n" + labelled, encoding="utf-8")
    small_tokenizer.save_pretrained(folder / "tokenizer")
    torch.manual_seed(0)
    sizes = {"n_positions": 32, "n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": len(small_tokenizer)}
    GPT2LMHeadModel(GPT2Config(**sizes)).save_pretrained(folder / "gpt")
    small_tokenizer.save_pretrained(folder / "gpt")
    static = StaticEmbedding(small_tokenizer.backend_tokenizer, embedding_dim=8)
    SentenceTransformer(modules=[static], device="cpu").save(str(folder / "static"))
    return folder


@pytest.mark.parametrize(
    "command",
    [
        "extract {0}/gpt",
        "extract {0}/gpt --position-embedding-type none",
        "extract {0}/static",
        "train clm {0}/text.txt --tokenizer {0}/tokenizer --max-length 16",
        "train contrastive {0}/text.txt --tokenizer {0}/tokenizer --batch-size 4 --epochs 1 --sample-by document",
        "train distil {0}/text.txt --teacher {0}/static --tokenizer {0}/tokenizer --n-embd 4 --epochs 1 --phrases 9",
        "train classes {0}/labels.csv --label-column label --model {0}/gpt",
        "train weights {0}/gpt {0}/text.txt",
    ],
)
def test_one_model_one_vector(command, things, tmp_path):
    output = str(tmp_path / "out")
    done = CliRunner().invoke(app, [*command.format(things).split(), "--output", output])
    assert done.exit_code == 0, done.output
    model, tokenizer = load_model_and_tokenizer(output)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**batch).pooler_output
    found = SentenceTransformer(output, device="cpu").encode(TEXTS)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    ours = Embedder(model, tokenizer).encode(TEXTS)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)
