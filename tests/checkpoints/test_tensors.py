"""Checkpoints in every form, whole and broken, on disk and on a server that counts."""

import json
import os
from unittest.mock import Mock

import pytest
import torch
from hub_server import TOKENS, local_hub
from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import HTTPError
from safetensors.torch import load_file, save_file, save_model
from tiny import new_gpt
from transformers import CTRLConfig, CTRLModel, GPT2Model

from gpt_embeddings import from_gpt
from gpt_embeddings.checkpoints import files
from modeling_gpt_embeddings import GPTEmbeddingsModel


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of huggingface_hub's use of its HTTP client


@pytest.fixture(scope="module")
def gpt():
    return new_gpt(n_layer=2)


@pytest.fixture
def folder(gpt, tmp_path):
    gpt.save_pretrained(tmp_path / "gpt")
    return tmp_path / "gpt"


def check(model, gpt):
    assert torch.equal(model.wte.weight, gpt.transformer.wte.weight.to(model.dtype))
    assert torch.equal(model.wpe.weight, gpt.transformer.wpe.weight.to(model.dtype))


def save_bin(gpt, folder, legacy=False, **more):
    folder.mkdir(exist_ok=True)
    gpt.config.save_pretrained(folder)
    state = {**gpt.state_dict(), **more}
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    return folder


def test_sharded_safetensors(gpt, tmp_path):
    gpt.save_pretrained(tmp_path, max_shard_size="5KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 3
    check(from_gpt(tmp_path), gpt)
    weight_map = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    needed = {weight_map["transformer.wte.weight"], weight_map["transformer.wpe.weight"]}
    for shard in shards:
        if shard.name not in needed:
            shard.unlink()
    check(from_gpt(tmp_path), gpt)
    (tmp_path / sorted(needed)[0]).unlink()
    with pytest.raises(FileNotFoundError, match=r"has no file 'model-.*'"):
        from_gpt(tmp_path)


def test_bin_and_sharded_bin(gpt, tmp_path):
    for legacy in (False, True):
        check(from_gpt(save_bin(gpt, tmp_path, legacy), dtype="bfloat16"), gpt)
    (tmp_path / "pytorch_model.bin").unlink()
    weight_map = {name: f"pytorch_model-{i % 2}.bin" for i, name in enumerate(gpt.state_dict())}
    for file in set(weight_map.values()):
        state = {name: tensor for name, tensor in gpt.state_dict().items() if weight_map[name] == file}
        torch.save(state, tmp_path / file)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    check(from_gpt(tmp_path), gpt)


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm was done",)


def test_a_bin_file_is_not_run(gpt, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = save_bin(gpt, tmp_path / "gpt", harm=Harmful())
    with pytest.raises(ValueError, match=r"pytorch_model.bin could not be read as tensors alone \(UnpicklingError"):
        from_gpt(folder)
    assert not (tmp_path / "harm was done").exists()


def test_broken_bin(gpt, tmp_path):
    gpt.config.save_pretrained(tmp_path)
    path = tmp_path / "pytorch_model.bin"
    for content, message in (
        (b"", "could not be read as tensors alone"),
        (b"x" * 1000, "could not be read as tensors alone"),
        (b"\x80\x02}q\x00.", "could not be read as tensors alone|There is no tensor"),
        (torch.zeros(3), "holds Tensor, not tensors by name"),
        ({"wte.weight": 3, "wpe.weight": 4}, r"'wte.weight' is int; a table has two axes, the dtype BF16, F16"),
    ):
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        with pytest.raises(ValueError, match=message):
            from_gpt(tmp_path)


@pytest.mark.parametrize("stored", [torch.float64, torch.bfloat16])
def test_dtype(gpt, stored, tmp_path):
    """The dtype is what `from_pretrained` gives: of the configuration, or of the file, or as asked."""
    state = {name: value.to(stored) for name, value in gpt.transformer.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for name in ("bfloat16", None):
        (tmp_path / "config.json").write_text(json.dumps({**gpt.config.to_dict(), "dtype": name}))
        source, model = GPT2Model.from_pretrained(tmp_path), from_gpt(tmp_path)
        assert model.dtype == source.dtype
        assert torch.equal(model.wte.weight, source.wte.weight)
        assert torch.equal(model.wpe.weight, source.wpe.weight)
    assert from_gpt(tmp_path, dtype=torch.float16).dtype == torch.float16
    assert from_gpt(tmp_path, dtype="torch.float64").dtype == torch.float64


def test_what_save_model_left_out_is_found_by_its_metadata(gpt, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**gpt.config.to_dict(), "tie_word_embeddings": False}))
    save_model(gpt, str(tmp_path / "model.safetensors"))
    assert "transformer.wte.weight" not in load_file(tmp_path / "model.safetensors")
    check(from_gpt(tmp_path), gpt)


def test_models_in_memory(gpt):
    for source in (gpt, gpt.transformer, torch.nn.DataParallel(gpt), torch.compile(gpt)):
        model = from_gpt(source)
        check(model, gpt)
        assert model.wte.weight.data_ptr() != gpt.transformer.wte.weight.data_ptr()
    with pytest.raises(ValueError, match="a Linear, has no `config`"):
        from_gpt(torch.nn.Linear(2, 3))
    with torch.device("meta"):
        empty = GPT2Model(gpt.config)
    with pytest.raises(ValueError, match=r"'wte.weight' is .* on the device 'meta'"):
        from_gpt(empty)


def test_a_configuration_that_disagrees(folder):
    config = json.loads((folder / "config.json").read_text())
    for field, value, message in (
        ("vocab_size", 42, r"`wte.weight` has the shape \(41, 24\), the configuration says \(42, 24\)"),
        ("n_positions", 13, r"`wpe.weight` has the shape \(12, 24\), the configuration says \(13, 24\)"),
        ("n_embd", "24", "`hidden_size` of the source's configuration must be a positive integer, got '24'"),
        ("n_positions", 10**15, "`n_positions` must be an integer from 1 to 16777216"),
        ("vocab_size", None, "`vocab_size` of the source's configuration must be a positive integer, got None"),
        ("embd_pdrop", 2.0, "`embd_pdrop` must be a number from 0 to 1, got 2.0"),
        ("dtype", "int8", "`dtype` must be .* got 'int8'"),
        ("model_type", "unheard_of", "'unheard_of' is not known; known are"),
        ("model_type", ["gpt2"], "`model_type` None is not known"),
        ("model_type", "gpt_embeddings", "GPTEmbeddingsModel already; load it with `from_pretrained`"),
    ):
        (folder / "config.json").write_text(json.dumps({**config, field: value}))
        with pytest.raises(Exception, match=message) as error:
            from_gpt(folder)
        assert isinstance(error.value, ValueError) or "Strict" in type(error.value).__name__


def test_a_broken_configuration(folder):
    for text in ("[]", "{"):
        (folder / "config.json").write_text(text)
        with pytest.raises(ValueError, match=r"config.json (is not valid JSON|holds list, not an object)"):
            from_gpt(folder)


BY_HAND = {"wte_key": "transformer.wte.weight", "wpe_key": "transformer.wpe.weight"}


def test_names_by_hand(gpt, folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "unheard_of"}))
    with pytest.raises(ValueError, match="wte_key="):
        from_gpt(folder)
    check(from_gpt(folder, **BY_HAND), gpt)
    (folder / "config.json").unlink()
    config = from_gpt(folder, **BY_HAND, position_offset=2, token_scale=3.0).config
    assert (config.n_positions, config.position_offset, config.token_scale) == (10, 2, 3.0)
    tokens = from_gpt(folder, wte_key=BY_HAND["wte_key"], position_embedding_type="none")
    assert tokens.wpe is None and torch.equal(tokens.wte.weight, gpt.transformer.wte.weight)
    with pytest.raises(ValueError, match=r"'transformer.h.0.ln_1.weight' is torch.float32 of shape \(24,\)"):
        from_gpt(folder, **{**BY_HAND, "wte_key": "transformer.h.0.ln_1.weight"})


def test_nothing_there(tmp_path):
    for name, kind, message in (
        (tmp_path, FileNotFoundError, r"has no checkpoint; looked for model.safetensors, "),
        ("nobody/nothing", OSError, r"could not be fetched .*`hf download nobody/nothing --local-dir FOLDER`"),
        ("not/a hub/name", FileNotFoundError, "neither a folder here nor a model on the Hub"),
    ):
        with pytest.raises(kind, match=message):
            from_gpt(name)
    path = tmp_path / "model.safetensors"
    path.touch()
    with pytest.raises(ValueError, match="is not a complete safetensors file"):
        from_gpt(path)
    with pytest.raises(NotADirectoryError, match="is a file; give the folder"):
        files.Folder(path)
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 497774208\n")
    with pytest.raises(ValueError, match="`git lfs pull`"):
        from_gpt(path)


def test_a_file_alone(gpt, tmp_path):
    save_model(gpt, tmp_path / "weights.safetensors")
    torch.save(gpt.state_dict(), tmp_path / "weights.pt")
    for path in (tmp_path / "weights.safetensors", tmp_path / "weights.pt"):
        check(from_gpt(path, **BY_HAND), gpt)
        with pytest.raises(FileNotFoundError, match=r"has no file 'config\.json'"):
            from_gpt(path)
        gpt.config.save_pretrained(tmp_path)
        check(from_gpt(path), gpt)  # with its configuration beside it, no name is needed
        (tmp_path / "config.json").unlink()


def test_any_module_by_the_names_of_its_tables(gpt):
    tables = torch.nn.ModuleDict({"tokens": gpt.transformer.wte, "places": gpt.transformer.wpe})
    for module in (tables, torch.nn.DataParallel(tables)):
        model = from_gpt(module, wte_key="tokens.weight", wpe_key="places.weight")
        check(model, gpt)
        assert (model.config.vocab_size, model.config.n_positions, model.config.n_embd) == (41, 12, 24)
    alone = from_gpt(tables, wte_key="tokens.weight", position_embedding_type="none")
    assert alone.wpe is None and torch.equal(alone.wte.weight, gpt.transformer.wte.weight)
    with pytest.raises(ValueError, match=r"no tensor 'wte\.weight' in the checkpoint.* It has 2 tensors: 'places"):
        from_gpt(tables, wte_key="wte.weight", wpe_key="places.weight")


def entry(**changes):
    return {"dtype": "F32", "shape": [41, 24], "data_offsets": [0, 41 * 24 * 4], **changes}


too_large = Mock(side_effect=RuntimeError("unable to mmap"))

# Broken files: their header, its stated length, and the error when they are read by ranges.
BROKEN = [
    (b"", 2**63, "header claims 9223372036854775808 bytes"),
    (b"{}", 3, "header claims 3 bytes, the file has 10"),
    (b"\xff\xfe", None, "its header is broken"),
    (b"[1]", None, "its header is broken"),
    (entry(shape=[41, 25]), None, "'wte.weight' cannot be read"),
    (entry(data_offsets=[10**15, 10**15 + 3936]), None, "a range of the right size within the file's 5088 bytes"),
    (entry(data_offsets=[-8, 3928]), None, "'wte.weight' cannot be read"),
    (entry(shape=[41.0, 24]), None, "'wte.weight' cannot be read"),
    (entry(shape=None), None, "'wte.weight' cannot be read"),
    ([1], None, "'wte.weight' cannot be read"),
]
# Those that are whole, and hold something else than the two tables.
WHOLE = [
    ({}, None, "There is no tensor 'wte.weight'"),
    (entry(dtype="I32"), None, "'wte.weight' .*BF16, F16, F32, F64"),
    (entry(shape=[984]), None, r"of shape \(984,\).*; a table has two axes"),
    (entry(shape=[24, 41]), None, r"the configuration says \(41, 24\)"),
]


@pytest.mark.parametrize(("header", "length", "message"), [*BROKEN, *WHOLE])
def test_broken_safetensors(folder, header, length, message, monkeypatch):
    """Both readers refuse: the library's, and the one for files on the Hub or larger than memory."""
    whole = (header, length, message) in WHOLE
    if isinstance(header, (dict, list)):
        wpe = {"dtype": "F32", "shape": [12, 24], "data_offsets": [3936, 3936 + 12 * 24 * 4]}
        header = {"wte.weight": header, "wpe.weight": wpe} if header else {}
    data = bytes(3936 + 1152) if length is None and header else b""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = (len(text) if length is None else length).to_bytes(8, "little")
    (folder / "model.safetensors").write_bytes(size + text + data)
    with pytest.raises(ValueError, match=message if whole else "is not a complete safetensors file"):
        from_gpt(folder)
    monkeypatch.setattr(files, "safe_open", too_large)
    with pytest.raises(ValueError, match=message):
        from_gpt(folder)


def test_a_file_larger_than_memory_is_read_by_ranges(gpt, folder, monkeypatch):
    """The library maps all of a file, which the system may refuse."""
    monkeypatch.setattr(files, "safe_open", too_large)
    check(from_gpt(folder), gpt)


def test_an_index_that_is_wrong(gpt, tmp_path):
    gpt.save_pretrained(tmp_path, max_shard_size="5KB")
    path = tmp_path / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["transformer.wpe.weight"] = index["weight_map"]["transformer.ln_f.bias"]
    path.write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"has no tensor 'transformer.wpe.weight', which model.safetensors.index"):
        from_gpt(tmp_path)
    for name in ("../secret.safetensors", "/etc/passwd", "..", "", 3, "a\\b"):
        path.write_text(json.dumps({"weight_map": {"wte.weight": name}}))
        with pytest.raises(ValueError, match="which is not a file of this folder"):
            from_gpt(tmp_path)
    path.write_text(json.dumps({"weight_map": [1]}))
    with pytest.raises(ValueError, match="has no `weight_map`"):
        from_gpt(tmp_path)


def test_a_configuration_that_asks_for_too_many_sinusoids(tmp_path):
    config = CTRLConfig(vocab_size=41, n_positions=12, n_embd=24, n_layer=1, n_head=2, dff=8)
    CTRLModel(config).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config.to_dict(), "n_positions": 2**24}))
    with pytest.raises(ValueError, match="asks for sinusoids of 16777216 x 24 entries"):
        from_gpt(tmp_path)


def test_mapped_tables_are_copied_where_written_to_and_when_the_source_is_saved_over(gpt, folder):
    model, before = from_gpt(folder), (folder / "model.safetensors").read_bytes()
    with torch.no_grad():
        model.wte.weight.add_(1)
        model.wpe.weight.add_(1)
    assert (folder / "model.safetensors").read_bytes() == before
    model = from_gpt(folder)
    gpt.save_pretrained(folder, max_shard_size="5KB")
    model.save_pretrained(folder)
    check(model, gpt)
    check(GPTEmbeddingsModel.from_pretrained(folder), gpt)


@pytest.fixture(scope="module")
def larger():
    """A model of 8 MB, of which 4 MB are the token table."""
    return new_gpt(vocab_size=8000, n_positions=16, n_embd=128, n_layer=5)


@pytest.fixture(scope="module")
def server(larger, gpt, tmp_path_factory):
    """A server with three models, to which this process is pointed."""
    root = tmp_path_factory.mktemp("models")
    larger.save_pretrained(root / "larger")
    gpt.save_pretrained(root / "sharded", max_shard_size="5KB")
    save_bin(gpt, root / "bin")
    with local_hub(tmp_path_factory.mktemp("hub")) as (hub, patch):
        for name in ("larger", "sharded", "bin"):
            HfApi().create_repo(f"alice/{name}")
            HfApi().upload_folder(repo_id=f"alice/{name}", folder_path=root / name)
        patch.delenv("HF_TOKEN")
        yield hub


@pytest.fixture
def hub(server, tmp_path, monkeypatch):
    """The server without a log, and an empty cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    server.asked.clear()
    yield server
    repository = server.model("alice/larger")
    repository.private = repository.gated = False
    server.faults.clear()


def contents(hub):
    """What was asked of the second origin, which has the large files."""
    return [asked for asked in hub.asked if asked.origin == "cdn" and asked.line.startswith("GET")]


def test_hub_transfers_the_tables_alone(hub, larger):
    check(from_gpt("alice/larger"), larger)
    tables, sent = (8000 + 16) * 128 * 4, sum(asked.sent for asked in contents(hub))
    assert tables < sent < tables + 2**14  # the header is all that is read beside them
    assert sent < 0.9 * 4 * larger.num_parameters()
    assert all(asked.range for asked in contents(hub))
    # All files come from the commit of the first answer.
    commit = hub.model("alice/larger").head()
    assert all(f"/resolve/{commit}/" in asked.line for asked in hub.asked if "/resolve/" in asked.line)


def test_hub_gives_each_form_of_checkpoint(hub, larger, gpt, monkeypatch):
    check(from_gpt("alice/sharded"), gpt)
    check(from_gpt("alice/bin"), gpt)
    with monkeypatch.context() as patch:
        patch.setattr(files, "BLOCK_BYTES", 1_000_001)  # the table of 4 MB in 5 requests
        hub.asked.clear()
        check(from_gpt("alice/larger"), larger)
        assert len(contents(hub)) == 2 + 5 + 1
    monkeypatch.setattr(hub, "ranges", False)  # the whole file is what such a server sends
    check(from_gpt("alice/larger"), larger)


def test_hub_connection_that_breaks(hub, larger):
    hub.faults.extend([("GET /object/", "half")] * 3)
    check(from_gpt("alice/larger"), larger)
    hub.faults.extend([("GET /object/", "half")] * 20)
    with pytest.raises(OSError, match=r"'alice/larger.*' .* could not be fetched .*\(.*clos"):
        from_gpt("alice/larger")


def test_what_the_client_lacks(hub):
    """Why headers on the Hub are read here: its own function returns no length of the header, and does not retry."""
    metadata = HfApi().parse_safetensors_file_metadata("alice/larger", "model.safetensors")
    assert vars(metadata).keys() == {"metadata", "tensors", "parameter_count"}
    hub.faults.append(("GET /object/", "half"))
    with pytest.raises(HTTPError, match="closed"):
        HfApi().parse_safetensors_file_metadata("alice/larger", "model.safetensors")


def test_hub_private_gated_and_missing(hub, larger):
    repository = hub.model("alice/larger")
    repository.private = True
    with pytest.raises(FileNotFoundError, match=r"'alice/larger' is neither a folder here nor a model on the Hub"):
        from_gpt("alice/larger")
    check(from_gpt("alice/larger", token=TOKENS["alice"]), larger)
    assert not any(asked.with_token for asked in contents(hub))
    repository.private, repository.gated = False, True
    with pytest.raises(FileNotFoundError, match=r"'alice/larger' is neither .* a gated one that you ask for access"):
        from_gpt("alice/larger", token=TOKENS["bob"])
    repository.gated = False
    check(from_gpt("alice/larger", revision=repository.head()), larger)
    with pytest.raises(OSError, match=r"'alice/larger at v9' .* could not be fetched (.|\n)*Revision Not Found"):
        from_gpt("alice/larger", revision="v9")
    with pytest.raises(FileNotFoundError, match="'alice/nothing' is neither"):
        from_gpt("alice/nothing")


def test_hub_files_in_the_cache_are_used(hub, larger, monkeypatch):
    hf_hub_download("alice/larger", "model.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        check(from_gpt("alice/larger", **BY_HAND), larger)
    hf_hub_download("alice/larger", "config.json")
    hub.asked.clear()
    check(from_gpt("alice/larger"), larger)
    assert not contents(hub)
    hub.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    check(from_gpt("alice/larger"), larger)
    assert not hub.asked
