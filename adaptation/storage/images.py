"""Encoded image -> pixels as a browser shows them: upright, on white, eight bits a channel."""

from __future__ import annotations

import functools
import io
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from adaptation.errors import ImageError

logger = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]
"""``[H, W, 3]`` RGB."""

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM")
"""Pillow's names of what is read; its other decoders never see an annotator's file."""

# The check of Pillow is one number for the whole process, warns first and knows no caller's limit.
# `decode_image` makes the same check by itself, on the header, before a pixel is decoded.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecodedImage:
    """An image's pixels.

    Args:
        pixels: ``[H, W, 3]`` uint8 RGB, read-only, upright.
        media_type: Such as "image/png".
    """

    pixels: Pixels
    media_type: str


def decode_image(content: bytes, *, max_pixels: int) -> DecodedImage:
    """Decode the first frame or page of an image the way a browser displays it.

    Orientation tags are applied, transparency is composited on white, and grey values of more than
    eight bits are stretched from their own lowest to their own highest value (a browser would cut
    them to the highest byte, which leaves most scientific images black).

    Args:
        content: The encoded file.
        max_pixels: Largest width times height to decode.

    Raises:
        ImageError: It is no image of a known format, too large, truncated, or damaged.
    """
    try:
        with Image.open(io.BytesIO(content), formats=_formats()) as image:
            _check_size(image, max_pixels)
            media_type = Image.MIME.get(image.format or "", "application/octet-stream")
            return DecodedImage(pixels=_upright_rgb(image), media_type=media_type)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(_not_an_image(content)) from None
    except MemoryError:
        raise ImageError("The image needs more memory than there is: shrink it.") from None
    except Exception as error:
        # Decoders meet hostile bytes with errors of any kind (struct, zlib, index, value, ...).
        logger.debug("Cannot decode an image of %d bytes: %r", len(content), error)
        raise ImageError(
            "The image is truncated, damaged, or of a kind that cannot be converted to RGB: "
            "save it again as PNG or JPEG."
        ) from None


@functools.cache
def _formats() -> tuple[str, ...]:
    """The formats that this build of Pillow knows."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            f"The image has {width} x {height} pixels, more than the {max_pixels} that are "
            "allowed: shrink it, or raise images.max_megapixels."
        )


def _not_an_image(content: bytes) -> str:
    if not content:
        return "The image is empty: 0 bytes arrived."
    if content.lstrip()[:1] == b"<":
        return "What arrived is a web page or SVG, not an image of pixels."
    names = ", ".join(name for name in FORMATS if name != "MPO")
    return f"What arrived is no image that can be read: use one of {names}."


def _upright_rgb(image: Image.Image) -> Pixels:
    # Loaded first: TIFF turns itself upright while loading, and would be turned again.
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I") or image.mode == "F":
        return _stretched(np.asarray(image))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        image = Image.alpha_composite(white, layer)
    return _read_only(np.asarray(image.convert("RGB")))


def _stretched(values: NDArray[Any]) -> Pixels:
    """Grey values of any range ``[H, W]`` to uint8 RGB, lowest to 0 and highest to 255."""
    grey = np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(grey.min()), float(grey.max())
    if high > low:
        grey = (grey - low) * (255.0 / (high - low))
    else:
        grey = np.zeros_like(grey)
    eight_bits = np.rint(grey).astype(np.uint8)
    return _read_only(np.repeat(eight_bits[:, :, None], 3, axis=2))


def _read_only(pixels: Pixels) -> Pixels:
    """Shared between threads through the cache, so nobody may write into it."""
    pixels = np.ascontiguousarray(pixels)
    pixels.setflags(write=False)
    return pixels
