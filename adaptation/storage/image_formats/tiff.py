"""TIFF: deep samples and planes that Pillow misreads or does not know, and names for the rest.

Strips and tiles, in one plane or several, of whole or floating numbers, as they are or deflated.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptation.errors import ImageError
from adaptation.storage.image_formats.deep import DeepImage
from adaptation.storage.image_formats.tiff_tags import (
    WHOLE_NUMBERS,
    byte_order,
    first_directory,
)

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIP_OFFSETS, _SAMPLES, _STRIP_ROWS, _PLANAR, _PREDICTOR = 273, 277, 278, 284, 317
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS = 322, 323, 324
_STRIP_BYTES, _TILE_BYTES, _EXTRA, _FORMAT, _NO_DATA = 279, 325, 338, 339, 42113
_ORIENTATION, _FILL_ORDER = 274, 266

_RAW, _DEFLATE = (1,), (8, 32946)
_COMPRESSIONS = {
    1: "none", 2: "CCITT", 3: "fax 3", 4: "fax 4", 5: "LZW", 6: "old JPEG", 7: "JPEG",
    8: "deflate", 32773: "PackBits", 32946: "deflate", 34712: "JPEG 2000", 34887: "LERC",
    34925: "LZMA", 50000: "Zstandard", 50001: "WebP",
}  # fmt: skip
_FORMATS = {1: "u", 2: "i", 3: "f"}
_FORMAT_NAMES = {
    1: "unsigned",
    2: "signed",
    3: "floating",
    4: "untyped",
    5: "complex",
    6: "complex",
}
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2
_ALPHA = (1, 2)
_SEPARATE_PLANES = 2
_MAX_SAMPLE_BYTES = 16
"""Of the samples that are kept of one pixel: RGB and alpha of 32 bits."""


@dataclass(frozen=True)
class TiffLayout:
    """How the first page of a TIFF keeps its samples; numbers as in the tags."""

    width: int
    height: int
    bits: tuple[int, ...]
    formats: tuple[int, ...]
    n_samples: int
    compression: int
    photometric: int
    planar: int
    predictor: int
    fill_order: int
    orientation: int
    extra: tuple[int, ...]
    no_data: float | None
    order: str
    block: tuple[int, int]
    """(H, W) of a strip or tile."""
    offsets: tuple[int, ...]
    n_bytes: tuple[int, ...]

    @property
    def is_deep(self) -> bool:
        """Whether samples have more than eight bits, or are no unsigned numbers."""
        return max(self.bits) > 8 or any(kind != 1 for kind in self.formats)

    @property
    def is_planar_colour(self) -> bool:
        """Whether colours lie in planes of their own."""
        return self.planar == _SEPARATE_PLANES and self.n_samples > 1

    @property
    def is_unsigned(self) -> bool:
        """Whether samples are unsigned whole numbers."""
        return self.formats[0] == 1

    @property
    def is_inverted(self) -> bool:
        """Whether low values are light."""
        return self.photometric == _WHITE_IS_ZERO

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """Of a sample; None where there is no such type of numbers."""
        letter = _FORMATS.get(self.formats[0])
        is_uniform = len({*self.bits}) == 1 and len({*self.formats}) == 1
        smallest = 16 if letter == "f" else 8
        if letter is None or not is_uniform or self.bits[0] not in (8, 16, 32, 64):
            return None
        if self.bits[0] < smallest:
            return None
        return np.dtype(f"{self.order}{letter}{self.bits[0] // 8}")

    @property
    def n_colours(self) -> int:
        """3 for RGB, else 1."""
        return 3 if self.photometric == _RGB else 1

    @property
    def has_alpha(self) -> bool:
        """Whether the sample after the colours is their opacity."""
        is_there = self.n_samples > self.n_colours
        return is_there and bool(self.extra) and self.extra[0] in _ALPHA

    def describe(self) -> str:
        """For a message: "3 samples of 16 bits a pixel (unsigned), in planes, compression LZW"."""
        compression = _COMPRESSIONS.get(self.compression, f"number {self.compression}")
        kind = _FORMAT_NAMES.get(self.formats[0], "of an unknown type")
        planes = ", in planes" if self.is_planar_colour else ""
        plural = "" if self.n_samples == 1 else "s"
        return (
            f"{self.n_samples} sample{plural} of {self.bits[0]} bits a pixel ({kind}){planes}, "
            f"compression {compression}"
        )


def read_layout(content: bytes) -> TiffLayout | None:
    """The layout of the first page; None where there is no TIFF with a size and pixels."""
    order = byte_order(content)
    if order is None:
        return None
    tags = {field.tag: field for field in first_directory(content, order)}

    def numbers(tag: int, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        field = tags.get(tag)
        if field is None or field.kind not in WHOLE_NUMBERS:
            return default
        return tuple(int(value) for value in field.values)

    def number(tag: int, default: int) -> int:
        return (numbers(tag) or (default,))[0]

    width, height = number(_WIDTH, 0), number(_HEIGHT, 0)
    is_tiled = _TILE_OFFSETS in tags
    offsets = numbers(_TILE_OFFSETS if is_tiled else _STRIP_OFFSETS)
    if width <= 0 or height <= 0 or not offsets:
        return None
    strip = (min(number(_STRIP_ROWS, height), height), width)
    tile = (number(_TILE_HEIGHT, 0), number(_TILE_WIDTH, 0))
    n_samples = number(_SAMPLES, 1)
    orientation = number(_ORIENTATION, 1)
    return TiffLayout(
        width=width,
        height=height,
        bits=numbers(_BITS, (1,)) or (1,),
        formats=numbers(_FORMAT, (1,)) or (1,),
        n_samples=n_samples,
        compression=number(_COMPRESSION, 1),
        photometric=number(_PHOTOMETRIC, _BLACK_IS_ZERO),
        planar=number(_PLANAR, 1),
        predictor=number(_PREDICTOR, 1),
        fill_order=number(_FILL_ORDER, 1),
        orientation=orientation if 1 <= orientation <= 8 else 1,
        extra=numbers(_EXTRA),
        no_data=_no_data(tags[_NO_DATA].raw) if _NO_DATA in tags else None,
        order=order,
        block=tile if is_tiled else strip,
        offsets=offsets,
        n_bytes=numbers(_TILE_BYTES if is_tiled else _STRIP_BYTES),
    )


def read_samples(content: bytes, layout: TiffLayout, *, max_pixels: int) -> DeepImage | None:
    """The samples; None for kinds that are not read here.

    Raises:
        ImageError: The file ends before its samples do, is damaged, or holds too many of them.
    """
    dtype = layout.dtype
    is_known = layout.compression in (*_RAW, *_DEFLATE) and layout.photometric in (0, 1, 2)
    is_plain = layout.predictor == 1 or (layout.predictor == 2 and layout.formats[0] != 3)
    if dtype is None or not is_known or not is_plain or layout.fill_order != 1:
        return None
    if layout.n_samples < layout.n_colours or min(layout.block) < 1:
        return None
    n_kept = layout.n_colours + layout.has_alpha
    size = layout.height * layout.width * n_kept * dtype.itemsize
    is_short = layout.compression in _RAW and size > len(content)
    if is_short or size > _MAX_SAMPLE_BYTES * max_pixels:
        raise ImageError("The image is truncated, or has too many samples: save it as PNG.")
    samples = np.empty((layout.height, layout.width, n_kept), dtype.newbyteorder("="))
    for (y, x), channels, block in _blocks(content, layout, dtype):
        kept = samples[y : y + block.shape[0], x : x + block.shape[1], channels]
        kept[...] = block[: kept.shape[0], : kept.shape[1], : kept.shape[2]]
    return DeepImage(
        width=layout.width,
        height=layout.height,
        rows=lambda y0, y1: samples[y0:y1],
        n_colours=layout.n_colours,
        has_alpha=layout.has_alpha,
        no_data=layout.no_data,
        is_inverted=layout.is_inverted,
    )


def _blocks(
    content: bytes, layout: TiffLayout, dtype: np.dtype[Any]
) -> Iterator[tuple[tuple[int, int], slice, NDArray[Any]]]:
    """Place (y, x), channels and samples ``[h, w, C]`` of each strip or tile that is kept."""
    n_kept = layout.n_colours + layout.has_alpha
    high, wide = layout.block
    in_block = 1 if layout.is_planar_colour else layout.n_samples
    corners = [(y, x) for y in range(0, layout.height, high) for x in range(0, layout.width, wide)]
    planes = range(n_kept) if layout.is_planar_colour else range(1)
    if len(layout.offsets) < len(corners) * len(planes):
        raise ImageError("The TIFF is damaged: it names too few strips or tiles.")
    is_tiled = wide != layout.width
    for plane in planes:
        channels = slice(plane, plane + 1) if layout.is_planar_colour else slice(0, n_kept)
        for number, (y, x) in enumerate(corners, start=plane * len(corners)):
            rows = high if is_tiled else min(high, layout.height - y)
            block = _unpacked(content, layout, number, rows * wide * in_block * dtype.itemsize)
            shaped: NDArray[Any] = np.frombuffer(block, dtype).reshape(rows, wide, in_block)
            if layout.predictor == 2:
                shaped = np.cumsum(shaped, axis=1, dtype=dtype.newbyteorder("="))
            yield (y, x), channels, shaped


def _unpacked(content: bytes, layout: TiffLayout, number: int, n_bytes: int) -> bytes:
    start = layout.offsets[number]
    if layout.compression in _RAW:
        block = content[start : start + n_bytes]
    else:
        length = layout.n_bytes[number] if number < len(layout.n_bytes) else len(content)
        try:
            packed = content[start : start + length]
            block = zlib.decompressobj().decompress(packed, n_bytes)
        except zlib.error:
            raise ImageError("The TIFF is damaged: a strip cannot be unpacked.") from None
    if len(block) < n_bytes:
        raise ImageError("The image is truncated: samples of the TIFF are missing.")
    return block


def _no_data(text: bytes) -> float | None:
    """GDAL keeps the value of missing pixels as text."""
    try:
        return float(text.split(b"\0")[0].strip())
    except ValueError:
        return None
