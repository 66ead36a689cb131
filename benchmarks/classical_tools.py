"""Two classical segmentation tools, driven by clicks as an annotator would drive them.

Neither needs weights, and neither knows what a click is; what was done to help them is written at
each class, and was chosen on objects that the table does not use.  Both see the image at no more
than 320 pixels on its longest side, because their time grows with the pixels (the compact model
sees 384); masks are drawn and compared at the original size.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.segmentation import random_walker

from adaptation.types import Click

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Seeds = NDArray[np.uint8]

_UNKNOWN, _OBJECT, _BACKGROUND = 0, 1, 2


class Tool(Protocol):
    """Segments one object of an image from the clicks on it so far."""

    name: str

    def start(self, image: Image) -> None:
        """Begin a new object on an `[H, W, 3]` image."""
        ...

    def segment(self, clicks: Sequence[Click]) -> Mask:
        """The mask `[H, W]` after these clicks, oldest first."""
        ...


class Canvas:
    """An image at the size that a tool works on, and the way back to its own.

    Args:
        image: `[H, W, 3]`.
        longest_side: Longer images are shrunk to this.
    """

    def __init__(self, image: Image, longest_side: int) -> None:
        self._size = image.shape[:2]
        self._scale = min(1.0, longest_side / max(self._size))
        height, width = (max(1, round(side * self._scale)) for side in self._size)
        self.image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) that the tool works on."""
        return self.image.shape[0], self.image.shape[1]

    def clicks(self, clicks: Sequence[Click]) -> list[Click]:
        """Clicks of the original image on the canvas."""
        k = self._scale
        return [replace(c, x=(c.x + 0.5) * k - 0.5, y=(c.y + 0.5) * k - 0.5) for c in clicks]

    def radius(self, share: float) -> int:
        """A share of the longest side in pixels, at least 1."""
        return max(1, round(share * max(self.size)))

    def original(self, mask: Mask) -> Mask:
        """A mask on the canvas at the original size."""
        height, width = self._size
        return np.asarray(cv2.resize(mask.astype(np.float32), (width, height)) > 0.5)


@dataclass
class RandomWalker:
    """`skimage.segmentation.random_walker` (Grady 2006) with discs around the clicks as seeds.

    Help: the image's border is background where no click says otherwise; parts of the result that
    hold no positive click are dropped.

    Args:
        beta: Penalty on differences of colour; the library's default is 130.
        radius: Of the disc around a click, as a share of the longest side.
        longest_side: In pixels.
    """

    beta: float = 4000.0
    radius: float = 0.01
    longest_side: int = 320
    name: str = "random_walker"

    def start(self, image: Image) -> None:
        """Shrink the image where it is large."""
        self._canvas = Canvas(image, self.longest_side)

    def segment(self, clicks: Sequence[Click]) -> Mask:
        """Where a walker is likelier to meet the object's seeds first."""
        near = self._canvas.clicks(clicks)
        seeds = np.zeros(self._canvas.size, np.uint8)
        seeds[[0, -1], :] = seeds[:, [0, -1]] = _BACKGROUND
        draw_discs(seeds, near, self._canvas.radius(self.radius))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # seeds that others cut off
            labels = random_walker(
                self._canvas.image, seeds, beta=self.beta, mode="cg_j", tol=1e-2, channel_axis=-1
            )
        return self._canvas.original(parts_with_clicks(labels == _OBJECT, near))


@dataclass
class GrabCut:
    """`cv2.grabCut` (Rother et al. 2004) with discs around the clicks as sure pixels.

    Help: a larger disc around every positive click starts as probably object, the rest as probably
    background; like the rectangle that GrabCut's users draw, a window around the positive clicks
    bounds what is cut, and grows with them; parts of the result that hold no positive click are
    dropped.

    Args:
        probable: Radius of the probable disc as a share of the longest side.
        radius: Radius of the sure discs likewise.
        window: How far the window reaches beyond the positive clicks, likewise.
        iterations: Of every round.
        restarts: Whether every round begins with the discs instead of the last round's mask.
        longest_side: In pixels.
    """

    probable: float = 0.06
    radius: float = 0.01
    window: float = 0.2
    iterations: int = 2
    restarts: bool = True
    longest_side: int = 320
    name: str = "grabcut"

    def start(self, image: Image) -> None:
        """Shrink the image where it is large; forget the last object's mask."""
        self._canvas = Canvas(np.ascontiguousarray(image[..., ::-1]), self.longest_side)
        self._mask: Mask | None = None

    def segment(self, clicks: Sequence[Click]) -> Mask:
        """Alternate colour models and cuts."""
        near = self._canvas.clicks(clicks)
        trimap = np.where(self._probably(near), cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
        sure = np.zeros(self._canvas.size, np.uint8)
        draw_discs(sure, near, self._canvas.radius(self.radius))
        trimap[sure == _OBJECT] = cv2.GC_FGD
        trimap[sure == _BACKGROUND] = cv2.GC_BGD
        found = np.zeros(self._canvas.size, np.bool_)
        window = self._window(near)
        found[window] = self._cut(self._canvas.image[window], trimap[window])
        self._mask = parts_with_clicks(found, near)
        return self._canvas.original(self._mask)

    def _cut(self, image: Image, trimap: Seeds) -> Mask:
        models = np.zeros((1, 65)), np.zeros((1, 65))
        trimap = np.ascontiguousarray(trimap)
        cv2.setRNGSeed(0)
        cv2.grabCut(
            np.ascontiguousarray(image),
            trimap,
            None,
            *models,
            self.iterations,
            cv2.GC_INIT_WITH_MASK,
        )
        return np.asarray((trimap == cv2.GC_FGD) | (trimap == cv2.GC_PR_FGD))

    def _window(self, clicks: Sequence[Click]) -> tuple[slice, slice]:
        """Rows and columns around the positive clicks."""
        reach = self._canvas.radius(self.window)
        slices = []
        for axis, side in zip("yx", self._canvas.size, strict=True):
            places = [round(getattr(c, axis)) for c in clicks if c.is_positive]
            slices.append(slice(max(0, min(places) - reach), min(side, max(places) + reach + 1)))
        return slices[0], slices[1]

    def _probably(self, clicks: Sequence[Click]) -> Mask:
        """What is probably object before the cut."""
        if self._mask is not None and not self.restarts:
            return self._mask
        seeds = np.zeros(self._canvas.size, np.uint8)
        positive = [c for c in clicks if c.is_positive]
        draw_discs(seeds, positive, self._canvas.radius(self.probable))
        return seeds == _OBJECT


def draw_discs(seeds: Seeds, clicks: Sequence[Click], radius: int) -> None:
    """Write a disc for every click, in place; a clicked pixel is its own click's in any case."""
    for click in clicks:
        cv2.circle(seeds, _pixel(click, seeds), radius, _value(click), thickness=-1)
    for click in clicks:
        x, y = _pixel(click, seeds)
        seeds[y, x] = _value(click)


def parts_with_clicks(mask: Mask, clicks: Sequence[Click]) -> Mask:
    """The 8-connected parts of a mask that hold a positive click."""
    _, parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    pixels = [_pixel(c, mask) for c in clicks if c.is_positive]
    kept = {int(parts[y, x]) for x, y in pixels} - {0}
    return np.isin(parts, list(kept))


def _pixel(click: Click, image: NDArray[np.generic]) -> tuple[int, int]:
    x = min(max(round(click.x), 0), image.shape[1] - 1)
    return x, min(max(round(click.y), 0), image.shape[0] - 1)


def _value(click: Click) -> int:
    return _OBJECT if click.is_positive else _BACKGROUND
