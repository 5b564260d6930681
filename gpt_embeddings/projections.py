"""Vectors in a few dimensions, to be looked at: PCA, and UMAP where it is installed."""

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch


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
    left, sizes, right = torch.linalg.svd(centred, full_matrices=False)
    kept = min(n_components, len(sizes))
    largest = right[:kept].gather(1, right[:kept].abs().argmax(1, keepdim=True)).squeeze(1)
    points = torch.zeros(len(vectors), n_components)
    points[:, :kept] = (left[:, :kept] * sizes[:kept] * largest.sign()).float()
    total = float(sizes.square().sum())
    shares = [float(size**2) / total if total > 0 else 0.0 for size in sizes[:kept]]
    return Projection(points, (*shares, *[0.0] * (n_components - kept)))


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


__all__ = ["Method", "Projection", "has_umap", "project"]
