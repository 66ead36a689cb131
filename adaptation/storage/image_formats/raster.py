"""Pixels as a file stores them, drawn upright a band of rows at a time.

A whole image exists twice at most: as its decoder keeps it, and as what comes out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""``[H, W, 3]`` RGB."""

_BAND_PIXELS = 1 << 18

_STORED: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}
"""Orientation of the TIFF tag -> how the stored raster lies in the upright one; all are views."""


@dataclass(frozen=True, slots=True)
class Raster:
    """An image in the order of its file.

    Args:
        width: Of a stored row, pixels.
        height: Number of stored rows.
        rows: From and to which row -> ``[n, width, 3]`` uint8 RGB, on white.
    """

    width: int
    height: int
    rows: Callable[[int, int], Pixels]


def draw(raster: Raster, orientation: int = 1) -> Pixels:
    """The upright image, ``[H, W, 3]`` uint8 RGB.

    Args:
        raster: What is stored.
        orientation: 1 to 8, as in TIFF and EXIF.
    """
    is_on_its_side = orientation >= 5
    size = (raster.width, raster.height) if is_on_its_side else (raster.height, raster.width)
    upright = np.empty((*size, 3), np.uint8)
    stored = _STORED[orientation](upright) if orientation > 1 else upright
    for y0, y1 in bands(raster.width, raster.height):
        stored[y0:y1] = raster.rows(y0, y1)
    return upright


def bands(width: int, height: int) -> Iterator[tuple[int, int]]:
    """First and one past the last row of bands of about a quarter of a million pixels."""
    n_rows = max(1, _BAND_PIXELS // max(1, width))
    for y0 in range(0, height, n_rows):
        yield y0, min(y0 + n_rows, height)


def on_white(colours: NDArray[Any], alpha: NDArray[Any]) -> Pixels:
    """Composite 8-bit colours ``[h, w, 3]`` on white with alpha ``[h, w]`` from 0 to 1."""
    share = alpha[:, :, None].astype(np.float32)
    return np.asarray(np.rint(colours * share + 255 * (1 - share)), dtype=np.uint8)
