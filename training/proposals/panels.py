"""Panels to look at: image, map, candidates, truth, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from adaptation.errors import StoreError
from adaptation.masks import Mask
from adaptation.proposals.interface import ScoreMap
from adaptation.proposals.refiner import Region

SIDE = 400
_COLOURS = ((76, 201, 240), (247, 37, 133), (255, 183, 3), (128, 237, 153), (181, 101, 255))
_TRUTH = (255, 70, 70)


def write_panel(
    path: Path,
    pixels: NDArray[np.uint8],
    score_map: ScoreMap,
    regions: Sequence[Region],
    truth: Mask,
) -> None:
    """Write one image's panel as PNG, its four squares of 400 pixels from left to right.

    Args:
        path: Its folder is made.
        pixels: ``[H, W, 3]`` uint8 RGB.
        score_map: ``[h, w]``, stretched from its own lowest to its highest score.
        regions: Candidates, best first.
        truth: ``[h, w]``.

    Raises:
        StoreError: It cannot be written.
    """
    image = _square(pixels)
    squares = [image, _heat(score_map), _outlined_regions(image, regions), image.copy()]
    _outline(squares[3], truth, _TRUTH)
    panel = np.concatenate(squares, axis=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), panel[..., ::-1]):
        raise StoreError(f"The panel {path.name} could not be written.")


def _square(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA))


def _heat(score_map: ScoreMap) -> NDArray[np.uint8]:
    low, high = float(score_map.min()), float(score_map.max())
    steps = ((score_map - low) / max(high - low, 1e-9) * 255).astype(np.uint8)
    large = cv2.resize(steps, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.applyColorMap(large, cv2.COLORMAP_VIRIDIS)[..., ::-1])


def _outlined_regions(image: NDArray[np.uint8], regions: Sequence[Region]) -> NDArray[np.uint8]:
    drawn = image.copy()
    for index, region in enumerate(regions):
        colour = _COLOURS[index % len(_COLOURS)]
        _outline(drawn, region.mask, colour)
        rows, columns = np.nonzero(_resized(region.mask))
        if len(rows):
            at = (int(columns.min()), max(10, int(rows.min()) - 3))
            text = f"{region.score:.2f}"
            cv2.putText(drawn, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.4, colour, 1, cv2.LINE_AA)
    return drawn


def _outline(image: NDArray[np.uint8], mask: Mask, colour: tuple[int, int, int]) -> None:
    contours, _ = cv2.findContours(_resized(mask), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(image, contours, -1, colour, 2)


def _resized(mask: Mask) -> NDArray[np.uint8]:
    small = cv2.resize(mask.astype(np.uint8), (SIDE, SIDE), interpolation=cv2.INTER_NEAREST)
    return np.asarray(small, np.uint8)
