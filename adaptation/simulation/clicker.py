"""The simulated annotator: where a person who knows the object would click next.

The central annotator follows the rules that RITM (Sofiiuk et al., arXiv 2102.06583) and SimpleClick
(arXiv 2210.11006) evaluate with: click the middle of the larger error.  Real clicks scatter around
that middle (RClicks, arXiv 2410.11722); the noisy annotator draws them.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
from numpy.random import Generator
from numpy.typing import NDArray

from adaptation.errors import InputError
from adaptation.masks import error_regions
from adaptation.types import Click

Mask = npt.NDArray[np.bool_]
Distance = npt.NDArray[np.float32]


def interior_distance(region: Mask) -> Distance:
    """Exact Euclidean distance of each pixel of a region to the nearest pixel outside it.

    Args:
        region: [H, W] bool.

    Returns:
        [H, W] float32, 0 outside.  What lies beyond the image's border is outside.
    """
    distance = np.zeros(region.shape, np.float32)
    if region.any():
        x, y, width, height = cv2.boundingRect(region.astype(np.uint8))
        part = (slice(y, y + height), slice(x, x + width))
        padded = np.pad(region[part], 1).astype(np.uint8)
        exact = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        distance[part] = exact[1:-1, 1:-1]
    return distance


def next_click(
    truth: Mask, mask: Mask, *, clicked: Sequence[Click] = (), ignore: Mask | None = None
) -> Click | None:
    """The central annotator's next click.

    Of the missing and the surplus pixels, the ones whose distance to the nearest other pixel has
    the larger maximum are clicked, at that maximum; at the first in row-major order where several
    are as deep.  Equally deep errors: negative.  With an empty mask this is the first click: the
    interior point of the object that is farthest from its border.

    Args:
        truth: [H, W] bool, the object.
        mask: [H, W] bool, what is shown; all False before the first click.
        clicked: The clicks so far; their pixels are not clicked again.
        ignore: [H, W] bool, pixels that are no error either way.

    Returns:
        The click, on a whole pixel; None when no error pixel is left to click.

    Raises:
        InputError: The masks differ in shape.
    """
    depth, is_positive = _deeper_error(truth, mask, clicked, ignore)
    if not depth.any():
        return None
    return _click_at(int(depth.argmax()), depth.shape[1], is_positive)


def noisy_click(
    truth: Mask,
    mask: Mask,
    rng: np.random.Generator,
    *,
    clicked: Sequence[Click] = (),
    ignore: Mask | None = None,
) -> Click | None:
    """A click that misses the middle: same error as `next_click`, another point of it.

    The point is drawn from the connected piece of the error that holds the central click, with a
    probability proportional to its distance from the nearest pixel outside the error.

    Args:
        truth: [H, W] bool, the object.
        mask: [H, W] bool, what is shown.
        rng: Decides the point; the same state gives the same click.
        clicked: The clicks so far; their pixels are not clicked again.
        ignore: [H, W] bool, pixels that are no error either way.

    Returns:
        The click, on a whole pixel; None when no error pixel is left to click.
    """
    depth, is_positive = _deeper_error(truth, mask, clicked, ignore)
    if not depth.any():
        return None
    _, pieces = cv2.connectedComponents((depth > 0).astype(np.uint8), connectivity=8)
    piece = pieces == pieces.flat[depth.argmax()]
    chances = np.where(piece, depth, 0).astype(np.float64).ravel()
    index = rng.choice(chances.size, p=chances / chances.sum())
    return _click_at(int(index), depth.shape[1], is_positive)


def _deeper_error(
    truth: Mask, mask: Mask, clicked: Sequence[Click], ignore: Mask | None
) -> tuple[Distance, bool]:
    """Depths of the error to click in, clicked pixels at 0, and whether it is a missing part."""
    if truth.shape != mask.shape or (ignore is not None and ignore.shape != truth.shape):
        raise InputError(
            f"The annotator compares masks of one size, got {truth.shape} and {mask.shape}."
        )
    missing, surplus = (interior_distance(r) for r in error_regions(truth, mask, ignore))
    for click in clicked:
        row, column = round(click.y), round(click.x)
        if 0 <= row < truth.shape[0] and 0 <= column < truth.shape[1]:
            missing[row, column] = surplus[row, column] = 0
    is_positive = bool(missing.max(initial=0) > surplus.max(initial=0))
    return (missing, True) if is_positive else (surplus, False)


def _click_at(index: int, width: int, is_positive: bool) -> Click:
    row, column = divmod(index, width)
    return Click(x=float(column), y=float(row), is_positive=is_positive)


def jittered_box(mask: Mask, rng: Generator, *, spread: float = 0.08) -> NDArray[np.float32]:
    """A box drawn by hand around the object: each edge off by up to `spread` of the side, [4].

    Returns:
        (x0, y0, x1, y1), edges as in image slices: a tight box ends one past the last pixel.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)
    sides = np.array([box[2] - box[0], box[3] - box[1]] * 2)
    box = box + np.clip(rng.normal(0, spread / 2, 4), -spread, spread) * sides
    limit = np.array([mask.shape[1], mask.shape[0]] * 2)
    return np.asarray(np.clip(box, 0, limit), np.float32)
