import json
import math

import pytest
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


@pytest.mark.parametrize("value", [0, -1, 10**12, 2**63, "32", 1.5, math.nan, math.inf, True, None, [], {}])
@pytest.mark.parametrize("name", ["vocab_size", "n_positions", "n_embd"])
def test_sizes_are_validated(name, value):
    with pytest.raises(ValueError, match=f"{name}.*") as error:
        GPTEmbeddingsConfig(**{name: value})
    assert name in str(error.value)
    assert repr(value) in str(error.value) or type(value).__name__ in str(error.value)


def test_range_is_named():
    with pytest.raises(ValueError, match="`n_positions` must be an integer from 1 to 16777216, got -5"):
        GPTEmbeddingsConfig(n_positions=-5)


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, math.inf, -math.inf])
def test_dropout_is_a_probability(value):
    with pytest.raises(ValueError, match="`embd_pdrop` must be a number from 0 to 1, got"):
        GPTEmbeddingsConfig(embd_pdrop=value)


@pytest.mark.parametrize("name", ["initializer_range", "position_initializer_range"])
@pytest.mark.parametrize("value", [-0.02, math.nan, math.inf])
def test_initializer_ranges(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be a number from 0 to 1000, got"):
        GPTEmbeddingsConfig(**{name: value})


@pytest.mark.parametrize("value", ["rotary", "LEARNED", "", None, 3])
def test_position_embedding_type(value):
    with pytest.raises(ValueError, match=r"position_embedding_type.*'learned', 'sinusoidal', 'none'"):
        GPTEmbeddingsConfig(position_embedding_type=value)


def test_tables_together_are_limited():
    with pytest.raises(ValueError, match=r"33554432 x 131072 = \d+ entries; at most 17179869184"):
        GPTEmbeddingsConfig(vocab_size=2**24, n_positions=2**24, n_embd=2**17)
    GPTEmbeddingsConfig(n_positions=2**24, n_embd=12288, position_embedding_type="none")  # no table, no memory


@pytest.mark.parametrize("name", ["bos_token_id", "eos_token_id", "pad_token_id"])
@pytest.mark.parametrize("value", [-1, 10, 10**9])
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
        ("num_labels", 10**12),
        ("num_labels", -1),
        ("num_labels", "9"),
        ("dtype", "nn"),
        ("dtype", "int8"),
        ("dtype", "no_such_type"),
        ("torch_dtype", "nn"),
        ("num_hidden_layers", 3),
        ("tie_word_embeddings", "yes"),
    ],
)
def test_hostile_json(tmp_path, field, value):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt_embeddings", field: value}))
    with pytest.raises(ValueError, match=field):
        AutoConfig.from_pretrained(tmp_path)


def test_nan_in_json(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt_embeddings", "embd_pdrop": NaN}')
    with pytest.raises(ValueError, match="embd_pdrop"):
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
