# Copyright 2026 The gpt-embeddings authors.
# SPDX-License-Identifier: Apache-2.0
"""Configuration of the input stage of a GPT: token embeddings plus absolute position embeddings.

This file travels to the Hub beside `modeling_gpt_embeddings.py`, so it imports nothing but transformers and the
standard library. Tested with transformers 4.57.6 to 5.24.0, of which only some check the fields of a configuration.
"""

import difflib
import warnings
from typing import Any, Literal, get_args, get_origin

import transformers


# Where something of transformers is missing, both files say this.
UNTESTED = (
    "This model needs a part of transformers that is not in the installed version, "
    f"{getattr(transformers, '__version__', 'unknown')}. It was tested with 4.57.6 to 5.24.0; install one of these."
)

try:
    from transformers import PretrainedConfig
except ImportError as error:
    raise ImportError(UNTESTED) from error


# By field, the least and the largest value. More is taken for a broken or hostile `config.json`, before anything is
# allocated; there is room for every published GPT: GPT-3 has n_embd 12,288, the widest vocabularies a million entries.
INTEGER_RANGES = {
    "vocab_size": (1, 2**24),
    "n_positions": (1, 2**24),
    "n_embd": (1, 2**17),
    "num_hidden_layers": (0, 0),
    "position_offset": (0, 2**24),
    "word_embed_proj_dim": (1, 2**17),
}
MAX_TABLE_ENTRIES = 2**34  # 64 GiB in float32
# By field, the largest value; the least is 0.
REAL_LIMITS = {
    "embd_pdrop": 1,
    "classifier_dropout": 1,
    "initializer_range": 1000,
    "position_initializer_range": 1000,
    "token_scale": 1000,  # BioGPT, XGLM and CTRL use sqrt(n_embd)
}

GPT2_ENDOFTEXT_ID = 50256

# Names that other libraries have for our fields. They would be kept as unknown fields, without any effect.
OTHER_NAMES = {
    "vocab_size": "n_vocab num_embeddings num_tokens vocabulary_size",
    "n_positions": "block_size context_length max_len max_seq_len max_seq_length max_sequence_length n_ctx seq_len",
    "n_embd": "d_model dim emb_dim embed_dim embed_size embedding_dim embedding_dimension embedding_size hidden_dim",
    "embd_pdrop": "drop_rate dropout dropout_rate hidden_dropout_prob",
    "initializer_range": "init_range init_std",
    "position_embedding_type": "pos_type position_type",
}


class GPTEmbeddingsConfig(PretrainedConfig):
    r"""Sizes and options of a [`GPTEmbeddingsModel`]; the defaults are those of GPT-2 small.

    Every field is checked when the configuration is made, loaded or saved: an error names the field, its value and
    what is permitted. NumPy scalars are accepted and become Python numbers.

    Args:
        vocab_size: Rows of the token table `wte`, from 1 to 2^24.
        n_positions: Rows of the position table `wpe` and so the longest sequence, from 1 to 2^24.
        n_embd: Width of both tables and of every vector, from 1 to 2^17.
        embd_pdrop: Dropout probability of the sum while training, from 0 to 1.
        classifier_dropout: Dropout probability of the pooled vector in [`GPTEmbeddingsForSequenceClassification`],
            from 0 to 1; `None` takes `embd_pdrop`.
        initializer_range: Standard deviation of freshly initialised tables, from 0 to 1000.
        position_initializer_range: The same for `wpe` alone; `None` takes `initializer_range`, as transformers does.
            OpenAI's own GPT-2 code uses 0.01 (`wpe` in `src/model.py` of openai/gpt-2).
        position_embedding_type: `"learned"`: a trained table, as in GPT. `"sinusoidal"`: the fixed table of "Attention
            is all you need", without parameters. `"none"`: no positions, the input of models with rotary or relative
            positions.
        position_offset: Rows of the position table before the row of position 0, which come on top of `n_positions`.
            OPT, BioGPT and XGLM have 2.
        padding_position: Position of padding that follows a real token, from `-position_offset`. `None` lets it count
            on, as GPT-2 does; OPT has -1.
        sinusoid_type: Layout of a sinusoidal table. `"interleaved"`: sine and cosine in turn, as in the paper.
            `"tensor2tensor"`: sines, then cosines, the rates one step farther apart, as in XGLM; `n_embd` is then at
            least 4. `"ctrl"`: sines, then cosines, at the rates of the paper, computed in float32 as CTRL does.
        sinusoid_zero_row: Row of a sinusoidal table, counted with `position_offset`, that is all zeros: XGLM's
            `pad_token_id`.
        token_scale: Factor of the token vectors, from 0 to 1000.
        scale_inputs_embeds: Whether `inputs_embeds` are scaled too, as CTRL does, or are taken as scaled already, as
            BioGPT does.
        word_embed_proj_dim: Width of `wte` where a matrix `project_in` brings token vectors to `n_embd`, as in
            OPT-350M. `None` or `n_embd` means that there is none.
        add_token_types: Whether `token_type_ids` add rows of `wte`, as in GPT-2, or have no effect, as in OPT.
        pooling: How `pooler_output` and `embed_bags` make one vector of a text. `"mean"`: every token counts alike.
            `"weighted"`: each counts by its entry in `token_weights`, a part of the checkpoint.
        wte_storage: How a checkpoint stores `wte`. `"int8"`: as whole numbers from -127 to 127, with a float32 factor
            for each row in `wte_scale`. It says nothing of a model in memory: `from_pretrained` multiplies, and
            `save_pretrained` writes what it is given.
        bos_token_id: Id of `<|endoftext|>`. This default becomes `None` where the vocabulary is too small to hold it.
        eos_token_id: As `bos_token_id`.
        pad_token_id: Id of the padding token; GPT-2 has none.
        tie_word_embeddings: Whether a language-model head shares its weight with `wte`.
        num_hidden_layers: Always 0: there is no block behind the input stage. `generate()` reads it.

    Raises:
        ValueError: A field has the wrong type or a value out of its range.

    Example:
    ```python
    >>> from configuration_gpt_embeddings import GPTEmbeddingsConfig

    >>> config = GPTEmbeddingsConfig(n_embd=256)
    >>> config.hidden_size
    256

    ```
    """

    model_type = "gpt_embeddings"
    attribute_map = {"hidden_size": "n_embd", "max_position_embeddings": "n_positions"}  # noqa: RUF012 -- inherited
    num_attention_heads = 0  # a common name of Hugging Face models; there is no attention here

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    embd_pdrop: float | int = 0.1
    classifier_dropout: float | int | None = None
    initializer_range: float | int = 0.02
    position_initializer_range: float | int | None = None
    position_embedding_type: Literal["learned", "sinusoidal", "none"] = "learned"
    position_offset: int = 0
    padding_position: int | None = None
    sinusoid_type: Literal["interleaved", "tensor2tensor", "ctrl"] = "interleaved"
    sinusoid_zero_row: int | None = None
    token_scale: float | int = 1.0
    scale_inputs_embeds: bool = False
    word_embed_proj_dim: int | None = None
    add_token_types: bool = True
    pooling: Literal["mean", "weighted"] = "mean"
    wte_storage: Literal["float", "int8"] = "float"
    bos_token_id: int | None = GPT2_ENDOFTEXT_ID
    eos_token_id: int | list[int] | None = GPT2_ENDOFTEXT_ID
    pad_token_id: int | None = None
    tie_word_embeddings: bool = True
    num_hidden_layers: int = 0

    def __init__(self, **kwargs: Any) -> None:
        kwargs = {name: as_python(value) for name, value in kwargs.items()}
        for common, name in self.attribute_map.items():
            if common in kwargs:
                value = kwargs.pop(common)
                if kwargs.setdefault(name, value) != value:
                    raise ValueError(
                        f"`{common}` is another name of `{name}`, but they are {value!r} and {kwargs[name]!r}. "
                        "Leave one out."
                    )
        own = {name: kwargs.pop(name, getattr(type(self), name)) for name in FIELD_TYPES}
        other_names = {other: field for field, others in OTHER_NAMES.items() for other in others.split()}
        for name in kwargs.keys() - vars(PretrainedConfig()).keys() - {"torch_dtype", "num_labels", "name_or_path"}:
            close = difflib.get_close_matches(name, FIELD_TYPES, n=1, cutoff=0.8)
            if meant := other_names.get(name) or "".join(close):
                warnings.warn(
                    f"GPTEmbeddingsConfig has no field `{name}`, so it has no effect; did you mean `{meant}`?",
                    stacklevel=2,
                )
        for name, value in own.items():
            setattr(self, name, value)
        super().__init__(**kwargs)
        for name, value in own.items():  # transformers 4 has set some of them to defaults of its own
            setattr(self, name, value)
        self._finish()

    def __post_init__(self, **kwargs: Any) -> None:
        # Only called by transformers 5.5 and later, which has no other call for subclasses without an `__init__`.
        super().__post_init__(**kwargs)
        self._finish()

    def __setattr__(self, name: str, value: Any) -> None:
        kind = FIELD_TYPES.get(self.attribute_map.get(name, name))
        if kind is not None:
            value = as_python(value)
            kinds = get_args(kind) or (kind,)  # the values of a Literal, the types of a union
            if get_origin(kind) is Literal:
                fits = isinstance(value, str) and value in kinds
                expected = "one of " + ", ".join(map(repr, kinds))
            else:
                fits = type(value) in kinds  # a bool is no int here
                if isinstance(value, list) and list[int] in kinds:
                    fits = all(type(entry) is int for entry in value)
                expected = kind.__name__ if isinstance(kind, type) else str(kind)
            if not fits:
                raise ValueError(f"`{name}` must be {expected}, got {value!r} of type {type(value).__name__}.")
        super().__setattr__(name, value)

    def _finish(self) -> None:
        for name in ("bos_token_id", "eos_token_id"):
            if getattr(self, name) == GPT2_ENDOFTEXT_ID >= self.vocab_size:
                setattr(self, name, None)
        self.validate()

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Save as [`PretrainedConfig.save_pretrained`] does, after a check of every field."""
        self.validate()
        super().save_pretrained(save_directory, push_to_hub, **kwargs)

    def validate(self) -> None:
        """Refuse values that are out of range; types have been checked when the fields were set."""
        for name, (low, high) in INTEGER_RANGES.items():
            check_integer(name, getattr(self, name), low, high)
        places = self.n_positions + self.position_offset
        check_integer("padding_position", self.padding_position, -self.position_offset, self.n_positions - 1)
        check_integer("sinusoid_zero_row", self.sinusoid_zero_row, 0, places - 1)
        for name, limit in REAL_LIMITS.items():
            value = getattr(self, name)
            if value is not None and not 0 <= value <= limit:  # NaN fails this too
                raise ValueError(f"`{name}` must be a number from 0 to {limit}, got {value!r}.")
        if self.position_embedding_type == "sinusoidal" and self.sinusoid_type == "tensor2tensor" and self.n_embd < 4:
            raise ValueError(
                f"`n_embd` must be at least 4 with `sinusoid_type` 'tensor2tensor', got {self.n_embd}; its rates are "
                "spread over n_embd / 2 - 1 steps."
            )
        rows = self.vocab_size
        if self.position_embedding_type != "none":
            rows += places
        width = self.n_embd
        if self.word_embed_proj_dim is not None:
            rows, width = rows + self.n_embd, max(width, self.word_embed_proj_dim)  # `project_in` is a table too
        if rows * width > MAX_TABLE_ENTRIES:
            raise ValueError(
                f"`vocab_size`, `n_positions` and `n_embd` ask for tables of {rows} x {width} = "
                f"{rows * width} entries; at most {MAX_TABLE_ENTRIES} are permitted. Make one of them smaller."
            )
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            value = getattr(self, name)
            for token_id in value if isinstance(value, list) else [value]:
                if token_id is not None and not 0 <= token_id < self.vocab_size:
                    raise ValueError(
                        f"`{name}` must be None or an id within the vocabulary, from 0 to {self.vocab_size - 1} "
                        f"(`vocab_size` is {self.vocab_size}), got {token_id}."
                    )


# By name, the type of each field. `num_attention_heads`, `model_type` and `attribute_map` are no fields.
FIELD_TYPES: dict[str, Any] = dict(GPTEmbeddingsConfig.__annotations__)


def as_python(value: Any) -> Any:
    """Return scalars of NumPy and torch as Python's, so that they are checked alike and fit in JSON."""
    if isinstance(value, list):
        return [as_python(entry) for entry in value]
    return value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value


def check_integer(name: str, value: Any, low: int, high: int) -> None:
    """Raise a ValueError for what is neither an integer within a range nor None, which other checks refuse."""
    if value is not None and (type(value) is not int or not low <= value <= high):
        raise ValueError(f"`{name}` must be an integer from {low} to {high}, got {value!r}.")


__all__ = ["GPTEmbeddingsConfig"]
