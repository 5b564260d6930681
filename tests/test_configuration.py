import json
import math

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from modeling_gpt_embeddings import GPTEmbeddingsConfig


def test_defaults_are_gpt2():
    config = GPTEmbeddingsConfig()
    assert (config.vocab_size, config.n_positions, config.n_embd) == (50257, 1024, 768)
    assert (config.embd_pdrop, config.initializer_range) == (0.1, 0.02)
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (50256, 50256, None)
    assert config.position_embedding_type == "learned"
    assert config.tie_word_embeddings is True
    small = GPTEmbeddingsConfig(vocab_size=13)  # in which GPT-2's special ids have no rows
    assert (small.bos_token_id, small.eos_token_id) == (None, None)
    assert GPTEmbeddingsConfig(vocab_size=13, eos_token_id=[1, 2]).eos_token_id == [1, 2]


def test_fields_have_the_common_names_too():
    config = GPTEmbeddingsConfig(n_embd=256, n_positions=2048)
    assert (config.hidden_size, config.max_position_embeddings) == (256, 2048)
    config.hidden_size = 128
    assert config.n_embd == 128
    assert GPTEmbeddingsConfig(hidden_size=64, max_position_embeddings=32).n_positions == 32
    assert GPTEmbeddingsConfig(n_embd=64, hidden_size=64).n_embd == 64
    with pytest.raises(ValueError, match="`hidden_size` is another name of `n_embd`, but they are 300 and 64"):
        GPTEmbeddingsConfig(n_embd=64, hidden_size=300)
    for name, meant in {"embedding_dim": "n_embd", "context_length": "n_positions", "vocabsize": "vocab_size"}.items():
        with pytest.warns(UserWarning, match=f"no field `{name}`, so it has no effect; did you mean `{meant}`"):
            GPTEmbeddingsConfig(**{name: 300})


@pytest.mark.parametrize("value", [np.int64(32), np.uint16(32), torch.tensor(32)])
def test_numbers_of_other_libraries(value, tmp_path):
    config = GPTEmbeddingsConfig(n_embd=value, vocab_size=value, embd_pdrop=np.float32(0.5), eos_token_id=[value - 1])
    config.n_positions = value
    assert [type(field) for field in (config.n_embd, config.n_positions, config.eos_token_id[0])] == [int] * 3
    config.save_pretrained(tmp_path)
    assert GPTEmbeddingsConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


SIZE = "must be an integer from 1 to"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vocab_size": 0}, f"`vocab_size` {SIZE} 16777216, got 0"),
        *(({"vocab_size": value}, f"`vocab_size` must be int, got {value!r}") for value in ("32", True, None)),
        ({"n_positions": -1}, f"`n_positions` {SIZE} 16777216, got -1"),
        ({"n_positions": 1.5}, "`n_positions` must be int, got 1.5"),
        ({"n_embd": 10**12}, f"`n_embd` {SIZE} 131072, got 1000000000000"),
        *(
            ({"embd_pdrop": value}, "`embd_pdrop` must be a number from 0 to 1, got")
            for value in (-0.1, 1.1, math.nan)
        ),
        ({"initializer_range": math.inf}, "`initializer_range` must be a number from 0 to 1000, got inf"),
        ({"position_initializer_range": -1}, "`position_initializer_range` must be a number from 0 to 1000, got -1"),
        ({"position_embedding_type": "rotary"}, r"position_embedding_type.*'learned', 'sinusoidal', 'none'"),
        ({"position_embedding_type": None}, r"position_embedding_type.*'learned', 'sinusoidal', 'none'"),
        ({"vocab_size": 2**24, "n_positions": 2**24, "n_embd": 2**17}, r"33554432 x 131072 = \d+ .* most 17179869184"),
        *(
            ({"vocab_size": 10, name: value}, f"`{name}` must be None or an id .* from 0 to 9 .*got {value}")
            for name, value in (("bos_token_id", -1), ("eos_token_id", 10), ("pad_token_id", 10))
        ),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({"num_hidden_layers": 3}, "num_hidden_layers"),
        ({"position_offset": -1}, "`position_offset` must be an integer from 0 to 16777216, got -1"),
        ({"position_offset": True}, "`position_offset` must be int, got True"),
        ({"padding_position": -1}, "`padding_position` must be an integer from 0 to 1023, got -1"),
        ({"sinusoid_zero_row": 1024}, "`sinusoid_zero_row` must be an integer from 0 to 1023, got 1024"),
        ({"word_embed_proj_dim": 2**18}, f"`word_embed_proj_dim` {SIZE} 131072"),
        ({"token_scale": math.nan}, "`token_scale` must be a number from 0 to 1000, got nan"),
        ({"scale_inputs_embeds": 1}, "`scale_inputs_embeds` must be bool"),
        ({"sinusoid_type": "cosine"}, "`sinusoid_type` must be one of 'interleaved', "),
        ({"position_embedding_type": "sinusoidal", "sinusoid_type": "tensor2tensor", "n_embd": 3}, "at least 4"),
        ({"word_embed_proj_dim": 2**17, "n_embd": 2**17, "vocab_size": 2**17}, "ask for tables of"),
        ({"position_offset": 2**24, "n_positions": 2**24, "n_embd": 2**10}, "ask for tables of"),
    ],
)
def test_values_are_checked_in_python_and_in_json(fields, message, tmp_path):
    class Own(GPTEmbeddingsConfig):
        model_type = "own"

    for kind in (GPTEmbeddingsConfig, Own):
        with pytest.raises(ValueError, match=message):
            kind(**fields)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt_embeddings", **fields}))
    with pytest.raises(ValueError, match=message):
        AutoConfig.from_pretrained(tmp_path)


def test_assigned_values_are_checked(tmp_path):
    config = GPTEmbeddingsConfig()
    for name in ("n_embd", "hidden_size"):
        with pytest.raises(ValueError, match=f"`{name}` must be int, got '32' of type str"):
            setattr(config, name, "32")
    config.n_embd = -1
    with pytest.raises(ValueError, match="`n_embd` must be an integer from 1"):
        config.save_pretrained(tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_table_that_is_not_made_needs_no_memory():
    GPTEmbeddingsConfig(n_positions=2**24, n_embd=12288, position_embedding_type="none")


def test_round_trip(tmp_path):
    fields = {"n_embd": 64, "position_embedding_type": "sinusoidal", "position_initializer_range": 0.01}
    saved = GPTEmbeddingsConfig(**fields, trained_on="tides")
    saved.save_pretrained(tmp_path)
    for loader in (AutoConfig, GPTEmbeddingsConfig):
        config = loader.from_pretrained(tmp_path)
        assert type(config) is GPTEmbeddingsConfig and config.trained_on == "tides"  # an unknown field is kept
        assert config.to_diff_dict() == saved.to_diff_dict()
