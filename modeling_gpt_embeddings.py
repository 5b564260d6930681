# Copyright 2026 The gpt-embeddings authors.
# SPDX-License-Identifier: Apache-2.0
"""The input stage of a GPT as a Hugging Face model: what it adds up before its first block.

    last_hidden_state[b, i] = wte[input_ids[b, i]] + wpe[position_ids[b, i]]

Three ways in: `forward` takes padded batches, as every transformers model does; `embed_bags` takes documents of uneven
length as one flat id array and gives their means without ever forming a vector per token; `embed_flat` gives those.

This file travels to the Hub beside `configuration_gpt_embeddings.py`, so it imports nothing but torch, transformers
and the standard library. Tested with transformers 4.57.6 to 5.24.0.
"""

import math
from typing import Any, Literal, NoReturn, TypeAlias

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint


try:  # beside this file in a Hub repository, or in a package
    from .configuration_gpt_embeddings import (  # type: ignore[import-not-found]
        INTEGER_RANGES,
        UNTESTED,
        GPTEmbeddingsConfig,
        as_python,
        check_integer,
    )
except ImportError:  # at the top level, as installed
    from configuration_gpt_embeddings import INTEGER_RANGES, UNTESTED, GPTEmbeddingsConfig, as_python, check_integer

try:
    from transformers import (
        AutoConfig,
        AutoModel,
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        GenerationMixin,
        PreTrainedModel,
    )
    from transformers.loss.loss_utils import ForCausalLMLoss
    from transformers.modeling_outputs import BaseModelOutputWithPooling, CausalLMOutput, SequenceClassifierOutput
    from transformers.utils import can_return_tuple
except ImportError as error:
    raise ImportError(UNTESTED) from error

try:  # these leave alone what `from_pretrained` has loaded
    from transformers import initialization as init
except ImportError:  # transformers 4 sees to that itself
    from torch.nn import init  # type: ignore[no-redef]


# Logits that a loss holds at a time, and so the memory that it adds to the gradients: 64 MiB in float32.
LOSS_CHUNK_ENTRIES = 2**24
NO_VALUES = (
    "The model is on the meta device, where its tables have no values. Load it with `from_pretrained`, or call "
    '`to_empty(device="cpu")` and load a state dict; offload it with `offload_buffers=False`.'
)
HALF_RUN = 64  # float16 rows that are summed before float32 takes over
ID_DTYPES = (torch.int64, torch.int32)
IGNORED_LABEL = -100  # `ignore_index` of transformers and torch

PositionTable: TypeAlias = "nn.Embedding | SinusoidalPositions | None"


def sinusoidal_table(n_positions: int, n_embd: int) -> torch.Tensor:
    """Compute the fixed positions of "Attention is all you need" (Vaswani et al. 2017, section 3.5).

    `table[p, 2i] = sin(p / 10000^(2i / n_embd))`, `table[p, 2i + 1] = cos(p / 10000^(2i / n_embd))`.

    Args:
        n_positions: Number of rows.
        n_embd: Number of columns.

    Returns:
        Table of shape `(n_positions, n_embd)`, float32, computed in float64 and rounded once.
    """
    # The device and dtype are explicit: `from_pretrained` builds modules under another default for both.
    position = torch.arange(n_positions, dtype=torch.float64, device="cpu").unsqueeze(1)  # (n_positions, 1)
    even = torch.arange(0, n_embd, 2, dtype=torch.float64, device="cpu")  # (ceil(n_embd / 2),)
    angle = position * torch.exp(even * (-math.log(10000.0) / n_embd))  # (n_positions, ceil(n_embd / 2))
    table = torch.empty(n_positions, n_embd, dtype=torch.float32, device="cpu")
    table[:, 0::2] = angle.sin()
    table[:, 1::2] = angle[:, : n_embd // 2].cos()  # an odd width ends in a sine
    return table


def _tensor2tensor_table(n_positions: int, n_embd: int) -> torch.Tensor:
    """Compute the sinusoids of tensor2tensor and fairseq, which XGLM has: sines on the left, cosines on the right.

    `table[p, i] = sin(p / 10000^(i / (h - 1)))` and `table[p, h + i]` its cosine, where `h = n_embd // 2`; an odd
    width ends in a zero. Each step is in float32 and in the order of transformers' `modeling_xglm.py`, as weights
    trained on those very values want them.
    """
    half = n_embd // 2
    rate = torch.exp(torch.arange(half, device="cpu").float() * -(math.log(10000) / (half - 1)))  # (half,)
    angle = torch.arange(n_positions, device="cpu").float().unsqueeze(1) * rate.unsqueeze(0)  # (n_positions, half)
    return F.pad(torch.cat([angle.sin(), angle.cos()], dim=1), (0, n_embd % 2))


def _ctrl_table(n_positions: int, n_embd: int) -> torch.Tensor:
    """Compute CTRL's sinusoids, sines on the left, in float32 and the order of transformers' `modeling_ctrl.py`."""
    column = torch.arange(n_embd, device="cpu").float().unsqueeze(0)
    rate = 1 / torch.pow(10000, (2 * (column // 2)) / n_embd)  # (1, n_embd)
    angle = torch.arange(n_positions, device="cpu").float().unsqueeze(1) * rate  # (n_positions, n_embd)
    return torch.cat([angle[:, 0::2].sin(), angle[:, 1::2].cos()], dim=1)


SINUSOIDS = {"interleaved": sinusoidal_table, "tensor2tensor": _tensor2tensor_table, "ctrl": _ctrl_table}


class SinusoidalPositions(nn.Module):
    """Look-up in a sinusoidal table, held as a buffer that is not saved and not trained."""

    weight: torch.Tensor

    def __init__(self, n_positions: int, n_embd: int, sinusoid_type: str, zero_row: int | None) -> None:
        super().__init__()
        self.sinusoid_type, self.zero_row = sinusoid_type, zero_row
        self.register_buffer("weight", torch.empty(n_positions, n_embd, dtype=torch.float32), persistent=False)
        self.reset()

    def reset(self) -> None:
        """Fill the table; `from_pretrained` builds modules without memory and calls this when there is some."""
        if self.weight.device.type != "meta":
            table = SINUSOIDS[self.sinusoid_type](*self.weight.shape)
            if self.zero_row is not None:
                table[self.zero_row] = 0
            self.weight.copy_(table)

    def forward(self, position_ids: torch.Tensor) -> torch.Tensor:
        """Return the rows of `position_ids`, of shape `(*position_ids.shape, n_embd)`."""
        return F.embedding(position_ids, self.weight)


class GPTEmbeddingsPreTrainedModel(PreTrainedModel):
    """What every model on this input stage shares: its configuration class, names and initialisation."""

    config: GPTEmbeddingsConfig
    config_class = GPTEmbeddingsConfig
    base_model_prefix = "transformer"
    main_input_name = "input_ids"
    _input_embed_layer = "wte"
    _can_compile_fullgraph = True
    # There is nothing to checkpoint, so that asking for it has no effect; without these it would be an error.
    supports_gradient_checkpointing = True
    gradient_checkpointing = False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, SinusoidalPositions):
            module.reset()
        elif isinstance(module, GPTEmbeddingsModel):
            if module.token_weights is not None:
                init.ones_(module.token_weights)
            if module.wte_scale is not None:  # the checkpoint lacks it; `from_pretrained` says so
                init.constant_(module.wte_scale, math.nan)
        elif isinstance(module, (nn.Embedding, nn.Linear)):
            std = float(self.config.initializer_range)
            positions = getattr(self.base_model, "wpe", None)
            if module is positions and self.config.position_initializer_range is not None:
                std = float(self.config.position_initializer_range)
            init.normal_(module.weight, mean=0.0, std=std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                init.zeros_(module.bias)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load as [`PreTrainedModel.from_pretrained`] does; a `wte` stored in int8 becomes a plain table.

        Raises:
            ValueError: The rows are not what `config.wte_storage` says.
        """
        loaded = super().from_pretrained(*args, **kwargs)
        model: Any = loaded[0] if isinstance(loaded, tuple) else loaded
        base = model.base_model
        base.config.wte_storage = "float"
        if base.wte_scale is None:
            return loaded
        # Loaded as int8 by transformers 4, else in the dtype of the other tables.
        rows = base.wte.weight.detach()
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))  # (vocab_size, width)
        scale = base.wte_scale.unsqueeze(1)  # (vocab_size, 1)
        if not bool((rows.abs() <= 127).all() & (rows == rows.round()).all()):
            raise ValueError("`wte_storage` is 'int8', but `wte.weight` holds other values than -127 to 127.")
        if not bool((scale.isfinite() & (scale >= 0)).all()):
            raise ValueError(
                "`wte_storage` is 'int8', but the checkpoint lacks `wte_scale`, or it holds values that are not "
                "finite or below 0."
            )
        base.wte.weight = nn.Parameter((rows * scale).to(base._rows_dtype))
        base.wte_scale = None
        model.tie_weights()
        return loaded

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Save as [`PreTrainedModel.save_pretrained`] does; `AutoModel` can load what a head has saved, too.

        A `state_dict` may hold `wte.weight` as int8 and `wte_scale`, a float32 factor for each row.
        """
        self.config.wte_storage = "int8" if "wte_scale" in (kwargs.get("state_dict") or {}) else "float"
        if self._auto_class is not None:  # the saver adds the class at hand, and keeps what it finds here
            module = type(self).__module__.rsplit(".", 1)[-1]
            self.config.auto_map = {"AutoModel": f"{module}.GPTEmbeddingsModel"}
        try:
            super().save_pretrained(save_directory, *args, **kwargs)
        finally:
            self.config.wte_storage = "float"

    def resize_token_embeddings(self, new_num_tokens: Any = None, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Resize `wte` as [`PreTrainedModel.resize_token_embeddings`] does; positions keep their size.

        Special ids of the configuration that a smaller vocabulary no longer holds become None.
        """
        new_num_tokens = as_python(new_num_tokens)
        check_integer("new_num_tokens", new_num_tokens, *INTEGER_RANGES["vocab_size"])
        embeddings = super().resize_token_embeddings(new_num_tokens, *args, **kwargs)
        weights = getattr(self.base_model, "token_weights", None)
        if weights is not None:  # a token that was never seen weighs 1
            missing = max(0, self.config.vocab_size - len(weights))
            self.base_model.token_weights = F.pad(weights[: self.config.vocab_size], (0, missing), value=1.0)
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            value = getattr(self.config, name)
            if isinstance(value, list):
                setattr(self.config, name, [i for i in value if i < self.config.vocab_size] or None)
            elif value is not None and value >= self.config.vocab_size:
                setattr(self.config, name, None)
        return embeddings

    def get_position_embeddings(self) -> PositionTable:  # type: ignore[override]
        """Return the position table `wpe`, or None with `position_embedding_type="none"`."""
        return self.base_model.wpe  # type: ignore[return-value]

    @torch.no_grad()
    def resize_position_embeddings(self, new_num_position_embeddings: int) -> PositionTable:
        """Make `wpe` longer or shorter and return it, or None with `position_embedding_type="none"`.

        Rows that stay keep their values; new ones are initialised like a fresh table.
        """
        new_num_position_embeddings = as_python(new_num_position_embeddings)
        # A size that is out of range is refused before anything has changed.
        self.config.__class__(**{**self.config.to_dict(), "n_positions": new_num_position_embeddings})
        model: Any = self.base_model
        old, new = model.wpe, model._new_position_table(new_num_position_embeddings)
        if new is not None:
            new = new.to(device=old.weight.device, dtype=old.weight.dtype).train(old.training)
        if isinstance(new, nn.Embedding):
            new.weight.requires_grad_(old.weight.requires_grad)
            model.wpe = new  # `_init_weights` knows the position table by this name
            self._init_weights(new)
            kept = min(len(old.weight), len(new.weight))
            new.weight[:kept] = old.weight[:kept]
        model.wpe = new
        self.config.n_positions = new_num_position_embeddings
        return new


class GPTEmbeddingsModel(GPTEmbeddingsPreTrainedModel):
    r"""Token embedding plus absolute position embedding, the input stage of a GPT.

    Args:
        config: Sizes and options.
        add_pooling_layer: Whether `forward` computes `pooler_output`, which costs a quarter of it. `from_pretrained`
            and `AutoModel` take it too.

    Example:
    ```python
    >>> import torch
    >>> from configuration_gpt_embeddings import GPTEmbeddingsConfig
    >>> from modeling_gpt_embeddings import GPTEmbeddingsModel

    >>> model = GPTEmbeddingsModel(GPTEmbeddingsConfig(vocab_size=13, n_positions=20, n_embd=10)).eval()
    >>> output = model(torch.tensor([[1, 2, 4, 6, 5, 8, 12, 10, 11]]))
    >>> output.last_hidden_state.shape, output.pooler_output.shape
    (torch.Size([1, 9, 10]), torch.Size([1, 10]))

    ```
    """

    token_weights: torch.Tensor | None
    wte_scale: torch.Tensor | None
    _position_sums: tuple[torch.Tensor, torch.Tensor] | None = None  # a cache, of `_sum_positions`

    def __init__(self, config: GPTEmbeddingsConfig, add_pooling_layer: bool = True) -> None:
        config.validate()  # fields may have been set since the configuration was made; nothing is allocated yet
        super().__init__(config)
        self.add_pooling_layer = add_pooling_layer
        token_width = config.word_embed_proj_dim or config.n_embd
        self.wte = nn.Embedding(config.vocab_size, token_width)
        self.project_in = None if token_width == config.n_embd else nn.Linear(token_width, config.n_embd, bias=False)
        self.wpe = self._new_position_table(config.n_positions)
        self.drop = nn.Dropout(float(config.embd_pdrop))
        self.register_buffer("token_weights", torch.ones(config.vocab_size) if config.pooling == "weighted" else None)
        # Only while `from_pretrained` loads, which builds modules without memory.
        packed = config.wte_storage == "int8" and self.wte.weight.device.type == "meta"
        scale = torch.full((config.vocab_size,), math.nan, dtype=torch.float32) if packed else None
        self.register_buffer("wte_scale", scale)
        if packed:
            self._rows_dtype = self.wte.weight.dtype
            self.wte.weight.requires_grad_(False)  # whole numbers cannot have a gradient
        self.post_init()

    def __getstate__(self) -> dict[str, Any]:
        # Without the cache, a pickle and the hash that `datasets` makes of it do not depend on earlier calls.
        return {name: value for name, value in vars(self).items() if name != "_position_sums"}

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        past_length: int = 0,
        add_positions: bool = True,
        output_hidden_states: bool | None = None,
        check_ids: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        r"""Add token and position embeddings.

        Args:
            input_ids: Token ids of shape `(batch, position)`, int64 or int32. Exactly one of `input_ids` and
                `inputs_embeds` is given.
            attention_mask: 1 (or True) for real tokens, 0 for padding, of shape `(batch, position)`; after a past also
                `(batch, past_length + position)`. Without `position_ids` real tokens count their positions from 0, so
                that padding on either side never changes their vectors (`generate()` of GPT-2 does the same; its plain
                `forward` counts left padding: pass `position_ids` to have that).
            position_ids: Positions of shape `(batch, position)` or `(1, position)`, each from 0 (from
                `-position_offset` where there are such rows) to `n_positions - 1`, used as they are.
            inputs_embeds: Vectors of shape `(batch, position, n_embd)` to use in place of the rows of `wte`; positions
                are added to them. The width is `word_embed_proj_dim` where the configuration has one. What
                `add_positions=False` returns for ids has the same outcome here as the ids.
            token_type_ids: Ids of shape `(batch, position)` or `(1, position)` whose rows of `wte` are added after the
                positions, as GPT-2 does; without effect where `config.add_token_types` is False.
            past_length: Tokens that went before: positions count from here, unless `attention_mask` covers the past
                too; then its real tokens are counted from the beginning. 0 takes the length of `past_key_values`, the
                GPT's cache, where that is given.
            add_positions: `False` gives the token part alone, just what the GPT that the tables are from takes as
                `inputs_embeds` (it adds its positions itself, and has its own dropout): rows of `wte`, scaled where
                the GPT expects them scaled, not projected.
            output_hidden_states: Whether to return `hidden_states`, the one-element tuple of `last_hidden_state`.
            check_ids: Whether to check that every id and position lies within its table. `None` checks on the CPU and
                not on an accelerator, where reading the answer back would wait for the device. A compiled graph
                asserts the range within the graph, on any device; an exported one does not.
            **kwargs: Arguments of other Hugging Face models; they have no effect here, but for `return_dict`.

        Returns:
            `BaseModelOutputWithPooling` with `last_hidden_state` of shape `(batch, position, n_embd)` and
            `pooler_output` of shape `(batch, n_embd)`, the mean of `last_hidden_state` over the real tokens (a zero
            vector where there is none), with `config.pooling` "weighted" by their weights; `inputs_embeds`, of which
            no ids are known, weigh 1. Without the pooling layer it is None.

        Raises:
            ValueError: Inputs are missing, given twice, of a wrong shape or dtype, too long, or out of range.
        """
        if torch.jit.is_tracing():  # the exporter of TorchScript makes tensors of defaults
            past_length, add_positions = int(past_length), bool(add_positions)
        past_length = as_python(past_length)
        if token_type_ids is not None and not self.config.add_token_types:
            token_type_ids = None
        if not past_length and kwargs.get("past_key_values") is not None:
            past_length = int(kwargs["past_key_values"].get_seq_length())
        if not add_positions and token_type_ids is not None:
            raise ValueError(
                "`token_type_ids` go to the GPT that gets the vectors of `add_positions=False`, not here."
            )
        attention_mask = self._check_inputs(
            input_ids, attention_mask, position_ids, inputs_embeds, token_type_ids, past_length
        )
        ids = {"input_ids": input_ids, "token_type_ids": token_type_ids, "position_ids": position_ids}
        # Plain tables on the CPU look at every id themselves, so that a check is only needed to name the wrong one.
        plain = _is_eager() and _is_plain(self.wte) and (position_ids is None or _is_plain(self.wpe))
        late = plain and check_ids is None and self.wte.weight.is_cpu
        if check_ids is not False and not late:
            self._check_ids(ids, check_ids is True)
        try:
            # New memory that nobody else can see: sums of inference are made in place.
            own = plain and input_ids is not None and not torch.is_grad_enabled()
            hidden_states = self._token_vectors(input_ids, inputs_embeds, own, add_positions)
            if add_positions:
                own = own and self.project_in is None
                hidden_states = self._add_positions(hidden_states, own, attention_mask, position_ids, past_length)
                if token_type_ids is not None:
                    hidden_states = hidden_states + self._token_vectors(token_type_ids)
                if self.drop.training or not _is_plain(self.drop):  # in inference a call that does nothing
                    hidden_states = self.drop(hidden_states)
        except IndexError:
            if late:
                self._check_ids(ids)
            raise
        if attention_mask is not None and attention_mask.shape[1] != hidden_states.shape[1]:
            attention_mask = attention_mask[:, past_length:]

        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        pooled = None
        if self.add_pooling_layer:
            pooled = _mean_over_tokens(hidden_states, attention_mask, self._weigh(input_ids, None))
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden_states,
            pooler_output=pooled,
            hidden_states=(hidden_states,) if output_hidden_states else None,
        )

    def embed_bags(
        self,
        input_ids: torch.Tensor | Any,
        offsets: torch.Tensor | Any,
        overflow: Literal["truncate", "windows"] = "truncate",
        pooling: Literal["mean", "weighted"] | None = None,
        table: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Embed documents of uneven length, given as one flat id array, each as the mean of its vectors.

        The mean of `wte[x_i] + wpe[i]` is the mean of the token rows, which `embedding_bag` takes without forming
        them (scaled and projected once a document), plus a mean of the first rows of `wpe`, which depends on the
        length alone. It equals `pooler_output` of the padded forward within float rounding; `embd_pdrop` is not
        applied, in training neither. Set `wte.sparse = True` for a gradient of the rows at hand alone.

        Args:
            input_ids: Ids of all documents one after the other, shape `(n_tokens,)`, any integer dtype; a tensor or
                anything that `torch.as_tensor` takes, such as a numpy array.
            offsets: Where documents begin and end, shape `(n_documents + 1,)`, not decreasing: document i is
                `input_ids[offsets[i]:offsets[i + 1]]`.
            overflow: What to do with a document longer than `n_positions`: `"truncate"` cuts it, `"windows"` counts
                every token and begins again at position 0 every `n_positions` tokens.
            pooling: `"mean"`, or `"weighted"` by `token_weights`: the sum of weight times vector over the sum of
                weights. None takes `config.pooling`.
            table: A copy of `wte.weight` to sum rows of: in float16, or uint8 rows as
                `torch.ops.quantized.embedding_bag_byte_prepack` returns them. None sums `wte` itself.

        Returns:
            Means of shape `(n_documents, n_embd)` in the dtype of `wte`; an empty document is a zero vector.

        Raises:
            ValueError: `overflow` or `pooling` is unknown, the model has no weights, an id is outside the vocabulary,
                or ids or offsets are malformed.
        """
        if overflow not in ("truncate", "windows"):
            raise ValueError(f"`overflow` must be 'truncate' or 'windows', got {overflow!r}.")
        weight = self.wte.weight
        input_ids, offsets = torch.as_tensor(input_ids), torch.as_tensor(offsets)
        for name, array in (("input_ids", input_ids), ("offsets", offsets)):
            integers = not (array.is_floating_point() or array.is_complex() or array.dtype == torch.bool)
            if array.ndim != 1 or (array.numel() and not integers):  # an empty list has no dtype of its own
                _refuse(name, array, "a flat array of integers")
        if input_ids.dtype not in ID_DTYPES:
            # Ids fit 31 bits; one that does not turns negative here and is refused as outside the vocabulary.
            input_ids = input_ids.view(torch.int32) if input_ids.dtype == torch.uint32 else input_ids.to(torch.int64)
        offsets = offsets.to(torch.int64)
        if not offsets.numel():
            raise ValueError("`offsets` must have n_documents + 1 entries, at least one, got none.")
        first, last = int(offsets[0]), int(offsets[-1])
        if first < 0 or last > input_ids.numel() or bool((offsets[1:] < offsets[:-1]).any()):
            raise ValueError(
                f"`offsets` must not decrease and must lie from 0 to the number of ids, {input_ids.numel()}; they "
                f"begin with {first} and end with {last}."
            )
        input_ids, offsets = input_ids[first:last], offsets - first
        self._check_ids({"input_ids": input_ids})
        input_ids, offsets = self._beside_table(input_ids), self._beside_table(offsets)

        n_positions = self.config.n_positions
        lengths = offsets.diff()  # (n_documents,)
        if overflow == "truncate" and lengths.numel() and int(lengths.max()) > n_positions:
            places = torch.arange(len(input_ids), device=input_ids.device) - offsets[:-1].repeat_interleave(lengths)
            input_ids, lengths = input_ids[places < n_positions], lengths.clamp(max=n_positions)
            offsets = F.pad(lengths.cumsum(0), (1, 0))
        weights = self._weigh(input_ids, pooling)  # (n_tokens,)

        if table is not None:
            sums = _sum_rows(table, input_ids, offsets, weights).float()  # (n_documents, width of wte)
        elif _is_plain(self.wte):
            sums = _sum_rows(weight, input_ids, offsets, weights, self.wte.sparse)
        else:  # an adapter or a hook changes what the table gives, so it has to be asked for every token
            vectors = self.wte(input_ids.unsqueeze(0)).squeeze(0)  # (n_tokens, n_embd)
            sums = _sum_rows(vectors, None, offsets, weights)
        lengths, offsets = lengths.to(sums.device), offsets.to(sums.device)
        if self.config.token_scale != 1:
            sums = sums * self.config.token_scale
        if self.project_in is not None:
            sums = self.project_in(sums.to(weight.dtype))  # (n_documents, n_embd)
        if weights is not None:
            return self._add_weighted_positions(sums, weights.to(sums.device), offsets)
        if self.wpe is not None and input_ids.numel():
            prefix = self._sum_positions(min(int(lengths.max()), n_positions)).to(sums.device)  # (longest + 1, n_embd)
            sums = sums.to(prefix.dtype)  # memory of our own from here on, so what follows is in place
            if overflow == "windows":
                full = (lengths // n_positions).unsqueeze(1).to(prefix.dtype)  # whole windows of a document
                sums.add_(F.embedding(lengths % n_positions, prefix)).add_(full * prefix[-1])
            else:
                sums.add_(F.embedding(lengths, prefix))
        return sums.div_(lengths.clamp(min=1).unsqueeze(1)).to(weight.dtype)

    def embed_flat(
        self, input_ids: torch.Tensor | Any, position_ids: torch.Tensor | Any | None = None
    ) -> torch.Tensor:
        """Embed tokens given as one flat id array, `(n_tokens,)`, int64 or int32, each by itself and without dropout.

        With the position of each the vectors, `(n_tokens, n_embd)`, are those of `last_hidden_state`; without it they
        are the token part alone, scaled and projected as it is added to positions.
        """
        input_ids = torch.as_tensor(input_ids)
        self._check_ids({"input_ids": input_ids})
        rows = self._beside_table(input_ids).unsqueeze(0)  # (1, n_tokens), as adapters expect a batch
        vectors = self._token_vectors(rows).squeeze(0)  # (n_tokens, n_embd)
        if position_ids is None or self.wpe is None:
            return vectors
        position_ids = torch.as_tensor(position_ids)
        self._check_ids({"position_ids": position_ids})
        position_ids = position_ids + self.config.position_offset
        rows = self.wpe(self._beside_table(position_ids).unsqueeze(0)).squeeze(0)
        return vectors + rows.to(vectors.device, vectors.dtype)

    def _new_position_table(self, n_positions: int) -> PositionTable:
        config, rows = self.config, n_positions + self.config.position_offset
        if config.position_embedding_type == "learned":
            return nn.Embedding(rows, config.n_embd)
        if config.position_embedding_type == "sinusoidal":
            return SinusoidalPositions(rows, config.n_embd, config.sinusoid_type, config.sinusoid_zero_row)
        return None

    def _token_vectors(
        self,
        token_ids: Any,
        inputs_embeds: torch.Tensor | None = None,
        own: bool = False,
        finish: bool = True,
    ) -> torch.Tensor:
        """Scale and project rows of `wte`, or `inputs_embeds`, to `(batch, position, n_embd)`.

        Without `finish` they become what the GPT of these tables takes as `inputs_embeds`, `(batch, position, width of
        wte)`. New memory is changed in place if `own` permits it.
        """
        wte: Any = self.wte
        scale, scales_inputs = self.config.token_scale, self.config.scale_inputs_embeds
        if inputs_embeds is not None:
            vectors, scaled = inputs_embeds, scales_inputs and finish
        else:
            # A call of the module would take as long as the look-up of a short text.
            by_hand = own and wte.max_norm is None
            vectors = torch.embedding(wte.weight, token_ids) if by_hand else wte(token_ids)
            scaled = finish or not scales_inputs
        if scaled and scale != 1:
            vectors = vectors.mul_(scale) if own else vectors * scale
        return self.project_in(vectors) if finish and self.project_in is not None else vectors

    def _add_positions(
        self,
        vectors: torch.Tensor,
        own: bool,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor | None,
        past_length: int,
    ) -> torch.Tensor:
        """Add rows of `wpe` to `(batch, position, n_embd)`, in place if `own` permits it."""
        wpe: Any = self.wpe
        if wpe is None:
            return vectors
        length = vectors.shape[1]
        fixed, plain = isinstance(wpe, SinusoidalPositions), _is_plain(wpe)
        own = own and (fixed or wpe.weight.dtype == vectors.dtype)
        first = past_length + self.config.position_offset
        if own and plain and position_ids is None and attention_mask is None:
            return vectors.add_(wpe.weight[first : first + length].to(vectors.dtype))
        if position_ids is None:  # (1, position) where all rows count alike, (batch, position) elsewhere
            position_ids = torch.arange(past_length, past_length + length, device=vectors.device).unsqueeze(0)
            if attention_mask is not None:
                if past_length and attention_mask.shape[1] == length:
                    attention_mask = F.pad(attention_mask, (past_length, 0), value=1)
                real = attention_mask != 0
                seen = real.long().cumsum(-1)  # (batch, past_length + position); some exporters sum no booleans
                # Padding itself: 0 on the left, as in `generate()`; after real tokens it counts on, as in GPT-2's
                # `forward`, or has a position of its own.
                padding = (seen != 0) * (self.config.padding_position or 0)
                if self.config.padding_position is None:
                    n_left = (seen == 0).sum(-1, keepdim=True)
                    padding = (torch.arange(seen.shape[1], device=seen.device) - n_left).clamp(min=0)
                counted = torch.where(real, seen - 1, padding)[:, past_length:]
                # Without padding, or with padding on the right alone, the rows count alike.
                if not (_is_eager() and counted.is_cpu and bool((counted == position_ids).all())):
                    position_ids = counted
        position_ids = position_ids + self.config.position_offset
        if not plain:  # an adapter may tell the rows of a batch apart, so it gets one row for each
            position_ids = position_ids.expand(vectors.shape[:2])

        def look_up(ids: torch.Tensor) -> torch.Tensor:
            rows: torch.Tensor = wpe(ids)
            return rows.to(vectors.device, vectors.dtype if fixed else rows.dtype)

        if not own:
            return vectors + look_up(position_ids)
        if position_ids.ndim == 1 or position_ids.shape[0] == 1 or not plain:
            return vectors.add_(look_up(position_ids))
        flat, flat_ids = vectors.view(-1, vectors.shape[-1]), position_ids.reshape(-1)
        # A slice of 1 MiB in float32, within a core's L2 cache, at a time: no second tensor of full size is formed.
        step = max(1, 2**18 // flat.shape[1])
        for i in range(0, flat.shape[0], step):
            flat[i : i + step].add_(look_up(flat_ids[i : i + step]))
        return vectors

    def set_token_weights(self, weights: torch.Tensor | Any) -> None:
        """Store a weight for each token, `(vocab_size,)`, in the model and its checkpoints, and pool by them."""
        weights = torch.as_tensor(weights, dtype=torch.float32)
        rows = getattr(self.wte, "num_embeddings", self.config.vocab_size)
        if weights.shape != (rows,):
            _refuse("weights", weights, f"of shape ({rows},)")
        if not bool(((weights >= 0) & weights.isfinite()).all()):
            raise ValueError("`weights` must be finite and not negative.")
        self.token_weights = weights.to(self.wte.weight.device, self.wte.weight.dtype, copy=True)
        self.config.pooling = "weighted"

    def _weigh(self, input_ids: torch.Tensor | None, pooling: str | None) -> torch.Tensor | None:
        """Return the weight of each token, of the shape of the ids, or None where all count alike."""
        if pooling not in (None, "mean", "weighted"):
            raise ValueError(f"`pooling` must be 'mean' or 'weighted', got {pooling!r}.")
        if (pooling or self.config.pooling) == "mean":
            return None
        if self.token_weights is None:
            raise ValueError(
                "The model has no token weights to pool by. Count a text with "
                "`gpt_embeddings.training.token_weights.fit_token_weights`, or give your own to `set_token_weights`."
            )
        if self.token_weights.is_meta and input_ids is not None and not input_ids.is_meta:
            raise ValueError(NO_VALUES)
        return None if input_ids is None else self.token_weights[input_ids]

    def _sum_positions(self, longest: int) -> torch.Tensor:
        """Return the sums of the first positions: row n is that of n of them, `(longest + 1, n_embd)`.

        To sum rows takes ten times as long as to compare them. So the last sums are kept beside the rows they are of,
        and follow whatever changes these; where a gradient is wanted, they are made anew.
        """
        rows = self._first_positions(longest)
        dtype = torch.promote_types(rows.dtype, torch.float32)
        if torch.is_grad_enabled() and rows.requires_grad:
            return F.pad(rows.cumsum(0, dtype=dtype), (0, 0, 1, 0))
        kept, sums = self._position_sums or (rows[:0], rows[:0])
        known = len(kept) >= longest and (kept.dtype, kept.device) == (rows.dtype, rows.device)
        # Whole words compare four times as fast.
        words = torch.int64 if rows.shape[1] * rows.element_size() % 8 == 0 else rows.dtype
        if not (known and torch.equal(kept[:longest].view(words), rows.view(words))):
            rows = self._first_positions(min(self.config.n_positions, 1 << longest.bit_length()))  # for longer texts
            with torch.inference_mode(False), torch.no_grad():  # they may outlive the mode of this call
                kept, sums = rows.clone(), F.pad(rows.clone().cumsum(0, dtype=dtype), (0, 0, 1, 0))
            self._position_sums = kept, sums
        return sums[: longest + 1]

    def _first_positions(self, n: int) -> torch.Tensor:
        """Return the rows of the first positions, `(n, n_embd)`."""
        wpe: Any = self.wpe
        first = self.config.position_offset
        if _is_plain(wpe):
            return wpe.weight[first : first + n]
        rows: torch.Tensor = wpe(self._beside_table(torch.arange(first, first + n)).unsqueeze(0))
        return rows.squeeze(0)

    def _add_weighted_positions(
        self, sums: torch.Tensor, weights: torch.Tensor, offsets: torch.Tensor
    ) -> torch.Tensor:
        """Add the positions to weighted sums, `(n_documents, n_embd)`, and divide by the sums of weights."""
        if self.wpe is not None:
            lengths = offsets.diff()
            starts = torch.repeat_interleave(offsets[:-1], lengths)
            positions = (torch.arange(len(weights), device=weights.device) - starts) % self.config.n_positions
            longest = min(int(lengths.max()), self.config.n_positions) if len(lengths) else 0
            table = self._first_positions(longest).to(sums.device)
            sums = sums + _sum_rows(table, positions, offsets, weights).to(sums.dtype)
        weights = weights.to(torch.promote_types(weights.dtype, torch.float32)).unsqueeze(1)
        totals = _sum_rows(weights, None, offsets)
        return (sums / totals.where(totals != 0, 1)).to(self.wte.weight.dtype)

    def _check_inputs(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        token_type_ids: torch.Tensor | None,
        past_length: int,
    ) -> torch.Tensor | None:
        """Check shapes and dtypes, and return the mask, or None if it is all ones."""
        if (input_ids is None) == (inputs_embeds is None):
            given = "neither" if input_ids is None else "both"
            raise ValueError(f"Give either `input_ids` or `inputs_embeds`, got {given}.")
        if inputs_embeds is not None:
            name = "n_embd" if self.project_in is None else "word_embed_proj_dim"
            width = getattr(self.config, name)
            if inputs_embeds.ndim != 3 or inputs_embeds.shape[2] != width or not inputs_embeds.is_floating_point():
                _refuse("inputs_embeds", inputs_embeds, f"floating-point of shape (batch, position, {name}={width})")
            shape = inputs_embeds.shape[:2]
        if input_ids is not None:
            if not isinstance(input_ids, torch.Tensor):
                raise TypeError(
                    f"`input_ids` must be a tensor, got {type(input_ids).__name__}. The model takes what a tokenizer "
                    'gives: `model(**tokenizer(texts, padding=True, truncation=True, return_tensors="pt"))`; for '
                    "texts themselves there is `gpt_embeddings.Embedder(model, tokenizer).encode(texts)`."
                )
            if input_ids.ndim != 2 or input_ids.dtype not in ID_DTYPES:
                _refuse("input_ids", input_ids, "int64 or int32 of shape (batch, position)")
            shape = input_ids.shape
        if type(past_length) is not int or past_length < 0:
            raise ValueError(f"`past_length` must be an integer of at least 0, got {past_length!r}.")
        if attention_mask is not None and attention_mask.shape not in (shape, (shape[0], past_length + shape[1])):
            past = f" or, with the past, {(shape[0], past_length + shape[1])}" if past_length else ""
            _refuse("attention_mask", attention_mask, f"of shape {tuple(shape)} like the inputs{past}")
        for name, ids in (("position_ids", position_ids), ("token_type_ids", token_type_ids)):
            rows = ((), (1,), shape[:1])
            if ids is None or (ids.shape[-1:] == shape[1:] and ids.shape[:-1] in rows and ids.dtype in ID_DTYPES):
                continue
            _refuse(name, ids, f"int64 or int32 of shape {tuple(shape)} like the inputs or (1, {shape[1]})")
        # Not while exporting: the comparison would tie a dynamic length to this very limit.
        if position_ids is None and not _is_exporting() and past_length + shape[1] > self.config.n_positions:
            raise ValueError(
                f"The sequence of {past_length + shape[1]} tokens is longer than `n_positions` = "
                f"{self.config.n_positions}. Cut it, split it into windows, or make the model longer with "
                "`resize_position_embeddings`."
            )

        if attention_mask is None or not (attention_mask.is_cpu and attention_mask.numel() and _is_eager()):
            return attention_mask  # its values are read on the CPU alone, where that is cheap
        low, high = (bound.item() for bound in torch.aminmax(attention_mask))
        binary = not attention_mask.is_floating_point() or bool(((attention_mask == 0) | (attention_mask == 1)).all())
        if low < 0 or high > 1 or not binary:
            # An additive mask (0 and -inf) would be read upside down.
            raise ValueError(
                "`attention_mask` must hold 1 (or True) for real tokens and 0 for padding, got other values "
                "(an additive mask of 0 and -inf is not accepted)."
            )
        return None if low == 1 else attention_mask

    def _check_ids(self, ids: dict[str, torch.Tensor | None], everywhere: bool = True) -> None:
        """Check that ids and positions lie within their tables; unless `everywhere`, on the CPU alone."""
        for name, values in ids.items():
            if values is None or _is_exporting():
                continue
            limit, first, rows = "vocab_size", 0, getattr(self.wte, "num_embeddings", self.config.vocab_size)
            if name == "position_ids":
                limit, first, rows = "n_positions", -self.config.position_offset, self.config.n_positions
            if torch.compiler.is_compiling():
                # Without a value to name, but the graph stays whole and no device is waited for.
                inside = ((values >= first) & (values < rows)).all()
                torch._assert_async(inside, f"`{name}` must lie from {first} to {rows - 1}.")
            elif values.numel() and not values.is_meta and (everywhere or values.is_cpu):
                low, high = (int(bound) for bound in torch.aminmax(values))
                if low < first or high >= rows:
                    raise ValueError(
                        f"`{name}` must lie from {first} to {rows - 1} (`{limit}` is {rows}), got "
                        f"{low if low < first else high}."
                        + (" Does the tokenizer belong to this model?" if name == "input_ids" else "")
                    )

    def _beside_table(self, ids: torch.Tensor) -> torch.Tensor:
        """Move ids to the device of `wte`; where accelerate keeps it away until it is called, it moves them."""
        if not self.wte.weight.is_meta:
            return ids.to(self.wte.weight.device)
        if _is_plain(self.wte):
            raise ValueError(NO_VALUES)
        return ids


class GPTEmbeddingsForCausalLM(GPTEmbeddingsPreTrainedModel, GenerationMixin):
    r"""The zero-layer GPT: the input stage and, right behind it, the unembedding `lm_head`.

        logits[b, i] = lm_head.weight @ (wte[input_ids[b, i]] + wpe[position_ids[b, i]])

    No token sees another, so without positions this is a table of bigrams, factored to rank `n_embd`: "A Mathematical
    Framework for Transformer Circuits" (Elhage et al. 2021) starts from it. Its loss on a stream cannot fall below
    the stream's conditional bigram entropy. `config.tie_word_embeddings` decides whether `lm_head` is `wte`.

    A loss is computed a chunk of positions at a time, together with its gradient: training holds, beside the tables,
    their gradients and the vectors, 64 MiB of logits, however many tokens a batch has.

    Args:
        config: Sizes and options.

    Raises:
        ValueError: The head is tied to a `wte` of another width (`word_embed_proj_dim`).

    Example:
    ```python
    >>> import torch
    >>> from configuration_gpt_embeddings import GPTEmbeddingsConfig
    >>> from modeling_gpt_embeddings import GPTEmbeddingsForCausalLM

    >>> model = GPTEmbeddingsForCausalLM(GPTEmbeddingsConfig(vocab_size=13, n_positions=20, n_embd=10))
    >>> input_ids = torch.tensor([[1, 2, 4, 6, 5, 8, 12, 10, 11]])
    >>> model(input_ids).logits.shape, model(input_ids, labels=input_ids).loss.shape
    (torch.Size([1, 9, 13]), torch.Size([]))

    ```
    """

    _tied_weights_keys = {"lm_head.weight": "transformer.wte.weight"}  # noqa: RUF012 -- by transformers' contract

    def __init__(self, config: GPTEmbeddingsConfig) -> None:
        width = config.word_embed_proj_dim or config.n_embd
        if config.tie_word_embeddings and width != config.n_embd:
            raise ValueError(
                f"A head of width `n_embd` = {config.n_embd} cannot be tied to a `wte` of width `word_embed_proj_dim` "
                f"= {width}; set `tie_word_embeddings` to False."
            )
        super().__init__(config)
        self.transformer = GPTEmbeddingsModel(config, add_pooling_layer=False)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> CausalLMOutput:
        r"""Score every token of the vocabulary as the next one, or compute the loss of the ones that came.

        Args:
            input_ids: Token ids; the inputs are those of [`GPTEmbeddingsModel`].
            attention_mask: 1 for real tokens, 0 for padding, of shape `(batch, position)`. A longer one, as in cached
                generation, covers tokens that went before and are not given again. It counts positions; labels of
                padding have to be -100.
            position_ids: Positions, used as they are.
            inputs_embeds: Vectors to use in place of the rows of `wte`.
            token_type_ids: Ids whose rows of `wte` are added.
            labels: Token ids of shape `(batch, position)`, most simply `input_ids`: they are shifted here, so that
                position i is scored on label i + 1. -100 is left out.
            logits_to_keep: Positions to return logits of: an integer keeps that many last ones (0 keeps all), a tensor
                is an index or a mask (`torch.arange(0)` keeps none). `None` keeps all, but none where a loss is
                computed in training, which does not need them.
            output_hidden_states: Whether to return `hidden_states`, the one-element tuple of what goes into `lm_head`.
            **kwargs: Of the loss: `shift_labels`, of the shape of `labels` and used instead of them without a shift,
                and `num_items_in_batch`, by which the summed loss is divided in place of the number of labels. The
                rest goes to [`GPTEmbeddingsModel`].

        Returns:
            `CausalLMOutput` with `loss`, a scalar, if there are labels, and `logits` of shape `(batch, position,
            vocab_size)` where kept; in evaluation they are there beside the loss, as `Trainer`'s `compute_metrics`
            expects.

        Raises:
            ValueError: Inputs or labels are of a wrong shape, dtype or range.
        """
        shift_labels, num_items = kwargs.pop("shift_labels", None), kwargs.pop("num_items_in_batch", None)
        inputs = inputs_embeds if input_ids is None else input_ids
        if inputs is not None and attention_mask is not None and min(inputs.ndim, attention_mask.ndim) > 1:
            kwargs.setdefault("past_length", max(0, attention_mask.shape[1] - inputs.shape[1]))
        kwargs |= {"output_hidden_states": output_hidden_states, "return_dict": True}
        outputs = self.transformer(input_ids, attention_mask, position_ids, inputs_embeds, token_type_ids, **kwargs)
        hidden_states = outputs.last_hidden_state  # (batch, position, n_embd)

        has_labels = labels is not None or shift_labels is not None
        loss = self._loss(hidden_states, labels, shift_labels, num_items) if has_labels else None
        logits = None
        if logits_to_keep is not None or not (has_labels and self.training):
            kept, vectors = 0 if logits_to_keep is None else logits_to_keep, hidden_states
            if not isinstance(kept, torch.Tensor) or kept.ndim < 2:
                vectors = vectors[:, slice(-kept, None) if isinstance(kept, int) else kept]
            elif kept.dtype == torch.bool:
                vectors = vectors[kept]  # (n_kept, n_embd), as their number may differ from row to row
            else:  # older transformers have no helper for this
                vectors = vectors.take_along_dim(kept.unsqueeze(-1), dim=1)
            logits = self.lm_head(vectors)
        return CausalLMOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """Have `generate()` make no cache: the next token depends on the last one and its position alone."""
        return False

    def _loss(
        self,
        hidden_states: torch.Tensor,
        labels: torch.Tensor | None,
        shift_labels: torch.Tensor | None,
        num_items: torch.Tensor | int | None,
    ) -> torch.Tensor:
        """Return the mean cross-entropy in nats, or its sum over `num_items`; a scalar in float32 or better."""
        shape, vocab_size = hidden_states.shape[:2], self.config.vocab_size
        if self.loss_function is not ForCausalLMLoss:  # set by the caller
            options = {"vocab_size": vocab_size, "num_items_in_batch": num_items, "shift_labels": shift_labels}
            return self.loss_function(self.lm_head(hidden_states), labels, **options)
        name, targets = ("labels", labels) if shift_labels is None else ("shift_labels", shift_labels)
        if targets is None or targets.shape != shape or targets.dtype not in ID_DTYPES:
            _refuse(name, targets, f"int64 or int32 of shape {tuple(shape)} like the inputs")
        if _is_eager() and targets.is_cpu:
            bad = targets[(targets != IGNORED_LABEL) & ((targets < 0) | (targets >= vocab_size))]
            if bad.numel():
                raise ValueError(
                    f"`{name}` must lie from 0 to {vocab_size - 1} (`vocab_size` is {vocab_size}) or be "
                    f"{IGNORED_LABEL}, which is left out; got {int(bad[0])}. Does the tokenizer belong to this model?"
                )
        if shift_labels is None:
            targets = F.pad(targets[:, 1:], (0, 1), value=IGNORED_LABEL)
        targets = targets.reshape(-1).to(hidden_states.device)
        vectors = hidden_states.reshape(-1, hidden_states.shape[-1])  # (batch * position, n_embd)
        if _is_eager() and vectors.is_cpu:
            scored = (targets != IGNORED_LABEL).nonzero().squeeze(1)
            if len(scored) < len(targets):
                vectors, targets = vectors[scored], targets[scored]

        head, rows = self.lm_head, max(1, LOSS_CHUNK_ENTRIES // vocab_size)
        if _is_plain(head) and head.bias is None:
            total = _ChunkedCrossEntropy.apply(vectors, head.weight, targets, rows, torch.is_grad_enabled())
        else:  # an adapter or a hook changes what the head gives, so that its gradient is autograd's to find

            def sum_chunk(vectors: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
                logits = head(vectors)
                logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
                return F.cross_entropy(logits, targets, ignore_index=IGNORED_LABEL, reduction="sum")

            total = torch.zeros((), dtype=torch.promote_types(vectors.dtype, torch.float32), device=vectors.device)
            for i in range(0, len(vectors), rows):
                chunk = vectors[i : i + rows], targets[i : i + rows]
                total = total + checkpoint(sum_chunk, *chunk, use_reentrant=False)
        if num_items is None:
            return total / (targets != IGNORED_LABEL).sum()
        return total / (num_items.to(total.device) if isinstance(num_items, torch.Tensor) else num_items)


class GPTEmbeddingsForSequenceClassification(GPTEmbeddingsPreTrainedModel):
    r"""A linear layer on the pooled vector of a text: `logits = score(dropout(pooler_output))`.

    The layer has GPT-2's name, `score`, and its `problem_type`s, but classifies the mean of all real tokens, as the
    last one has seen no other here. Unlike GPT-2's it has a bias: the mean vector of all texts is not zero. For many
    texts without padding, `model.score(model.transformer.embed_bags(input_ids, offsets))` gives the same logits.

    Args:
        config: Sizes and options; `num_labels`, `id2label`, `problem_type` as in every
            model of transformers.

    Example:
    ```python
    >>> import torch
    >>> from configuration_gpt_embeddings import GPTEmbeddingsConfig
    >>> from modeling_gpt_embeddings import GPTEmbeddingsForSequenceClassification

    >>> config = GPTEmbeddingsConfig(vocab_size=13, n_positions=20, n_embd=10, num_labels=3)
    >>> model = GPTEmbeddingsForSequenceClassification(config)
    >>> output = model(torch.tensor([[1, 2, 4], [6, 5, 8]]), labels=torch.tensor([0, 2]))
    >>> output.logits.shape, output.loss.shape
    (torch.Size([2, 3]), torch.Size([]))

    ```
    """

    accepts_loss_kwargs = False  # `Trainer` averages over accumulated batches itself, for every problem type

    def __init__(self, config: GPTEmbeddingsConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.transformer = GPTEmbeddingsModel(config)
        rate = config.embd_pdrop if config.classifier_dropout is None else config.classifier_dropout
        self.dropout = nn.Dropout(float(rate))
        self.score = nn.Linear(config.n_embd, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        r"""Score the labels of each text.

        Args:
            input_ids: Token ids; the inputs are those of [`GPTEmbeddingsModel`].
            attention_mask: 1 for real tokens, 0 for padding, which does not change the logits.
            position_ids: Positions, used as they are.
            inputs_embeds: Vectors to use in place of the rows of `wte`.
            token_type_ids: Ids whose rows of `wte` are added.
            labels: As in `GPT2ForSequenceClassification`: class numbers of shape `(batch,)` for cross-entropy; numbers
                of shape `(batch,)` or `(batch, num_labels)` for regression (mean squared error); zeros and ones,
                floats of shape `(batch, num_labels)`, for several labels at once (binary cross-entropy).
                `config.problem_type` decides; None follows from `num_labels` and the dtype of the labels.
            output_hidden_states: Whether to return `hidden_states`, the one-element tuple of what is pooled.
            **kwargs: Arguments of [`GPTEmbeddingsModel`].

        Returns:
            `SequenceClassifierOutput` with `loss`, a scalar, if there are labels, and `logits` of shape `(batch,
            num_labels)`.

        Raises:
            ValueError: Inputs or labels are of a wrong shape, dtype or range.
        """
        kwargs |= {"output_hidden_states": output_hidden_states, "return_dict": True}
        outputs = self.transformer(input_ids, attention_mask, position_ids, inputs_embeds, token_type_ids, **kwargs)
        logits = self.score(self.dropout(outputs.pooler_output))  # (batch, num_labels)
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy of `vectors @ weight.T`, whose gradient is made on the way forward: no logits are kept."""

    @staticmethod
    def forward(
        ctx: Any, vectors: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, rows: int, with_grad: bool
    ) -> torch.Tensor:
        device = vectors.device.type
        ctx.dtypes = vectors.dtype, weight.dtype
        if torch.is_autocast_enabled(device):
            vectors, weight = (tensor.to(torch.get_autocast_dtype(device)) for tensor in (vectors, weight))
        # Gradients are summed in float32 or better and rounded once.
        precise = torch.promote_types(weight.dtype, torch.float32)
        need_vectors, need_weight = (with_grad and needed for needed in ctx.needs_input_grad[:2])
        grad_vectors = torch.empty_like(vectors, dtype=precise) if need_vectors else None
        grad_weight = torch.zeros_like(weight, dtype=precise) if need_weight else None
        total = torch.zeros((), dtype=torch.float64 if device == "cpu" else precise, device=vectors.device)
        with torch.autocast(device, enabled=False):
            for i in range(0, len(vectors), rows):
                chunk, labels = vectors[i : i + rows], targets[i : i + rows].long().unsqueeze(1)
                scored = labels != IGNORED_LABEL  # (rows, 1)
                labels = labels.clamp(min=0)
                logits = (chunk @ weight.T).to(precise)  # (rows, vocab_size)
                log_sum = logits.logsumexp(1, keepdim=True)
                total += torch.where(scored, log_sum - logits.gather(1, labels), 0).sum()
                if not (need_vectors or need_weight):
                    continue
                # From here on `logits` are their own gradient: softmax, less one at the label.
                logits.sub_(log_sum).exp_().mul_(scored)
                logits.scatter_add_(1, labels, -scored.to(precise))
                if grad_vectors is not None:
                    grad_vectors[i : i + rows] = logits.to(weight.dtype) @ weight
                if grad_weight is not None:
                    if weight.dtype == precise:
                        grad_weight.addmm_(logits.T, chunk)
                    else:
                        grad_weight += logits.to(weight.dtype).T @ chunk
        ctx.save_for_backward(grad_vectors, grad_weight)
        return total.to(precise)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradients = [
            None if made is None else (made * grad).to(dtype)
            for made, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return *gradients, None, None, None


def _refuse(name: str, given: Any, wanted: str) -> NoReturn:
    found = f"{given.dtype} of shape {tuple(given.shape)}" if isinstance(given, torch.Tensor) else repr(given)
    raise ValueError(f"`{name}` must be {wanted}, got {found}.")


def _is_eager() -> bool:
    """Whether tensors hold values that Python may look at: not while compiling, exporting or tracing."""
    return not torch.compiler.is_compiling() and not torch.jit.is_tracing()


def _is_plain(module: Any) -> bool:
    """Whether a module does what its class does: no adapter, no hook, no `forward` of its own, no special weight."""
    if type(module) not in (nn.Embedding, nn.Linear, nn.Dropout, SinusoidalPositions):
        return False
    # accelerate gives the modules that it moves about a `forward` of their own, torchao gives them quantized weights.
    own = module.__dict__
    if own["_forward_hooks"] or own["_forward_pre_hooks"] or "forward" in own:
        return False
    weight = own["_parameters"].get("weight", own["_buffers"].get("weight"))
    return weight is None or type(weight) in (nn.Parameter, torch.Tensor)


def _is_exporting() -> bool:
    is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)  # torch 2.6 has one for both
    return bool(is_exporting()) or torch.jit.is_tracing()


def _sum_rows(
    table: torch.Tensor,
    ids: torch.Tensor | None,
    offsets: torch.Tensor,
    weights: torch.Tensor | None = None,
    sparse: bool = False,
) -> torch.Tensor:
    """Sum rows of a table for each document, `(n_documents, n_embd)`; without ids all rows, in their order.

    In the dtype of the table; in float32 for float16 and for the uint8 rows of `embedding_bag_byte_prepack`.
    """
    if ids is None:
        ids = torch.arange(len(table), device=table.device)
    offsets = offsets.to(ids)
    if weights is not None:
        weights = weights.to(table.device, torch.float32 if table.dtype == torch.uint8 else table.dtype)
    if table.dtype == torch.uint8:
        sums: torch.Tensor = torch.ops.quantized.embedding_bag_byte_rowwise_offsets(
            table, ids, offsets, False, 0, False, weights, None, True
        )
        return sums
    ends = None
    if table.dtype == torch.float16 and len(ids):
        # A float16 sum ends at 65,504: short runs are summed in it, the runs of a document in float32.
        lengths = offsets.diff()
        runs = -(-lengths // HALF_RUN)
        ends = F.pad(runs.cumsum(0), (1, 0))  # (n_documents + 1,)
        within = torch.arange(int(ends[-1]), device=ids.device) - ends[:-1].repeat_interleave(runs)
        starts = offsets[:-1].repeat_interleave(runs) + within * HALF_RUN
        offsets = F.pad(starts, (0, 1), value=len(ids)).to(ids)  # (n_runs + 1,)
    # `F.embedding_bag` without its checks, which take as long as the sums of a short text.
    sums = torch.embedding_bag(table, ids, offsets, False, 0, sparse, weights, True)[0]
    return sums if ends is None else _sum_rows(sums.float(), None, ends)


def _mean_over_tokens(
    hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Average `(batch, position, n_embd)` over the real tokens; float32 sums for half-precision vectors."""
    batch, length, n_embd = hidden_states.shape
    in_order = _is_eager() and hidden_states.is_cpu and hidden_states.is_contiguous() and weights is None
    plain = in_order and attention_mask is None and hidden_states.dtype == torch.float32
    if plain and length and not torch.is_grad_enabled():
        # What the bags below give, bit by bit, in half the time (but their gradient takes a third of the time of this
        # one's): an image of one column, its channels the dimensions.
        image = hidden_states.view(batch, length, 1, n_embd).permute(0, 3, 1, 2)  # (batch, n_embd, position, 1)
        return F.avg_pool2d(image, (length, 1)).view(batch, n_embd)
    real = torch.ones((), dtype=torch.bool) if attention_mask is None else attention_mask != 0
    real = real.to(hidden_states.device).expand(batch, length)
    if in_order and hidden_states.dtype != torch.float16:  # `embedding_bag` gives sums in the dtype of the table
        # One after the other over the real tokens alone: the result does not depend on padding or batch, bit by bit.
        lengths = real.sum(1)
        ids, offsets = real.flatten().nonzero().squeeze(1), F.pad(lengths.cumsum(0), (1, 0))
        sums = _sum_rows(hidden_states.view(-1, n_embd), ids, offsets)
        return sums / lengths.clamp(min=1).unsqueeze(1)
    dtype = torch.promote_types(hidden_states.dtype, torch.float32)
    if attention_mask is not None:
        hidden_states = torch.where(real.unsqueeze(-1), hidden_states, 0)
    if weights is None:
        sums, totals = hidden_states.sum(1, dtype=dtype), real.sum(1, keepdim=True)
    else:
        weights = weights.to(hidden_states.device, dtype) * real
        sums, totals = torch.einsum("bp,bpe->be", weights, hidden_states.to(dtype)), weights.sum(1, keepdim=True)
    return (sums / totals.where(totals != 0, 1)).to(hidden_states.dtype)


# A copy that was loaded from a Hub repository must not take the place of the installed classes.
if __name__ == "modeling_gpt_embeddings":
    AutoConfig.register(GPTEmbeddingsConfig.model_type, GPTEmbeddingsConfig, exist_ok=True)
    AutoModel.register(GPTEmbeddingsConfig, GPTEmbeddingsModel, exist_ok=True)
    AutoModelForCausalLM.register(GPTEmbeddingsConfig, GPTEmbeddingsForCausalLM, exist_ok=True)
    AutoModelForSequenceClassification.register(
        GPTEmbeddingsConfig, GPTEmbeddingsForSequenceClassification, exist_ok=True
    )
    GPTEmbeddingsConfig.register_for_auto_class()
    GPTEmbeddingsModel.register_for_auto_class("AutoModel")
    GPTEmbeddingsForCausalLM.register_for_auto_class("AutoModelForCausalLM")
    GPTEmbeddingsForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")


__all__ = [
    "GPTEmbeddingsConfig",
    "GPTEmbeddingsForCausalLM",
    "GPTEmbeddingsForSequenceClassification",
    "GPTEmbeddingsModel",
    "GPTEmbeddingsPreTrainedModel",
]
