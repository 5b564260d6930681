"""What a Hugging Face model promises: save, load, Auto classes, remote code, dtypes, devices, compile, export."""

import copy
import json
import pickle

import pytest
import torch
from datasets.fingerprint import Hasher
from tiny import new_model
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from modeling_gpt_embeddings import (
    GPTEmbeddingsConfig,
    GPTEmbeddingsForCausalLM,
    GPTEmbeddingsForSequenceClassification,
    GPTEmbeddingsModel,
)


KINDS = ["learned", "sinusoidal", "none"]
IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])


@pytest.fixture(params=KINDS)
def model(request) -> GPTEmbeddingsModel:
    return new_model(vocab_size=40, position_embedding_type=request.param)


def assert_same(got, model, dtype=torch.float32) -> None:
    assert type(got).__name__ == "GPTEmbeddingsModel"
    assert not got.training
    with torch.no_grad():
        ours, theirs = (m(IDS, attention_mask=MASK) for m in (copy.deepcopy(model).to(dtype), got))
    assert torch.equal(ours.last_hidden_state, theirs.last_hidden_state)
    assert torch.equal(ours.pooler_output, theirs.pooler_output)


def auto_map(folder) -> dict[str, str]:
    return json.loads((folder / "config.json").read_text())["auto_map"]


class TestSaveAndLoad:
    @pytest.mark.parametrize(
        ("kind", "auto", "fields"),
        [
            *((GPTEmbeddingsModel, AutoModel, {"position_embedding_type": kind}) for kind in KINDS),
            (GPTEmbeddingsForCausalLM, AutoModelForCausalLM, {"tie_word_embeddings": True}),
            (GPTEmbeddingsForCausalLM, AutoModelForCausalLM, {"tie_word_embeddings": False}),
            (GPTEmbeddingsForSequenceClassification, AutoModelForSequenceClassification, {"num_labels": 3}),
        ],
    )
    def test_saved_and_loaded(self, kind, auto, fields, tmp_path):
        model = new_model(kind, vocab_size=40, **fields)
        model.save_pretrained(tmp_path / "one")
        code = {"configuration_gpt_embeddings.py", "modeling_gpt_embeddings.py"}
        saved = {path.name for path in (tmp_path / "one").iterdir()} - {"generation_config.json"}
        assert saved == {"config.json", "model.safetensors", *code}
        classes = {
            "AutoConfig": "configuration_gpt_embeddings.GPTEmbeddingsConfig",
            "AutoModel": "modeling_gpt_embeddings.GPTEmbeddingsModel",
        }
        assert auto_map(tmp_path / "one") == {**classes, auto.__name__: f"modeling_gpt_embeddings.{kind.__name__}"}
        assert type(AutoConfig.from_pretrained(tmp_path / "one")) is GPTEmbeddingsConfig
        for loader, options in ((auto, {"trust_remote_code": True}), (auto, {}), (kind, {})):
            loaded, report = loader.from_pretrained(tmp_path / "one", output_loading_info=True, **options)
            # transformers 5.0 takes the code of the folder where it is trusted, later versions the installed one.
            assert type(loaded) is kind or (options and type(loaded).__name__ == kind.__name__)
            assert not any(report.values()) and not loaded.training
            assert torch.equal(loaded(IDS, MASK)[0], model(IDS, MASK)[0])
        if kind is GPTEmbeddingsForCausalLM:
            assert (loaded.lm_head.weight is loaded.transformer.wte.weight) == fields["tie_word_embeddings"]
        loaded.save_pretrained(tmp_path / "two")
        for path in (tmp_path / "one").iterdir():
            assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
        base = AutoModel.from_pretrained(tmp_path / "one")
        assert torch.equal(base(IDS).last_hidden_state, model.base_model(IDS).last_hidden_state)
        base.save_pretrained(tmp_path / "base")  # which has no head to offer
        assert auto_map(tmp_path / "base") == classes

    def test_sharded(self, tmp_path):
        model = new_model(vocab_size=40)
        model.save_pretrained(tmp_path, max_shard_size="1KB")
        assert (tmp_path / "model.safetensors.index.json").exists()
        assert_same(AutoModel.from_pretrained(tmp_path, device_map="cpu"), model)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
    def test_dtype(self, model, tmp_path, dtype):
        model.save_pretrained(tmp_path)
        loaded = AutoModel.from_pretrained(tmp_path, dtype=dtype)
        buffers, expected = dict(loaded.named_buffers()), dict(model.named_buffers())
        assert buffers.keys() == expected.keys()
        assert all(torch.equal(buffers[name], expected[name]) for name in expected)
        assert loaded.wte.weight.dtype == loaded(IDS).last_hidden_state.dtype == dtype
        assert_same(loaded, model, dtype)
        copy.deepcopy(model).to(dtype).save_pretrained(tmp_path)
        assert_same(AutoModel.from_pretrained(tmp_path), model, dtype)

    def test_filled_after_the_meta_device_or_copied(self, model):
        with torch.device("meta"):
            empty = GPTEmbeddingsModel(model.config)
        assert empty(IDS.to("meta")).last_hidden_state.shape == (2, 4, 8)
        empty.to_empty(device="cpu").load_state_dict(model.state_dict())
        empty.initialize_weights()  # what is not in a state dict is filled here
        empty.load_state_dict(model.state_dict())
        for same in (empty.eval(), pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
            assert_same(same, model)


class Opaque(torch.Tensor):
    """A table as torchao quantizes them: it knows the operations of `nn.Embedding` and `nn.Linear` alone."""

    @staticmethod
    def __new__(cls, weight: torch.Tensor):
        table = torch.Tensor._make_wrapper_subclass(cls, weight.shape, dtype=weight.dtype)
        table.rows = weight.detach()
        return table

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function in (torch.nn.functional.embedding, torch.nn.functional.linear):
            args = [getattr(argument, "rows", argument) for argument in args]
            return function(*args, **(kwargs or {}))
        return super().__torch_function__(function, types, args, kwargs)

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.detach.default:
            return args[0]
        raise NotImplementedError(function)


class TestOtherWeights:
    """Models of which other libraries have changed the weights or where these are."""

    IDS, ENDS = torch.tensor([1, 2, 3, 4, 5]), torch.tensor([0, 2, 5])

    def vectors(self, model) -> list[torch.Tensor]:
        with torch.no_grad():
            bags, flat = model.embed_bags(self.IDS, self.ENDS), model.embed_flat(self.IDS, torch.arange(5))
            return [bags, flat, model(self.IDS[None]).last_hidden_state, model(self.IDS[None]).pooler_output]

    @pytest.mark.parametrize(
        ("where", "kind", "pooling"),
        [("cpu", "sinusoidal", "weighted"), ("cpu", "none", "mean"), ("disk", "learned", "weighted")],
    )
    def test_offloaded_by_accelerate(self, kind, pooling, where, tmp_path):
        import accelerate

        model = new_model(vocab_size=40, position_embedding_type=kind)
        if pooling == "weighted":
            model.set_token_weights(torch.rand(40))
        expected = self.vectors(model)
        moved = accelerate.cpu_offload(model) if where == "cpu" else accelerate.disk_offload(model, tmp_path)
        assert moved.wte.weight.device.type == "meta"
        torch.testing.assert_close(self.vectors(moved), expected)

    def test_meta_device(self, model):
        empty, bags = model.to("meta"), (self.IDS, self.ENDS)
        weighted = new_model(vocab_size=40, position_embedding_type="none")
        weighted.set_token_weights(torch.ones(40))
        weighted.token_weights = weighted.token_weights.to("meta")  # where `offload_buffers=True` keeps them
        for embed, inputs in ((empty.embed_bags, bags), (empty.embed_flat, (self.IDS,)), (weighted.embed_bags, bags)):
            with pytest.raises(ValueError, match=r"on the meta device, where its tables have no values\. Load it"):
                embed(*inputs)

    @pytest.mark.parametrize("part", ["wte", "wpe", "lm_head"])
    def test_quantized_tables(self, part):
        head = new_model(GPTEmbeddingsForCausalLM, vocab_size=40, tie_word_embeddings=False)
        model, table = head.transformer, head.lm_head if part == "lm_head" else head.transformer.get_submodule(part)
        with torch.no_grad():
            expected = [*self.vectors(model), head(IDS, labels=IDS).loss]
            table.weight = torch.nn.Parameter(Opaque(table.weight), requires_grad=False)
            torch.testing.assert_close([*self.vectors(model), head(IDS, labels=IDS).loss], expected)

    @pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
    def test_a_hook_or_adapter_of_wpe_gets_a_row_for_each_text(self, grad):
        model, shapes = new_model(vocab_size=40), []
        ids = torch.randint(0, 40, (6, 12))
        model.wpe.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(inputs[0].shape)))
        with torch.set_grad_enabled(grad):
            model(ids)
            model(ids, position_ids=torch.arange(12).repeat(6, 1))
            model(ids, attention_mask=torch.ones_like(ids).tril(6))
        assert shapes == [(6, 12)] * 3

    def test_hash(self, model, tmp_path):
        """The hash that `datasets` makes for `map` is that of the weights, before and after use."""
        model.save_pretrained(tmp_path)
        first, second = (AutoModel.from_pretrained(tmp_path) for _ in range(2))
        digest = Hasher.hash(first)
        first.embed_bags(self.IDS, self.ENDS)
        assert Hasher.hash(first) == Hasher.hash(second) == digest

    @pytest.mark.filterwarnings("ignore::FutureWarning")  # the method has another name from 5.2x on
    @pytest.mark.parametrize(
        "kind", [GPTEmbeddingsModel, GPTEmbeddingsForCausalLM, GPTEmbeddingsForSequenceClassification]
    )
    def test_gradient_checkpointing(self, kind):
        """Which there is nothing to do for; a model that contains ours turns it on for all of its parts."""
        model = kind(new_model(vocab_size=40).config)
        model.gradient_checkpointing_enable()
        model.train()(IDS).to_tuple()[0].sum().backward()
        assert model.get_input_embeddings().weight.grad.any()
        model.gradient_checkpointing_disable()


class TestCompileAndExport:
    @pytest.mark.slow
    def test_compile_fullgraph(self):
        """With a loss and gradients: tests/test_heads.py."""
        torch._dynamo.reset()
        model = new_model(vocab_size=40)
        compiled = torch.compile(model, fullgraph=True, dynamic=True)
        for ids, mask in ((IDS, MASK), (IDS.repeat(3, 2), MASK.repeat(3, 2))):
            for options in ({"attention_mask": mask}, {"position_ids": torch.arange(ids.shape[1]).flip(0)[None]}):
                with torch.no_grad():
                    got, expected = compiled(ids, **options), model(ids, **options)
                torch.testing.assert_close(got.last_hidden_state, expected.last_hidden_state, rtol=0, atol=0)
                torch.testing.assert_close(got.pooler_output, expected.pooler_output)

    @pytest.mark.slow
    def test_compiled_graphs_refuse_ids_outside_the_tables(self):
        torch._dynamo.reset()
        model = new_model(vocab_size=40, position_embedding_type="sinusoidal")
        compiled = torch.compile(model, fullgraph=True)
        for ids in ([[0, 40]], [[-1, 0]]):
            with pytest.raises(RuntimeError, match="`input_ids` must lie from 0 to 39"):
                compiled(torch.tensor(ids))
        with pytest.raises(RuntimeError, match="`position_ids` must lie from 0 to 15"):
            compiled(torch.tensor([[1, 2]]), position_ids=torch.tensor([[0, 16]]))

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
    def test_onnx_by_torchscript(self, tmp_path):
        """The exporter of today is what `export_model` uses, and is tested there."""
        import onnxruntime

        model = new_model(vocab_size=40, position_embedding_type="sinusoidal")
        path, axes = tmp_path / "model.onnx", {0: "batch", 1: "position"}
        names = {"input_names": ["input_ids", "attention_mask"], "output_names": ["hidden", "pooled"]}
        dynamic = {"input_ids": axes, "attention_mask": axes, "hidden": axes, "pooled": {0: "batch"}}
        torch.onnx.export(model, (IDS, MASK), path, dynamo=False, dynamic_axes=dynamic, **names)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        for ids, mask in ((IDS, MASK), (IDS.repeat(3, 2), MASK.repeat(3, 2).flip(1))):
            hidden, pooled = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
            expected = model(ids, attention_mask=mask)
            torch.testing.assert_close(torch.from_numpy(hidden), expected.last_hidden_state, rtol=0, atol=0)
            torch.testing.assert_close(torch.from_numpy(pooled), expected.pooler_output)
