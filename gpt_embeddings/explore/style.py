"""How every figure looks, and how a text becomes a label that shows it as it is."""

from typing import Any

import plotly.graph_objects as go

from gpt_embeddings.analysis.projections import Projection


# Blue, orange, green and purple of one lightness, each with a contrast of 3 or more on white and on near-black.
COLOURS = ("#3b82c4", "#d9702b", "#2f9e6e", "#a06cd5")
INK = "#7b8190"
GRID = "rgba(123, 129, 144, 0.25)"
RULE = "#a9aeb8"  # in 3-D, where colours have no alpha
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"


def escape_text(text: str) -> str:
    """Return a text that HTML, Plotly and Gradio's templates show as it is: without markup, entities or TeX."""
    for char in "&<>\"'{}$`":
        text = text.replace(char, f"&#{ord(char)};")
    return text


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
