"""Connected parts that clicks speak of: what a correction touched, what a prompt means.  Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from adaptation.masks import Mask, bounding_box, error_regions
from adaptation.masks.regions import label_parts, window_of
from adaptation.types import Box, Click

LEAST_REACH = 3.0
"""Pixels beside an error at which a click still means it, in the smallest image."""

_PART_REACH = 1 / 192
"""The same for a part of a mask, over the longer side: a pixel of the smallest decoder's grid."""


def corrected_region(
    chosen: Mask, rejected: Mask, clicks: Sequence[Click], reach: float
) -> Mask | None:
    """The connected parts of ``chosen XOR rejected`` that correcting clicks lie in or next to.

    A positive click speaks of what the rejected mask misses, a negative one of what it has too
    much.

    Args:
        chosen: ``[H, W]``, the better mask.
        rejected: ``[H, W]``, the mask that was corrected.
        clicks: The correcting ones, original pixels.
        reach: Pixels that a click may lie beside a part.

    Returns:
        ``[H, W]``, or None where no click meets an error that it speaks of.
    """
    missed, extra = error_regions(chosen, rejected)
    region = np.zeros_like(chosen)
    for errors, is_positive in ((missed, True), (extra, False)):
        points = [c for c in clicks if c.is_positive == is_positive]
        box = bounding_box(errors)
        if points and box is not None:
            window = window_of(box, 0, (errors.shape[0], errors.shape[1]))
            region[window] |= _parts_near(errors[window], points, window, reach)
    return region if region.any() else None


def _parts_near(
    errors: Mask, clicks: Sequence[Click], window: tuple[slice, slice], reach: float
) -> Mask:
    """The parts of a window's errors that have a pixel within reach of a click."""
    labels, _, _ = label_parts(np.ascontiguousarray(errors), connectivity=8)
    rows, columns = np.ogrid[window]
    touched: set[int] = set()
    for click in clicks:
        y0, x0 = window[0].start, window[1].start
        near_rows = _near(click.y - y0, reach, labels.shape[0])
        near_columns = _near(click.x - x0, reach, labels.shape[1])
        square = labels[near_rows, near_columns]
        dy, dx = rows[near_rows] - click.y, columns[:, near_columns] - click.x
        touched |= set(np.unique(square[dy**2 + dx**2 <= reach**2]).tolist())
    found: Mask = np.isin(labels, sorted(touched - {0}))
    return found


def _near(centre: float, reach: float, size: int) -> slice:
    """The places of an axis that may lie within reach of a point."""
    return slice(max(0, int(centre - reach)), max(0, min(size, int(centre + reach) + 2)))


def pointed_at(mask: Mask, clicks: Sequence[Click], box: Box | None) -> Mask:
    """A mask without the connected parts that no positive click lies in and that the box misses.

    What annotators are shown went through the same (`adaptation.parts`), a candidate that was not
    shown did not: with its stray parts it would lose against the shown one for no merit of that.

    Args:
        mask: ``[H, W]``.
        clicks: Known at that moment, original pixels.
        box: Likewise.

    Returns:
        ``[H, W]``; the input where nothing is left out or nothing would be left.
    """
    around = bounding_box(mask)
    positive = [click for click in clicks if click.is_positive]
    if around is None or not (positive or box is not None):
        return mask
    height, width = mask.shape
    window = window_of(around, 0, (height, width))
    reach = max(LEAST_REACH, max(height, width) * _PART_REACH)
    kept = _parts_near(mask[window], positive, window, reach)
    if box is not None:
        kept |= _parts_in(mask[window], box, window)
    if not kept.any():
        return mask
    found = np.zeros_like(mask)
    found[window] = kept
    return found


def _parts_in(mask: Mask, box: Box, window: tuple[slice, slice]) -> Mask:
    """The parts of a window's mask that have a pixel inside of a box."""
    labels, _, _ = label_parts(np.ascontiguousarray(mask), connectivity=8)
    y0, x0 = window[0].start, window[1].start
    rows = slice(max(0, int(box.y0) - y0), max(0, int(np.ceil(box.y1)) - y0))
    columns = slice(max(0, int(box.x0) - x0), max(0, int(np.ceil(box.x1)) - x0))
    touched = set(np.unique(labels[rows, columns]).tolist())
    found: Mask = np.isin(labels, sorted(touched - {0}))
    return found
