"""Prompts drawn for training: annotators who are roughly right, not only the ideal one.

Masks are at the resolution of the logits; (x, y) are whole pixels of them.  People click anywhere
in the region they mean, more often near its middle, now and then at its border, and not always in
the largest error (RClicks, Antonov et al. 2024, arXiv 2410.11722): so do the clicks drawn here.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from adaptation.simulation.clicker import interior_distance

Mask = NDArray[np.bool_]

_AT_CENTRE = 0.35
_BY_DEPTH = 0.35
_ANYWHERE = 0.22  # and near the border in the rest
_BORDER_DEPTH = 2.0
_SECOND_ERROR = 0.15
_NEGATIVE_REACH = 7


@dataclass(frozen=True, slots=True)
class PixelClick:
    """A click on a whole pixel of a mask."""

    x: int
    y: int
    is_positive: bool


def first_click(mask: Mask, rng: Generator) -> PixelClick:
    """A positive click inside the object, at its middle or somewhere around it."""
    x, y = draw_inside(interior_distance(mask), rng)
    return PixelClick(x, y, True)


def corrective_click(shown: Mask, target: Mask, rng: Generator) -> PixelClick | None:
    """A click in the deepest missing or surplus region, now and then in the second deepest.

    A region is a connected piece of the missing or of the surplus pixels; None where there is
    nothing to correct.
    """
    regions = []
    for is_positive, wrong in ((False, shown & ~target), (True, target & ~shown)):
        distance = interior_distance(wrong)
        if distance.any():
            regions += [(depth, is_positive, piece) for depth, piece in _two_deepest(distance)]
    if not regions:
        return None
    regions.sort(key=lambda region: -region[0])
    takes_second = len(regions) > 1 and rng.random() < _SECOND_ERROR
    _, is_positive, piece = regions[int(takes_second)]
    x, y = draw_inside(piece, rng)
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


def draw_inside(distance: NDArray[np.float32], rng: Generator) -> tuple[int, int]:
    """Draw a pixel of a region, given by its pixels' depths; 0 outside.

    Args:
        distance: [H, W], as of the clicker's `interior_distance`; some pixel is above 0.
        rng: Of the draw.

    Returns:
        (x, y): the deepest pixel, one drawn in proportion to its depth, any one, or one near the
        border.
    """
    draw = rng.random()
    if draw < _AT_CENTRE:
        index = int(distance.argmax())
    else:
        inside = np.flatnonzero(distance)
        depths = distance.ravel()[inside]
        if draw < _AT_CENTRE + _BY_DEPTH:
            weights = depths.astype(np.float64)
        elif draw < _AT_CENTRE + _BY_DEPTH + _ANYWHERE:
            weights = np.ones(len(inside))
        else:
            weights = (depths <= _BORDER_DEPTH).astype(np.float64)
        index = int(inside[_draw_index(weights, rng)])
    y, x = divmod(index, distance.shape[1])
    return x, y


def _draw_index(weights: NDArray[np.float64], rng: Generator) -> int:
    """Draw an index in proportion to weights, of which some are above 0."""
    upto = np.cumsum(weights)
    return int(np.searchsorted(upto, rng.random() * upto[-1], side="right"))


def _two_deepest(distance: NDArray[np.float32]) -> list[tuple[float, NDArray[np.float32]]]:
    """The two deepest connected pieces of a region: (depth, depths inside, 0 elsewhere) each."""
    count, pieces = cv2.connectedComponents((distance > 0).astype(np.uint8))
    if count == 2:
        return [(float(distance.max()), distance)]
    found = []
    rest = distance
    for _ in range(2):
        index = int(rest.argmax())
        number = pieces.ravel()[index]
        piece = np.where(pieces == number, distance, np.float32(0))
        found.append((float(rest.ravel()[index]), piece))
        rest = np.where(pieces == number, np.float32(0), rest)
        if not rest.any():
            break
    return found
