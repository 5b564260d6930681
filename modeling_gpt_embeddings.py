# Copyright 2026 The gpt-embeddings authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""The input stage of a GPT as a Hugging Face model: what it adds up before its first block.

    last_hidden_state[b, i] = wte[input_ids[b, i]] + wpe[position_ids[b, i]]

Fields of the configuration, at GPT-2's values by default, cover where other families differ: a factor or a projection
on the token vectors, rows of `wpe` before position 0, sinusoids in place of `wpe`.

Two ways in: `forward` takes padded batches, as every transformers model does; `embed_bags` takes documents of uneven
length as one flat id array and gives their means without ever forming a vector per token.

What is left out: blocks, attention, the final norm and the head. This file travels to the Hub beside
`configuration_gpt_embeddings.py`, so it imports nothing but torch, transformers and the standard library.
"""

import importlib
import math
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import can_return_tuple


try:  # beside this file in a Hub repository, or in a package
    from .configuration_gpt_embeddings import GPTEmbeddingsConfig  # type: ignore[import-not-found]
except ImportError:  # at the top level, as installed
    from configuration_gpt_embeddings import GPTEmbeddingsConfig


# Positions that differ from row to row are added a slice at a time, so that no second tensor of full size is formed.
ADD_SLICE_ENTRIES = 2**18  # 1 MiB in float32, within a core's L2 cache

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


def tensor2tensor_table(n_positions: int, n_embd: int) -> torch.Tensor:
    """Compute the sinusoids of tensor2tensor and fairseq, which XGLM has: sines on the left, cosines on the right.

    `table[p, i] = sin(p / 10000^(i / (h - 1)))` and `table[p, h + i]` its cosine, where `h = n_embd // 2`; an odd
    width ends in a zero. Each step is in float32 and in the order of transformers' `modeling_xglm.py`, as weights
    trained on those very values want them.

    Args:
        n_positions: Number of rows.
        n_embd: Number of columns, at least 4.

    Returns:
        Table of shape `(n_positions, n_embd)`, float32.
    """
    half = n_embd // 2
    rate = torch.exp(torch.arange(half, device="cpu").float() * -(math.log(10000) / (half - 1)))  # (half,)
    angle = torch.arange(n_positions, device="cpu").float().unsqueeze(1) * rate.unsqueeze(0)  # (n_positions, half)
    return F.pad(torch.cat([angle.sin(), angle.cos()], dim=1), (0, n_embd % 2))


def ctrl_table(n_positions: int, n_embd: int) -> torch.Tensor:
    """Compute the sinusoids of CTRL: the rates of [`sinusoidal_table`], sines on the left, cosines on the right.

    Each step is in float32 and in the order of transformers' `modeling_ctrl.py`.

    Args:
        n_positions: Number of rows.
        n_embd: Number of columns.

    Returns:
        Table of shape `(n_positions, n_embd)`, float32.
    """
    column = torch.arange(n_embd, device="cpu").float().unsqueeze(0)
    rate = 1 / torch.pow(10000, (2 * (column // 2)) / n_embd)  # (1, n_embd)
    angle = torch.arange(n_positions, device="cpu").float().unsqueeze(1) * rate  # (n_positions, n_embd)
    return torch.cat([angle[:, 0::2].sin(), angle[:, 1::2].cos()], dim=1)


SINUSOIDS = {"interleaved": sinusoidal_table, "tensor2tensor": tensor2tensor_table, "ctrl": ctrl_table}


class SinusoidalPositions(nn.Module):
    """Look-up in a sinusoidal table, held as a buffer that is not saved and not trained.

    Args:
        n_positions: Number of rows.
        n_embd: Number of columns.
        sinusoid_type: Key of `SINUSOIDS`.
        zero_row: Row that is all zeros.
    """

    weight: torch.Tensor

    def __init__(
        self, n_positions: int, n_embd: int, sinusoid_type: str = "interleaved", zero_row: int | None = None
    ) -> None:
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
            init.copy_(self.weight, table)

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

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, SinusoidalPositions):
            module.reset()
        elif isinstance(module, (nn.Embedding, nn.Linear)):
            std = float(self.config.initializer_range)
            if module is getattr(self, "wpe", None) and self.config.position_initializer_range is not None:
                std = float(self.config.position_initializer_range)
            init.normal_(module.weight, mean=0.0, std=std)


class GPTEmbeddingsModel(GPTEmbeddingsPreTrainedModel):
    r"""Token embedding plus absolute position embedding, the input stage of a GPT.

    Args:
        config ([`GPTEmbeddingsConfig`]): Sizes and options.

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

    def __init__(self, config: GPTEmbeddingsConfig) -> None:
        config.validate_sizes()  # fields may have been set since the configuration was made; nothing is allocated yet
        super().__init__(config)
        token_width = config.word_embed_proj_dim or config.n_embd
        self.wte = nn.Embedding(config.vocab_size, token_width)
        self.project_in = None if token_width == config.n_embd else nn.Linear(token_width, config.n_embd, bias=False)
        self.wpe = self._new_position_table(config.n_positions)
        self.drop = nn.Dropout(float(config.embd_pdrop))
        self.post_init()

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
            input_ids (`torch.LongTensor` of shape `(batch, position)`, *optional*):
                Token ids, int64 or int32. Exactly one of `input_ids` and `inputs_embeds` is given.
            attention_mask (`torch.Tensor` of shape `(batch, position)`, *optional*):
                1 (or True) for real tokens, 0 for padding; after a past also `(batch, past_length + position)`.
                Without `position_ids` real tokens count their positions from 0, so that padding on either side never
                changes their vectors (`generate()` of GPT-2 does the same; its plain `forward` counts left padding:
                pass `position_ids` to have that).
            position_ids (`torch.LongTensor` of shape `(batch, position)` or `(1, position)`, *optional*):
                Positions, each from 0 (from `-position_offset` where there are such rows) to `n_positions - 1`, used
                as they are.
            inputs_embeds (`torch.FloatTensor` of shape `(batch, position, n_embd)`, *optional*):
                Vectors to use in place of the rows of `wte`; positions are added to them. The width is
                `word_embed_proj_dim` where the configuration has one. What `add_positions=False` returns for ids has
                the same outcome here as the ids.
            token_type_ids (`torch.LongTensor` of shape `(batch, position)` or `(1, position)`, *optional*):
                Ids whose rows of `wte` are added after the positions, as GPT-2 does; without effect where
                `config.add_token_types` is False.
            past_length (`int`, *optional*, defaults to 0):
                Tokens that went before: positions count from here, unless `attention_mask` covers the past too; then
                its real tokens are counted from the beginning. 0 takes the length of `past_key_values`, the GPT's
                cache, where that is given.
            add_positions (`bool`, *optional*, defaults to `True`):
                `False` gives the token part alone, just what the GPT that the tables are from takes as
                `inputs_embeds` (it adds its positions itself, and has its own dropout): rows of `wte`, scaled where
                the GPT expects them scaled, not projected.
            output_hidden_states (`bool`, *optional*):
                Whether to return `hidden_states`, the one-element tuple of `last_hidden_state`.
            check_ids (`bool`, *optional*):
                Whether to check that every id and position lies within its table. `None` checks on the CPU and not on
                an accelerator, where reading the answer back would wait for the device. A compiled graph asserts the
                range within the graph, on any device; an exported one does not.
            **kwargs:
                Arguments of other Hugging Face models; they have no effect here, but for `return_dict`.

        Returns:
            `BaseModelOutputWithPooling` with `last_hidden_state` of shape `(batch, position, n_embd)` and
            `pooler_output` of shape `(batch, n_embd)`, the mean of `last_hidden_state` over the real tokens (a zero
            vector where there is none).

        Raises:
            ValueError: Inputs are missing, given twice, of a wrong shape or dtype, too long, or out of range.
        """
        if not self.config.add_token_types:
            token_type_ids = None
        if not past_length and kwargs.get("past_key_values") is not None:
            past_length = int(kwargs["past_key_values"].get_seq_length())
        self._check_shapes(input_ids, attention_mask, position_ids, inputs_embeds, token_type_ids, past_length)
        if check_ids is not False:
            everywhere = check_ids is True
            self._check_values(input_ids, attention_mask, position_ids, token_type_ids, everywhere)
        if token_type_ids is not None and not add_positions:
            raise ValueError(
                "`token_type_ids` go to the GPT that gets the vectors of `add_positions=False`, not here."
            )

        in_place = input_ids is not None and self._owns_token_rows()
        hidden_states = self._look_up_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if add_positions:
            hidden_states, in_place = self._finish_tokens(hidden_states, in_place)  # (batch, position, n_embd)
            if self.wpe is not None:
                if position_ids is None:
                    position_ids = self._count_positions(hidden_states, attention_mask, past_length)
                if self.config.position_offset:
                    position_ids = position_ids + self.config.position_offset
                hidden_states = _add_positions(hidden_states, self.wpe, position_ids, in_place)
            if token_type_ids is not None:
                token_types, _ = self._finish_tokens(self._look_up_tokens(token_type_ids), self._owns_token_rows())
                hidden_states = hidden_states + token_types
            hidden_states = self.drop(hidden_states)
        if attention_mask is not None and attention_mask.shape[1] != hidden_states.shape[1]:
            attention_mask = attention_mask[:, past_length:]

        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden_states,
            pooler_output=_mean_over_tokens(hidden_states, attention_mask),
            hidden_states=(hidden_states,) if output_hidden_states else None,
        )

    def embed_bags(
        self,
        input_ids: torch.Tensor | Any,
        offsets: torch.Tensor | Any,
        overflow: Literal["truncate", "windows"] = "truncate",
    ) -> torch.Tensor:
        """Embed documents of uneven length, given as one flat id array, each as the mean of its vectors.

        The mean of `wte[x_i] + wpe[i]` is the mean of the token rows, which `embedding_bag` takes without forming
        them (scaled and projected once a document), plus a mean of the first rows of `wpe`, which depends on the
        length alone. It equals `pooler_output` of the padded forward within float rounding; `embd_pdrop` is not
        applied, in training neither.

        Args:
            input_ids: Ids of all documents one after the other, shape `(n_tokens,)`, any integer dtype; a tensor or
                anything that `torch.as_tensor` takes, such as a numpy array.
            offsets: Where documents begin and end, shape `(n_documents + 1,)`, not decreasing: document i is
                `input_ids[offsets[i]:offsets[i + 1]]`.
            overflow: What to do with a document longer than `n_positions`: `"truncate"` cuts it, `"windows"` counts
                every token and begins again at position 0 every `n_positions` tokens.

        Returns:
            Means of shape `(n_documents, n_embd)` in the dtype of `wte`; an empty document is a zero vector.

        Raises:
            ValueError: `overflow` is unknown, an id is outside the vocabulary, or ids or offsets are malformed.
        """
        if overflow not in ("truncate", "windows"):
            raise ValueError(f"`overflow` must be 'truncate' or 'windows', got {overflow!r}.")
        weight = self.wte.weight
        input_ids, offsets = _as_bags(input_ids, offsets)
        self._check_range("input_ids", input_ids, self._vocab_rows())
        input_ids, offsets = input_ids.to(weight.device), offsets.to(weight.device)

        n_positions = self.config.n_positions
        if overflow == "truncate":
            input_ids, offsets = _cut_bags(input_ids, offsets, n_positions)
        lengths = offsets.diff()  # (n_documents,)
        sums = self._sum_token_rows(input_ids, offsets)  # (n_documents, word_embed_proj_dim or n_embd)
        if self.config.token_scale != 1:
            sums = sums * self.config.token_scale
        if self.project_in is not None:
            sums = self.project_in(sums)  # (n_documents, n_embd)
        if self.wpe is not None and input_ids.numel():
            longest = min(int(lengths.max()), n_positions)
            first = self.config.position_offset
            rows = self.wpe(torch.arange(first, first + longest, device=weight.device))  # (longest, n_embd)
            # Row n is the sum of the first n positions. It is made anew at each call, at the price of `longest` token
            # rows, so that it always follows training, `load_state_dict` and gradients.
            prefix = F.pad(rows.cumsum(0, dtype=torch.promote_types(rows.dtype, torch.float32)), (0, 0, 1, 0))
            sums = sums.to(prefix.dtype)  # memory of our own from here on, so what follows is in place
            if overflow == "windows":
                full = (lengths // n_positions).unsqueeze(1).to(prefix.dtype)  # whole windows of a document
                sums.add_(F.embedding(lengths % n_positions, prefix)).add_(full * prefix[-1])
            else:
                sums.add_(F.embedding(lengths, prefix))
        return sums.div_(lengths.clamp(min=1).unsqueeze(1)).to(weight.dtype)

    @classmethod
    def from_gpt(cls, source: Any, **options: Any) -> "GPTEmbeddingsModel":
        """Take the tables out of a GPT checkpoint, without reading the rest of it.

        This needs the package: `pip install gpt-embeddings`. `gpt_embeddings.conversion.from_gpt` lists the options.

        Args:
            source: Folder, Hub name, or a GPT in memory.
            options: `revision`, `token`, `dtype`, `position_embedding_type`, `wte_key`, `wpe_key` and fields of the
                configuration.

        Returns:
            A model in evaluation mode whose vectors are the source's `hidden_states[0]`.

        Raises:
            ImportError: The package is not installed.
            OSError: There is no such checkpoint.
            ValueError: The checkpoint is broken, or of a family that has no absolute positions at its input.
        """
        return _import_conversion().from_gpt(source, model_class=cls, **options)

    def to_gpt(self, gpt: Any) -> Any:
        """Put the tables back into a full GPT of the family that they are from, in place.

        This needs the package: `pip install gpt-embeddings`. A tied head stays tied.

        Args:
            gpt: The model, with or without a head.

        Returns:
            `gpt`.

        Raises:
            ImportError: The package is not installed.
            ValueError: Family or shapes do not fit; nothing has changed.
        """
        return _import_conversion().to_gpt(self, gpt)

    def get_position_embeddings(self) -> PositionTable:  # type: ignore[override]
        """Return the position table `wpe`, or None with `position_embedding_type="none"`."""
        return self.wpe

    @torch.no_grad()
    def resize_position_embeddings(self, new_num_position_embeddings: int) -> PositionTable:
        """Make `wpe` longer or shorter; rows that stay keep their values.

        Args:
            new_num_position_embeddings: The new `n_positions`. New learned rows are initialised like a fresh table,
                sinusoidal ones are computed.

        Returns:
            The new position table, or None with `position_embedding_type="none"`.

        Raises:
            huggingface_hub.errors.StrictDataclassError: The new size is out of range; nothing has changed.
        """
        self.config.__class__(**{**self.config.to_dict(), "n_positions": new_num_position_embeddings})
        old, new = self.wpe, self._new_position_table(new_num_position_embeddings)
        if old is not None and new is not None:
            new = new.to(device=old.weight.device, dtype=old.weight.dtype).train(old.training)
            if isinstance(new, nn.Embedding):
                new.weight.requires_grad_(old.weight.requires_grad)
                self.wpe = new  # `_init_weights` knows the position table by this name
                self._init_weights(new)
                kept = min(len(old.weight), len(new.weight))
                new.weight[:kept] = old.weight[:kept]
        self.wpe = new
        self.config.n_positions = new_num_position_embeddings
        return new

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Resize `wte` as [`PreTrainedModel.resize_token_embeddings`] does; positions keep their size.

        Special ids of the configuration that a smaller vocabulary no longer holds become None.
        """
        embeddings = super().resize_token_embeddings(*args, **kwargs)
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            value = getattr(self.config, name)
            if isinstance(value, list):
                setattr(self.config, name, [i for i in value if i < self.config.vocab_size] or None)
            elif value is not None and value >= self.config.vocab_size:
                setattr(self.config, name, None)
        return embeddings

    def _new_position_table(self, n_positions: int) -> PositionTable:
        config, rows = self.config, n_positions + self.config.position_offset
        if config.position_embedding_type == "learned":
            return nn.Embedding(rows, config.n_embd)
        if config.position_embedding_type == "sinusoidal":
            return SinusoidalPositions(rows, config.n_embd, config.sinusoid_type, config.sinusoid_zero_row)
        return None

    def _look_up_tokens(self, token_ids: torch.Tensor | None) -> torch.Tensor:
        """Return what the GPT of these tables takes as `inputs_embeds`, `(batch, position, width of wte)`."""
        vectors: torch.Tensor = self.wte(token_ids)
        if self.config.scale_inputs_embeds:
            return vectors  # still to be scaled, by `_finish_tokens`
        return _scale(vectors, self.config.token_scale, self._owns_token_rows())

    def _finish_tokens(self, vectors: torch.Tensor, in_place: bool) -> tuple[torch.Tensor, bool]:
        """Do to `inputs_embeds` what the GPT does before it adds positions, to `(batch, position, n_embd)`.

        Returns:
            The vectors, and whether they are memory that nobody else can see.
        """
        if self.config.scale_inputs_embeds and self.config.token_scale != 1:
            vectors, in_place = _scale(vectors, self.config.token_scale, in_place), True
        if self.project_in is not None:
            in_place = type(self.project_in) is nn.Linear and not self.project_in._forward_hooks
            vectors = self.project_in(vectors)
        return vectors, in_place

    def _count_positions(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, past_length: int
    ) -> torch.Tensor:
        """Return position ids, `(1, position)` where all rows count alike and `(batch, position)` elsewhere."""
        length = hidden_states.shape[1]
        count = torch.arange(past_length, past_length + length, device=hidden_states.device).unsqueeze(0)
        if attention_mask is None:
            return count
        if past_length and attention_mask.shape[1] == length:
            attention_mask = F.pad(attention_mask, (past_length, 0), value=1)
        real = attention_mask != 0
        seen = real.cumsum(-1)  # (batch, past_length + position)
        # Padding itself: 0 on the left, as in `generate()`; after real tokens it counts on, as in GPT-2's `forward`,
        # or has a position of its own.
        if self.config.padding_position is None:
            n_left = (seen == 0).sum(-1, keepdim=True)
            padding = (torch.arange(seen.shape[1], device=seen.device) - n_left).clamp(min=0)
        else:
            padding = (seen != 0) * self.config.padding_position
        position_ids = torch.where(real, seen - 1, padding)
        if past_length:
            position_ids = position_ids[:, past_length:]
        if _is_eager() and position_ids.device.type == "cpu" and bool((position_ids == count).all()):
            return count  # no padding, or on the right alone
        return position_ids

    def _owns_token_rows(self) -> bool:
        """Whether what `wte` returns is new memory that nobody else can see: no adapter, no hook that keeps it."""
        return type(self.wte) is nn.Embedding and not self.wte._forward_hooks

    def _sum_token_rows(self, input_ids: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        """Sum the token vectors of each document, `(n_documents, n_embd)`."""
        if self._owns_token_rows():
            return _sum_rows(self.wte.weight, input_ids, offsets)
        # An adapter or a hook changes what the table gives, so it has to be asked for every token.
        vectors = self.wte(input_ids.unsqueeze(0)).squeeze(0)  # (n_tokens, n_embd)
        return _sum_rows(vectors, torch.arange(len(vectors), device=vectors.device), offsets)

    def _check_shapes(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        token_type_ids: torch.Tensor | None,
        past_length: int,
    ) -> None:
        if (input_ids is None) == (inputs_embeds is None):
            given = "neither" if input_ids is None else "both"
            raise ValueError(f"Give either `input_ids` or `inputs_embeds`, got {given}.")
        name = "n_embd" if self.project_in is None else "word_embed_proj_dim"
        width = getattr(self.config, name)
        if inputs_embeds is not None:
            if inputs_embeds.ndim != 3 or inputs_embeds.shape[2] != width or not inputs_embeds.is_floating_point():
                raise ValueError(
                    f"`inputs_embeds` must be floating-point of shape (batch, position, {name}={width}), got "
                    f"{inputs_embeds.dtype} of shape {tuple(inputs_embeds.shape)}."
                )
            shape = inputs_embeds.shape[:2]
        if input_ids is not None:
            if input_ids.ndim != 2 or input_ids.dtype not in (torch.int64, torch.int32):
                raise ValueError(
                    f"`input_ids` must be int64 or int32 of shape (batch, position), got {input_ids.dtype} of shape "
                    f"{tuple(input_ids.shape)}. Add the batch axis with `input_ids.unsqueeze(0)`, convert with "
                    "`input_ids.long()`."
                )
            shape = input_ids.shape
        if type(past_length) is not int or past_length < 0:
            raise ValueError(f"`past_length` must be an integer of at least 0, got {past_length!r}.")
        if attention_mask is not None and attention_mask.shape not in (shape, (shape[0], past_length + shape[1])):
            past = f" or, with the past, {(shape[0], past_length + shape[1])}" if past_length else ""
            raise ValueError(
                f"`attention_mask` must have the shape (batch, position) = {tuple(shape)} of the inputs{past}, got "
                f"{tuple(attention_mask.shape)}."
            )
        self._check_like_inputs("position_ids", position_ids, shape)
        self._check_like_inputs("token_type_ids", token_type_ids, shape)
        # Not while exporting: the comparison would tie a dynamic length to this very limit.
        if position_ids is None and not _is_exporting() and past_length + shape[1] > self.config.n_positions:
            raise ValueError(
                f"The sequence of {past_length + shape[1]} tokens is longer than `n_positions` = "
                f"{self.config.n_positions}. Cut it, split it into windows, or make the model longer with "
                "`resize_position_embeddings`."
            )

    @staticmethod
    def _check_like_inputs(name: str, ids: torch.Tensor | None, shape: torch.Size) -> None:
        if ids is None:
            return
        if ids.ndim not in (1, 2) or ids.shape[-1] != shape[1] or ids.shape[:-1] not in ((), (1,), shape[:1]):
            raise ValueError(
                f"`{name}` must have the shape {tuple(shape)} of the inputs or (1, {shape[1]}), got "
                f"{tuple(ids.shape)}."
            )
        if ids.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"`{name}` must be int64 or int32, got {ids.dtype}.")

    def _check_values(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor | None,
        token_type_ids: torch.Tensor | None,
        everywhere: bool,
    ) -> None:
        if _is_exporting():
            return
        ranges = (
            ("input_ids", input_ids, 0, self._vocab_rows()),
            ("token_type_ids", token_type_ids, 0, self._vocab_rows()),
            ("position_ids", position_ids, -self.config.position_offset, self.config.n_positions),
        )
        for name, values, first, rows in ranges:
            if values is not None and torch.compiler.is_compiling():
                # Without a value to name, but the graph stays whole and no device is waited for.
                inside = ((values >= first) & (values < rows)).all()
                torch._assert_async(inside, f"`{name}` must lie from {first} to {rows - 1}.")
            elif values is not None and (everywhere or values.device.type == "cpu"):
                self._check_range(name, values, rows, first)
        if attention_mask is not None and _is_eager() and (everywhere or attention_mask.device.type == "cpu"):
            # An additive mask (0 and -inf) would be read upside down.
            if bool(((attention_mask != 0) & (attention_mask != 1)).any()):
                raise ValueError(
                    "`attention_mask` must hold 1 (or True) for real tokens and 0 for padding, got other values "
                    "(an additive mask of 0 and -inf is not accepted)."
                )

    def _vocab_rows(self) -> int:
        return int(getattr(self.wte, "num_embeddings", self.config.vocab_size))

    @staticmethod
    def _check_range(name: str, values: torch.Tensor, rows: int, first: int = 0) -> None:
        if not values.numel() or values.device.type == "meta":
            return
        low, high = (int(v) for v in torch.aminmax(values))
        if low < first or high >= rows:
            bad, limit = (low if low < first else high), "n_positions" if name == "position_ids" else "vocab_size"
            raise ValueError(
                f"`{name}` must lie from {first} to {rows - 1} (`{limit}` is {rows}), got {bad}."
                + (" Does the tokenizer belong to this model?" if name == "input_ids" else "")
            )


def _import_conversion() -> Any:
    """Import the module behind `from_gpt` and `to_gpt`, which a copy of this file in a Hub repository does without."""
    try:
        return importlib.import_module("gpt_embeddings.conversion")
    except ModuleNotFoundError as error:
        if error.name not in ("gpt_embeddings", "gpt_embeddings.conversion"):
            raise
        raise ImportError(
            "`from_gpt` and `to_gpt` are in the package gpt-embeddings, which is not installed: "
            "`pip install gpt-embeddings`."
        ) from error


def _is_eager() -> bool:
    """Whether tensors hold values that Python may look at: not while compiling, exporting or tracing."""
    return not torch.compiler.is_compiling() and not torch.jit.is_tracing()


def _is_exporting() -> bool:
    return torch.compiler.is_exporting() or torch.jit.is_tracing()


def _scale(vectors: torch.Tensor, factor: float, in_place: bool) -> torch.Tensor:
    if factor == 1:
        return vectors
    if in_place and _is_eager() and not torch.is_grad_enabled():
        return vectors.mul_(factor)
    return vectors * factor


def _add_positions(
    hidden_states: torch.Tensor, wpe: nn.Embedding | SinusoidalPositions, position_ids: torch.Tensor, in_place: bool
) -> torch.Tensor:
    """Add the rows of `position_ids` to `(batch, position, n_embd)`; in inference without a second full tensor."""
    fixed = isinstance(wpe, SinusoidalPositions)

    def look_up(ids: torch.Tensor) -> torch.Tensor:
        rows: torch.Tensor = wpe(ids)
        return rows.to(hidden_states.device, hidden_states.dtype if fixed else rows.dtype)

    if torch.is_grad_enabled() or not _is_eager() or not (fixed or wpe.weight.dtype == hidden_states.dtype):
        in_place = False
    if not in_place:
        return hidden_states + look_up(position_ids)
    if position_ids.ndim == 1 or position_ids.shape[0] == 1:
        return hidden_states.add_(look_up(position_ids))
    flat, flat_ids = hidden_states.view(-1, hidden_states.shape[-1]), position_ids.reshape(-1)
    step = max(1, ADD_SLICE_ENTRIES // flat.shape[1])
    for i in range(0, flat.shape[0], step):
        flat[i : i + step].add_(look_up(flat_ids[i : i + step]))
    return hidden_states


def _sum_rows(table: torch.Tensor, ids: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    return F.embedding_bag(ids, table, offsets.to(ids.dtype), mode="sum", include_last_offset=True)


def _mean_over_tokens(hidden_states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Average `(batch, position, n_embd)` over the real tokens; float32 sums for half-precision vectors."""
    batch, length, n_embd = hidden_states.shape
    if _is_eager() and hidden_states.device.type == "cpu" and hidden_states.is_contiguous():
        # One after the other over the real tokens alone: the result does not depend on padding or batch, bit by bit.
        real = (
            torch.arange(batch * length) if attention_mask is None else attention_mask.flatten().nonzero().squeeze(1)
        )
        lengths = torch.full((batch,), length) if attention_mask is None else (attention_mask != 0).sum(1)
        offsets = F.pad(lengths.cumsum(0), (1, 0))
        flat = hidden_states.view(-1, n_embd)
        return F.embedding_bag(real, flat, offsets, mode="mean", include_last_offset=True)
    dtype = torch.promote_types(hidden_states.dtype, torch.float32)
    if attention_mask is None:
        return (hidden_states.sum(1, dtype=dtype) / max(length, 1)).to(hidden_states.dtype)
    real = (attention_mask != 0).to(hidden_states.device).unsqueeze(-1)  # (batch, position, 1)
    sums = torch.where(real, hidden_states, 0).sum(1, dtype=dtype)
    return (sums / real.sum(1).clamp(min=1)).to(hidden_states.dtype)


def _as_bags(input_ids: Any, offsets: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Check flat ids and offsets and give them the dtypes and the origin that `embedding_bag` wants."""
    input_ids, offsets = torch.as_tensor(input_ids), torch.as_tensor(offsets)
    for name, array in (("input_ids", input_ids), ("offsets", offsets)):
        integers = not (array.is_floating_point() or array.is_complex() or array.dtype == torch.bool)
        if array.ndim != 1 or (array.numel() and not integers):  # an empty list has no dtype of its own
            raise ValueError(
                f"`{name}` must be a flat array of integers, got {array.dtype} of shape {tuple(array.shape)}."
            )
    if input_ids.dtype not in (torch.int64, torch.int32):
        # Ids fit 31 bits; one that does not turns negative here and is refused as outside the vocabulary.
        input_ids = input_ids.view(torch.int32) if input_ids.dtype == torch.uint32 else input_ids.to(torch.int64)
    offsets = offsets.to(torch.int64)
    if not offsets.numel():
        raise ValueError("`offsets` must have n_documents + 1 entries, at least one, got none.")
    first, last = int(offsets[0]), int(offsets[-1])
    if first < 0 or last > input_ids.numel() or bool((offsets.diff() < 0).any()):
        raise ValueError(
            f"`offsets` must not decrease and must lie from 0 to the number of ids, {input_ids.numel()}; they begin "
            f"with {first} and end with {last}."
        )
    return input_ids[first:last], offsets - first


def _cut_bags(input_ids: torch.Tensor, offsets: torch.Tensor, limit: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keep the first `limit` ids of each document."""
    lengths = offsets.diff()
    if not lengths.numel() or int(lengths.max()) <= limit:
        return input_ids, offsets
    long = (lengths > limit).nonzero().squeeze(1)
    kept, start = [], 0
    for first, end in zip(offsets[long].tolist(), offsets[long + 1].tolist(), strict=True):
        kept.append(input_ids[start : first + limit])
        start = end
    kept.append(input_ids[start:])
    return torch.cat(kept), F.pad(lengths.clamp(max=limit).cumsum(0), (1, 0))


# A copy that was loaded from a Hub repository must not take the place of the installed classes.
if __name__ == "modeling_gpt_embeddings":
    AutoConfig.register(GPTEmbeddingsConfig.model_type, GPTEmbeddingsConfig, exist_ok=True)
    AutoModel.register(GPTEmbeddingsConfig, GPTEmbeddingsModel, exist_ok=True)
    GPTEmbeddingsConfig.register_for_auto_class()
    GPTEmbeddingsModel.register_for_auto_class("AutoModel")


__all__ = ["GPTEmbeddingsConfig", "GPTEmbeddingsModel", "GPTEmbeddingsPreTrainedModel"]
