"""Small tables for a notebook or the page."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from transformers import PreTrainedTokenizerBase

from configuration_gpt_embeddings import GPTEmbeddingsConfig
from gpt_embeddings.analysis.decomposition import measure, measure_words, split_parts
from gpt_embeddings.analysis.encodings import Encoding
from gpt_embeddings.analysis.neighbours import Neighbour, Neighbours, Word
from gpt_embeddings.analysis.readable_tokens import readable_pieces
from gpt_embeddings.text.encoding import find_words
from modeling_gpt_embeddings import GPTEmbeddingsModel


TOKENS_SHOWN = 256  # of a text: more are not legible
# (vocab_size, n_positions, n_embd): Radford et al. 2018, OpenAI's checkpoints of 2019, table 2.1 of Brown et al. 2020.
PUBLISHED = {
    "GPT-1": (40478, 512, 768),
    "GPT-2": (50257, 1024, 768),
    "GPT-2 medium": (50257, 1024, 1024),
    "GPT-2 large": (50257, 1024, 1280),
    "GPT-2 XL": (50257, 1024, 1600),
    "GPT-3": (50257, 2048, 12288),
}
RIGHT = ' style="text-align: right"'

Cell: TypeAlias = str | int | float


@dataclass(frozen=True)
class Table:
    """Rows, names of their columns and a caption; a notebook shows them as HTML."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]
    caption: str = ""
    separators: str = ".,"  # of decimals and of thousands, as in Plotly

    def to_html(self) -> str:
        """Return the table as HTML; markup in it is shown and not run."""
        right = [not isinstance(value, str) for value in self.rows[0]] if self.rows else [False] * len(self.columns)

        def line(row: Sequence[Cell], tag: str) -> str:
            cells = (
                f"<{tag}{RIGHT if aligned else ''}>{escape_text(self._format(value))}</{tag}>"
                for value, aligned in zip(row, right, strict=True)
            )
            return f"<tr>{''.join(cells)}</tr>"

        caption = f"<caption>{escape_text(self.caption)}</caption>" if self.caption else ""
        body = "".join(line(row, "td") for row in self.rows)
        return f"<table>{caption}<thead>{line(self.columns, 'th')}</thead><tbody>{body}</tbody></table>"

    _repr_html_ = to_html

    def _format(self, value: Cell) -> str:
        if isinstance(value, str):
            return value
        number = f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
        return number.translate(str.maketrans(".,", self.separators))


def escape_text(text: str) -> str:
    """Return a text that HTML, Plotly and Gradio's templates show as it is: without markup, entities or TeX."""
    for char in "&<>\"'{}$`":
        text = text.replace(char, f"&#{ord(char)};")
    return text


def text_table(model: GPTEmbeddingsModel, tokenizer: PreTrainedTokenizerBase, text: str) -> Table:
    """Return the numbers of `figures.text_figure`, one row per token; the caption says what was cut.

    The columns are those of `measure` and `measure_words`.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        text: A text; at most 256 of its tokens have a row.
    """
    parts = split_parts(model, tokenizer, text)
    pieces = readable_pieces(tokenizer, parts.input_ids[:TOKENS_SHOWN].tolist())
    words = find_words(text, tokenizer)[: len(parts.input_ids)]
    measures = measure(parts) | measure_words(parts.token, words)
    del measures["cos(token, position)"]  # the figure has it
    numbers = [values[:TOKENS_SHOWN].tolist() for values in measures.values()]
    rows = list(zip(range(len(pieces)), pieces, parts.input_ids.tolist(), *numbers, strict=False))
    caption = f"{parts.n_tokens:,} token{'s' if parts.n_tokens != 1 else ''}"
    if parts.n_tokens > len(parts.input_ids):
        caption += f", cut to the first {len(parts.input_ids):,}: the model has no more positions (`n_positions`)"
    if len(parts.input_ids) > len(pieces):
        caption += f"; the first {len(pieces)} are shown"
    return Table(("position", "token", "id", *measures), rows, f"{caption}.")


def neighbours_table(index: Neighbours, words: Sequence[Word], found: Sequence[Neighbour]) -> Table:
    """Return neighbours as rows; the caption has the words that were asked for, and which of them are split."""
    if index.words is None:
        columns = ("rank", "token", "id", "cosine")
        rows: list[tuple[Cell, ...]] = [(i, n.text, n.input_ids[0], n.score) for i, n in enumerate(found, 1)]
    else:
        columns = ("rank", "word", "tokens", "cosine")
        rows = [(i, n.text, n.label, n.score) for i, n in enumerate(found, 1)]
    return Table(columns, rows, asked_for(words))


def asked_for(words: Sequence[Word]) -> str:
    """Return a sentence with the words of a query, and one on those that are split."""
    asked = f"Asked for: {', '.join(word.label for word in words)}."
    split = ", ".join(word.text for word in words if len(word.input_ids) > 1)
    return f"{asked} Split into several tokens, searched by the mean of their rows: {split}." if split else asked


def encodings_table(encodings: Sequence[Encoding]) -> Table:
    """Return encodings as rows, with the cosine of the first two sentences."""
    rows = [
        (
            encoding.name,
            encoding.size,
            f"{100 * encoding.zeros:.3f} %",
            float(encoding.similarity[0, 1]),
            "yes" if encoding.sees_order else "no",
        )
        for encoding in encodings
    ]
    columns = ("encoding", "numbers per sentence", "zeros", "cosine of sentences 1 and 2", "sees word order")
    return Table(columns, rows)


def costs_table(vocab_size: int, n_positions: int, n_embd: int) -> Table:
    """Return parameters and bytes of the two tables for a chosen size and for the published GPTs.

    Args:
        vocab_size: Rows of `wte`.
        n_positions: Rows of `wpe`.
        n_embd: Columns of both.
    """
    GPTEmbeddingsConfig(vocab_size=vocab_size, n_positions=n_positions, n_embd=n_embd)
    rows = []
    for name, (tokens, positions, width) in {"chosen": (vocab_size, n_positions, n_embd), **PUBLISHED}.items():
        parameters = (tokens + positions) * width
        size = (tokens, positions, width, tokens * width, positions * width, parameters)
        rows.append((name, *size, _format_bytes(4 * parameters), _format_bytes(2 * parameters)))
    columns = ("", "vocab_size", "n_positions", "n_embd", "wte", "wpe", "parameters", "float32", "16 bit")
    return Table(columns, rows)


def _format_bytes(n_bytes: int) -> str:
    """Return bytes in units of 1024, such as 150.2 MiB."""
    exponent = min((n_bytes.bit_length() - 1) // 10, 4)
    return f"{n_bytes} B" if exponent == 0 else f"{n_bytes / 1024**exponent:.1f} {'KMGT'[exponent - 1]}iB"
