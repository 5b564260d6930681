"""`gpt-embeddings extract` as a user runs it."""

import shutil

import pytest
import torch
from hub_server import check_no_token, local_hub
from huggingface_hub import HfApi
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from transformers import AutoModel, AutoTokenizer, CTRLConfig, CTRLModel, GPT2Config, GPT2LMHeadModel
from typer.testing import CliRunner

from gpt_embeddings_cli import app
from modeling_gpt_embeddings import GPTEmbeddingsModel


pytestmark = pytest.mark.slow  # each starts a command


def run(*arguments):
    result = CliRunner().invoke(app, ["extract", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture(scope="module")
def gpt(small_tokenizer, tmp_path_factory):
    """A folder with a tiny GPT-2, and a tokenizer that does not know its longest sequence."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("gpt")
    config = GPT2Config(vocab_size=500, n_positions=32, n_embd=8, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(folder)
    small_tokenizer.save_pretrained(folder)
    return folder


def test_tables_and_tokenizer(gpt, small_tokenizer, tmp_path):
    output = tmp_path / "new" / "folder"
    result = run(gpt, "--output", output)
    assert result.exit_code == 0, result.output
    assert f"Result: {output}" in result.output.replace("\n", "")
    assert "wte" in result.output and "500 x 8" in result.output and "32 x 8" in result.output
    source = AutoModel.from_pretrained(gpt)
    tokenizer = AutoTokenizer.from_pretrained(output)
    assert tokenizer.model_max_length == 32
    text = "The tide clerk wrote down what the sea did."
    assert tokenizer(text)["input_ids"] == small_tokenizer(text)["input_ids"]
    batch = tokenizer(text, return_tensors="pt")
    for model in (
        GPTEmbeddingsModel.from_pretrained(output),
        AutoModel.from_pretrained(output, trust_remote_code=True),
    ):
        with torch.no_grad():
            expected = source(**batch, output_hidden_states=True).hidden_states[0]
            assert torch.equal(model(**batch).last_hidden_state, expected)
    assert sorted(path.name for path in output.parent.iterdir()) == ["folder"]


def test_an_output_that_exists(gpt, tmp_path):
    old = tmp_path / "old"
    old.mkdir()
    (old / "file").touch()
    for made, options, message in (
        ("file", ["--overwrite"], "is not what `extract` writes"),
        ("config.json", [], "exists; choose another"),
    ):
        (old / made).touch()
        result = run(gpt, "--output", old, *options)
        assert result.exit_code == 1 and message in result.output.replace("\n", " ")
    assert run(gpt, "--output", old, "--overwrite").exit_code == 0
    assert not (old / "file").exists()
    for output in (gpt, gpt.parent):
        result = run(gpt, "--output", output, "--overwrite")
        assert result.exit_code == 1 and "holds the checkpoint" in result.output
    assert (gpt / "model.safetensors").exists()


def test_errors_leave_nothing(gpt, tmp_path):
    shutil.copytree(gpt, tmp_path / "gpt")
    (tmp_path / "gpt" / "model.safetensors").write_bytes(b"12345678")
    for arguments, message in [
        (["nobody/nothing"], "could not be fetched"),
        ([tmp_path / "gpt"], "is not a complete safetensors file"),
        ([gpt, "--dtype", "int8"], "`dtype` must be"),
        ([gpt, "--wte-key", "x"], "no tensor 'x'"),
    ]:
        result = run(*arguments, "--output", tmp_path / "out")
        assert result.exit_code == 1 and message in result.output
        assert [path.name for path in tmp_path.iterdir()] == ["gpt"]


def test_sources_with_no_tokenizer_or_a_strange_one(tmp_path):
    torch.manual_seed(0)
    config = CTRLConfig(vocab_size=41, n_positions=12, n_embd=8, n_layer=1, n_head=2, dff=8)
    CTRLModel(config).save_pretrained(tmp_path / "ctrl")
    result = run(tmp_path / "ctrl", "--output", tmp_path / "a")
    assert result.exit_code == 0 and "the one given by" in result.output
    assert not (tmp_path / "a" / "tokenizer.json").exists()
    (tmp_path / "ctrl" / "tokenizer.json").write_text("{}")
    result = run(tmp_path / "ctrl", "--output", tmp_path / "b")
    assert GPTEmbeddingsModel.from_pretrained(tmp_path / "b").config.n_embd == 8
    assert result.exit_code == 0 and "tokenizer is left out" in result.output.replace("\n", " ")
    assert not (tmp_path / "b" / "tokenizer.json").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_options_for_a_folder_a_file_and_a_static_model(gpt, small_tokenizer, tmp_path):
    result = run(gpt, "--output", tmp_path / "a", "--dtype", "bfloat16", "--position-embedding-type", "none")
    assert result.exit_code == 0, result.output
    model = GPTEmbeddingsModel.from_pretrained(tmp_path / "a")
    assert (model.dtype, model.wpe) == (torch.bfloat16, None)
    state = {"model": AutoModel.from_pretrained(gpt).state_dict(), "iter_num": 3}
    torch.save(state, tmp_path / "ckpt.pt")
    keys = ["--wte-key", "wte.weight", "--wpe-key", "wpe.weight"]
    assert run(tmp_path / "ckpt.pt", "--output", tmp_path / "b", *keys).exit_code == 0
    table = GPTEmbeddingsModel.from_pretrained(tmp_path / "b").wte.weight
    assert torch.equal(table, state["model"]["wte.weight"])
    static = StaticEmbedding(small_tokenizer.backend_tokenizer, embedding_dim=8)
    SentenceTransformer(modules=[static], device="cpu").save(str(tmp_path / "static"))
    result = run(tmp_path / "static", "--output", tmp_path / "c", "--dtype", "float16")
    assert result.exit_code == 1 and "taken as they are" in result.output.replace("\n", " ")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of huggingface_hub's use of its HTTP client
def test_from_a_hub(gpt, tmp_path):
    """Of a private checkpoint only the tables are read, and only the Hub gets the token."""
    with local_hub(tmp_path) as (hub, _):
        HfApi().create_repo("alice/gpt", private=True)
        HfApi().upload_folder(repo_id="alice/gpt", folder_path=gpt)
        hub.asked.clear()
        result = run("alice/gpt", "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    check_no_token(result.output, "the output")
    content = [asked for asked in hub.asked if asked.origin == "cdn"]
    assert content and all(asked.range and not asked.with_token for asked in content)
    found = GPTEmbeddingsModel.from_pretrained(tmp_path / "out").wte.weight
    assert torch.equal(found, AutoModel.from_pretrained(gpt).wte.weight)
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out")) == 500
