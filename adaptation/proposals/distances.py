"""Nearest neighbours among unit vectors, in pieces that fit into the memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK_CELLS = 4_000_000
"""Entries of a matrix of similarities that are held at once: 16 MB."""


def nearest_similarity(queries: Tensor, references: Tensor) -> Tensor:
    """Cosine of each query with its most similar reference, ``[N]``.

    Args:
        queries: ``[N, C]`` unit vectors.
        references: ``[M, C]`` unit vectors, at least one.
    """
    return torch.cat([part.amax(dim=1) for part in similarities(queries, references)])


def mean_of_nearest(queries: Tensor, references: Tensor, count: int) -> Tensor:
    """Mean cosine of each query with its most similar references, ``[N]``.

    Args:
        queries: ``[N, C]`` unit vectors.
        references: ``[M, C]`` unit vectors, at least one.
        count: How many; all of them where there are fewer.
    """
    count = min(count, len(references))
    parts = [p.topk(count, dim=1).values.mean(dim=1) for p in similarities(queries, references)]
    return torch.cat(parts)


def similarities(queries: Tensor, references: Tensor) -> Iterator[Tensor]:
    """Rows of the matrix of cosines ``[N, M]``, in pieces of at most `CHUNK_CELLS` entries."""
    rows = max(1, CHUNK_CELLS // max(1, len(references)))
    for start in range(0, len(queries), rows):
        yield queries[start : start + rows] @ references.T


def as_distance(cosine: Tensor) -> Tensor:
    """Euclidean distance of unit vectors, in [0, 2], from their cosine."""
    return (2 - 2 * cosine).clamp(min=0).sqrt()
