"""Every family against its own model in transformers: `hidden_states[0]`, bit for bit."""

import math

import pytest
import torch
import transformers
from transformers import AutoModel, DynamicCache
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from gpt_embeddings import from_gpt, to_gpt
from gpt_embeddings.checkpoints.families import FAMILIES, find_keys, source_fields
from modeling_gpt_embeddings import GPTEmbeddingsModel


VOCAB, LENGTH, N = 41, 12, 24
DTYPES = [torch.float32, torch.bfloat16, torch.float16]

# Tiny models of every family, more than one where the input stage has variants. Special ids of the defaults lie
# outside these vocabularies, as they do in many fine-tuned models.
GPT2_LIKE = {"n_positions": LENGTH, "n_embd": N, "n_layer": 1, "n_head": 2}
LLAMA_LIKE = {"hidden_size": N, "num_hidden_layers": 1, "num_attention_heads": 2}
OPT = {**LLAMA_LIKE, "max_position_embeddings": LENGTH, "ffn_dim": 8}
BIOGPT = {**LLAMA_LIKE, "max_position_embeddings": LENGTH, "intermediate_size": 8}
XGLM = {"d_model": N, "num_layers": 1, "attention_heads": 2, "max_position_embeddings": LENGTH, "ffn_dim": 8}
GPT_NEO = {"max_position_embeddings": LENGTH, "hidden_size": N, "num_layers": 1, "num_heads": 2}
CASES = {
    "gpt2": ("gpt2", GPT2_LIKE),
    "openai-gpt": ("openai-gpt", GPT2_LIKE),
    "gpt_neo": ("gpt_neo", {**GPT_NEO, "attention_types": [[["global"], 1]]}),
    "gpt_bigcode": ("gpt_bigcode", GPT2_LIKE),
    "opt": ("opt", OPT),
    "opt-projected": ("opt", {**OPT, "word_embed_proj_dim": 10}),
    "opt-projected-wider": ("opt", {**OPT, "word_embed_proj_dim": 40, "pad_token_id": None}),
    "biogpt": ("biogpt", BIOGPT),
    "biogpt-unscaled": ("biogpt", {**BIOGPT, "scale_embedding": False}),
    "xglm": ("xglm", XGLM),
    "xglm-unscaled": ("xglm", {**XGLM, "scale_embedding": False, "pad_token_id": None}),
    "xglm-zero-row": ("xglm", {**XGLM, "pad_token_id": 5}),
    "ctrl": ("ctrl", {**GPT2_LIKE, "dff": 8}),
    "imagegpt": ("imagegpt", GPT2_LIKE),
}
# Every family in float32; three that differ in all that they compute in half precision, too.
IN_DTYPES = [(case, torch.float32) for case in CASES]
IN_DTYPES += [(case, dtype) for case in ("gpt2", "opt-projected", "ctrl") for dtype in DTYPES[1:]]
TOKEN_TYPES = {"gpt2", "openai-gpt", "gpt_neo", "gpt_bigcode", "ctrl", "imagegpt"}


def new_config(case, **fields):
    model_type, sizes = CASES[case]
    return transformers.CONFIG_MAPPING[model_type](**{"vocab_size": VOCAB, **sizes, **fields})


def new_model(case, seed=0, auto=AutoModel, **fields):
    torch.manual_seed(seed)
    make = getattr(auto, "from_config", auto)  # an auto class, or a class
    return make(new_config(case, **fields)).eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folders with a tiny saved model, made when they are first asked for."""
    folders = {}

    def folder(case):
        if case not in folders:
            folders[case] = tmp_path_factory.mktemp(case)
            new_model(case).save_pretrained(folders[case])
        return folders[case]

    return folder


def first_hidden_state(source, **inputs):
    """The source's input stage; not `hidden_states[0]` of the output alone, as some models record it differently."""
    with torch.no_grad():
        return source(**inputs, output_hidden_states=True).hidden_states[0]


def ours(model, **inputs):
    with torch.no_grad():
        return model(**inputs).last_hidden_state


def some_ids(batch=3, length=9, seed=1):
    return torch.randint(0, VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


RIGHT = torch.tensor([[1] * 9, [1] * 5 + [0] * 4, [1] + [0] * 8])
LEFT = RIGHT.flip(1)
# What `generate()` gives to the model for LEFT.
LEFT_POSITIONS = (LEFT.cumsum(-1) - 1).masked_fill(LEFT == 0, 0)


@pytest.mark.parametrize(("case", "dtype"), IN_DTYPES, ids=str)
def test_vectors_are_those_of_the_source(case, dtype, saved):
    source = AutoModel.from_pretrained(saved(case), dtype=dtype).eval()
    model = from_gpt(saved(case), dtype=dtype)
    assert model.dtype == dtype and not model.training
    ids = some_ids()

    def same(ours_inputs, source_inputs=None):
        expected = first_hidden_state(source, **(source_inputs or ours_inputs))
        assert torch.equal(ours(model, **ours_inputs), expected)
        with torch.enable_grad():  # another order of the same operations, without writing in place
            assert torch.equal(model(**ours_inputs).last_hidden_state, expected)

    same({"input_ids": ids})
    same({"input_ids": ids[:1, :1]})
    same({"input_ids": some_ids(length=LENGTH)})
    same({"input_ids": ids, "attention_mask": RIGHT})
    padded = {"input_ids": ids, "attention_mask": LEFT}
    same(padded, {**padded, "position_ids": LEFT_POSITIONS})
    if CASES[case][0] != "opt":  # the plain forward of the others counts padding
        same({**padded, "position_ids": torch.arange(9).unsqueeze(0)}, padded)
    for position_ids in (torch.arange(9).flip(0).unsqueeze(0), torch.randint(0, LENGTH, (3, 9))):
        same({"input_ids": ids, "position_ids": position_ids})
    if case in TOKEN_TYPES:
        token_type_ids = some_ids(seed=2)
        same({"input_ids": ids, "token_type_ids": token_type_ids})
        same({"input_ids": ids, "token_type_ids": token_type_ids, "attention_mask": RIGHT})
    # The token part is what the source takes in place of ids.
    tokens = ours(model, input_ids=ids, add_positions=False)
    table = source.get_input_embeddings()
    unscaled = FAMILIES[CASES[case][0]].scale_inputs_embeds
    assert torch.equal(tokens, table.weight[ids] if unscaled else table(ids).detach())
    expected, before = first_hidden_state(source, input_ids=ids), tokens.clone()
    assert torch.equal(first_hidden_state(source, inputs_embeds=tokens.clone()), expected)  # CTRL scales it in place
    assert torch.equal(ours(model, inputs_embeds=tokens), expected)
    assert torch.equal(tokens, before)


@pytest.mark.parametrize("case", ["gpt2", "gpt_neo", "opt", "biogpt", "xglm-zero-row", "ctrl"])
def test_past(case, saved):
    source = AutoModel.from_pretrained(saved(case)).eval()
    model = from_gpt(saved(case))
    ids = some_ids()

    def cache():
        past = DynamicCache(config=source.config)
        with torch.no_grad():
            source(ids[:, :4], past_key_values=past, use_cache=True)
        return past

    expected = first_hidden_state(source, input_ids=ids[:, 4:], past_key_values=cache())
    ones = torch.ones_like(ids)
    for past in (
        {"past_length": 4},
        {"past_key_values": cache()},
        {"past_length": 4, "attention_mask": ones},
        {"past_length": 4, "attention_mask": ones[:, 4:]},
    ):
        assert torch.equal(ours(model, input_ids=ids[:, 4:], **past), expected)
    # A mask over past and present counts as `generate()` does.
    expected = first_hidden_state(
        source, input_ids=ids[:, 4:], past_key_values=cache(), position_ids=LEFT_POSITIONS[:, 4:], attention_mask=LEFT
    )
    output = model(ids[:, 4:], past_length=4, attention_mask=LEFT)
    assert torch.equal(output.last_hidden_state, expected)
    real = LEFT[:, 4:, None]
    means = (expected * real).sum(1) / real.sum(1).clamp(min=1)
    torch.testing.assert_close(output.pooler_output, means)


def test_opt_counts_by_its_mask_and_keeps_a_row_for_padding(saved):
    source = AutoModel.from_pretrained(saved("opt")).eval()
    model = from_gpt(saved("opt"))
    ids = some_ids()
    hidden = first_hidden_state(source, input_ids=ids, attention_mask=LEFT)
    assert torch.equal(ours(model, input_ids=ids, attention_mask=LEFT)[LEFT == 1], hidden[LEFT == 1])
    raw = (LEFT.cumsum(-1) * LEFT - 1).long()  # its own forward: padding is at -1
    assert torch.equal(ours(model, input_ids=ids, position_ids=raw), hidden)
    with pytest.raises(ValueError, match=r"`position_ids` must lie from -2 to 11 .* got -3"):
        model(ids, position_ids=raw - 2)


@pytest.mark.parametrize(("case", "dtype"), IN_DTYPES, ids=str)
def test_flat_path_is_the_padded_one(case, dtype, saved):
    model = from_gpt(saved(case), dtype=dtype)
    ids, lengths = some_ids(), RIGHT.sum(1)
    with torch.no_grad():
        expected = model(ids, attention_mask=RIGHT).pooler_output
        found = model.embed_bags(ids[RIGHT == 1], torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)]))
    assert found.dtype == expected.dtype
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.02}
    torch.testing.assert_close(found, expected, **tolerance)
    ids = some_ids(1, 2 * LENGTH + 3).flatten()
    with torch.no_grad():  # windows begin again at position 0
        found = model.embed_bags(ids, [0, len(ids)], overflow="windows")
        parts = [model(window.unsqueeze(0)).last_hidden_state[0] for window in ids.split(LENGTH)]
    torch.testing.assert_close(found[0], torch.cat(parts).mean(0), **tolerance)


# One for each kind of position, each with fields of its own.
@pytest.mark.parametrize("case", ["gpt2", "opt-projected", "biogpt", "xglm-zero-row", "ctrl"])
def test_saved_and_loaded_again(case, saved, tmp_path):
    model = from_gpt(saved(case), dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    again = GPTEmbeddingsModel.from_pretrained(tmp_path)
    assert again.dtype == torch.bfloat16
    assert again.config.to_diff_dict() == model.config.to_diff_dict()
    # The class in the code of the folder, which `AutoModel` passes over where ours is registered.
    remote = get_class_from_dynamic_module("modeling_gpt_embeddings.GPTEmbeddingsModel", str(tmp_path))
    expected = ours(model, input_ids=some_ids(), attention_mask=LEFT)
    for same in (again, remote.from_pretrained(tmp_path)):
        assert torch.equal(ours(same, input_ids=some_ids(), attention_mask=LEFT), expected)


@pytest.mark.parametrize("case", ["xglm", "xglm-zero-row", "ctrl"])
def test_longer_sinusoids_are_the_source_s(case, saved):
    model, ids = from_gpt(saved(case)), some_ids(1, 40)
    with pytest.raises(ValueError, match="resize_position_embeddings"):
        model(ids)
    model.resize_position_embeddings(40)
    longer = "n_positions" if case == "ctrl" else "max_position_embeddings"
    assert torch.equal(ours(model, input_ids=ids), first_hidden_state(new_model(case, **{longer: 40}), input_ids=ids))


@pytest.mark.parametrize(("case", "width"), [("ctrl", 25), ("xglm", 25), ("xglm", 1024)])
def test_sinusoids_of_other_widths(case, width):
    fields = {"n_embd": width, "n_head": 1} if case == "ctrl" else {"d_model": width, "attention_heads": 1}
    for dtype in DTYPES:
        source = new_model(case, **fields).to(dtype)
        model = from_gpt(source)
        assert torch.equal(ours(model, input_ids=some_ids()), first_hidden_state(source, input_ids=some_ids()))


def test_models_with_other_heads(tmp_path):
    for case, name, tied in (
        ("gpt2", "GPT2LMHeadModel", False),
        ("gpt2", "GPT2ForSequenceClassification", True),
        ("openai-gpt", "OpenAIGPTForSequenceClassification", True),
        ("openai-gpt", "OpenAIGPTDoubleHeadsModel", True),  # its file has the token table under the name of the head
    ):
        torch.manual_seed(0)
        check_heads(getattr(transformers, name)(new_config(case, tie_word_embeddings=tied)).eval(), tmp_path)


def check_heads(head, folder):
    """A model with a head, its base and its saved folder have the same input stage."""
    head.save_pretrained(folder)
    base = getattr(head, head.base_model_prefix)
    expected = first_hidden_state(base, input_ids=some_ids())
    for source in (folder, head, base):
        assert torch.equal(ours(from_gpt(source), input_ids=some_ids()), expected)


@pytest.mark.parametrize("case", CASES)
def test_the_way_back(case, tmp_path):
    """Tables of one model go into another, which then starts as the first."""
    auto = transformers.ImageGPTForCausalImageModeling if case == "imagegpt" else transformers.AutoModelForCausalLM
    gpt, other = (new_model(case, seed, auto) for seed in (0, 1))
    check_heads(gpt, tmp_path)
    model = from_gpt(gpt)
    with torch.no_grad():
        for table in model.parameters():
            table.add_(1)
    assert to_gpt(model, other) is other
    base = getattr(other, other.base_model_prefix)
    assert torch.equal(first_hidden_state(base, input_ids=some_ids()), ours(model, input_ids=some_ids()))
    table, head = other.get_input_embeddings().weight, other.get_output_embeddings().weight
    assert (table.data_ptr() == head.data_ptr()) == other.config.tie_word_embeddings
    # The source has tables of its own still.
    assert not torch.equal(gpt.get_input_embeddings().weight, table)


def test_a_way_back_that_does_not_fit():
    for case, other, fields, message in (
        ("gpt2", "gpt2", {"vocab_size": 40}, r"`wte.weight` has the shape \(40, 24\), the .* says \(41, 24\)"),
        ("gpt2", "gpt2", {"n_positions": 11}, r"`wpe.weight` has the shape \(11, 24\)"),
        ("gpt2", "biogpt", {}, "`position_offset` of the model is 0, the biogpt has 2"),
        ("biogpt", "biogpt", {"scale_embedding": False}, "`token_scale` of the model is 4.89"),
        ("opt", "opt", {"word_embed_proj_dim": 10}, r"`wte.weight` has the shape \(41, 10\)"),
        ("xglm", "ctrl", {}, "`position_offset` of the model is 2"),
        ("ctrl", "gpt2", {}, "'learned', not 'sinusoidal'"),
    ):
        model, gpt = from_gpt(new_model(case)), new_model(other, seed=1, **fields)
        before = {name: value.clone() for name, value in gpt.state_dict().items()}
        with pytest.raises(ValueError, match=message):
            to_gpt(model, gpt)
        assert all(torch.equal(value, before[name]) for name, value in gpt.state_dict().items())


def test_token_table_alone_goes_back_too():
    gpt = new_model("gpt2")
    model, wpe = from_gpt(gpt, position_embedding_type="none"), gpt.wpe.weight.clone()
    torch.nn.init.zeros_(model.wte.weight)
    to_gpt(model, gpt)
    assert not gpt.wte.weight.any() and torch.equal(gpt.wpe.weight, wpe)


# Families without absolute positions: small configurations, and their token tables.
MAMBA = {"hidden_size": N, "num_hidden_layers": 1, "state_size": 4}
WITHOUT = {
    "bloom": {"hidden_size": N, "n_layer": 1, "n_head": 2},
    "codegen": {**GPT2_LIKE, "rotary_dim": 4, "n_head": 4},
    "falcon": LLAMA_LIKE,
    "gpt_neox": {**LLAMA_LIKE, "intermediate_size": 8},
    "gpt_neox_japanese": {**LLAMA_LIKE, "intermediate_multiple_size": 1},
    "gptj": {**GPT2_LIKE, "rotary_dim": 4},
    "mamba": MAMBA,
    "mamba2": {**MAMBA, "num_heads": 4, "head_dim": 12, "n_groups": 1},
    "mpt": {"d_model": N, "n_heads": 2, "n_layers": 1},
    "rwkv": {"hidden_size": N, "num_hidden_layers": 2, "attention_hidden_size": N},
    "t5": {"d_model": N, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2},
    "llama": {**LLAMA_LIKE, "intermediate_size": 8},
    "qwen2": {**LLAMA_LIKE, "intermediate_size": 8, "num_key_value_heads": 2},
}


def test_every_row_is_tested():
    with_positions = {name for name, family in FAMILIES.items() if family.instead is None}
    assert {model_type for model_type, _ in CASES.values()} == with_positions
    assert FAMILIES.keys() <= with_positions | WITHOUT.keys()


@pytest.mark.parametrize("model_type", WITHOUT)
def test_families_without_positions(model_type, tmp_path):
    torch.manual_seed(0)
    config = transformers.CONFIG_MAPPING[model_type](vocab_size=VOCAB, **WITHOUT[model_type])
    source = AutoModel.from_config(config)
    source.save_pretrained(tmp_path)
    for where in (tmp_path, source):
        with pytest.raises(ValueError, match=rf"'{model_type}' has .* `position_embedding_type=\"none\"`"):
            from_gpt(where)
        model = from_gpt(where, position_embedding_type="none")
        assert model.wpe is None and model.config.position_embedding_type == "none"
        ids = some_ids()
        assert torch.equal(ours(model, input_ids=ids), source.get_input_embeddings().weight[ids])


def test_none_by_name_for_a_family_with_positions(saved):
    model = from_gpt(saved("biogpt"), position_embedding_type="none")
    source = AutoModel.from_pretrained(saved("biogpt"))
    assert model.wpe is None and model.config.token_scale == math.sqrt(N)
    assert torch.equal(ours(model, input_ids=some_ids()), source.get_input_embeddings()(some_ids()))


def test_options_that_do_not_fit(saved):
    for options, message in (
        ({"position_embedding_type": "sinusoidal"}, "type 'learned', not 'sinusoidal'"),
        ({"dtype": "int8"}, "`dtype` must be 'auto' or a floating-point dtype such as 'bfloat16', got 'int8'"),
        ({"n_embd": 3}, r"has the shape \(41, 24\), the configuration says \(41, 3\)"),
        ({"wte_key": "wte"}, "no tensor 'wte' in the checkpoint, .* It has 16 tensors: 'h.0.attn.c_attn.bias', "),
        ({"wpe_key": "wpe.weight", "position_embedding_type": "none"}, "`wpe_key` is given, but"),
    ):
        with pytest.raises(ValueError, match=message):
            from_gpt(saved("gpt2"), **options)


def test_fields_of_the_source_reach_the_configuration(saved):
    gpt2 = from_gpt(saved("gpt2"), embd_pdrop=0.0, pad_token_id=0).config
    assert (gpt2.embd_pdrop, gpt2.pad_token_id) == (0.0, 0)
    gpt2 = from_gpt(saved("gpt2")).config
    assert (gpt2.vocab_size, gpt2.n_positions, gpt2.n_embd, gpt2.embd_pdrop) == (VOCAB, LENGTH, N, 0.1)
    assert (gpt2.bos_token_id, gpt2.eos_token_id, gpt2.pad_token_id) == (None, None, None)  # 50256 has no row here
    opt = from_gpt(saved("opt-projected")).config
    assert (opt.n_positions, opt.position_offset, opt.padding_position, opt.embd_pdrop) == (LENGTH, 2, -1, 0.0)
    assert (opt.bos_token_id, opt.eos_token_id, opt.pad_token_id, opt.word_embed_proj_dim) == (2, 2, 1, 10)
    xglm = from_gpt(saved("xglm-zero-row")).config
    assert (xglm.sinusoid_type, xglm.sinusoid_zero_row, xglm.position_offset) == ("tensor2tensor", 5, 2)
    assert from_gpt(saved("imagegpt")).config.tie_word_embeddings is False


def test_which_tensor_is_the_table():
    def keys_of(names, **fields):
        return find_keys(names, FAMILIES["gpt2"], fields)

    tables = {"wte.weight": "transformer.wte.weight", "wpe.weight": "transformer.wpe.weight"}
    names = [*tables.values(), "lm_head.weight", "teacher.transformer.wte.weight", "teacher.transformer.wpe.weight"]
    assert keys_of(names) == tables  # usual prefixes go first
    for prefix in ("", "_orig_mod.module.x."):
        keys = {"wte.weight": f"{prefix}wte.weight", "wpe.weight": f"{prefix}wpe.weight"}
        assert keys_of([*keys.values(), f"{prefix}h.0.ln_1.weight"]) == keys
    names = ["lm_head.weight", "transformer.wpe.weight"]
    assert keys_of(names) == {**tables, "wte.weight": "lm_head.weight"}
    with pytest.raises(ValueError, match=r"no tensor 'wte\.weight'"):
        keys_of(names, tie_word_embeddings=False)
    for names, message in (
        (["wte.weight"], "no tensor 'wpe.weight' in the checkpoint, with or without a prefix. It has 1 tensors"),
        (["newwte.weight", "newwpe.weight"], "no tensor 'wte.weight' and 'wpe.weight'"),
        (["a.wte.weight", "b.wpe.weight"], "seem to be of several models: 'a.wte.weight', 'b.wpe.weight'"),
        (["a.wte.weight", "a.wpe.weight", "b.wte.weight", "b.wpe.weight"], "Several tensors could be the table"),
        (["lm_head.weight"], "no tensor .* Name the tensors"),
    ):
        with pytest.raises(ValueError, match=message):
            keys_of(names)


def test_fields_have_defaults_and_other_names():
    fields = source_fields({"model_type": "gpt2", "n_embd": 6, "max_position_embeddings": 9})
    assert (fields["hidden_size"], fields["n_positions"], fields["vocab_size"]) == (6, 9, 50257)
    assert "rope_parameters" not in fields and source_fields({"model_type": "llama"})["rope_parameters"] is not None
    assert source_fields({"model_type": "never heard of", "hidden_size": 3})["hidden_size"] == 3


def test_inputs_that_do_not_fit(saved):
    ids = torch.zeros(3, 9, dtype=torch.long)
    for inputs, message in (
        ({"past_length": -1}, "`past_length` must be an integer of at least 0, got -1"),
        ({"past_length": 4}, "The sequence of 13 tokens is longer than `n_positions` = 12"),
        ({"past_length": 2, "attention_mask": torch.ones(3, 10)}, r"like the inputs or, with the past, \(3, 11\)"),
        ({"token_type_ids": ids[:, :8]}, r"`token_type_ids` must be int64 or int32 of shape \(3, 9\)"),
        ({"token_type_ids": ids, "add_positions": False}, "`token_type_ids` go to the GPT"),
        ({"token_type_ids": ids[:1] + VOCAB}, r"`token_type_ids` must lie from 0 to 40 \(`vocab_size` is 41\)"),
    ):
        with pytest.raises(ValueError, match=message):
            from_gpt(saved("gpt2"))(some_ids(), **inputs)
