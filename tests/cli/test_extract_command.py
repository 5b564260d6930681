"""`gpt-embeddings extract` as a user runs it."""

import shutil

import pytest
import torch
from command import refuse, run
from hub_server import check_no_token, local_hub
from huggingface_hub import HfApi
from transformers import AutoModel, AutoTokenizer, CTRLConfig, CTRLModel

from modeling_gpt_embeddings import GPTEmbeddingsModel


pytestmark = pytest.mark.slow  # each starts a command


@pytest.fixture
def gpt(sources):
    return sources / "gpt"


def test_tables_and_tokenizer(gpt, small_tokenizer, tmp_path):
    output = tmp_path / "new" / "folder"
    said = run("extract", gpt, "--output", output).output
    assert f"Result: {output}" in said.replace("\n", "")
    assert "wte" in said and "500 x 8" in said and "32 x 8" in said
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
        refuse(message, "extract", gpt, "--output", old, *options)
    run("extract", gpt, "--output", old, "--overwrite")
    assert not (old / "file").exists()
    for output in (gpt, gpt.parent):
        refuse("holds the checkpoint", "extract", gpt, "--output", output, "--overwrite")
    assert (gpt / "model.safetensors").exists()


def test_errors_leave_nothing(gpt, tmp_path):
    shutil.copytree(gpt, tmp_path / "gpt")
    (tmp_path / "gpt" / "model.safetensors").write_bytes(b"12345678")
    for message, *arguments in (
        ("could not be fetched", "nobody/nothing"),
        ("is not a complete safetensors file", tmp_path / "gpt"),
        ("`dtype` must be", tmp_path / "gpt", "--dtype", "int8"),  # before a file is opened, or fetched
        ("no tensor 'x'", gpt, "--wte-key", "x"),
    ):
        refuse(message, "extract", *arguments, "--output", tmp_path / "out")
        assert [path.name for path in tmp_path.iterdir()] == ["gpt"]


def test_sources_with_no_tokenizer_or_a_strange_one(tmp_path):
    torch.manual_seed(0)
    config = CTRLConfig(vocab_size=41, n_positions=12, n_embd=8, n_layer=1, n_head=2, dff=8)
    CTRLModel(config).save_pretrained(tmp_path / "ctrl")
    for out, words in (("a", "the one given by"), ("b", "tokenizer is left out")):
        assert words in run("extract", tmp_path / "ctrl", "--output", tmp_path / out).output.replace("\n", " ")
        assert GPTEmbeddingsModel.from_pretrained(tmp_path / out).config.n_embd == 8
        assert not (tmp_path / out / "tokenizer.json").exists()
        (tmp_path / "ctrl" / "tokenizer.json").write_text("{}")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_options_for_a_folder_a_file_and_a_static_model(sources, gpt, tmp_path):
    options = ["--dtype", "bfloat16", "--position-embedding-type", "none"]
    run("extract", gpt, "--output", tmp_path / "a", *options)
    model = GPTEmbeddingsModel.from_pretrained(tmp_path / "a")
    assert (model.dtype, model.wpe) == (torch.bfloat16, None)
    state = {"model": AutoModel.from_pretrained(gpt).state_dict(), "iter_num": 3}
    torch.save(state, tmp_path / "ckpt.pt")
    keys = ["--wte-key", "wte.weight", "--wpe-key", "wpe.weight"]
    run("extract", tmp_path / "ckpt.pt", "--output", tmp_path / "b", *keys)
    table = GPTEmbeddingsModel.from_pretrained(tmp_path / "b").wte.weight
    assert torch.equal(table, state["model"]["wte.weight"])
    refuse("taken as they are", "extract", sources / "static", "--output", tmp_path / "c", "--dtype", "float16")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of huggingface_hub's use of its HTTP client
def test_from_a_hub(gpt, tmp_path):
    """Of a private checkpoint only the tables are read, and only the Hub gets the token."""
    with local_hub(tmp_path) as (hub, _):
        HfApi().create_repo("alice/gpt", private=True)
        HfApi().upload_folder(repo_id="alice/gpt", folder_path=gpt)
        hub.asked.clear()
        result = run("extract", "alice/gpt", "--output", tmp_path / "out")
    check_no_token(result.output, "the output")
    content = [asked for asked in hub.asked if asked.origin == "cdn"]
    assert content and all(asked.range and not asked.with_token for asked in content)
    found = GPTEmbeddingsModel.from_pretrained(tmp_path / "out").wte.weight
    assert torch.equal(found, AutoModel.from_pretrained(gpt).wte.weight)
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out")) == 500
