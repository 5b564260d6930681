"""GPTs with adapters of PEFT on their tables: what the adapted model really computes, or a refusal."""

import pytest
import torch
from safetensors.torch import save_file
from tiny import new_gpt
from transformers import BioGptConfig, BioGptForCausalLM

from gpt_embeddings import from_gpt, to_gpt


peft = pytest.importorskip("peft")
pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("UserWarning", "FutureWarning")]  # its own

IDS = torch.tensor([[5, 17, 3, 40], [0, 1, 2, 17]])
KINDS = {
    "saved whole": {"modules_to_save": ["wte"], "target_modules": ["c_attn"]},
    "saved whole, both": {"modules_to_save": ["wte", "wpe"], "target_modules": ["c_attn"]},
    "low rank": {"target_modules": ["wte", "c_attn"]},
    "low rank, both": {"target_modules": ["wte", "wpe"]},
    "single tokens": {"trainable_token_indices": {"wte": [3, 17]}, "target_modules": ["c_attn"]},
    "attention alone": {"target_modules": ["c_attn"]},
}


def adapt(gpt, **options):
    """Return the model with an adapter that has been trained, as far as anyone can tell."""
    model = peft.get_peft_model(gpt, peft.LoraConfig(r=2, fan_in_fan_out=True, **options)).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    return model


def first_hidden_state(model):
    with torch.no_grad():
        return model(IDS, output_hidden_states=True).hidden_states[0]


@pytest.mark.parametrize("kind", KINDS)
def test_the_tables_are_the_adapted_ones(kind):
    adapted = adapt(new_gpt(), **KINDS[kind])
    for source in (adapted, adapted.get_base_model()):
        expected = first_hidden_state(source)
        assert torch.equal(expected, first_hidden_state(new_gpt())) == (kind == "attention alone")
        with torch.no_grad():
            found = from_gpt(source)(IDS).last_hidden_state
        torch.testing.assert_close(found, expected, rtol=0, atol=0 if "low rank" not in kind else 1e-6)


@pytest.mark.parametrize("kind", ["saved whole", "low rank", "single tokens"])
def test_an_adapter_that_was_written_out_or_is_to_be_written_to(kind, tmp_path):
    adapted = adapt(new_gpt(), **KINDS[kind])
    new_gpt().config.save_pretrained(tmp_path)
    state = {name: value.clone() for name, value in adapted.get_base_model().state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"'wte\.weight' is stored in parts .*Call `merge_and_unload\(\)`"):
        from_gpt(tmp_path)  # the head, tied as the configuration says, is not the table
    before = {name: value.clone() for name, value in state.items()}
    with pytest.raises(ValueError, match=r"Call `merge_and_unload\(\)`"):
        to_gpt(from_gpt(new_gpt()), adapted)
    assert all(torch.equal(value, before[name]) for name, value in adapted.get_base_model().state_dict().items())
    if kind != "single tokens":  # peft leaves the tie behind there
        merged = adapted.merge_and_unload()
        with torch.no_grad():
            assert torch.equal(from_gpt(merged)(IDS).last_hidden_state, first_hidden_state(merged))


def test_what_the_tables_alone_do_not_say_is_refused(tmp_path):
    config = BioGptConfig(vocab_size=41, hidden_size=24, num_hidden_layers=1, num_attention_heads=2)
    options = {"modules_to_save": ["embed_tokens"], "target_modules": ["q_proj"]}
    with pytest.raises(ValueError, match="is stored in parts"):
        from_gpt(adapt(BioGptForCausalLM(config).eval(), **options))
    adapt(new_gpt(), **KINDS["attention alone"]).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"holds an adapter of PEFT.* the model that `merge_and_unload"):
        from_gpt(tmp_path)
    prompt = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    with pytest.raises(ValueError, match="a learned prompt before its tokens"):
        from_gpt(peft.get_peft_model(new_gpt(), prompt))


def test_a_parametrization():
    gpt = new_gpt()
    torch.nn.utils.parametrizations.weight_norm(gpt.transformer.wte)
    with torch.no_grad():
        gpt.transformer.wte.parametrizations.weight.original0.mul_(3)
        assert torch.equal(from_gpt(gpt)(IDS).last_hidden_state, first_hidden_state(gpt))
