"""Prompts drawn for training: annotators who are roughly right, not only the ideal one.

Masks are at the resolution of the logits; (x, y) are whole pixels of them.  Positions are drawn
near the middle of a region more often than at its edge, as people click.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

_AT_CENTRE = 0.4
_WIDE = 0.2
_NEGATIVE_REACH = 7


@dataclass(frozen=True, slots=True)
class PixelClick:
    """A click on a whole pixel of a mask."""

    x: int
    y: int
    is_positive: bool


def interior_distance(mask: Mask) -> NDArray[np.float32]:
    """Distance of each pixel inside to the nearest pixel outside; the border counts as outside."""
    padded = np.pad(mask.astype(np.uint8), 1)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_5)
    return np.asarray(distance[1:-1, 1:-1], np.float32)


def first_click(mask: Mask, rng: Generator) -> PixelClick:
    """A positive click inside the object, at its middle or somewhere around it."""
    x, y = _draw_inside(interior_distance(mask), rng, reach=0.4)
    return PixelClick(x, y, True)


def corrective_click(shown: Mask, target: Mask, rng: Generator) -> PixelClick | None:
    """A click in the larger of the missing and the surplus regions, sometimes in the smaller."""
    missing = interior_distance(target & ~shown)
    surplus = interior_distance(shown & ~target)
    if not missing.any() and not surplus.any():
        return None
    is_positive = bool(missing.max() > surplus.max())
    if missing.any() and surplus.any() and rng.random() < 0.15:
        is_positive = not is_positive
    x, y = _draw_inside(missing if is_positive else surplus, rng, reach=0.5)
    return PixelClick(x, y, is_positive)


def scattered_click(mask: Mask, rng: Generator) -> PixelClick | None:
    """A click anywhere in the object, or beside it, before anything was shown."""
    is_positive = bool(rng.random() < 0.5)
    region = mask
    if not is_positive:
        region = ~mask
        if rng.random() < 0.7:
            kernel = np.ones((2 * _NEGATIVE_REACH + 1,) * 2, np.uint8)
            region = region & (cv2.dilate(mask.astype(np.uint8), kernel) > 0)
    pixels = np.flatnonzero(region)
    if len(pixels) == 0:
        return None
    y, x = divmod(int(rng.choice(pixels)), mask.shape[1])
    return PixelClick(x, y, is_positive)


def _draw_inside(distance: NDArray[np.float32], rng: Generator, *, reach: float) -> tuple[int, int]:
    """Draw a pixel: the deepest one, or one at least `reach` as deep, or now and then any."""
    if rng.random() < _AT_CENTRE:
        index = int(distance.argmax())
    else:
        least = 0.01 if rng.random() < _WIDE else reach
        index = int(rng.choice(np.flatnonzero(distance >= least * distance.max())))
    y, x = divmod(index, distance.shape[1])
    return x, y
