"""Masks that are right but for one error, as an annotator meets them late in an object.

The tenth click has one place to mend and everything else to leave alone.  Episodes that begin from
such masks teach that; they need no nine rounds before.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from training.pretrain.clicks import Mask

_LEAST_RADIUS, _LARGEST_RADIUS = 0.1, 0.4
_ATTEMPTS = 6
_LEAST_ERROR, _LARGEST_ERROR = 4, 0.25


def with_one_error(mask: Mask, rng: Generator) -> Mask:
    """The mask with one bite taken out at its border, or with one bulge added there.

    Args:
        mask: [H, W], not empty.
        rng: Of the draw.

    Returns:
        [H, W]; the error covers 4 pixels at least and 25 % of the object at most, or the mask
        comes back as it is where none of a few draws did.
    """
    inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0) > 0
    border = np.flatnonzero(mask & ~inner)
    area = int(mask.sum())
    for _ in range(_ATTEMPTS):
        y, x = divmod(int(rng.choice(border)), mask.shape[1])
        stain = _stain(mask.shape, (x, y), rng.uniform(_LEAST_RADIUS, _LARGEST_RADIUS), area, rng)
        wrong = mask & ~stain if rng.random() < 0.5 else mask | stain
        error = int((wrong ^ mask).sum())
        if _LEAST_ERROR <= error <= _LARGEST_ERROR * area:
            return wrong
    return mask


def as_logits(mask: Mask, rng: Generator) -> NDArray[np.float32]:
    """Logits that a decoder might have given for a mask: steep or gentle at its border, [H, W].

    Positive inside, negative outside, growing with the distance from the border up to 12.
    """
    inside, outside = (
        cv2.distanceTransform(part.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
        for part in (mask, ~mask)
    )
    signed = np.where(mask, inside - 0.5, 0.5 - outside)
    slope, limit = rng.uniform(0.8, 4.0), rng.uniform(4.0, 12.0)
    return np.clip(slope * signed, -limit, limit).astype(np.float32)


def _stain(
    shape: tuple[int, ...], centre: tuple[int, int], share: float, area: int, rng: Generator
) -> Mask:
    """An ellipse whose radii are up to a share of the object's side, [H, W]."""
    side = share * np.sqrt(area)
    axes = tuple(max(1, round(side * rng.uniform(0.5, 1.2))) for _ in range(2))
    stencil = np.zeros(shape, np.uint8)
    cv2.ellipse(stencil, centre, axes, float(rng.uniform(0, 180)), 0, 360, (1,), -1)
    return stencil > 0
