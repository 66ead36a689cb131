"""Connected parts that clicks speak of: what a correction touched.  Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from adaptation.masks import Mask, bounding_box, error_regions
from adaptation.masks.regions import label_parts, window_of
from adaptation.types import Click

LEAST_REACH = 3.0
"""Pixels beside an error at which a click still means it, in the smallest image."""


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
