"""Submitted regions as masks: every kind of region that encloses pixels of an image."""

from __future__ import annotations

import base64
import binascii
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL.PngImagePlugin import PngImageFile

from adaptation.errors import InputError, ProtocolError
from adaptation.masks import Mask, polygons_to_mask
from adaptation.types import Size
from backend.protocol import fields
from backend.protocol.brush_rle import decode_brush
from backend.protocol.clicks import outline_corners, rectangle_corners

_PNG_URL = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=\s]+)")
_OPAQUE = 128


def mask_shape(region_type: object) -> str | None:
    """The shape of a type of region that encloses pixels; None for all other types."""
    if not isinstance(region_type, str):
        return None
    shape = region_type.removesuffix("labels")
    return shape if shape in _DECODERS else None


def is_closed(shape: str, value: Mapping[str, Any]) -> bool:
    """Whether a region encloses pixels: lines that were never closed do not."""
    if shape == "vector":
        return value.get("closed") is True
    return shape != "polygon" or value.get("closed") is not False


def decode_region(shape: str, value: Mapping[str, Any], size: Size, name: str) -> Mask:
    """The pixels that a region encloses.

    Args:
        shape: From `mask_shape`.
        value: The region's value.
        size: (H, W) of its image.
        name: Of the region, for messages.

    Raises:
        ProtocolError: The value is broken or was made for an image of another size.
    """
    try:
        return _DECODERS[shape](value, size)
    except ProtocolError as error:
        raise ProtocolError(f"Region '{name}': {error}") from error
    except InputError as error:
        raise ProtocolError(f"Region '{name}' encloses nothing: {error}") from error


def _brush(value: Mapping[str, Any], size: Size) -> Mask:
    return decode_brush(fields.sequence(value.get("rle"), "rle"), size)


def _bitmask(value: Mapping[str, Any], size: Size) -> Mask:
    match = _PNG_URL.fullmatch(fields.text(value.get("imageDataURL"), "imageDataURL"))
    if match is None:
        raise ProtocolError("'imageDataURL' must hold a PNG in base64.")
    try:
        # Not Image.open: it warns of large images, while here the size is known beforehand.
        image = PngImageFile(io.BytesIO(base64.b64decode(match.group(1))))
        if image.size != (size[1], size[0]):
            raise ProtocolError(
                f"Its PNG has {image.width}x{image.height} pixels, its image {size[1]}x{size[0]}."
            )
        alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    except (binascii.Error, OSError, SyntaxError, ValueError) as error:
        raise ProtocolError("Its PNG cannot be read.") from error
    mask: Mask = alpha >= _OPAQUE
    return mask


def _outline(value: Mapping[str, Any], size: Size) -> Mask:
    """A polygon or a closed vector line, whose bends between vertices are taken as straight."""
    return _fill(outline_corners(value, size, "value"), size)


def _rectangle(value: Mapping[str, Any], size: Size) -> Mask:
    return _fill(rectangle_corners(value, size, "value"), size)


def _fill(corners: Sequence[tuple[float, float]], size: Size) -> Mask:
    """The pixels whose centres lie inside; a pixel's centre is half a pixel from its edge."""
    return polygons_to_mask([[(x - 0.5, y - 0.5) for x, y in corners]], size)


def _ellipse(value: Mapping[str, Any], size: Size) -> Mask:
    """An ellipse about (x, y); its radii are in percent of the width and of the height."""
    height, width = size
    numbers = {k: fields.percent(value.get(k), k) for k in ("x", "y", "radiusX", "radiusY")}
    turn = math.radians(fields.number(value.get("rotation") or 0, "rotation"))
    radius_x, radius_y = numbers["radiusX"] / 100 * width, numbers["radiusY"] / 100 * height
    if min(radius_x, radius_y) < 1e-6:
        raise ProtocolError("An ellipse needs two radii above 0.")
    rows, columns = np.ogrid[:height, :width]
    x = columns + 0.5 - numbers["x"] / 100 * width
    y = rows + 0.5 - numbers["y"] / 100 * height
    along = (x * math.cos(turn) + y * math.sin(turn)) / radius_x
    across = (y * math.cos(turn) - x * math.sin(turn)) / radius_y
    mask: Mask = along**2 + across**2 <= 1
    return mask


_DECODERS: dict[str, Callable[[Mapping[str, Any], Size], Mask]] = {
    "brush": _brush,
    "bitmask": _bitmask,
    "polygon": _outline,
    "vector": _outline,
    "rectangle": _rectangle,
    "ellipse": _ellipse,
}
"""How each shape that encloses pixels becomes a mask."""
