"""Samples of more than eight bits -> the eight bits of a screen.

A browser cuts 16 bits to the highest byte, which leaves most scientific images black, and shows no
TIFF at all.  Here grey and colour alike are stretched, from the lowest to the highest value of the
image, all colours by one range so that hues stay.  Pixels without a value (NaN, infinities, the
TIFF's own "no data", and the usual ones where it names none) take no part and are drawn black;
transparent ones take no part and are drawn white.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptation.storage.image_formats.raster import Pixels, Raster, bands, on_white

Samples = NDArray[Any]
"""``[h, w, C]`` numbers of any type."""

_BEYOND = 1e30
"""Floats beyond this are no measurements: the lowest float32 and 1e38 mark missing values."""

_USUAL_NO_DATA = (-9999.0, -99999.0, -32768.0, -2147483648.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepImage:
    """An image of samples.

    Args:
        width: Of a row, pixels.
        height: Number of rows.
        rows: From and to which row -> samples.
        n_colours: 1 for grey, 3 for RGB.
        has_alpha: The sample after the colours is the opacity.
        transparent: The colour that is transparent.
        no_data: The value of pixels without one.
        is_inverted: Low values are light.
    """

    width: int
    height: int
    rows: Callable[[int, int], Samples]
    n_colours: int
    has_alpha: bool = False
    transparent: tuple[int, ...] | None = None
    no_data: float | None = None
    is_inverted: bool = False


def stretched(image: DeepImage) -> Raster:
    """The image in eight bits; reads all rows once or twice before the first is asked for."""
    low, high = _range(image, image.no_data)
    no_data = image.no_data
    if no_data is None and low in _USUAL_NO_DATA:
        rest = _range(image, low)
        # Far below everything else: a mark, not a measurement.
        if rest[0] - low > rest[1] - rest[0]:
            no_data, (low, high) = low, rest
    scale = 255.0 / (high - low) if high > low else 0.0

    def rows(y0: int, y1: int) -> Pixels:
        samples = image.rows(y0, y1)
        colours, has_value = _colours(image, samples, no_data)
        with np.errstate(invalid="ignore", over="ignore"):
            grey = (colours - low) * scale
        if image.is_inverted:
            grey = 255.0 - grey
        grey[~has_value] = 0.0
        shown = np.repeat(grey, 3 // image.n_colours, axis=2)
        opacity = _opacity(image, samples)
        eight_bits = np.rint(np.clip(shown, 0, 255)).astype(np.uint8)
        return eight_bits if opacity is None else on_white(eight_bits, opacity)

    return Raster(image.width, image.height, rows)


def _range(image: DeepImage, no_data: float | None) -> tuple[float, float]:
    """Lowest and highest value of the pixels that have one and can be seen."""
    low, high = math.inf, -math.inf
    for y0, y1 in bands(image.width, image.height):
        samples = image.rows(y0, y1)
        colours, counts = _colours(image, samples, no_data)
        opacity = _opacity(image, samples)
        if opacity is not None:
            counts &= opacity > 0
        values = colours[counts]
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    return (low, high) if low <= high else (0.0, 0.0)


def _colours(
    image: DeepImage, samples: Samples, no_data: float | None
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Colours ``[h, w, 1 or 3]``, and which pixels have a value in each, ``[h, w]``."""
    stored = samples[:, :, : image.n_colours]
    colours = stored.astype(np.float64)
    has_value = np.isfinite(colours) & (np.abs(colours) < _BEYOND)
    if no_data is not None:
        with np.errstate(over="ignore"):
            mark = float(stored.dtype.type(no_data)) if stored.dtype.kind == "f" else no_data
        has_value &= colours != mark
    return colours, np.asarray(has_value.all(axis=2))


def _opacity(image: DeepImage, samples: Samples) -> NDArray[np.float64] | None:
    """From 0 to 1, ``[h, w]``; None where all is opaque."""
    if image.has_alpha:
        alpha = samples[:, :, image.n_colours]
        whole = float(np.iinfo(alpha.dtype).max) if alpha.dtype.kind in "iu" else 1.0
        return np.asarray(np.clip(np.nan_to_num(alpha.astype(np.float64) / whole), 0, 1))
    if image.transparent is not None:
        is_clear = (samples[:, :, : image.n_colours] == image.transparent).all(axis=2)
        return np.asarray(1.0 - is_clear)
    return None
