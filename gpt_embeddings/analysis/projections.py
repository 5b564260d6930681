"""Vectors in a few dimensions for pictures: PCA by scikit-learn, UMAP if umap-learn is installed."""

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA

from gpt_embeddings.analysis.similarity import Floats


Method: TypeAlias = Literal["pca", "umap"]


@dataclass(frozen=True)
class Projection:
    """Points, and the share of the variance that each axis shows."""

    points: Floats  # coordinates of shape `(n, n_components)`
    shares: tuple[float, ...]  # share of the variance on each axis; empty for UMAP, which has no such number


def project(vectors: npt.ArrayLike, n_components: int = 3, method: Method = "pca") -> Projection:
    """Project vectors, `(n, n_embd)`, to a few dimensions, filled up with zeros, by PCA, or UMAP if installed."""
    if method not in get_args(Method):
        raise ValueError(f"`method` must be 'pca' or 'umap', got {method!r}.")
    numbers = np.asarray(vectors, np.float64)
    if not len(numbers):
        raise ValueError("There is nothing to project; give at least one vector.")
    if not np.isfinite(numbers).all():
        raise ValueError("The vectors hold numbers that are not finite; the table is broken.")
    if method == "umap":
        if not has_umap():
            raise ImportError("UMAP is not installed: `pip install umap-learn`. PCA needs nothing more.")
        least = n_components + 2  # for the spectral initialization
        if len(numbers) < least:
            raise ValueError(f"UMAP needs at least {least} points, got {len(numbers)}. Give more, or use PCA.")
        reducer = importlib.import_module("umap").UMAP(
            n_components=n_components, n_neighbors=min(15, len(numbers) - 1), metric="cosine", random_state=0, n_jobs=1
        )
        return Projection(np.asarray(reducer.fit_transform(numbers.astype(np.float32)), np.float32), ())
    points = np.zeros((len(numbers), n_components), np.float32)
    shares = np.zeros(n_components)
    if (numbers != numbers[0]).any():  # scikit-learn divides by the variance
        pca = PCA(min(n_components, *numbers.shape), svd_solver="full")
        found = pca.fit_transform(numbers)
        points[:, : found.shape[1]] = found
        shares[: found.shape[1]] = pca.explained_variance_ratio_
    return Projection(points, tuple(shares.tolist()))


def has_umap() -> bool:
    """Return whether umap-learn is installed."""
    return importlib.util.find_spec("umap") is not None
