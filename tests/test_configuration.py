import json
import math

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from configuration_gpt_embeddings import GPTEmbeddingsConfig


def test_defaults_are_gpt2():
    config = GPTEmbeddingsConfig()
    assert (config.vocab_size, config.n_positions, config.n_embd) == (50257, 1024, 768)
    assert (config.embd_pdrop, config.initializer_range) == (0.1, 0.02)
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (50256, 50256, None)
    assert config.position_embedding_type == "learned"
    assert config.tie_word_embeddings is True


def test_common_names():
    config = GPTEmbeddingsConfig(n_embd=256, n_positions=2048)
    assert (config.hidden_size, config.max_position_embeddings) == (256, 2048)
    config.hidden_size = 128
    assert config.n_embd == 128
    assert GPTEmbeddingsConfig(hidden_size=64, max_position_embeddings=32).n_positions == 32


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("vocab_size", value) for value in (0, "32", True, None)),
        *(("n_positions", value) for value in (-1, 1.5, [])),
        ("n_embd", 10**12),
    ],
)
def test_sizes_are_validated(name, value):
    with pytest.raises(ValueError, match=f"{name}.*") as error:
        GPTEmbeddingsConfig(**{name: value})
    assert name in str(error.value)
    assert repr(value) in str(error.value) or type(value).__name__ in str(error.value)


@pytest.mark.parametrize("value", [np.int64(32), np.uint16(32), torch.tensor(32)])
def test_numbers_of_other_libraries(value, tmp_path):
    config = GPTEmbeddingsConfig(n_embd=value, vocab_size=value, embd_pdrop=np.float32(0.5), eos_token_id=[value - 1])
    config.n_positions = value
    assert [type(field) for field in (config.n_embd, config.n_positions, config.eos_token_id[0])] == [int] * 3
    config.save_pretrained(tmp_path)
    assert GPTEmbeddingsConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("embedding_dim", "n_embd"),
        ("context_length", "n_positions"),
        ("vocabsize", "vocab_size"),
    ],
)
def test_a_field_by_another_name_is_warned_of(name, meant):
    with pytest.warns(UserWarning, match=f"no field `{name}`, so it has no effect; did you mean `{meant}`"):
        GPTEmbeddingsConfig(**{name: 300})


def test_two_names_of_a_field_agree():
    assert GPTEmbeddingsConfig(n_embd=64, hidden_size=64).n_embd == 64
    with pytest.raises(ValueError, match="`hidden_size` is another name of `n_embd`, but they are 300 and 64"):
        GPTEmbeddingsConfig(n_embd=64, hidden_size=300)


def test_assigned_values_are_checked(tmp_path):
    config = GPTEmbeddingsConfig()
    for name in ("n_embd", "hidden_size"):
        with pytest.raises(ValueError, match=f"`{name}` must be int, got '32' of type str"):
            setattr(config, name, "32")
    config.n_embd = -1
    with pytest.raises(ValueError, match="`n_embd` must be an integer from 1"):
        config.save_pretrained(tmp_path)
    assert not any(tmp_path.iterdir())


def test_subclasses_are_checked():
    class Own(GPTEmbeddingsConfig):
        model_type = "own"

    assert Own(vocab_size=13).bos_token_id is None
    with pytest.raises(ValueError, match="`n_embd` must be an integer"):
        Own(n_embd=0)


@pytest.mark.parametrize(
    ("name", "value", "limit"),
    [
        *(("embd_pdrop", value, 1) for value in (-0.1, 1.1, math.nan)),
        *(
            (name, value, 1000)
            for name in ("initializer_range", "position_initializer_range")
            for value in (-1, math.inf)
        ),
    ],
)
def test_numbers_have_ranges(name, value, limit):
    with pytest.raises(ValueError, match=f"`{name}` must be a number from 0 to {limit}, got"):
        GPTEmbeddingsConfig(**{name: value})


@pytest.mark.parametrize("value", ["rotary", None])
def test_position_embedding_type(value):
    with pytest.raises(ValueError, match=r"position_embedding_type.*'learned', 'sinusoidal', 'none'"):
        GPTEmbeddingsConfig(position_embedding_type=value)


def test_tables_together_are_limited():
    with pytest.raises(ValueError, match=r"33554432 x 131072 = \d+ entries; at most 17179869184"):
        GPTEmbeddingsConfig(vocab_size=2**24, n_positions=2**24, n_embd=2**17)
    GPTEmbeddingsConfig(n_positions=2**24, n_embd=12288, position_embedding_type="none")  # no table, no memory


@pytest.mark.parametrize("name", ["bos_token_id", "eos_token_id", "pad_token_id"])
@pytest.mark.parametrize("value", [-1, 10])
def test_special_ids_lie_in_the_vocabulary(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be None or an id .* from 0 to 9 .*got {value}"):
        GPTEmbeddingsConfig(vocab_size=10, **{name: value})


def test_default_special_ids_need_gpt2s_vocabulary():
    config = GPTEmbeddingsConfig(vocab_size=13)
    assert (config.bos_token_id, config.eos_token_id) == (None, None)
    assert GPTEmbeddingsConfig(vocab_size=13, eos_token_id=[1, 2]).eos_token_id == [1, 2]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("embd_pdrop", math.nan),
        ("num_hidden_layers", 3),
        ("tie_word_embeddings", "yes"),
    ],
)
def test_hostile_json(tmp_path, field, value):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt_embeddings", field: value}))
    with pytest.raises(ValueError, match=field):
        AutoConfig.from_pretrained(tmp_path)


def test_unknown_fields_are_kept(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt_embeddings", "n_embd": 64, "trained_on": "tides"}')
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, GPTEmbeddingsConfig)
    assert (config.n_embd, config.trained_on) == (64, "tides")


def test_round_trip(tmp_path):
    config = GPTEmbeddingsConfig(n_embd=64, position_embedding_type="sinusoidal", position_initializer_range=0.01)
    config.save_pretrained(tmp_path)
    for loader in (AutoConfig, GPTEmbeddingsConfig):
        assert loader.from_pretrained(tmp_path).to_diff_dict() == config.to_diff_dict()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"position_offset": -1}, "`position_offset` must be an integer from 0 to 16777216, got -1"),
        ({"position_offset": True}, "`position_offset` must be int, got True"),
        ({"padding_position": -1}, "`padding_position` must be an integer from 0 to 1023, got -1"),
        ({"sinusoid_zero_row": 1024}, "`sinusoid_zero_row` must be an integer from 0 to 1023, got 1024"),
        ({"word_embed_proj_dim": 2**18}, "`word_embed_proj_dim` must be an integer from 1 to 131072"),
        ({"token_scale": math.nan}, "`token_scale` must be a number from 0 to 1000, got nan"),
        ({"scale_inputs_embeds": 1}, "`scale_inputs_embeds` must be bool"),
        ({"sinusoid_type": "cosine"}, "`sinusoid_type` must be one of 'interleaved', "),
        ({"position_embedding_type": "sinusoidal", "sinusoid_type": "tensor2tensor", "n_embd": 3}, "at least 4"),
        ({"word_embed_proj_dim": 2**17, "n_embd": 2**17, "vocab_size": 2**17}, "ask for tables of"),
        ({"position_offset": 2**24, "n_positions": 2**24, "n_embd": 2**10}, "ask for tables of"),
    ],
)
def test_fields_of_other_families(fields, message):
    with pytest.raises(ValueError, match=message):
        GPTEmbeddingsConfig(**fields)
