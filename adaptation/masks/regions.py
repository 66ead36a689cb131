"""How far masks agree, and their parts, boxes and uncertain outlines."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from adaptation.errors import InputError
from adaptation.types import Box, Size

Mask = npt.NDArray[np.bool_]
"""``[H, W]``, True inside the object."""


# Agreement


def iou(a: Mask, b: Mask, ignore: Mask | None = None) -> float:
    """Intersection over union in [0, 1]; two empty masks agree fully.

    Args:
        a: One mask.
        b: Another of the same size.
        ignore: Pixels that do not count, if any.
    """
    shared, either = _shared_and_total(a, b, ignore)
    union = either - shared
    return shared / union if union else 1.0


def dice(a: Mask, b: Mask, ignore: Mask | None = None) -> float:
    """Dice coefficient, ``2 |a and b| / (|a| + |b|)``, in [0, 1]; two empty masks agree fully."""
    shared, total = _shared_and_total(a, b, ignore)
    return 2 * shared / total if total else 1.0


def _shared_and_total(a: Mask, b: Mask, ignore: Mask | None) -> tuple[int, int]:
    """The pixels in both masks, and the sum of both masks' pixels."""
    if a.shape != b.shape:
        raise InputError(f"Masks to compare need the same size, got {a.shape} and {b.shape}.")
    if ignore is not None:
        a, b = a & ~ignore, b & ~ignore
    return np.count_nonzero(a & b), np.count_nonzero(a) + np.count_nonzero(b)


def error_regions(truth: Mask, mask: Mask, ignore: Mask | None = None) -> tuple[Mask, Mask]:
    """What a mask misses and what it has too much: (false negatives, false positives)."""
    false_negative, false_positive = truth & ~mask, mask & ~truth
    if ignore is not None:
        false_negative &= ~ignore
        false_positive &= ~ignore
    return false_negative, false_positive


# Regions


def bounding_box(mask: Mask) -> Box | None:
    """The tight box, or None around nothing; ``x1`` and ``y1`` lie one past the last pixel."""
    rows = np.flatnonzero(mask.any(axis=1))
    if rows.size == 0:
        return None
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    return Box(
        x0=float(columns[0]), y0=float(rows[0]), x1=float(columns[-1] + 1), y1=float(rows[-1] + 1)
    )


def window_of(box: Box, margin: int, size: Size) -> tuple[slice, slice]:
    """Rows and columns of a box grown by a margin, cut at the image's border."""
    rows = slice(max(int(box.y0) - margin, 0), min(int(box.y1) + margin, size[0]))
    columns = slice(max(int(box.x0) - margin, 0), min(int(box.x1) + margin, size[1]))
    return rows, columns


def largest_component(mask: Mask) -> Mask:
    """The largest 8-connected part of a mask; of equals, the one found first from the top."""
    box = bounding_box(mask)
    if box is None:
        return mask.copy()
    window = window_of(box, 0, (mask.shape[0], mask.shape[1]))
    labels, areas, _ = label_parts(mask[window], connectivity=8)
    largest = np.zeros_like(mask)
    largest[window] = labels == 1 + int(np.argmax(areas))
    return largest


def label_parts(
    mask: Mask, connectivity: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Number the parts of a mask from 1: labels ``[H, W]``, areas ``[N]``, boxes ``[N, 4]``.

    Boxes are (x, y, width, height).
    """
    _, labels, stats, _ = cv2.connectedComponentsWithStats(
        mask.view(np.uint8), connectivity=connectivity
    )
    rows = np.asarray(stats, dtype=np.int32)[1:]
    return np.asarray(labels, dtype=np.int32), rows[:, cv2.CC_STAT_AREA], rows[:, :4]


def erosion_radius(
    mask: Mask, *, share: float = 0.04, smallest: float = 1.0, largest: float = 16.0
) -> float:
    """How far an outline may be off, in pixels: a share of the object's size, within bounds.

    Args:
        mask: The object.
        share: Of the side of the square that has the object's area.
        smallest: The radius of a tiny object.
        largest: The radius of a huge one.
    """
    return float(np.clip(share * math.sqrt(np.count_nonzero(mask)), smallest, largest))


def erosion_band(mask: Mask, radius: float) -> tuple[Mask, Mask]:
    """The pixels that are surely inside and surely outside of a finished mask.

    Foreground and background are both eroded by a disc; the band between carries no label, since
    annotators' outlines are uncertain (Schön et al. 2024, arXiv 2404.08421).  The image's border
    is no outline and erodes nothing.  Where a region is too thin for the radius, the band shrinks
    to half the region's depth, so that a mask with pixels always keeps some.

    Args:
        mask: The finished mask.
        radius: Of the disc, in pixels; a pixel stays when no pixel of the other side is as near.

    Returns:
        (positive, negative), both ``[H, W]``, without a shared pixel.
    """
    box = bounding_box(mask)
    if box is None:
        return np.zeros_like(mask), np.ones_like(mask)
    window = window_of(box, math.ceil(2 * radius) + 1, (mask.shape[0], mask.shape[1]))
    positive, negative = np.zeros_like(mask), np.ones_like(mask)
    positive[window] = _core(mask[window], radius)
    negative[window] = _core(~mask[window], radius)
    return positive, negative


def _core(region: Mask, radius: float) -> Mask:
    """The pixels of a region farther than the radius from everything else."""
    if region.all() or not region.any():
        return region.copy()
    distance = cv2.distanceTransform(region.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    core: Mask = distance > min(radius, float(distance.max()) / 2)
    return core
