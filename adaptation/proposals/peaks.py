"""Score maps -> places to prompt at: local maxima, the best first, apart from one another."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from adaptation.masks import Mask
from adaptation.proposals.interface import Place, ScoreMap
from adaptation.types import Click, Size


def peaks_of(
    score_map: ScoreMap,
    image_size: Size,
    *,
    count: int,
    apart: int = 1,
    above: float = -np.inf,
    taken: Sequence[Mask] = (),
) -> tuple[Place, ...]:
    """The local maxima of a map as positive clicks, best first.

    Args:
        score_map: ``[h, w]`` over the image.
        image_size: (H, W) in original pixels.
        count: How many at most.
        apart: Cells around a peak that hold no better one.
        above: Peaks below or at this score are left out.
        taken: Masks ``[H, W]`` in which no peak may lie.
    """
    free = free_cells(taken, (score_map.shape[0], score_map.shape[1]))
    values = np.where(free, score_map, -np.inf).astype(np.float32)
    side = 2 * apart + 1
    highest = cv2.dilate(values, np.ones((side, side), np.uint8))
    is_peak = (values >= highest) & np.isfinite(values) & (values > above)
    rows, columns = np.nonzero(is_peak)
    order = np.argsort(-values[rows, columns], kind="stable")
    chosen = _apart(rows[order], columns[order], apart, count)
    return tuple(
        Place(
            score=float(score_map[row, column]),
            click=centre_of_cell(row, column, score_map.shape, image_size),
        )
        for row, column in chosen
    )


def _apart(
    rows: NDArray[np.intp], columns: NDArray[np.intp], apart: int, count: int
) -> list[tuple[int, int]]:
    """The first of the cells that lie so far from all before: plateaus give one peak."""
    kept: list[tuple[int, int]] = []
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        if len(kept) == count:
            break
        if all(max(abs(row - r), abs(column - c)) > apart for r, c in kept):
            kept.append((row, column))
    return kept


def free_cells(taken: Sequence[Mask], size: Size) -> Mask:
    """Cells ``[h, w]`` whose centres no mask covers."""
    free = np.ones(size, dtype=np.bool_)
    for mask in taken:
        rows = ((np.arange(size[0]) + 0.5) * mask.shape[0] / size[0]).astype(int)
        columns = ((np.arange(size[1]) + 0.5) * mask.shape[1] / size[1]).astype(int)
        free &= ~mask[np.ix_(rows, columns)]
    return free


def centre_of_cell(row: int, column: int, grid: tuple[int, ...], image_size: Size) -> Click:
    """A positive click on the pixel in the middle of a cell."""
    x = (column + 0.5) * image_size[1] / grid[1] - 0.5
    y = (row + 0.5) * image_size[0] / grid[0] - 0.5
    return Click(
        x=float(min(max(round(x), 0), image_size[1] - 1)),
        y=float(min(max(round(y), 0), image_size[0] - 1)),
        is_positive=True,
    )


def enlarged(score_map: ScoreMap, size: Size) -> ScoreMap:
    """A map at another size (H, W), bilinear."""
    return np.asarray(
        cv2.resize(score_map, (size[1], size[0]), interpolation=cv2.INTER_LINEAR), np.float32
    )
