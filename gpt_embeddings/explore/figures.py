"""Plotly figures of what `gpt_embeddings.analysis` computes, for light and dark pages; markup in texts is escaped."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.express as px
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torch.nn.functional import normalize
from transformers import PreTrainedTokenizerBase

from gpt_embeddings.analysis.decomposition import measure, split_parts
from gpt_embeddings.analysis.encodings import Encoding
from gpt_embeddings.analysis.neighbours import Neighbour, Neighbours
from gpt_embeddings.analysis.projections import Projection, project
from gpt_embeddings.analysis.readable_tokens import readable_pieces
from gpt_embeddings.explore.tables import TOKENS_SHOWN, costs_table, escape_text
from modeling_gpt_embeddings import GPTEmbeddingsModel


COSINES = ("cos(sum, token)", "cos(sum, position)", "cos(token, position)")
NORMS = ("‖token‖", "‖position‖", "‖sum‖")

POSITIONS_SHOWN = 128  # rows of a square heat map
CURVE_POINTS = 256
COLORBAR = {"thickness": 10, "outlinewidth": 0}
# Blue, orange, green and purple of one lightness, each with a contrast of 3 or more on white and on near-black.
COLOURS = ("#3b82c4", "#d9702b", "#2f9e6e", "#a06cd5")
INK = "#7b8190"
GRID = "rgba(123, 129, 144, 0.25)"
RULE = "#a9aeb8"  # in 3-D, where colours have no alpha
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"


def text_figure(model: GPTEmbeddingsModel, tokenizer: PreTrainedTokenizerBase, text: str) -> go.Figure:
    """Draw the cosines and norms of each token's vectors: token, position and their sum.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        text: A text; at most 256 of its tokens are drawn.
    """
    parts = split_parts(model, tokenizer, text)
    shown = slice(TOKENS_SHOWN)
    pieces = readable_pieces(tokenizer, parts.input_ids[shown].tolist())
    measures = measure(parts)
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.06)
    hover = [
        f"position {i}<br>token {escape_text(piece)}<br>id {token_id}"
        for i, (piece, token_id) in enumerate(zip(pieces, parts.input_ids.tolist(), strict=False))
    ]
    longest = float(max(measures[name][shown].max() for name in NORMS))
    scales = (
        (COSINES, {"colorscale": "RdBu_r", "zmin": -1, "zmax": 1}),
        (NORMS, {"colorscale": "Viridis", "zmin": 0, "zmax": longest or 1}),
    )
    for row, (names, scale) in enumerate(scales, start=1):
        figure.add_heatmap(
            z=np.stack([measures[name][shown] for name in reversed(names)]),
            y=names[::-1],
            x=[str(i) for i in range(len(pieces))],
            customdata=np.tile(np.array(hover, dtype=object), (len(names), 1)),
            hovertemplate="%{customdata}<br>%{y}: %{z:.3f}<extra></extra>",
            colorbar={**COLORBAR, "len": 0.45, "y": 0.78 - 0.54 * (row - 1)},
            xgap=1,
            ygap=1,
            **scale,
            row=row,
            col=1,
        )
    # The axis has positions as categories and shows them as tokens, so that equal tokens keep columns of their own.
    labels = {str(i): escape_text(piece) for i, piece in enumerate(pieces)}
    figure.update_xaxes(type="category", labelalias=labels, tickangle=-60)
    return finish(figure, height=420)


def neighbours_figure(index: Neighbours, found: Sequence[Neighbour]) -> go.Figure:
    """Draw the scores of neighbours as bars, beside the best score that random rows would give."""
    labels = [escape_text(near.text) for near in found]
    if index.words is None:  # different tokens may look the same
        labels = [f"{label} ({near.input_ids[0]})" for label, near in zip(labels, found, strict=True)]
    figure = go.Figure().add_bar(
        x=[near.score for near in found],
        y=labels,
        orientation="h",
        marker_color=COLOURS[0],
        texttemplate="%{x:.3f}",
        hovertemplate="%{y}<br>cosine %{x:.4f}<extra></extra>",
    )
    line, beside = {"dash": "dot", "color": COLOURS[1], "width": 2}, {"yanchor": "bottom", "xanchor": "left"}
    figure.add_vline(index.chance, line=line, annotation_text="best by chance", annotation=beside)
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(title_text="cosine", rangemode="tozero")
    return finish(figure, height=90 + 28 * max(len(found), 3))


def position_similarity_figure(table: torch.Tensor, title: str = "") -> go.Figure:
    """Draw the cosine of every position with every other, of at most 128 evenly spaced ones.

    Args:
        table: A position table, `(n_positions, n_embd)`, such as `position_vectors(model)` or `sinusoidal_table`.
        title: Title of the figure.
    """
    rows, vectors = _sample_rows(table, POSITIONS_SHOWN)
    units = normalize(vectors, dim=1)
    cosines, labels = (units @ units.T).numpy(), {"x": "position", "y": "position"}
    figure = px.imshow(cosines, x=rows, y=rows, zmin=-1, zmax=1, color_continuous_scale="RdBu_r", labels=labels)
    figure.update_traces(name="", hovertemplate="positions %{x} and %{y}<br>cosine %{z:.3f}<extra></extra>")
    figure.update_coloraxes(colorbar=COLORBAR, colorbar_title_text="")
    return finish(figure, height=400, title=title)


def position_curve_figure(table: torch.Tensor, title: str = "") -> go.Figure:
    """Draw at most 256 rows of a position table, `(n_positions, n_embd)`, as a curve in three principal components."""
    rows, vectors = _sample_rows(table, CURVE_POINTS)
    projection = project(vectors)
    x, y, z = projection.points.T
    marker = {"size": 3, "color": rows, "colorscale": "Viridis"}
    figure = go.Figure().add_scatter3d(
        x=x,
        y=y,
        z=z,
        mode="lines+markers",
        line={"color": GRID, "width": 2},
        marker={**marker, "colorbar": {**COLORBAR, "title": {"text": "position"}}},
        customdata=rows,
        hovertemplate="position %{customdata}<extra></extra>",
    )
    figure.update_layout(scene=scene(projection))
    return finish(figure, height=400, title=title)


def position_norms_figure(position_tables: Mapping[str, torch.Tensor], title: str = "") -> go.Figure:
    """Draw the norms of at most 256 rows of each position table, `(n_positions, n_embd)`, as a line."""
    figure = go.Figure()
    for i, (name, table) in enumerate(position_tables.items()):
        rows, vectors = _sample_rows(table, CURVE_POINTS)
        figure.add_scatter(
            x=rows,
            y=vectors.norm(dim=1).numpy(),
            name=name,
            mode="lines",
            line={"color": COLOURS[i % len(COLOURS)], "dash": "dot" if i % 2 else "solid"},
            hovertemplate="position %{x}<br>norm %{y:.3f}<extra></extra>",
        )
    figure.update_xaxes(title_text="position")
    figure.update_yaxes(title_text="norm", rangemode="tozero")
    return finish(figure, height=340, title=title)


def _sample_rows(table: torch.Tensor, limit: int) -> tuple[npt.NDArray[np.int64], torch.Tensor]:
    """Return at most `limit` evenly spaced row numbers and the rows, `(n, n_embd)`."""
    if not len(table):
        raise ValueError('The position table has no rows: `position_embedding_type` of the model is "none".')
    rows = np.unique(np.linspace(0, len(table) - 1, min(limit, len(table))).round().astype(np.int64))
    return rows, table[torch.from_numpy(rows)]


def encodings_figure(encodings: Sequence[Encoding]) -> go.Figure:
    """Draw a small heat map of the sentences' cosines for each encoding."""
    figure = make_subplots(
        rows=-(-len(encodings) // 2),
        cols=2,
        subplot_titles=[encoding.name for encoding in encodings],
        vertical_spacing=0.13,
        horizontal_spacing=0.12,
    )
    for i, encoding in enumerate(encodings):
        numbers = [str(n) for n in range(1, len(encoding.similarity) + 1)]
        figure.add_heatmap(
            z=encoding.similarity,
            x=numbers,
            y=numbers,
            coloraxis="coloraxis",
            texttemplate="%{z:.2f}" if len(numbers) <= 6 else None,
            hovertemplate="sentences %{x} and %{y}<br>cosine %{z:.3f}<extra></extra>",
            row=1 + i // 2,
            col=1 + i % 2,
        )
    figure.update_layout(coloraxis={"colorscale": "RdBu_r", "cmin": -1, "cmax": 1, "colorbar": COLORBAR})
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_xaxes(type="category")
    figure.update_annotations(font={"size": 12})
    return finish(figure, height=170 * -(-len(encodings) // 2) + 40, top=36)


def costs_figure(vocab_size: int, n_positions: int, n_embd: int) -> go.Figure:
    """Draw parameters by dimension for a vocabulary and a context, beside those of the published GPTs.

    Args:
        vocab_size: Rows of `wte`.
        n_positions: Rows of `wpe`.
        n_embd: The dimension that is marked.
    """
    chosen, *published = costs_table(vocab_size, n_positions, n_embd).rows
    widths = np.unique(np.geomspace(16, max(2**14, 2 * n_embd), 60).round())
    figure = go.Figure().add_scatter(
        x=widths,
        y=widths * (vocab_size + n_positions),
        mode="lines",
        line={"color": GRID.replace("0.25", "0.7"), "dash": "dot"},
        name="vocabulary and context as chosen",
        hovertemplate="n_embd %{x}<br>%{y:,} parameters<extra></extra>",
    )
    for i, (group, rows) in enumerate({"published": published, "chosen": [chosen]}.items()):
        figure.add_scatter(
            x=[row[3] for row in rows],
            y=[row[6] for row in rows],
            mode="markers+text" if i == 0 else "markers",
            marker={"size": (9, 16)[i], "color": COLOURS[i], "symbol": ("circle", "star-open")[i]},
            text=[row[0] for row in rows],
            textposition=["bottom right" if j % 2 else "top left" for j in range(len(rows))],
            name=group,
            customdata=[row[7] for row in rows],
            hovertemplate="%{text}<br>n_embd %{x}<br>%{y:,} parameters<br>%{customdata} in float32<extra></extra>",
        )
    figure.update_xaxes(type="log", title_text="n_embd", dtick=1)
    figure.update_yaxes(type="log", title_text="parameters of wte + wpe", dtick=1)
    return finish(figure, height=420)


def scene(projection: Projection) -> dict[str, Any]:
    """Return a 3-D scene whose axes say how much of the variance they show."""
    titles = [f"PC {i} ({100 * share:.0f} %)" for i, share in enumerate(projection.shares, 1)]
    look = {"showticklabels": False, "showbackground": False, "showspikes": False, "color": INK}
    look |= {"gridcolor": RULE, "zerolinecolor": RULE}
    axes = {
        axis: {"title": {"text": title, "font": {"size": 11}}, **look}
        for axis, title in zip(("xaxis", "yaxis", "zaxis"), titles or ("UMAP 1", "UMAP 2", "UMAP 3"), strict=True)
    }
    camera = {"eye": {"x": 1.5, "y": 1.5, "z": 0.9}, "center": {"x": 0, "y": 0, "z": -0.12}}
    return {**axes, "aspectmode": "cube", "camera": camera}


def finish(figure: go.Figure, height: int, top: int = 24, title: str = "") -> go.Figure:
    """Give a figure its height in pixels and the look of all."""
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 10, "r": 10, "t": 44 if title else top, "b": 10},
        title={"text": title, "x": 0, "xanchor": "left", "y": 0.98, "yanchor": "top", "pad": {"l": 10}},
        title_font_size=14,
        paper_bgcolor="rgba(0, 0, 0, 0)",
        plot_bgcolor="rgba(0, 0, 0, 0)",
        font={"family": FONT, "size": 13, "color": INK},
        hoverlabel={"font": {"family": FONT}, "align": "left"},
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
        modebar={"bgcolor": "rgba(0, 0, 0, 0)", "color": INK},
    )
    axes = {"gridcolor": GRID, "zerolinecolor": GRID, "automargin": True, "title_font_size": 13}
    return figure.update_xaxes(axes).update_yaxes(axes)
