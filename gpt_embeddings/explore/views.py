"""The views that the page and the report show: their fields, and functions from values to figures, in English."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import plotly.graph_objects as go
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase

from gpt_embeddings.analysis.decomposition import has_positions, position_vectors
from gpt_embeddings.analysis.encodings import compare_encodings
from gpt_embeddings.analysis.neighbours import Neighbours, Word, describe_chance
from gpt_embeddings.analysis.projections import has_umap
from gpt_embeddings.analysis.word_lists import load_words
from gpt_embeddings.bundled import ENGLISH
from gpt_embeddings.checkpoints.loading import load_model_and_tokenizer
from gpt_embeddings.explore import figures, maps, tables
from gpt_embeddings.explore.tables import Table, escape_text
from gpt_embeddings.explore.translation import Language, translate, translate_figure, translate_table
from gpt_embeddings.text.encoding import encode_flat
from modeling_gpt_embeddings import GPTEmbeddingsModel, sinusoidal_table


logger = logging.getLogger(__name__)

MAX_WORDS = 200
MAX_SENTENCES = 12

TITLE, SHOW = "The input stage of a GPT", "Show"

WORDS, TOKENS, AROUND = "words", "the tokens of a text", "around a word"
ALL_TOKENS = "tokens"

ANALOGY = (
    "The answers x are ordered by cos(x, a) cos(x, c) / (cos(x, b) + 0.2), without negative cosines, so that they are "
    "similar to both a and c. The numbers are cosines with a - b + c."
)
NO_WORDS = "This model has no word list, so its tokens are searched."
NO_POSITIONS = "The model has no positions: each vector is its token's row."
TEMPLATES = Path(__file__).parent / "templates"
LEARNED_POSITIONS = TEMPLATES / "learned_positions.safetensors"
LEARNED_NOTE = (
    "The figures show two tables of other models: sinusoids of this model's size, and 64 learned positions of a "
    "GPT-2 with two blocks, trained on the characters of a short story."
)

ANIMALS = "cat, dog, horse, cow, lion, tiger, eagle, shark, king, queen, man, woman, gato"
TEXT = "O gato sentou no tapete. The cat sat on the mat 😀"
SENTENCES = "O gato sentou no tapete\nO tapete sentou no gato\nThe cat sat on the mat"


class LazyModel:
    """A model by name, with `model`, `tokenizer` and `tokens` (a search) after `load()`; `words` are by language."""

    model: GPTEmbeddingsModel
    tokenizer: PreTrainedTokenizerBase
    tokens: Neighbours

    def __init__(
        self,
        name: str,
        load: Callable[[], tuple[GPTEmbeddingsModel, PreTrainedTokenizerBase]],
        words: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.name, self.words = name, words or {}
        self._load, self._lock = load, threading.Lock()
        self._among = cache(lambda language: Neighbours(self.model, self.tokenizer, words=self.words[language]))

    @classmethod
    def from_pretrained(cls, name: str | None = None, tokenizer: str | None = None) -> Self:
        """Return a saved model or any GPT checkpoint, with its own tokenizer or another; only words are read yet."""
        words: dict[str, list[str]] = {}
        with suppress(FileNotFoundError):  # of a bundled table that is missing, which `load` reports
            words = load_words(name)
        return cls(name or ENGLISH, lambda: load_model_and_tokenizer(name, tokenizer), words)

    @property
    def words_language(self) -> Language | None:
        """The language of the words to begin with: Portuguese if there are Portuguese words; None without a list."""
        return "pt" if "pt" in self.words else "en" if self.words else None

    def load(self) -> Self:
        """Load the model if it is not there yet. Threads that ask while it is being loaded wait for it."""
        with self._lock:
            if not hasattr(self, "tokens"):
                self.model, self.tokenizer = self._load()
                self.tokens = Neighbours(self.model.eval(), self.tokenizer)
        return self

    def search(self, *query: str) -> Neighbours:
        """Return the search among the words of one language, or among tokens if there is no word list.

        It is the language in which the words of the query are most frequent.
        """

        def rank(language: str) -> int:
            listed, asked = self.words[language], [word.strip().lower() for word in query]
            return sum(listed.index(word) if word in listed else len(listed) for word in asked)

        return self._among(min(self.words, key=rank)) if self.words else self.tokens


@dataclass(frozen=True)
class ViewResult:
    """What a view shows of one model."""

    figures: tuple[go.Figure, ...] = ()
    table: Table | None = None
    notes: tuple[str, ...] = ()
    failed: bool = False  # whether the note is an error, shown instead of figures


@dataclass(frozen=True)
class Field:
    """An input of a view."""

    label: str
    value: str | int | bool
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class View:
    """A view: its name, a sentence on what it shows, its fields and its function."""

    name: str
    about: str
    fields: Mapping[str, Field]
    show: Callable[..., ViewResult]
    n_figures: int = 1
    needs_model: bool = True
    examples: Mapping[str, str] = field(default_factory=dict)  # of the field `text`, by values of `what`

    def render(self, model: LazyModel, *values: Any, language: Language = "en") -> ViewResult:
        """Return what the view shows for the values of the fields, in their order; errors become notes."""
        say = partial(translate, language=language)
        try:
            result = self.show(model.load(), *values) if self.needs_model else self.show(*values)
        except Exception as error:
            return ViewResult(notes=(say(_explain(error)),), failed=True)
        return ViewResult(
            tuple(translate_figure(figure, language) for figure in result.figures),
            result.table and translate_table(result.table, language),
            tuple(map(say, result.notes)),
        )


def _explain(error: Exception) -> str:
    """Return an error as a note; one that is not expected is logged."""
    if isinstance(error, (ImportError, OSError, TypeError, ValueError, StrictDataclassError)):
        return str(error)
    logger.error("A view failed.", exc_info=error)
    return f"This could not be shown ({type(error).__name__}: {error})."


def notes_to_html(result: ViewResult) -> str:
    """Return the notes as paragraphs; screen readers announce errors."""
    kind = 'class="failed" role="alert"' if result.failed else 'class="note"'
    return "".join(f"<p {kind}>{escape_text(note)}</p>" for note in result.notes)


def table_to_html(table: Table | None, name: str, language: Language) -> str:
    """Return the table of a view in a region that scrolls, also by keyboard."""
    if table is None:
        return ""
    label = escape_text(f"{translate(name, language)}, {translate('as a table', language)}")
    return f'<div class="prose-table" tabindex="0" role="region" aria-label="{label}">{table.to_html()}</div>'


def sizes_to_html(model: LazyModel, language: Language) -> str:
    """Return a model's name and sizes, or why it could not be loaded."""
    name = f"<strong>{escape_text(model.name)}</strong>"
    try:
        config = model.load().model.config
        positions = f"{config.n_positions:,} positions ({config.position_embedding_type})"
        if not has_positions(model.model):
            positions = "no positions"
        sizes = f"{config.vocab_size:,} tokens x {config.n_embd:,} dimensions, {positions}"
        if model.tokens.looks_random:
            sizes += "; most of its token rows look untrained"
        return f'<p class="facts">{name}: {escape_text(translate(sizes, language))}</p>'
    except Exception as error:  # libraries of tokenizers and checkpoints raise many classes
        failed = translate("could not be loaded.", language)
        return f'<p class="failed" role="alert">{name} {failed} {escape_text(_explain(error))}</p>'


def _show_text(loaded: LazyModel, text: str) -> ViewResult:
    table = tables.text_table(loaded.model, loaded.tokenizer, text or "")
    notes = (table.caption, *([] if has_positions(loaded.model) else [NO_POSITIONS]))
    return ViewResult((figures.text_figure(loaded.model, loaded.tokenizer, text),), table, notes)


def _show_map(loaded: LazyModel, what: str, text: str, method: str = "PCA") -> ViewResult:
    chosen: Any = (method or "PCA").lower()
    if what == TOKENS:
        figure = maps.text_map(loaded.model, loaded.tokenizer, text or "", chosen)
        notes = ["Filled dots are token + position, joined in the order of the text; diamonds are the tokens alone."]
        if not has_positions(loaded.model):
            notes = ["The dots are joined in the order of the text.", NO_POSITIONS]
        notes.append(tables.text_table(loaded.model, loaded.tokenizer, text).caption)  # says what was cut
    elif what == AROUND:
        index = loaded.search(text or "")
        figure = maps.neighbourhood_map(index, text or "", method=chosen)
        notes = [tables.asked_for([index.find(text)]), describe_chance(index, None)]
        notes += [NO_WORDS] if index.words is None else []
    else:
        words = list(
            dict.fromkeys(word.strip() for word in (text or "").replace("\n", ",").split(",") if word.strip())
        )
        if not words:
            raise ValueError("There are no words; type some, separated by commas.")
        if len(words) > MAX_WORDS:
            raise ValueError(f"There are {len(words)} words; at most {MAX_WORDS} are shown. Leave some out.")
        figure = maps.words_map(loaded.tokens, words, chosen)
        notes = ["A diamond is a word of several tokens, drawn at their mean."]
    return ViewResult((figure,), notes=tuple(notes))


def _show_neighbours(loaded: LazyModel, a: str, b: str, c: str, among: str, exclude_inputs: bool) -> ViewResult:
    b, c = (b or "").strip(), (c or "").strip()
    index = loaded.tokens if among == ALL_TOKENS else loaded.search(a or "", b, c)
    if bool(b) != bool(c):
        raise ValueError("An analogy takes both: a word to subtract and a word to add. Fill both or neither.")
    words: tuple[Word, ...]
    if b:
        words, found = index.analogy(a or "", b, c, exclude_inputs=exclude_inputs)
    else:
        word, found = index.of_word(a or "", exclude_inputs=exclude_inputs)
        words = (word,)
    table = tables.neighbours_table(index, words, found)
    own = {ids for word in words for ids in (word.input_ids, *((token_id,) for token_id in word.input_ids))}
    best = max((near.score for near in found if near.input_ids not in own), default=None)
    notes = [table.caption, *([ANALOGY] if b else []), describe_chance(index, best)]
    notes += [NO_WORDS] if index.words is None and among == WORDS else []
    return ViewResult((figures.neighbours_figure(index, found),), table, tuple(notes))


def _show_positions(loaded: LazyModel) -> ViewResult:
    config = loaded.model.config
    shown = {"sinusoidal": sinusoidal_table(config.n_positions, config.n_embd)}
    if has_positions(loaded.model):
        own = {f"{config.position_embedding_type} in the model": position_vectors(loaded.model)}
        shown = {**own, "sinusoidal for comparison": shown["sinusoidal"]}
        notes = [f"{config.n_positions:,} positions."]
    else:
        shown["learned by a small GPT-2"] = load_file(LEARNED_POSITIONS)["wpe"].float()
        notes = [NO_POSITIONS, LEARNED_NOTE]
    notes.append(f"Heat maps show at most {figures.POSITIONS_SHOWN} of the positions, curves {figures.CURVE_POINTS}.")
    drawn = [figures.position_similarity_figure(table, f"Cosines, {name}") for name, table in shown.items()]
    drawn += [figures.position_curve_figure(table, f"Principal components, {name}") for name, table in shown.items()]
    drawn.append(figures.position_norms_figure(shown, "Norms"))
    return ViewResult(tuple(drawn), notes=tuple(notes))


def _show_encodings(loaded: LazyModel, sentences: str) -> ViewResult:
    lines = [line.strip() for line in (sentences or "").splitlines() if line.strip()]
    if len(lines) > MAX_SENTENCES:
        raise ValueError(f"There are {len(lines)} sentences; at most {MAX_SENTENCES} are compared.")
    encodings = compare_encodings(loaded.model, loaded.tokenizer, lines)
    notes = [
        "A sum has no order: neither a bag of words nor the mean of embeddings changes when tokens change places. "
        "Encodings with a row per token change."
    ]
    if has_positions(loaded.model):
        notes.append("The positions are also part of each vector.")
    limit = loaded.model.config.n_positions
    _, offsets = encode_flat(lines, loaded.tokenizer)
    cut = [str(i) for i, length in enumerate(np.diff(offsets), start=1) if length > limit]
    if cut:
        notes.append(f"Cut to the model's {limit:,} positions (`n_positions`): sentence {', '.join(cut)}.")
    return ViewResult((figures.encodings_figure(encodings),), tables.encodings_table(encodings), tuple(notes))


VIEWS = (
    View(
        "Text",
        "Every vector is a row of the token table plus, if the model has positions, a row of the position table. How "
        "much does each contribute, and how much does each piece contribute to its word?",
        {"text": Field("Text", TEXT)},
        _show_text,
    ),
    View(
        "Map",
        "Vectors in three dimensions. Drag to turn, scroll to zoom.",
        {
            "what": Field("Show", WORDS, choices=(WORDS, TOKENS, AROUND)),
            "text": Field("Words separated by commas, a text, or one word", ANIMALS),
            **({"method": Field("Projection", "PCA", choices=("PCA", "UMAP"))} if has_umap() else {}),
        },
        _show_map,
        examples={WORDS: ANIMALS, TOKENS: TEXT, AROUND: "cat"},
    ),
    View(
        "Neighbours",
        "The most similar words or tokens by cosine; with all three words, the answers to the analogy a - b + c. With "
        "the inputs, their spelling variants are excluded.",
        {
            "a": Field("Word (a)", "king"),
            "b": Field("minus (b)", ""),
            "c": Field("plus (c)", ""),
            "among": Field("Search among", WORDS, choices=(WORDS, ALL_TOKENS)),
            "exclude_inputs": Field("Exclude the inputs", True),
        },
        _show_neighbours,
    ),
    View(
        "Positions",
        "The model's position table beside the sinusoids of “Attention is all you need”.",
        {},
        _show_positions,
        n_figures=5,
    ),
    View(
        "Why dense",
        "The same tokens as one-hot rows, bag of words, TF-IDF and embeddings.",
        {"sentences": Field("Sentences, one on each line", SENTENCES)},
        _show_encodings,
    ),
    View(
        "Costs",
        "Parameters and bytes of the two tables.",
        {
            "vocab_size": Field("vocab_size", 50257),
            "n_positions": Field("n_positions", 1024),
            "n_embd": Field("n_embd", 768),
        },
        lambda *sizes: ViewResult((figures.costs_figure(*sizes),), tables.costs_table(*sizes)),
        needs_model=False,
    ),
)
