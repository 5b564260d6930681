import json
import math

import numpy as np
import pytest
import torch
from transformers import AutoConfig, GPT2Config

from modeling_gpt_embeddings import GPTEmbeddingsConfig


def test_defaults_are_gpt2():
    config, gpt2 = GPTEmbeddingsConfig(), GPT2Config()
    for name in "vocab_size n_positions n_embd embd_pdrop initializer_range bos_token_id eos_token_id".split():
        assert getattr(config, name) == getattr(gpt2, name)
    assert config.pad_token_id is None and config.tie_word_embeddings is gpt2.tie_word_embeddings is True
    assert config.position_embedding_type == "learned"
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


INTEGERS = {"vocab_size": (1, 2**24), "n_positions": (1, 2**24), "n_embd": (1, 2**17), "position_offset": (0, 2**24)}
INTEGERS |= {"word_embed_proj_dim": (1, 2**17), "padding_position": (0, 1023), "sinusoid_zero_row": (0, 1023)}
REALS = {"embd_pdrop": 1, "initializer_range": 1000, "position_initializer_range": 1000, "token_scale": 1000}


def test_values_are_checked_in_python_and_in_json(tmp_path):
    class Own(GPTEmbeddingsConfig):
        model_type = "own"

    for fields, message in (
        *(
            ({name: value}, f"`{name}` must be an integer from {low} to {high}, got {value}")
            for name, (low, high) in INTEGERS.items()
            for value in (low - 1, high + 1)
        ),
        *(
            ({name: value}, f"`{name}` must be a number from 0 to {high}, got {value}")
            for name, high in REALS.items()
            for value in (-0.1, high + 0.1, math.nan, math.inf)
        ),
        *(({"vocab_size": value}, f"`vocab_size` must be int, got {value!r}") for value in ("32", True, None, 1.5)),
        ({"position_embedding_type": "rotary"}, r"position_embedding_type.*'learned', 'sinusoidal', 'none'"),
        ({"position_embedding_type": None}, r"position_embedding_type.*'learned', 'sinusoidal', 'none'"),
        ({"vocab_size": 2**24, "n_positions": 2**24, "n_embd": 2**17}, r"33554432 x 131072 = \d+ .* most 17179869184"),
        *(
            ({"vocab_size": 10, name: value}, f"`{name}` must be None or an id .* from 0 to 9 .*got {value}")
            for name, value in (("bos_token_id", -1), ("eos_token_id", 10), ("pad_token_id", 10))
        ),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({"num_hidden_layers": 3}, "num_hidden_layers"),
        ({"scale_inputs_embeds": 1}, "`scale_inputs_embeds` must be bool"),
        ({"sinusoid_type": "cosine"}, "`sinusoid_type` must be one of 'interleaved', "),
        ({"position_embedding_type": "sinusoidal", "sinusoid_type": "tensor2tensor", "n_embd": 3}, "at least 4"),
        ({"word_embed_proj_dim": 2**17, "n_embd": 2**17, "vocab_size": 2**17}, "ask for tables of"),
        ({"position_offset": 2**24, "n_positions": 2**24, "n_embd": 2**10}, "ask for tables of"),
    ):
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
