"""Exported models in the libraries that they are for, without our code, against the model's own vectors."""

import json

import numpy as np
import pytest
import torch
import warm_python
from hub_client import WITHOUT_PACKAGE
from model2vec import StaticModel
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from typer.testing import CliRunner

from gpt_embeddings import Embedder, from_static
from gpt_embeddings.checkpoints.export import export_model
from gpt_embeddings_cli import app
from modeling_gpt_embeddings import GPTEmbeddingsConfig, GPTEmbeddingsModel


TEXTS = [
    "The tide came in.",
    "<|endoftext|> it went out <|endoftext|>",
    "",
    "Olá, maré!",
    "a b c d e f g h i j k l m n",
]
SIZES = {"n_embd": 8, "n_positions": 12, "position_embedding_type": "none"}
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::UserWarning",
)
FOREIGN = """
import json, sys
import warnings
warnings.simplefilter("ignore")
folder, texts = sys.argv[1], json.loads(sys.argv[2])
if sys.argv[3] == "sentence-transformers":
    from sentence_transformers import SentenceTransformer
    vectors = SentenceTransformer(folder, device="cpu").encode(texts)
else:
    from model2vec import StaticModel
    vectors = StaticModel.from_pretrained(folder, force_download=False).encode(texts)
print(json.dumps(vectors.tolist()))
"""


def in_a_process(folder, library, texts=TEXTS):
    """The vectors that a library gives where our packages cannot be imported."""
    code = WITHOUT_PACKAGE + FOREIGN
    done = warm_python.run(["-c", code, str(folder), json.dumps(texts), library])
    assert done.returncode == 0, done.stderr
    return np.array(json.loads(done.stdout.splitlines()[-1]), dtype=np.float32)


def make_model(**fields):
    torch.manual_seed(0)
    return GPTEmbeddingsModel(GPTEmbeddingsConfig(**{**SIZES, **fields})).eval()


def words(**post_processor):
    backend = Tokenizer(models.WordPiece({w: i for i, w in enumerate("[UNK] [CLS] The tide came a b".split())}))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if post_processor:
        backend.post_processor = processors.TemplateProcessing(**post_processor)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[UNK]")


@pytest.mark.slow
@pytest.mark.parametrize("library", ["sentence-transformers", "model2vec"])
@pytest.mark.parametrize("format", ["static", "model2vec"])
@pytest.mark.parametrize("pooling", ["mean", "weighted"])
def test_static(format, library, pooling, gpt2_tokenizer, tmp_path):
    model = make_model(pooling=pooling, token_scale=3.0)
    if pooling == "weighted":
        model.set_token_weights(torch.rand(50257, dtype=torch.float64).numpy())
    said = export_model(model, gpt2_tokenizer, tmp_path, format)
    assert ("scaled to length 1" in said) == (pooling == "weighted")
    expected = Embedder(model, gpt2_tokenizer, pooling=pooling, normalize=pooling == "weighted").encode(TEXTS)
    np.testing.assert_allclose(in_a_process(tmp_path, library), expected, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_there_and_back(gpt2_tokenizer, tmp_path):
    model = make_model()
    for format in ("static", "model2vec"):
        (tmp_path / format).mkdir()
        export_model(model, gpt2_tokenizer, tmp_path / format, format)
        again, tokenizer = from_static(tmp_path / format)
        assert torch.equal(again.wte.weight, model.wte.weight)
        expected = Embedder(model, gpt2_tokenizer).encode(TEXTS)
        np.testing.assert_allclose(Embedder(again, tokenizer).encode(TEXTS), expected, rtol=0, atol=1e-7)


@pytest.mark.slow
def test_unknown_tokens(tmp_path):
    """model2vec leaves them out, sentence-transformers does not; either way out says what the model does."""
    texts = ["The tide zzz came", "zzz", "The"]
    model = make_model(vocab_size=7)
    for name in ("static", "model2vec", "back"):
        (tmp_path / name).mkdir()
    export_model(model, words(), tmp_path / "static", "static")
    expected = Embedder(model, words()).encode(texts)
    found = in_a_process(tmp_path / "static", "sentence-transformers", texts)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7)
    with pytest.raises(ValueError, match="leaves unknown tokens out of the mean, and this model counts them"):
        export_model(model, words(), tmp_path / "model2vec", "model2vec")
    theirs = StaticModel(model.wte.weight.detach().numpy(), words().backend_tokenizer, {"model_type": "model2vec"})
    theirs.save_pretrained(tmp_path / "model2vec")
    assert "model's own." in export_model(*from_static(tmp_path / "model2vec"), tmp_path / "back", "model2vec")
    np.testing.assert_allclose(in_a_process(tmp_path / "back", "model2vec", texts), theirs.encode(texts), atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["learned", "sinusoidal", "none", "weighted"])
def test_onnx(kind, gpt2_tokenizer, tmp_path):
    import onnxruntime

    fields = {"pooling": "weighted"} if kind == "weighted" else {"position_embedding_type": kind}
    model = make_model(**fields)
    if kind == "weighted":
        model.set_token_weights(torch.rand(50257, dtype=torch.float64).numpy())
    export_model(model, gpt2_tokenizer, tmp_path, "onnx")
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"config.json", "model.onnx", "tokenizer.json", "tokenizer_config.json"}
    assert not {"auto_map", "model_type"} & json.loads((tmp_path / "config.json").read_text()).keys()
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    texts = [text for text in TEXTS if "<|" not in text]  # which `tokenizer(text)` takes for special tokens
    batch = tokenizer(texts, padding=True, truncation=True, return_tensors="np")
    hidden, pooled = session.run(["last_hidden_state", "pooler_output"], dict(batch))
    pooling = model.config.pooling
    np.testing.assert_allclose(pooled, Embedder(model, gpt2_tokenizer, pooling=pooling).encode(texts), atol=1e-6)
    with torch.no_grad():
        tensors = {name: torch.from_numpy(ids) for name, ids in batch.items()}
        np.testing.assert_allclose(hidden, model(**tensors).last_hidden_state, atol=1e-7)


def test_what_cannot_be_exported(gpt2_tokenizer, tmp_path):
    with pytest.raises(ValueError, match=r"adds positions \(`position_embedding_type` 'learned'\).*as 'onnx'"):
        export_model(make_model(position_embedding_type="learned"), gpt2_tokenizer, tmp_path, "static")
    framed = words(single="[CLS] $A", special_tokens=[("[CLS]", 1)])
    with pytest.raises(ValueError, match="puts tokens of its own around each text"):
        export_model(make_model(vocab_size=7), framed, tmp_path, "model2vec")
    with pytest.raises(ValueError, match="`format` must be one of 'static', 'model2vec', 'onnx', got 'gguf'"):
        export_model(make_model(), gpt2_tokenizer, tmp_path, "gguf")
    with pytest.raises(ValueError, match="50257 entries, more than the model's `vocab_size` 9"):
        export_model(make_model(vocab_size=9), gpt2_tokenizer, tmp_path, "static")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_command(gpt2_tokenizer, tmp_path):
    make_model().save_pretrained(tmp_path / "model")
    gpt2_tokenizer.save_pretrained(tmp_path / "model")
    arguments = ["export", str(tmp_path / "model"), "--format", "static", "--output", str(tmp_path / "out")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.stderr
    assert "Its vectors are the model's own." in done.stdout and f"Result: {tmp_path / 'out'}" in done.stdout
    expected = Embedder(make_model(), gpt2_tokenizer).encode(TEXTS)
    np.testing.assert_allclose(in_a_process(tmp_path / "out", "sentence-transformers"), expected, rtol=0, atol=1e-6)
    assert CliRunner().invoke(app, arguments).exit_code == 1
    make_model(position_embedding_type="learned").save_pretrained(tmp_path / "model")
    done = CliRunner().invoke(app, [*arguments, "--overwrite"])
    assert (done.exit_code, "adds positions" in done.stderr) == (1, True)
    assert (tmp_path / "out" / "modules.json").exists()  # what was there stays
