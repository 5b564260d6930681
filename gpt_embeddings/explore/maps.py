"""3-D maps of words, of a word among its neighbours, of a text's tokens, and of vectors of your own."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import torch
from transformers import PreTrainedTokenizerBase

from gpt_embeddings.analysis.decomposition import split_parts
from gpt_embeddings.analysis.neighbours import Neighbours
from gpt_embeddings.analysis.projections import Method, Projection, project
from gpt_embeddings.analysis.readable_tokens import readable_pieces
from gpt_embeddings.explore.figures import COLOURS, finish, scene
from gpt_embeddings.explore.tables import TOKENS_SHOWN, escape_text
from modeling_gpt_embeddings import GPTEmbeddingsModel


LABELS_SHOWN = 80  # further points keep their hover text


def words_map(index: Neighbours, words: Sequence[str], method: Method = "pca") -> go.Figure:
    """Draw words in three dimensions; a word of several tokens is their mean, drawn as a diamond.

    Args:
        index: The token table.
        words: The words.
        method: `"pca"` or `"umap"`.
    """
    found = [index.find(word) for word in words]
    projection = project(torch.stack([word.vector for word in found]), 3, method)
    groups = ["one token" if len(word.input_ids) == 1 else "mean of several tokens" for word in found]
    hover = [f"{escape_text(word.label)}<br>ids {', '.join(map(str, word.input_ids))}" for word in found]
    return _draw_map(projection, [word.text for word in found], hover, groups)


def vectors_map(names: Sequence[str], vectors: npt.ArrayLike, method: Method = "pca") -> go.Figure:
    """Draw vectors of your own in three dimensions, such as features written by hand.

    Args:
        names: A label for each vector.
        vectors: Vectors of shape `(n, n_features)`.
        method: `"pca"` or `"umap"`.
    """
    numbers = np.asarray(vectors, float)
    if numbers.ndim != 2 or len(numbers) != len(names):
        raise ValueError(f"{len(names)} names need as many vectors, got the shape {numbers.shape}.")
    hover = [
        f"{escape_text(name)}<br>{', '.join(f'{value:g}' for value in vector[:8])}"
        for name, vector in zip(names, numbers.tolist(), strict=True)
    ]
    return _draw_map(project(numbers, 3, method), names, hover, ["vectors"] * len(names))


def neighbourhood_map(index: Neighbours, word: str, count: int = 40, method: Method = "pca") -> go.Figure:
    """Draw a word among its `count` neighbours in an index of tokens or words."""
    centre, found = index.of_word(word, count)
    projection = project(torch.stack([word.vector for word in (centre, *found)]), 3, method)
    hover = [f"{escape_text(centre.label)}<br>the word itself"]
    for near in found:
        ids = ", ".join(map(str, near.input_ids))
        hover.append(f"{escape_text(near.label)}<br>ids {ids}<br>cosine {near.score:.3f}")
    groups = ["the word"] + ["neighbours"] * len(found)
    return _draw_map(projection, [centre.text, *(near.text for near in found)], hover, groups)


def text_map(
    model: GPTEmbeddingsModel, tokenizer: PreTrainedTokenizerBase, text: str, method: Method = "pca"
) -> go.Figure:
    """Draw vectors of at most 256 tokens of a text: token + position, joined in their order, and the tokens alone."""
    parts = split_parts(model, tokenizer, text)
    ids = parts.input_ids[:TOKENS_SHOWN].tolist()
    pieces = readable_pieces(tokenizer, ids)
    vectors = torch.cat([parts.total[: len(ids)], parts.token[: len(ids)]])
    projection = project(vectors, 3, method)
    hover = [
        f"{escape_text(piece)}<br>id {token_id}<br>{what}{i}"
        for what in ("token + position ", "token alone, at ")
        for i, (piece, token_id) in enumerate(zip(pieces, ids, strict=True))
    ]
    groups = ["token + position"] * len(ids) + ["token alone"] * len(ids)
    return _draw_map(projection, [*pieces, *[""] * len(ids)], hover, groups, line="token + position")


def _draw_map(
    projection: Projection, labels: Sequence[str], hover: Sequence[str], groups: Sequence[str], line: str | None = None
) -> go.Figure:
    """Draw points in 3-D with a colour and shape for each group."""
    points = projection.points
    figure = go.Figure()
    for i, group in enumerate(dict.fromkeys(groups)):
        rows = [row for row, name in enumerate(groups) if name == group]
        figure.add_scatter3d(
            x=points[rows, 0],
            y=points[rows, 1],
            z=points[rows, 2],
            name=group,
            mode="lines+markers" if group == line else "markers",
            line={"width": 2, "color": COLOURS[i]},
            marker={"size": 5, "color": COLOURS[i], "symbol": ("circle", "diamond")[i % 2]},
            customdata=[hover[row] for row in rows],
            hovertemplate="%{customdata}<extra></extra>",
        )
    look = {"showarrow": False, "yshift": 11, "font": {"size": 12}}
    marked = [
        {"x": float(x), "y": float(y), "z": float(z), "text": escape_text(label), **look}
        for (x, y, z), label in zip(points, labels, strict=True)
        if label
    ]
    figure.update_layout(scene={**scene(projection), "annotations": marked[:LABELS_SHOWN]})
    return finish(figure, height=520)
