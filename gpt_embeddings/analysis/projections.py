"""Vectors in a few dimensions, to be looked at: PCA, and UMAP where it is installed."""

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch

from gpt_embeddings.threads import torch_threads


Method: TypeAlias = Literal["pca", "umap"]


@dataclass(frozen=True)
class Projection:
    """Points, and how much of the whole each axis shows."""

    points: torch.Tensor
    """Coordinates of shape `(n, n_components)`, float32."""
    shares: tuple[float, ...]
    """Share of the variance on each axis; empty for UMAP, which has no such number."""


def project(vectors: torch.Tensor, n_components: int = 3, method: Method = "pca") -> Projection:
    """Project vectors to a few dimensions, always to the same ones.

    An axis of PCA has no natural direction; here the largest weight of each is positive.

    Args:
        vectors: Vectors of shape `(n, n_embd)`.
        n_components: Dimensions to keep; those that the vectors do not fill are zeros.
        method: `"pca"`, or `"umap"` where the package umap-learn is installed.

    Raises:
        ValueError: The method is unknown, there are too few vectors for it, or a number is not finite.
        ImportError: UMAP is asked for and not installed.
    """
    if method not in get_args(Method):
        raise ValueError(f"`method` must be 'pca' or 'umap', got {method!r}.")
    if not len(vectors):
        raise ValueError("There is nothing to project; give at least one vector.")
    if not bool(vectors.isfinite().all()):
        raise ValueError("The vectors hold numbers that are not finite; the table is broken.")
    if method == "umap":
        return _project_umap(vectors, n_components)
    centred = vectors.double() - vectors.double().mean(0)
    # The axes from the smaller of the two products; in float64 the squares cost no digit that could be seen.
    tall = len(centred) > centred.shape[1]
    with torch_threads(1):  # more wait for each other on a matrix of this size
        squares, found = torch.linalg.eigh(centred.T @ centred if tall else centred @ centred.T)  # ascending
    squares, found = squares.flip(0).clamp(min=0)[:n_components], found.flip(1)[:, :n_components]
    axes = found if tall else centred.T @ found  # (n_embd, at most n_components), of any length
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    points = torch.zeros(len(vectors), n_components)
    kept = centred @ found if tall else found * squares.sqrt()
    points[:, : kept.shape[1]] = (kept * largest.sign()).float()
    total = float(centred.square().sum())
    shares = [float(square) / total if total > 0 else 0.0 for square in squares]
    return Projection(points, (*shares, *[0.0] * (n_components - len(shares))))


def has_umap() -> bool:
    """Return whether UMAP can be asked for."""
    return importlib.util.find_spec("umap") is not None


def _project_umap(vectors: torch.Tensor, n_components: int) -> Projection:
    if not has_umap():
        raise ImportError("UMAP is not installed: `pip install umap-learn`. PCA needs nothing more.")
    least = n_components + 2  # its spectral start wants that many
    if len(vectors) < least:
        raise ValueError(f"UMAP needs at least {least} points, got {len(vectors)}. Give more, or use PCA.")
    umap = importlib.import_module("umap")
    reducer = umap.UMAP(
        n_components=n_components, n_neighbors=min(15, len(vectors) - 1), metric="cosine", random_state=0, n_jobs=1
    )
    return Projection(torch.from_numpy(reducer.fit_transform(vectors.numpy())).float(), ())
