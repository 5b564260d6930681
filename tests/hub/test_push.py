"""To the Hub and back: the unmodified clients against the small server of `hub_server.py`.

Every client is a fresh process with an empty cache; each is checked to leave no token in its output and files.
"""

import hashlib
import json
import re
import shutil
import threading
import time

import hub_server
import numpy as np
import pytest
import safetensors.torch
import torch
from hub_client import ROOT, TOKENS, USERS, Client
from typer.testing import CliRunner

from configuration_gpt_embeddings import GPTEmbeddingsConfig
from gpt_embeddings.hub.cards import CardMetadata
from gpt_embeddings.hub.repository import save_folder
from gpt_embeddings.text.tokenizer import load_tokenizer
from gpt_embeddings_cli import app
from modeling_gpt_embeddings import GPTEmbeddingsModel


pytestmark = pytest.mark.slow

TEXTS = ["The tide came in.", "It went out again, past the bar and the buoys.", "Sal, areia e sol."]
N_POSITIONS, N_EMBD = 32, 16
REPOSITORY_FILES = {
    ".gitattributes",
    "1_Pooling/config.json",
    "README.md",
    "config.json",
    "config_sentence_transformers.json",
    "configuration_gpt_embeddings.py",
    "model.safetensors",
    "modeling_gpt_embeddings.py",
    "modules.json",
    "sentence_bert_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
}

# A model of the kind that `make_model` makes, for programs that push.
MAKE = f"""
import torch
from gpt_embeddings import *
tokenizer = load_tokenizer()
def make_model(seed):
    torch.manual_seed(seed)
    return GPTEmbeddingsModel(GPTEmbeddingsConfig(n_positions={N_POSITIONS}, n_embd={N_EMBD})).eval()
"""


def make_model(seed: int) -> GPTEmbeddingsModel:
    torch.manual_seed(seed)
    return GPTEmbeddingsModel(GPTEmbeddingsConfig(n_positions=N_POSITIONS, n_embd=N_EMBD)).eval()


def digest(vectors) -> str:
    return hashlib.sha256(np.ascontiguousarray(vectors, dtype=np.float32).tobytes()).hexdigest()


def token_vectors(model: GPTEmbeddingsModel) -> torch.Tensor:
    batch = load_tokenizer()(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model(**batch).last_hidden_state


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    with hub_server.running(root / "server", USERS) as (hub, url):
        yield Client(hub, url, root / "clients")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved model among things that nobody wants to publish."""
    folder = tmp_path_factory.mktemp("saved") / "tides"
    save_folder(folder, make_model(0), load_tokenizer(), metadata=CardMetadata(license="cc0-1.0"))
    (folder / "checkpoint-5").mkdir()
    for name in (".env", "training_args.bin", "checkpoint-5/optimizer.pt", "notes.txt"):
        (folder / name).write_text(f"token={TOKENS['alice']}")
    state = {"global_step": 12, "epoch": 2.0, "log_history": [{"loss": 9.0}, {"loss": 3.25}, {"eval_loss": 3.5}]}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    return folder


@pytest.fixture(scope="module")
def pushed(client, folder):
    """The name of the repository that the command line made of the folder."""
    result = client.command("push", str(folder), "alice/tides")
    assert result.returncode == 0, result.stderr
    assert f"Published: {client.url}/alice/tides" in result.stdout
    assert f"Revision to pin: {client.head('alice/tides')}" in result.stdout
    return "alice/tides"


class TestCompleteRepository:
    def test_one_commit_holds_all_and_nothing_else(self, client, pushed):
        assert set(client.files(pushed)) == REPOSITORY_FILES | {"training_metadata.json"}
        log = client.hub.repositories["model", pushed].git("log", "--format=%s", "main").decode().splitlines()
        assert log == ["Upload model with gpt-embeddings", "initial commit"]

    def test_the_files_agree_with_each_other(self, client, pushed):
        config = json.loads(client.text(pushed, "config.json"))
        assert config["auto_map"] == {
            "AutoConfig": "configuration_gpt_embeddings.GPTEmbeddingsConfig",
            "AutoModel": "modeling_gpt_embeddings.GPTEmbeddingsModel",
        }
        tokenizer = json.loads(client.text(pushed, "tokenizer_config.json"))
        assert tokenizer["model_max_length"] == config["n_positions"] == N_POSITIONS
        pooling = json.loads(client.text(pushed, "1_Pooling/config.json"))
        assert (pooling["pooling_mode"], pooling["embedding_dimension"]) == ("mean", N_EMBD)
        assert json.loads(client.text(pushed, "training_metadata.json")) == {
            "steps": 12,
            "epochs": 2.0,
            "loss": 3.25,
            "eval_loss": 3.5,
        }

    def test_the_card(self, client, pushed):
        card = client.text(pushed, "README.md")
        assert "license: cc0-1.0\n" in card and "library_name: transformers\n" in card
        assert 'AutoModel.from_pretrained("alice/tides", trust_remote_code=True)' in card
        assert "- steps: 12\n" in card and "- loss: 3.25\n" in card

    def test_no_file_names_a_path_of_this_machine_or_a_token(self, client, pushed, folder):
        for path in client.files(pushed):
            text = client.text(pushed, path)
            assert str(folder) not in text and str(client.root) not in text and "hf_" not in text, path

    def test_a_second_push_of_the_same_makes_no_commit(self, client, pushed, folder):
        head = client.head(pushed)
        result = client.command("push", str(folder), pushed)
        assert result.returncode == 0, result.stderr
        assert client.head(pushed) == head and f"Revision to pin: {head}" in result.stdout


LOADS = {
    "AutoModel, package imported": (
        True,
        """
import gpt_embeddings, torch
from transformers import AutoModel, AutoTokenizer
model = AutoModel.from_pretrained(NAME).eval()
assert type(model) is gpt_embeddings.GPTEmbeddingsModel
batch = AutoTokenizer.from_pretrained(NAME)(TEXTS, padding=True, return_tensors="pt")
with torch.no_grad():
    answer(digest(model(**batch).last_hidden_state))
""",
    ),
    "AutoModel, no package": (
        False,
        """
import torch
from transformers import AutoModel, AutoTokenizer
model = AutoModel.from_pretrained(NAME, trust_remote_code=True).eval()
assert type(model).__module__.startswith("transformers_modules.")
batch = AutoTokenizer.from_pretrained(NAME)(TEXTS, padding=True, return_tensors="pt")
with torch.no_grad():
    answer(digest(model(**batch).last_hidden_state))
""",
    ),
    "AutoTokenizer": (
        False,
        """
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(NAME)
assert len(tokenizer(["tide " * 100], truncation=True)["input_ids"][0]) == tokenizer.model_max_length == 32
answer(digest(tokenizer(TEXTS, padding=True, return_tensors="np")["input_ids"]))
""",
    ),
    "SentenceTransformer, package imported": (
        True,
        """
import gpt_embeddings
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(NAME)
assert [type(module).__name__ for module in model] == ["Transformer", "Pooling"]
assert model[1].pooling_mode == "mean" and model.max_seq_length == 32
answer([digest(vectors.cpu()) for vectors in model.encode(TEXTS, output_value="token_embeddings")]
       + [digest(model.encode(TEXTS))])
""",
    ),
    "SentenceTransformer, no package": (
        False,
        """
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(NAME, trust_remote_code=True)
answer([digest(vectors.cpu()) for vectors in model.encode(TEXTS, output_value="token_embeddings")]
       + [digest(model.encode(TEXTS))])
""",
    ),
    "pipeline": (
        False,
        """
from transformers import pipeline
extract = pipeline("feature-extraction", model=NAME, trust_remote_code=True)
answer([digest(extract(text, return_tensors=True)[0]) for text in TEXTS])
""",
    ),
}


@pytest.fixture(scope="module")
def expected(folder):
    """What each way of loading must give, from the model in memory and the folder it was saved to."""
    from sentence_transformers import SentenceTransformer

    vectors, batch = token_vectors(make_model(0)), load_tokenizer()(TEXTS, padding=True, return_tensors="np")
    each = [digest(row[mask == 1]) for row, mask in zip(vectors, batch["attention_mask"], strict=True)]
    whole = digest(vectors)
    # sentence-transformers pools by itself: the same to the last bit as from the folder, to rounding as ours.
    sentences = SentenceTransformer(str(folder)).encode(TEXTS)
    with torch.no_grad():
        pooled = make_model(0)(**{name: torch.as_tensor(values) for name, values in batch.items()}).pooler_output
    np.testing.assert_allclose(sentences, pooled, rtol=0, atol=1e-7)
    return {
        "AutoModel, package imported": whole,
        "AutoModel, no package": whole,
        "AutoTokenizer": digest(batch["input_ids"]),
        "SentenceTransformer, package imported": [*each, digest(sentences)],
        "SentenceTransformer, no package": [*each, digest(sentences)],
        "pipeline": each,
    }


@pytest.mark.parametrize("way", LOADS)
def test_vectors_come_back_bit_for_bit(client, pushed, expected, way):
    package, code = LOADS[way]
    assert client.run(f"NAME, TEXTS = {pushed!r}, {TEXTS!r}\n" + code, token=None, package=package) == expected[way]


@pytest.mark.parametrize("package", [True, False], ids=["package", "no package"])
def test_the_examples_of_the_card_run(client, pushed, package):
    card = client.text(pushed, "README.md")
    examples = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    examples = [example for example in examples if ("gpt_embeddings" in example) == package]
    assert len(examples) == (1 if package else 3)
    code = f"shapes = []\nfor example in {examples!r}:\n    names = {{}}\n    exec(example, names)\n"
    shapes = client.run(
        code + "    shapes.append(list(names['vectors'].shape))\nanswer(shapes)", token=None, package=package
    )
    n_tokens = len(load_tokenizer()("The tide came in.")["input_ids"])
    assert shapes == ([[2, N_EMBD]] if package else [[2, N_EMBD], [2, N_EMBD], [n_tokens, N_EMBD]])


def test_large_files_travel_by_the_second_origin_without_a_token(client, pushed, expected):
    cdn = [asked for asked in client.hub.asked if asked.origin == "cdn"]
    assert {asked.line.split(" ")[0] for asked in cdn} >= {"GET", "PUT"}
    assert not any(asked.with_token for asked in cdn)
    assert any(asked.with_token for asked in client.hub.asked if asked.origin == "hub")


@pytest.fixture(scope="module")
def revisions(client):
    code = """
from huggingface_hub import HfApi
name = "alice/revisions"
first = push_model(make_model(1), tokenizer, name).oid
HfApi().create_tag(name, tag="v1", revision=first)
push_model(make_model(2), tokenizer, name)
push_model(make_model(3), tokenizer, name, revision="next")
request = push_model(make_model(4), tokenizer, name, create_pr=True)
push_model(make_model(5), tokenizer, name, revision=request.pr_revision)
answer([first, request.pr_url])
"""
    sha, url = client.run(MAKE + code)
    assert url == f"{client.url}/alice/revisions/discussions/1"
    return {sha: 1, "v1": 1, "main": 2, "next": 3, "refs/pr/1": 5}


class TestRevisions:
    """A sha, a branch, a tag and a pull request, each with weights of its own."""

    def test_each_gives_its_own_vectors(self, client, revisions):
        code = f"""
import gpt_embeddings, torch
from transformers import AutoModel, AutoTokenizer
found = {{}}
for revision in {list(revisions)!r}:
    model = AutoModel.from_pretrained("alice/revisions", revision=revision).eval()
    tokenizer = AutoTokenizer.from_pretrained("alice/revisions", revision=revision)
    with torch.no_grad():
        batch = tokenizer({TEXTS!r}, padding=True, return_tensors="pt")
        found[revision] = digest(model(**batch).last_hidden_state)
answer(found)
"""
        vectors = {seed: digest(token_vectors(make_model(seed))) for seed in set(revisions.values())}
        assert client.run(code, token=None) == {revision: vectors[seed] for revision, seed in revisions.items()}

    def test_a_push_changes_only_what_changed(self, client, revisions):
        assert client.changed("alice/revisions", "main") == {"model.safetensors"}
        assert client.changed("alice/revisions", "next") == {"model.safetensors"}
        assert client.changed("alice/revisions", "refs/pr/1") == {"model.safetensors"}


def test_pushes_over_what_is_there(client, folder, tmp_path):
    """Cards edited on the Hub and here, files of others, stale shards: one repository's life in one process."""
    local = tmp_path / "model"
    code = f"""
from pathlib import Path
from huggingface_hub import CommitOperationAdd, HfApi
api, name, local = HfApi(), "alice/life", Path({str(local)!r})
save_folder(local, make_model(1), tokenizer)
push_folder(local, name)
def edit(change, **more):
    old = Path(api.hf_hub_download(name, "README.md")).read_text()
    files = {{"README.md": change(old), **more}}
    api.create_commit(name, [CommitOperationAdd(path, text.encode()) for path, text in files.items()],
                      commit_message="Edit")
seen = {{}}
def mine(card):
    card = card.replace("# model", "# My tides\\n\\nWritten on the Hub.")
    return card.replace("---\\n", "---\\nlicense: mit\\n", 1)
edit(mine,
     **{{"model-00001-of-00002.safetensors": "old", "model.safetensors.index.json": "{{}}", "picture.txt": "kept",
         "training_metadata.json": "{{}}"}})
save_folder(local, make_model(2), tokenizer)
seen["hub"] = push_folder(local, name).oid
card = local / "README.md"
card.write_text(Path(api.hf_hub_download(name, "README.md")).read_text())  # takes the Hub's
push_folder(local, name)
card.write_text(card.read_text() + "\\nWritten here.\\n")
seen["local"] = push_folder(local, name).oid
edit(lambda card: card + "\\nAgain on the Hub.\\n")
seen["hub again"] = push_folder(local, name).oid
seen["in memory"] = push_model(make_model(3), tokenizer, name).oid
card.write_text(card.read_text() + "\\nAgain here.\\n")
try:
    push_folder(local, name)
except ValueError as error:
    seen["both"] = str(error)
answer(seen)
"""
    seen = client.run(MAKE + code)
    hub = client.text("alice/life", "README.md", seen["hub"])
    assert "# My tides\n\nWritten on the Hub." in hub and "license: mit\n" in hub and "The tables: mit." in hub
    assert set(client.files("alice/life", seen["hub"])) == REPOSITORY_FILES | {"picture.txt"}
    local_card = client.text("alice/life", "README.md", seen["local"])
    assert "Written on the Hub." in local_card and "Written here." in local_card
    assert client.changed("alice/life", seen["local"]) == {"README.md"}
    both = client.text("alice/life", "README.md", seen["hub again"])
    assert "Written here." in both and "Again on the Hub." in both
    assert client.changed("alice/life", seen["in memory"]) == {"model.safetensors"}
    assert "edited both here and on the Hub" in seen["both"] and "hf download" in seen["both"]
    assert client.head("alice/life") == seen["in memory"]


def test_transformers_own_push_to_hub(client):
    code = """
model = make_model(6)
model.push_to_hub("alice/plain")
tokenizer.push_to_hub("alice/plain")
push_model(model, tokenizer, "alice/plain", private=None)
answer(None)
"""
    client.run(MAKE + code)
    assert set(client.files("alice/plain")) == REPOSITORY_FILES
    code = """
import torch
from transformers import AutoModel, AutoTokenizer
model = AutoModel.from_pretrained("alice/plain", trust_remote_code=True).eval()
batch = AutoTokenizer.from_pretrained("alice/plain")(%r, padding=True, return_tensors="pt")
with torch.no_grad():
    answer(digest(model(**batch).last_hidden_state))
"""
    assert client.run(code % TEXTS, token=None, package=False) == digest(token_vectors(make_model(6)))


def test_the_input_stage_of_a_gpt_on_the_hub(client):
    code = f"""
from transformers import GPT2Config, GPT2Model
torch.manual_seed(7)
gpt = GPT2Model(GPT2Config(n_positions={N_POSITIONS}, n_embd={N_EMBD}, n_layer=1, n_head=1)).eval()
gpt.push_to_hub("alice/gpt2", private=True)
model = from_gpt("alice/gpt2")
batch = tokenizer({TEXTS!r}, padding=True, return_tensors="pt")
with torch.no_grad():
    expected = gpt(**batch, output_hidden_states=True).hidden_states[0]
    answer(bool(torch.equal(model(**batch).last_hidden_state, expected)))
"""
    assert client.run(MAKE + code) is True
    assert any(asked.range for asked in client.hub.asked)  # the tables alone were asked for


@pytest.fixture(scope="module")
def revision(client, pushed):
    code = f"""
from datasets import Dataset
from transformers import AutoModel
model, tokens = AutoModel.from_pretrained({pushed!r}).eval(), load_tokenizer({pushed!r})
vectors = embed_dataset(Dataset.from_dict({{"text": {TEXTS!r}}}), model, tokens)
commit = push_dataset(vectors, "alice/vectors", model_id={pushed!r}, private=True)
again = push_dataset(vectors, "alice/vectors", model_id={pushed!r})
answer([commit.oid, again.oid, digest(vectors.with_format("numpy")["embedding"])])
"""
    first, again, vectors = client.run(MAKE + code)
    assert first == again == client.head("alice/vectors", kind="dataset")
    return first, vectors


class TestDataset:
    def test_it_streams_back(self, client, revision):
        code = """
from datasets import load_dataset
rows = list(load_dataset("alice/vectors", split="train", streaming=True, revision=%r))
answer([[row["text"] for row in rows], digest([row["embedding"] for row in rows])])
"""
        texts, vectors = client.run(code % revision[0])
        assert texts == TEXTS and vectors == revision[1]

    def test_its_card_names_the_model_and_its_commit(self, client, revision, pushed):
        card = client.text("alice/vectors", "README.md", kind="dataset")
        assert f"[{pushed}](https://huggingface.co/{pushed}) at revision\n`{client.head(pushed)}`" in card
        assert "dataset_info:" in card and f"vectors of {N_EMBD} dimensions" in card
        log = client.hub.repositories["dataset", "alice/vectors"].git("log", "--format=%b", "main").decode()
        assert log.count(f"Made by {pushed} at revision {client.head(pushed)}.") == 2

    def test_it_is_private_as_asked(self, client, revision):
        assert client.hub.repositories["dataset", "alice/vectors"].private


def test_embedding_from_the_command_line_ends_on_the_hub(client, pushed, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    done = client.command(
        *("embed", str(tmp_path / "texts.txt"), "--model", pushed, "--tokenizer", pushed),
        *("--output", str(tmp_path / "vectors"), "--push-to-hub", "alice/embedded"),
    )
    assert done.returncode == 0, done.stderr
    code = f"""
from datasets import load_dataset
from transformers import AutoModel
model, tokens = AutoModel.from_pretrained({pushed!r}).eval(), load_tokenizer({pushed!r})
rows = load_dataset("alice/embedded", split="train", streaming=True)
answer([digest([row["embedding"] for row in rows]), digest(Embedder(model, tokens).encode({TEXTS!r}))])
"""
    there, here = client.run(MAKE + code)
    assert there == here
    assert f"[{pushed}](https://huggingface.co/{pushed})" in client.text("alice/embedded", "README.md", kind="dataset")


# What goes wrong: (the push, what the server does, the client's class, what the message says). The push is tried
# again afterwards with alice's token, except where there is nothing to try.
FAULTS = {
    "no token": ("alice/f1", {"token": None}, None, "LocalTokenNotFoundError", "hf auth login"),
    "malformed token": ("alice/f2", {"token": "alice\n"}, None, "ValueError", "no token has, such as a space"),
    "wrong token": ("alice/f3", {"token": "wrong"}, None, "HfHubHTTPError", "401.*The token was not accepted. Log in"),
    "read-only token": (
        "alice/f4",
        {"token": "reader"},
        None,
        "HfHubHTTPError",
        "403.*Take a token with write access",
    ),
    "name of another user": ("bob/open", {}, None, "HfHubHTTPError", "403.*choose a name in your own namespace"),
    "private repository of another": (
        "bob/private",
        {},
        None,
        "HfHubHTTPError",
        "(403|404).*(Take a token|Check the)",
    ),
    "gated repository of another": ("bob/gated", {"create_pr": True}, None, "GatedRepoError", "ask for access"),
    "name of another kind of model": (
        "alice/bert",
        {},
        None,
        "ValueError",
        "alice/bert is taken by a model of type 'b",
    ),
    "public, private asked": ("alice/bert", {"private": True}, None, "ValueError", "is public, but a private"),
    "bad name": ("alice/a b", {}, None, "HFValidationError", "a b"),
    "no such pull request": ("alice/f5", {"revision": "refs/pr/9"}, None, "RevisionNotFoundError", "no such branch"),
    "503 at the commit": ("alice/f6", {}, ("commit", 503), "HfHubHTTPError", "503.*Try again later"),
    "429 at the commit": ("alice/f7", {}, ("commit", 429), "HfHubHTTPError", "429.*Try again in a few minutes"),
    "412 at the commit": ("alice/f8", {}, ("commit", 412), "HfHubHTTPError", "412.*Push again to build on it"),
    # The server drops the request: the client sees a broken connection or, if it has sent all by then, a bare 500.
    "cut at the commit": (
        "alice/f9",
        {},
        ("commit", "cut"),
        "HTTPError",
        "connection to the Hub failed|500.*in trouble",
    ),
    "400 at the commit": ("alice/f10", {}, ("commit", 400), "BadRequestError", "nothing was published"),
    "403 at a large file": ("alice/f11", {}, ("put", 403), "RuntimeError", "model.safetensors.*Take a token"),
    "503 before the upload": ("alice/f12", {}, ("preupload", 503), None, ""),
    "cut in a large file": ("alice/f13", {}, ("put", "cut"), None, ""),
    "429 in a large file": ("alice/f14", {}, ("put", 429), None, ""),
}
HOPELESS = {
    "private repository of another",
    "gated repository of another",
    "name of another kind of model",
    "public, private asked",
    "bad name",
    "no such pull request",
}

# `CASES` of (case, repository, options, options of the next try or None).
PUSH_CASES = """
import os
from contextlib import suppress
from huggingface_hub import HfApi
secrets = {None: None, "wrong": "hf_wrong", "alice\\n": os.environ["ALICE"] + "\\n", "alice": os.environ["ALICE"],
           "reader": os.environ["READER"]}
model, results = make_model(7), {}
def files(name, revision=None):
    with suppress(Exception):
        api = HfApi(token=os.environ["BOB" if name.startswith("bob") else "ALICE"])
        return sorted(api.list_repo_files(name, revision=revision))
for number, (case, name, options, again) in enumerate(CASES):
    model.wte.weight.data[0, 0] = number
    options = {"token": "alice", **options}
    options["token"] = secrets[options["token"]]
    result = {"before": files(name), "error": None, "again": None}
    try:
        push_model(model, tokenizer, name, **options)
    except Exception as error:
        result["error"] = [[kind.__name__ for kind in type(error).__mro__], str(error)]
    result["after"] = files(name)
    if again is not None:
        commit = push_model(model, tokenizer, name, token=os.environ["ALICE"], **again)
        result["again"] = files(name, commit.oid)
    results[case] = result
answer(results)
"""


@pytest.fixture(scope="module")
def faults(client):
    """Run every faulty push, and each again without the fault; what came of them, by name."""
    client.run(
        """
import os
from huggingface_hub import HfApi
bob, alice = (HfApi(token=os.environ[name]) for name in ("BOB", "HF_TOKEN"))
for name, private in (("open", False), ("private", True), ("gated", False)):
    bob.create_repo(f"bob/{name}", private=private)
bob.upload_file(path_or_fileobj=b"# Mine\\n", path_in_repo="README.md", repo_id="bob/gated")
alice.create_repo("alice/bert")
alice.upload_file(path_or_fileobj=b'{"model_type": "bert"}', path_in_repo="config.json", repo_id="alice/bert")
answer(None)
""",
        BOB=TOKENS["bob"],
    )
    client.hub.repositories["model", "bob/gated"].gated = True
    cases = []
    for number, (case, (name, options, fault, _, _)) in enumerate(FAULTS.items()):
        if fault is not None:
            path = {"put": f"PUT /object/{weights_oid(number)}"}.get(fault[0], f"POST /api/models/{name}/{fault[0]}/")
            client.hub.fault(path, fault[1])
        again = {"create_pr": True} if name == "bob/open" else {}  # what the message advises
        cases.append([case, name, options, None if case in HOPELESS else again])
    secrets = {"ALICE": TOKENS["alice"], "BOB": TOKENS["bob"], "READER": TOKENS["reader"]}
    return client.run(MAKE + f"CASES = {cases!r}\n" + PUSH_CASES, token=None, **secrets)


def weights_oid(number: int) -> str:
    """Return the sha256 of the weights that a case pushes; no two cases push the same."""
    return hashlib.sha256(safetensors.torch.save(numbered_model(number).state_dict(), {"format": "pt"})).hexdigest()


def numbered_model(number: int) -> GPTEmbeddingsModel:
    model = make_model(7)
    model.wte.weight.data[0, 0] = number
    return model


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_is_explained_and_nothing_is_half_published(faults, case):
    _, _, _, error_class, message = FAULTS[case]
    result = faults[case]
    if error_class is None:  # the client tries again by itself
        assert result["error"] is None
        return
    classes, text = result["error"]
    # Only a dropped request may end in either of two classes, which have this base in common.
    assert error_class in (classes if case == "cut at the commit" else classes[:1])
    assert re.search(message, text, re.DOTALL), text
    assert result["after"] in (result["before"], [".gitattributes"])
    if result["again"] is not None:
        assert set(result["again"]) == REPOSITORY_FILES, "the next try did not succeed"
    assert (result["again"] is None) == (case in HOPELESS)


def test_every_injected_fault_took_place(client, faults):
    assert [fault.pattern for fault in client.hub.faults if fault.times] == []


def test_a_commit_in_between_is_not_overwritten(client):
    """The server holds the push's commit back until another one has been made on the same branch."""
    client.run(MAKE + 'push_model(make_model(8), tokenizer, "alice/race")\nanswer(None)')
    client.hub.fault("POST /api/models/alice/race/commit", 3.0)
    done = []
    code = """
try:
    push_model(make_model(9), tokenizer, "alice/race")
except Exception as error:
    answer([type(error).__name__, str(error)])
"""
    thread = threading.Thread(target=lambda: done.append(client.run(MAKE + code)))
    thread.start()
    wait_for(client, "POST /api/models/alice/race/commit", 2)
    client.edit("alice/race", "notes.txt", "in between")
    thread.join()
    assert done[0][0] == "HfHubHTTPError" and re.search("412.*Push again to build on it", done[0][1], re.DOTALL)
    assert client.changed("alice/race") == {"notes.txt"}
    client.run(MAKE + 'push_model(make_model(9), tokenizer, "alice/race")\nanswer(None)')
    assert client.changed("alice/race") == {"model.safetensors"} and "notes.txt" in client.files("alice/race")


@pytest.mark.parametrize("moment", ["POST /api/models/alice/killed/commit", "PUT /object/"], ids=["commit", "upload"])
def test_killed_before_the_commit(client, folder, moment):
    client.hub.repositories.pop(("model", "alice/killed"), None)
    shutil.rmtree(client.hub.root / "model" / "alice" / "killed.git", ignore_errors=True)
    for path in client.hub.objects.iterdir():
        path.unlink()  # so that there is something to upload
    client.hub.fault(moment, 60.0)  # held back until the client is gone
    before = sum(asked.line.startswith(moment) for asked in client.hub.asked)
    command = ["-c", "from gpt_embeddings_cli import app; app()", "push", str(folder), "alice/killed"]
    with client.started(command, "alice") as process:
        wait_for(client, moment, before + 1)
        process.kill()  # SIGKILL
        process.wait()
        time.sleep(2)  # the server has let go of it
    assert set(client.files("alice/killed")) == {".gitattributes"}
    assert not list(client.hub.root.glob("tmp*"))
    result = client.command("push", str(folder), "alice/killed")
    assert result.returncode == 0, result.stderr
    assert set(client.files("alice/killed")) == REPOSITORY_FILES | {"training_metadata.json"}


def wait_for(client: Client, line: str, times: int) -> None:
    deadline = time.monotonic() + 120
    while sum(asked.line.startswith(line) for asked in client.hub.asked) < times:
        assert time.monotonic() < deadline, f"{line} was not asked for"
        time.sleep(0.02)


def test_xet_uploads(tmp_path):
    """With hf_xet, as installed by default, the large file takes another way to the same one commit."""
    with hub_server.running(tmp_path / "server", USERS, xet=True) as (hub, url):
        client = Client(hub, url, tmp_path / "clients")
        client.run(MAKE + 'push_model(make_model(10), tokenizer, "alice/xet")\nanswer(None)', xet=True)
        lines = [asked.line for asked in hub.asked]
        assert any("/xet-write-token/" in line for line in lines) and not any(line.startswith("PUT") for line in lines)
        log = hub.repositories["model", "alice/xet"].git("log", "--format=%s", "main").decode().splitlines()
        assert log == ["Upload model with gpt-embeddings", "initial commit"]
        code = f"""
import gpt_embeddings, torch
from transformers import AutoModel, AutoTokenizer
model = AutoModel.from_pretrained("alice/xet").eval()
batch = AutoTokenizer.from_pretrained("alice/xet")({TEXTS!r}, padding=True, return_tensors="pt")
with torch.no_grad():
    answer(digest(model(**batch).last_hidden_state))
"""
        assert client.run(code, token=None) == digest(token_vectors(make_model(10)))


class TestCommandLine:
    """What is refused before the Hub is asked, and how errors of the Hub look."""

    @staticmethod
    def invoke(*arguments):
        return CliRunner().invoke(app, ["push", *map(str, arguments)])

    def test_no_model(self, tmp_path):
        result = self.invoke(tmp_path, "alice/none")
        assert result.exit_code == 1 and "holds no config.json" in result.stderr

    def test_no_tokenizer(self, tmp_path):
        make_model(0).save_pretrained(tmp_path)
        result = self.invoke(tmp_path, "alice/none")
        assert result.exit_code == 1 and "No tokenizer at" in result.stderr

    def test_another_kind_of_model(self, tmp_path):
        (tmp_path / "config.json").write_text('{"model_type": "bert"}')
        result = self.invoke(tmp_path, "alice/none")
        assert result.exit_code == 1 and "holds a model of type 'bert'" in result.stderr

    def test_missing_weights(self, tmp_path, folder):
        shutil.copytree(folder, tmp_path / "model")
        weights = safetensors.torch.load_file(folder / "model.safetensors")
        safetensors.torch.save_file({"wte.weight": weights["wte.weight"]}, tmp_path / "model" / "model.safetensors")
        result = self.invoke(tmp_path / "model", "alice/none")
        assert result.exit_code == 1 and "lacks wpe.weight" in result.stderr

    def test_an_error_of_the_hub_is_one_message(self, client, folder):
        result = client.command("push", str(folder), "alice/none", token=None)
        assert result.returncode == 1 and "Traceback" not in result.stderr
        assert "There is no access token. Log in with `hf auth login`" in result.stderr

    def test_options(self, client, folder):
        options = ["--private", "--license", "mit", "--base-model", "openai-community/gpt2", "--dataset", "alice/text"]
        result = client.command("push", str(folder), "alice/options", *options, "--revision", "next")
        assert result.returncode == 0, result.stderr
        assert client.hub.repositories["model", "alice/options"].private
        card = client.text("alice/options", "README.md", "next")
        assert "license: mit\n" in card and "base_model: openai-community/gpt2\n" in card and "- alice/text\n" in card
        result = client.command("push", str(folder), "alice/options", "--create-pr")
        assert result.returncode == 0 and f"{client.url}/alice/options/discussions/1" in result.stdout
        assert set(client.files("alice/options", "main")) == {".gitattributes"}


class TestSaveFolder:
    def test_it_can_be_written_again(self, tmp_path):
        tokenizer = load_tokenizer()
        make_model(0).save_pretrained(tmp_path, max_shard_size="1MB")
        (tmp_path / "notes.txt").write_text("mine")
        save_folder(tmp_path, make_model(1), tokenizer)
        first = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        names = {path.relative_to(tmp_path).as_posix() for path in first}
        assert names == (REPOSITORY_FILES - {".gitattributes"}) | {"notes.txt"}  # no stale shard, no index
        tokenizer(TEXTS, padding=True, truncation=True)  # leaves its mark on the tokenizer
        save_folder(tmp_path, make_model(1), tokenizer)
        assert {path: path.read_bytes() for path in first} == first
        assert tokenizer.model_max_length == 1024 and list(tmp_path.parent.glob(f".{tmp_path.name}*")) == []

    def test_a_tokenizer_with_more_entries_than_the_model(self, tmp_path):
        model = GPTEmbeddingsModel(GPTEmbeddingsConfig(vocab_size=100, n_embd=4))
        with pytest.raises(ValueError, match="50257 entries, more than the model's `vocab_size` 100"):
            save_folder(tmp_path / "model", model, load_tokenizer())
        assert list(tmp_path.iterdir()) == [tmp_path / "model"] and not list((tmp_path / "model").iterdir())


# Runs a script, and warm what it would start from nothing.
WARM = f"""
import os, runpy, subprocess, sys
sys.path.append({str(ROOT / "tests")!r})
import warm_python
def run(command, *, env, stdin, stdout, text):
    assert (command[0], stdin, stdout, text) == (sys.executable, subprocess.DEVNULL, subprocess.PIPE, True)
    home = env["HF_HOME"]
    if warm_python.WARM:  # the same words for each, and another folder: libraries read this once
        env["HF_HOME"] = "/proc/self/cwd"
    return warm_python.run(command[1:], env=env, cwd=home, stderr=None)
subprocess.run = run
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_the_check_for_the_real_hub(client):
    """`scripts/check_hub.py` passes here, and cleans up after itself."""
    before = set(client.hub.repositories)
    result = client.python(["-c", WARM, str(ROOT / "scripts" / "check_hub.py")], "alice")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("same      ") == 5 and "DIFFERENT" not in result.stdout
    assert set(client.hub.repositories) == before
    assert "states no licence" in result.stderr  # said at every push of a card without one
