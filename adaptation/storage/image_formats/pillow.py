"""Images that Pillow has decoded, as rasters."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from adaptation.storage.image_formats.deep import DeepImage, Samples
from adaptation.storage.image_formats.raster import Pixels, Raster, bands

Box = tuple[int, int, int, int]
_DEEP_MODES = ("I", "F")
_NATIVE = "L" if sys.byteorder == "little" else "B"


def shown(image: Image.Image, covered: Box | None = None) -> Raster:
    """A loaded image of eight bits, composited on white.

    Args:
        image: Of any mode of Pillow that converts to RGB.
        covered: (x0, y0, x1, y1) of the part that has pixels; the rest is white. None for all.
    """
    width, height = image.size
    is_see_through = image.has_transparency_data

    def rows(y0: int, y1: int) -> Pixels:
        band = image.crop((0, y0, width, y1))
        if is_see_through:
            layer = band.convert("RGBA")
            band = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
        pixels = np.asarray(band.convert("RGB"))
        return pixels if covered is None else _cut(pixels, covered, y0)

    return Raster(width, height, rows)


def _cut(pixels: Pixels, covered: Box, y0: int) -> Pixels:
    x_from, y_from, x_to, y_to = covered
    white = np.full_like(pixels, 255)
    part = slice(max(0, y_from - y0), max(0, y_to - y0)), slice(x_from, x_to)
    white[part] = pixels[part]
    return white


def is_deep(image: Image.Image) -> bool:
    """Whether the mode holds grey of more than eight bits."""
    return image.mode.startswith(_DEEP_MODES)


def deep_grey(image: Image.Image, *, is_unsigned: bool = False, **options: Any) -> DeepImage:
    """A loaded image of a mode of more than eight bits.

    Args:
        image: Of mode I, I;16 or F.
        is_unsigned: Values of 32 bits are unsigned, which Pillow does not know.
        options: Of :class:`DeepImage`.
    """

    def rows(y0: int, y1: int) -> Samples:
        band = np.asarray(image.crop((0, y0, image.width, y1)))[:, :, None]
        return band.view(np.uint32) if is_unsigned and band.dtype == np.int32 else band

    return DeepImage(width=image.width, height=image.height, rows=rows, n_colours=1, **options)


def is_deep_colour(image: ImageFile.ImageFile) -> bool:
    """Whether the file holds colours of 16 bits, of which Pillow keeps the highest eight."""
    return image.mode in ("RGB", "RGBA") and ";16" in _raw_mode(image)


def deep_colour(reopen: Callable[[], ImageFile.ImageFile], **options: Any) -> DeepImage:
    """All 16 bits of colours: once decoded for the high bytes, once for the low ones.

    Args:
        reopen: Opens the image anew, without loading it.
        options: Of :class:`DeepImage`.
    """
    high, low = reopen(), reopen()
    low.tile = [tile._replace(args=_swapped(tile.args)) for tile in low.tile]
    high.load()
    low.load()

    def rows(y0: int, y1: int) -> Samples:
        box = (0, y0, high.width, y1)
        first = np.asarray(high.crop(box)).astype(np.uint16)
        return np.asarray(first << 8 | np.asarray(low.crop(box)))

    has_alpha = high.mode == "RGBA"
    return DeepImage(
        width=high.width,
        height=high.height,
        rows=rows,
        n_colours=3,
        has_alpha=has_alpha,
        **options,
    )


def deep_grey_alpha(image: Image.Image) -> DeepImage:
    """Grey and alpha of 16 bits that were decoded as four channels of eight."""

    def rows(y0: int, y1: int) -> Samples:
        halves = np.asarray(image.crop((0, y0, image.width, y1))).astype(np.uint16)
        return np.asarray(halves[:, :, 0::2] << 8 | halves[:, :, 1::2])

    return DeepImage(width=image.width, height=image.height, rows=rows, n_colours=1, has_alpha=True)


def are_equal(one: Image.Image, other: Image.Image) -> bool:
    """Whether two loaded images have the same pixels."""
    if one.size != other.size or one.mode != other.mode:
        return False
    boxes = ((0, y0, one.width, y1) for y0, y1 in bands(*one.size))
    return all(one.crop(box).tobytes() == other.crop(box).tobytes() for box in boxes)


def _raw_mode(image: ImageFile.ImageFile) -> str:
    args = image.tile[0].args if image.tile else ""
    raw_mode = args[0] if isinstance(args, tuple) and args else args
    return raw_mode if isinstance(raw_mode, str) else ""


def _swapped(args: Any) -> Any:
    """A decoder's arguments, with the other byte of each sample as the one that is kept."""
    raw_mode, *rest = (args,) if isinstance(args, str) else args
    base, order = raw_mode[:-1], raw_mode[-1]
    other = {"L": "B", "B": "L"}[_NATIVE if order == "N" else order]
    return base + other if isinstance(args, str) else (base + other, *rest)
