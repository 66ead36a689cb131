"""Encoded image -> pixels as a browser shows them: upright, on white, eight bits a channel."""

from __future__ import annotations

import functools
import io
import logging
import threading
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from adaptation.errors import ImageError
from adaptation.storage.image_formats import avif, jpeg, pillow, png
from adaptation.storage.image_formats.bmp import read_bit_fields
from adaptation.storage.image_formats.deep import DeepImage, stretched
from adaptation.storage.image_formats.exif import read_exif
from adaptation.storage.image_formats.raster import Pixels, Raster, draw
from adaptation.storage.image_formats.tiff import TiffLayout, read_layout, read_samples
from adaptation.storage.image_formats.tiff_tags import byte_order

__all__ = ["DecodedImage", "Pixels", "decode_image"]

logger = logging.getLogger(__name__)

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM")
"""Pillow's names of what is read; its other decoders never see an annotator's file."""

# The check of Pillow is one number for the whole process, warns first and knows no caller's limit.
# `decode_image` makes the same check by itself, on the header, before a pixel is decoded.
Image.MAX_IMAGE_PIXELS = None

HUGE_PIXELS = 25_000_000
"""An image of more is decoded alone: it may take 300 MB and more."""

_turn_of_the_huge = threading.Lock()

_TAILS = tuple(bits * 64 + bytes(512) for bits in (b"\0\0", b"\x55\x33", b"\xaa\xcc", b"\xfe\xdc"))
"""What may have followed in a file that ends early; their first bits differ."""

_GREY_BITS = (2, 4)
"""Depths that Pillow scales to eight bits, but not the transparent value with them."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecodedImage:
    """An image's pixels.

    Args:
        pixels: ``[H, W, 3]`` uint8 RGB, read-only, upright.
        media_type: Such as "image/png".
    """

    pixels: Pixels
    media_type: str


class _Limits:
    """What one image may cost; a context in which a huge one has its turn.

    Args:
        max_pixels: Largest width times height.
    """

    def __init__(self, max_pixels: int) -> None:
        self.max_pixels = max_pixels
        self._has_turn = False

    def __enter__(self) -> _Limits:
        return self

    def __exit__(self, *_: object) -> None:
        if self._has_turn:
            _turn_of_the_huge.release()

    def check(self, size: tuple[int, int]) -> None:
        """Refuse (width, height) above the limit; wait while another huge image is decoded.

        Raises:
            ImageError: It is above the limit.
        """
        width, height = size
        if width * height > self.max_pixels:
            raise ImageError(
                f"The image has {width} x {height} pixels, more than the {self.max_pixels} that "
                "are allowed: shrink it, or raise the limit in the settings."
            )
        if width * height > HUGE_PIXELS and not self._has_turn:
            _turn_of_the_huge.acquire()
            self._has_turn = True


@dataclass(frozen=True, slots=True)
class _Stored:
    """What a file stores, and how it is to be shown."""

    raster: Raster
    media_type: str
    orientation: int = 1
    natural_size: tuple[int, int] | None = None


def decode_image(content: bytes, *, max_pixels: int) -> DecodedImage:
    """Decode the first frame or page of an image the way a browser displays it.

    Orientation is obeyed where browsers obey it: EXIF in JPEG and PNG, the boxes of AVIF, and in
    TIFF, which they do not show, its own tag.  Transparency is composited on white.  Samples of
    more than eight bits are stretched from the lowest to the highest of the image (a browser would
    cut them to the highest byte, which leaves most scientific images black).

    Besides the file, an image takes 3 bytes a pixel for what comes out, and until then what its
    decoder keeps: 1 to 4 bytes a pixel, 8 for colours of 16 bits, its own size for deep TIFF.
    Images of more than :data:`HUGE_PIXELS` are decoded one at a time in the whole process.

    Args:
        content: The encoded file.
        max_pixels: Largest width times height to decode.

    Raises:
        ImageError: It is no image of a known format, too large, truncated, or damaged.
    """
    try:
        with _Limits(max_pixels) as limits:
            stored = _stored(content, limits)
            pixels = _at_size(draw(stored.raster, stored.orientation), stored.natural_size)
            return DecodedImage(pixels=_read_only(pixels), media_type=stored.media_type)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(_not_an_image(content)) from None
    except MemoryError:
        raise ImageError("The image needs more memory than there is: shrink it.") from None
    except Exception as error:
        # Decoders meet hostile bytes with errors of any kind (struct, zlib, index, value, ...).
        logger.debug("Cannot decode an image of %d bytes: %r", len(content), error)
        raise ImageError(_damaged(content)) from None


# -- one format each ------------------------------------------------------------------------------


def _stored(content: bytes, limits: _Limits) -> _Stored:
    if content.startswith(png.SIGNATURE):
        return _png(content, limits)
    if content.startswith(jpeg.SOI):
        return _jpeg(content, limits)
    if byte_order(content) is not None:
        return _tiff(content, limits)
    if content.startswith(b"BM"):
        return _bmp(content, limits)
    if avif.is_avif(content):
        return _avif(content, limits)
    return _plain(content, limits)


def _png(content: bytes, limits: _Limits) -> _Stored:
    orientation = read_exif(png.exif_block(content)).orientation
    picture = png.picture_chunks(content)
    depth, colour_type = (*content[24:26], 0, 0)[:2]
    if depth == 16 and colour_type == 4:
        picture = png.as_four_channels(picture)
    image = _open(picture, limits)
    transparent = image.info.get("transparency")
    deep: DeepImage | None = None
    if pillow.is_deep_colour(image):
        deep = pillow.deep_colour(lambda: _open(picture, limits), transparent=transparent)
    else:
        image = _loaded_png(picture, limits)
        if depth in _GREY_BITS and isinstance(transparent, int) and image.mode == "L":
            image.info["transparency"] = transparent * 255 // (2**depth - 1)
    if depth == 16 and colour_type == 4:
        deep = pillow.deep_grey_alpha(image)
    elif pillow.is_deep(image):
        clear = None if transparent is None else (transparent,)
        deep = pillow.deep_grey(image, transparent=clear)
    raster = pillow.shown(image) if deep is None else stretched(deep)
    return _Stored(raster, "image/png", orientation)


def _loaded_png(picture: bytes, limits: _Limits) -> ImageFile.ImageFile:
    try:
        return _loaded(picture, limits)
    except OSError:
        return _loaded(png.without_checksum(picture), limits)


def _jpeg(content: bytes, limits: _Limits) -> _Stored:
    exif = read_exif(jpeg.exif_block(content))
    image = _loaded_to_the_end(jpeg.picture_segments(content), limits, jpeg.EOI)
    natural_size = exif.natural_size(*image.size)
    limits.check(natural_size)
    if natural_size == image.size:
        return _Stored(pillow.shown(image), _media_type(image), exif.orientation)
    upright_size = natural_size[::-1] if exif.orientation >= 5 else natural_size
    return _Stored(pillow.shown(image), _media_type(image), exif.orientation, upright_size)


def _tiff(content: bytes, limits: _Limits) -> _Stored:
    layout = read_layout(content)
    if layout is None:
        return _plain(content, limits)
    limits.check((layout.width, layout.height))
    if layout.is_deep:
        deep = read_samples(content, layout, max_pixels=limits.max_pixels)
        if deep is not None:
            return _Stored(stretched(deep), "image/tiff", layout.orientation)
        if layout.is_planar_colour:
            raise ImageError(_unread_tiff(layout))
    try:
        return _tiff_by_pillow(content, layout, limits)
    except UnidentifiedImageError:
        deep = read_samples(content, layout, max_pixels=limits.max_pixels)
        if deep is None or layout.n_samples < 2:
            raise ImageError(_unread_tiff(layout)) from None
        return _Stored(stretched(deep), "image/tiff", layout.orientation)


def _tiff_by_pillow(content: bytes, layout: TiffLayout, limits: _Limits) -> _Stored:
    """Pillow turns a TIFF upright while loading."""
    image = _open(content, limits)
    if pillow.is_deep_colour(image):
        deep = pillow.deep_colour(lambda: _open(content, limits), no_data=layout.no_data)
        return _Stored(stretched(deep), "image/tiff")
    image.load()
    if not pillow.is_deep(image):
        return _Stored(pillow.shown(image), "image/tiff")
    deep = pillow.deep_grey(
        image,
        is_unsigned=layout.is_unsigned,
        no_data=layout.no_data,
        is_inverted=layout.is_inverted,
    )
    return _Stored(stretched(deep), "image/tiff")


def _bmp(content: bytes, limits: _Limits) -> _Stored:
    raster = read_bit_fields(content)
    if raster is None:
        return _plain(content, limits)
    limits.check((raster.width, raster.height))
    return _Stored(raster, "image/bmp")


def _avif(content: bytes, limits: _Limits) -> _Stored:
    image = _loaded(avif.without_exif(content), limits)
    orientation = read_exif(image.info.get("exif", b"").removeprefix(b"Exif\0\0")).orientation
    return _Stored(pillow.shown(image), "image/avif", orientation)


def _plain(content: bytes, limits: _Limits) -> _Stored:
    """WebP, GIF, PPM and the usual BMP: what they say about orientation, browsers do not obey."""
    covered = None
    image = _open(content, limits)
    if image.format == "GIF" and image.tile:
        covered = image.tile[0].extents
    image = _loaded_to_the_end(content, limits)
    raster = (
        stretched(pillow.deep_grey(image))
        if pillow.is_deep(image)
        else pillow.shown(image, covered)
    )
    return _Stored(raster, _media_type(image))


# -- Pillow ---------------------------------------------------------------------------------------


@functools.cache
def _formats() -> tuple[str, ...]:
    """The formats that this build of Pillow knows."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _open(content: bytes, limits: _Limits) -> ImageFile.ImageFile:
    image = Image.open(io.BytesIO(content), formats=_formats())
    limits.check(image.size)
    return image


def _loaded(content: bytes, limits: _Limits) -> ImageFile.ImageFile:
    image = _open(content, limits)
    image.load()
    return image


def _loaded_to_the_end(content: bytes, limits: _Limits, end: bytes = b"") -> ImageFile.ImageFile:
    """Load a file that may lack its last bytes, as long as they hold no picture.

    They hold none if the pixels are the same whatever these bytes were.
    """
    try:
        return _loaded(content, limits)
    except (OSError, IndexError) as error:
        if isinstance(error, UnidentifiedImageError):
            raise
        begun = content[:-1] if end and content.endswith(end[:1]) else content
        one = _loaded(begun + _TAILS[0] + end, limits)
        for tail in _TAILS[1:]:
            if not pillow.are_equal(one, _loaded(begun + tail + end, limits)):
                raise
        return one


def _media_type(image: Image.Image) -> str:
    return Image.MIME.get(image.format or "", "application/octet-stream")


# -- what comes out -------------------------------------------------------------------------------


def _at_size(pixels: Pixels, size: tuple[int, int] | None) -> Pixels:
    """Resampled to (width, height), where the browser shows the image at another size."""
    if size is None:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))


def _read_only(pixels: Pixels) -> Pixels:
    """Shared between threads through the cache, so nobody may write into it."""
    pixels = np.ascontiguousarray(pixels)
    pixels.setflags(write=False)
    return pixels


# -- messages -------------------------------------------------------------------------------------


def _not_an_image(content: bytes) -> str:
    if not content:
        return "The image is empty: 0 bytes arrived."
    if content.lstrip()[:1] == b"<":
        return "What arrived is a web page or SVG, not an image of pixels."
    if content.startswith((png.SIGNATURE, jpeg.SOI, b"BM")) or avif.is_avif(content):
        return _damaged(content)
    names = ", ".join(name for name in FORMATS if name != "MPO")
    return f"What arrived is no image that can be read: use one of {names}."


def _damaged(content: bytes) -> str:
    layout = read_layout(content)
    if layout is not None and layout.is_deep:
        return f"{_unread_tiff(layout)} If it is of a kind that is read, it is damaged."
    return (
        "The image is truncated, damaged, or of a kind that cannot be converted to RGB: "
        "save it again as PNG or JPEG."
    )


def _unread_tiff(layout: TiffLayout) -> str:
    return (
        f"A TIFF of this kind is not read: {layout.describe()}. Save it as grey or RGB of 8 or 16 "
        "bits, in one plane, without compression or deflated, or as PNG."
    )
