"""Masks painted by hand: with the right border, or with a wrong one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from adaptation.masks import Mask

BORDER_ERROR = 0.08
"""How far a sloppy border strays, as a share of the side of a square of the object's area."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Painter:
    """Paints objects.

    Args:
        sloppy: Share of the objects that get a wrong border.
        seed: Decides which ones, and where their borders stray.
    """

    sloppy: float = 0.0
    seed: int = 0

    def paint(self, truth: Mask, name: str) -> tuple[Mask, bool]:
        """The mask ``[H, W]`` that is submitted for an object, and whether its border is wrong.

        Args:
            truth: The object; not empty.
            name: Of the object; with the seed it decides everything.
        """
        digest = hashlib.sha256(f"paint {name}".encode()).digest()
        rng = np.random.default_rng([self.seed, int.from_bytes(digest[:8], "big")])
        if rng.random() >= self.sloppy:
            return truth, False
        return with_sloppy_border(truth, rng), True


def with_sloppy_border(truth: Mask, rng: np.random.Generator) -> Mask:
    """Move a mask's border in and out by a smooth random amount.

    A pixel is inside where its signed distance to the border (positive inside) exceeds smooth
    noise of standard deviation `BORDER_ERROR` times the square root of the object's area, at least
    one pixel.  Where nothing would be left, the mask stays as it is.

    Args:
        truth: ``[H, W]`` bool, not empty.
        rng: Decides the noise.
    """
    side = float(np.sqrt(np.count_nonzero(truth)))
    reach = max(1.0, BORDER_ERROR * side)
    drawn = rng.standard_normal(truth.shape, dtype=np.float32)
    smooth = np.asarray(cv2.GaussianBlur(drawn, (0, 0), max(2.0, side / 6)), np.float32)
    noise = smooth * (reach / max(float(smooth.std()), 1e-12))
    # The border lies half a pixel before the nearest pixel of the other side.
    signed = np.where(truth, _distance(truth) - 0.5, 0.5 - _distance(~truth))
    mask: Mask = signed > np.clip(noise, -3 * reach, 3 * reach)
    return mask if mask.any() else truth


def _distance(region: Mask) -> npt.NDArray[np.float32]:
    """Distance of each pixel of a region to the nearest other one; the image's end is no border."""
    exact = cv2.distanceTransform(region.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(exact, np.float32)
