"""To the Hub and back: the unmodified clients against the small server of `hub_server.py`."""

import contextlib
import copy
import functools
import io
import json
import runpy

import pytest
import safetensors.torch
import torch
from command import ROOT, refuse, run
from datasets import Dataset, load_dataset
from hub_server import TOKENS, check_no_token, local_hub
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

from configuration_gpt_embeddings import GPTEmbeddingsConfig
from gpt_embeddings import CardMetadata, Embedder, embed_dataset, load_tokenizer, push_to_hub, save_folder
from gpt_embeddings.bundled import PORTUGUESE
from gpt_embeddings.checkpoints.loading import load_model_and_tokenizer
from gpt_embeddings.hub.push import check_push
from gpt_embeddings.training.teacher import load_teacher
from modeling_gpt_embeddings import (
    GPTEmbeddingsForCausalLM,
    GPTEmbeddingsForSequenceClassification,
    GPTEmbeddingsModel,
)


pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of huggingface_hub's use of its HTTP client
]

TEXTS = ["The tide came in.", "It went out again, past the bar and the buoys.", "Sal, areia e sol."]
REPOSITORY_FILES = set(
    ".gitattributes 1_Pooling/config.json README.md config.json config_sentence_transformers.json "
    "configuration_gpt_embeddings.py model.safetensors modeling_gpt_embeddings.py modules.json "
    "sentence_bert_config.json tokenizer.json tokenizer_config.json".split()
)
SIZES = {"vocab_size": 500, "n_positions": 32, "n_embd": 16}


def make_model(seed: int) -> GPTEmbeddingsModel:
    torch.manual_seed(seed)
    return GPTEmbeddingsModel(GPTEmbeddingsConfig(**SIZES)).eval()


def command(*arguments):
    """Run a command that succeeds, and look for a token in its output."""
    result = run(*arguments)
    check_no_token(result.output, "the output")
    return result


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with local_hub(tmp_path_factory.mktemp("hub")) as (hub, _):
        yield hub


@pytest.fixture(scope="module")
def push(hub, small_tokenizer):
    return functools.partial(push_to_hub, tokenizer=small_tokenizer)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, small_tokenizer):
    """A saved model among files that nobody wants to publish."""
    folder = tmp_path_factory.mktemp("saved") / "tides"
    save_folder(folder, make_model(0), small_tokenizer, metadata=CardMetadata(license="cc0-1.0"))
    (folder / "checkpoint-5").mkdir()
    for name in (".env", "training_args.bin", "checkpoint-5/optimizer.pt", "notes.txt"):
        (folder / name).write_text(f"token={TOKENS['alice']}")
    state = {"global_step": 12, "epoch": 2.0, "log_history": [{"loss": 9.0}, {"loss": 3.25}, {"eval_loss": 3.5}]}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    return folder


@pytest.fixture(scope="module")
def pushed(hub, folder):
    """The name of the repository that the command line made of the folder."""
    said = command("push", folder, "alice/tides").stdout
    assert f"Published: {hub.url}/alice/tides" in said
    assert f"Revision to pin: {hub.model('alice/tides').head()}" in said
    return "alice/tides"


def test_one_complete_repository(hub, pushed, folder):
    repository = hub.model(pushed)
    assert set(repository.files()) == REPOSITORY_FILES | {"training_metadata.json"}
    assert [log.strip() for log in repository.log()] == ["Upload model with gpt-embeddings", "initial commit"]
    config = json.loads(repository.text("config.json"))
    assert config["auto_map"] == {
        "AutoConfig": "configuration_gpt_embeddings.GPTEmbeddingsConfig",
        "AutoModel": "modeling_gpt_embeddings.GPTEmbeddingsModel",
    }
    tokenizer = json.loads(repository.text("tokenizer_config.json"))
    assert tokenizer["model_max_length"] == config["n_positions"] == 32
    metadata = {"steps": 12, "epochs": 2.0, "loss": 3.25, "eval_loss": 3.5}
    assert json.loads(repository.text("training_metadata.json")) == metadata
    card = repository.text("README.md")
    assert "license: cc0-1.0\n" in card and "- steps: 12\n" in card
    assert 'AutoModel.from_pretrained("alice/tides", trust_remote_code=True)' in card
    for path, data in repository.files().items():
        text = data.decode("latin-1")
        assert str(folder) not in text and str(hub.root) not in text and "hf_" not in text, path
    # Large files go to the second origin, which is not given the token.
    cdn = [asked for asked in hub.asked if asked.origin == "cdn"]
    assert any(asked.line.startswith("PUT") for asked in cdn) and not any(asked.with_token for asked in cdn)

    head = repository.head()
    command("push", folder, pushed)
    assert repository.head() == head  # nothing has changed: no commit


def test_revisions(hub, push):
    """A sha, a branch and a pull request, each with weights of its own."""
    name = "alice/revisions"
    first = push(make_model(1), name).oid
    push(make_model(2), name)
    push(make_model(3), name, revision="next")
    request = push(make_model(4), name, create_pr=True)
    assert request.pr_url == f"{hub.url}/alice/revisions/discussions/1"
    push(make_model(5), name, revision=request.pr_revision)
    for revision, seed in {first: 1, "main": 2, "next": 3, "refs/pr/1": 5}.items():
        path = HfApi().hf_hub_download(name, "model.safetensors", revision=revision)
        assert torch.equal(safetensors.torch.load_file(path)["wte.weight"], make_model(seed).wte.weight)
    assert all(hub.model(name).changed(ref) == {"model.safetensors"} for ref in ("main", "next", "refs/pr/1"))


def test_pushes_over_what_is_there(hub, push, small_tokenizer, tmp_path, caplog):
    """The card's text stays, wherever it was edited; stale shards go, files of others stay."""
    name, local, card = "alice/life", tmp_path / "model", tmp_path / "model" / "README.md"
    save_folder(local, make_model(1), small_tokenizer)
    push_to_hub(local, name)
    repository = hub.model(name)
    text = repository.text("README.md").replace("# model", "# My tides\n\nWritten on the Hub.")
    stale = dict.fromkeys(
        ["model-00001-of-00002.safetensors", "model.safetensors.index.json", "training_metadata.json"], b"old"
    )
    text = text.replace("---\n", "---\nlicense: mit\n", 1)
    repository.commit("main", "Edit", {"README.md": text.encode(), "picture.txt": b"kept", **stale})
    save_folder(local, make_model(2), small_tokenizer)
    push_to_hub(local, name)
    there = repository.text("README.md")
    assert "# My tides\n\nWritten on the Hub." in there and "license: mit\n" in there and "The tables: mit." in there
    assert set(repository.files()) == REPOSITORY_FILES | {"picture.txt"}
    push(make_model(3), name)  # from memory
    assert repository.changed() == {"model.safetensors"}

    caplog.clear()
    head = repository.head()
    card.write_text(card.read_text() + "\nWritten here.\n")
    push_to_hub(local, name)
    there = repository.text("README.md")
    assert "Written here." in there and "Written on the Hub" not in there and "license: mit\n" in there
    assert f"replaces different text on the Hub, which is still in {name} at {head}." in caplog.text
    caplog.clear()
    push_to_hub(local, name)
    assert "replaces" not in caplog.text


def test_a_model_with_a_head(hub, small_tokenizer, tmp_path):
    for kind, task in (
        (GPTEmbeddingsForCausalLM, "feature-extraction"),
        (GPTEmbeddingsForSequenceClassification, "text-classification"),
    ):
        config = GPTEmbeddingsConfig(**SIZES, tie_word_embeddings=False, id2label={0: "ebb", 1: "flood"})
        save_folder(tmp_path / task, kind(config), small_tokenizer)
        push_to_hub(tmp_path / task, name := f"alice/{task}")
        config = json.loads(hub.model(name).text("config.json"))
        assert config["architectures"] == [kind.__name__]
        assert f"AutoModel{kind.__name__.removeprefix('GPTEmbeddings')}" in config["auto_map"]
        card = hub.model(name).text("README.md")
        assert f"pipeline_tag: {task}\n" in card
        assert ("with the labels ebb, flood:" in card) == (task == "text-classification")


def test_push_to_hub_of_an_embedder_and_of_transformers(hub, push, small_tokenizer):
    Embedder(make_model(2), small_tokenizer).push_to_hub("alice/embedder", private=True)
    assert hub.model("alice/embedder").private
    model = make_model(6)
    model.push_to_hub("alice/plain")
    small_tokenizer.push_to_hub("alice/plain")
    push(model, "alice/plain")
    assert set(hub.model("alice/embedder").files()) == set(hub.model("alice/plain").files()) == REPOSITORY_FILES


def test_a_dataset_of_vectors(hub, pushed, small_tokenizer, tmp_path):
    name = "alice/vectors"
    vectors = embed_dataset(Dataset.from_dict({"text": TEXTS}), make_model(0), small_tokenizer)
    with pytest.raises(ValueError, match="no column 'vectors'"):
        push_to_hub(vectors, name, model_id=pushed, column="vectors")
    first = push_to_hub(vectors, name, model_id=pushed, private=True)
    assert push_to_hub(vectors, name, model_id=pushed).oid == first.oid == hub.dataset(name).head()
    assert hub.dataset(name).private
    card = hub.dataset(name).text("README.md")
    assert f"[{pushed}](https://huggingface.co/{pushed}) at revision\n`{hub.model(pushed).head()}`" in card
    assert "dataset_info:" in card and "vectors of 16 dimensions" in card
    made_by = f"Made by {pushed} at revision {hub.model(pushed).head()}."
    assert sum(made_by in log for log in hub.dataset(name).log()) == 2

    (tmp_path / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    for model, published in ((pushed, "embedded"), (PORTUGUESE, "bundled")):
        arguments = ["embed", tmp_path / "texts.txt", "--model", model, "--output", tmp_path / published]
        command(*arguments, "--push-to-hub", f"alice/{published}")
    # A bundled table has no name on the Hub that a card could link to.
    assert "data/train-00000-of-00001.parquet" in hub.dataset("alice/bundled").files()
    expected = Embedder(make_model(0), small_tokenizer).encode(TEXTS).tolist()
    for name in ("vectors", "embedded"):
        published = load_dataset(f"alice/{name}", split="train", streaming=True)
        assert [row["embedding"] for row in published] == expected


def test_a_fault_is_explained_and_nothing_is_half_published(hub, push):
    for name, options, error_class, message in (
        ("malformed", {"token": "alice\n"}, ValueError, "contains a character that no token has"),
        ("wrong", {"token": "hf_wrong"}, HfHubHTTPError, "401(.|\n)*Log in with `hf auth login`"),
        ("read-only", {"token": TOKENS["reader"]}, HfHubHTTPError, "403(.|\n)*Use a token with write access"),
        ("fault", {}, HfHubHTTPError, "503"),
    ):
        hub.faults.append(("POST /api/models/alice/fault/commit/", 503))
        with pytest.raises(error_class, match=message):
            push(make_model(8), f"alice/{name}", **options)
        hub.faults.clear()
        there = hub.repositories.get(("model", f"alice/{name}"))
        assert there is None or set(there.files("main")) == {".gitattributes"}
        push(make_model(8), f"alice/{name}")
        assert set(hub.model(f"alice/{name}").files()) == REPOSITORY_FILES


def test_refusals(hub, push, monkeypatch):
    path = HfApi().create_repo("alice/bert").repo_id
    HfApi().upload_file(path_or_fileobj=b'{"model_type": "bert"}', path_in_repo="config.json", repo_id=path)
    vectors = Dataset.from_dict({"embedding": [[1.0]]})
    for refused, error_class, message in (
        (lambda: push_to_hub(make_model(0), "alice/none"), TypeError, "A model needs `tokenizer`"),
        (lambda: push_to_hub(vectors, "alice/none"), TypeError, "A dataset of vectors needs `model_id`"),
        (lambda: push_to_hub(torch.nn.Linear(2, 2), "alice/none"), TypeError, "a folder or a Dataset, got Linear"),
        (lambda: push(make_model(0), "bob/none"), HfHubHTTPError, r"403(.|\n)*bob/none"),
        (lambda: push(make_model(0), "alice/bert"), ValueError, "alice/bert is taken by a model of type 'bert'"),
        (lambda: push(make_model(0), "alice/bert", private=True), ValueError, "is public, but a private"),
        (lambda: check_push("alice/a b"), ValueError, "a b"),
    ):
        with pytest.raises(error_class, match=message):
            refused()
    check_push("alice/none")
    monkeypatch.delenv("HF_TOKEN")
    for refused in (lambda: push(make_model(0), "alice/none"), lambda: check_push("alice/none")):
        with pytest.raises(LocalTokenNotFoundError, match=r"no access token\. Log in"):
            refused()
    assert ("model", "alice/none") not in hub.repositories


def test_a_name_that_is_nowhere_is_refused_without_waiting(hub, monkeypatch):
    """The Hub's client alone would retry for half a minute."""
    slept, nowhere = [], "http://127.0.0.1:9"
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", slept.append)
    monkeypatch.setattr("transformers.utils.hub._hf_api", None, raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", nowhere)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", nowhere + "/{repo_id}/resolve/{revision}/{filename}")
    for ask, message in (
        (load_model_and_tokenizer, "could not be fetched"),
        (load_tokenizer, "No tokenizer at"),
        (load_teacher, "could not be fetched"),
        (check_push, "refused"),
    ):
        with pytest.raises(Exception, match=message):
            ask("nobody/none")
    assert not slept


def test_a_commit_in_between_is_not_overwritten(hub, push, monkeypatch):
    name, create_commit = "alice/race", HfApi.create_commit
    push(make_model(8), name)

    def after_another(*arguments, **options):
        hub.model(name).commit("main", "Edit", {"notes.txt": b"in between"})
        return create_commit(*arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(HfHubHTTPError, match=r"412(.|\n)*was kept\. Push again"):
        patch.setattr(HfApi, "create_commit", after_another)
        push(make_model(9), name)
    assert hub.model(name).changed() == {"notes.txt"}
    push(make_model(9), name)
    assert hub.model(name).changed() == {"model.safetensors"} and "notes.txt" in hub.model(name).files()


def test_command_line(hub, folder, tmp_path, monkeypatch):
    def refusal(source, message):
        check_no_token(refuse(message, "push", source, "alice/none"), "the output")

    refusal(tmp_path, "config.json'")
    make_model(0).save_pretrained(tmp_path)
    refusal(tmp_path, "No tokenizer at")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    refusal(tmp_path, "holds a model of type 'bert'")

    options = ["--private", "--license", "mit", "--base-model", "openai-community/gpt2", "--dataset", "alice/text"]
    command("push", folder, "alice/options", *options, "--revision", "next")
    assert hub.model("alice/options").private
    card = hub.model("alice/options").text("README.md", "next")
    assert "license: mit\n" in card and "base_model: openai-community/gpt2\n" in card and "- alice/text\n" in card
    said = command("push", folder, "alice/options", "--create-pr").stdout
    assert f"{hub.url}/alice/options/discussions/1" in said
    assert set(hub.model("alice/options").files("main")) == {".gitattributes"}
    monkeypatch.delenv("HF_TOKEN")
    refusal(folder, "There is no access token. Log in with `hf auth login`")


def test_a_saved_folder_can_be_written_again(small_tokenizer, tmp_path):
    tokenizer = copy.deepcopy(small_tokenizer)
    make_model(0).save_pretrained(tmp_path, max_shard_size="5KB")
    (tmp_path / "notes.txt").write_text("mine")
    save_folder(tmp_path, make_model(1), tokenizer)
    first = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    names = {path.relative_to(tmp_path).as_posix() for path in first}
    assert names == (REPOSITORY_FILES - {".gitattributes"}) | {"notes.txt"}  # no stale shard, no index
    tokenizer(TEXTS, padding=True, truncation=True)  # changes the state of the tokenizer
    save_folder(tmp_path, make_model(1), tokenizer)
    assert {path: path.read_bytes() for path in first} == first
    assert tokenizer.model_max_length > 32 and list(tmp_path.parent.glob(f".{tmp_path.name}*")) == []
    with pytest.raises(ValueError, match=r"\d+ entries, more than the model's `vocab_size` 100"):
        save_folder(tmp_path / "small", GPTEmbeddingsModel(GPTEmbeddingsConfig(vocab_size=100, n_embd=4)), tokenizer)
    assert not list((tmp_path / "small").iterdir())


def test_every_library_loads_it(hub, monkeypatch, capfd):
    """`scripts/check_hub.py`, for the real Hub, passes here and cleans up after itself.

    What it loads with this package is loaded in this process, as a second one would import everything again.
    """
    before = set(hub.repositories)
    for name, value in {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr("sys.argv", ["check_hub.py"])
    script = runpy.run_path(str(ROOT / "scripts" / "check_hub.py"))
    load, main = script["load_in_fresh_process"], script["main"]

    def load_here(code, *arguments):
        if not code.startswith("import gpt_embeddings"):
            return load(code, *arguments)
        with monkeypatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
            patch.setattr("sys.argv", ["load", *arguments])
            exec(code, {})
        return json.loads(printed.getvalue().splitlines()[-1])

    monkeypatch.setitem(main.__globals__, "load_in_fresh_process", load_here)
    assert main() == 0, capfd.readouterr()
    output, errors = capfd.readouterr()
    check_no_token(output + errors, "the output")
    assert output.count("same      ") == 13 and "DIFFERENT" not in output
    assert set(hub.repositories) == before
