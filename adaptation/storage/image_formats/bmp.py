"""BMP with bit fields: any place and width of red, green, blue and alpha in 16 or 32 bits.

Pillow knows eleven layouts of them by heart and refuses the rest.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptation.errors import ImageError
from adaptation.storage.image_formats.raster import Pixels, Raster, on_white

_BIT_FIELDS, _ALPHA_BIT_FIELDS = 3, 6
_INFO_HEADERS = (40, 52, 56, 108, 124)
_HEADER_WITH_ALPHA = 56
_MASKS_AT = 54


@dataclass(frozen=True, slots=True)
class _Layout:
    width: int
    height: int
    is_top_down: bool
    n_bytes: int
    pixels_at: int
    masks: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        return -(-self.width * self.n_bytes // 4) * 4


def read_bit_fields(content: bytes) -> Raster | None:
    """The raster of a BMP with bit fields; None for any other file.

    Raises:
        ImageError: The file ends before its pixels do.
    """
    layout = _layout(content)
    if layout is None:
        return None
    n_missing = layout.pixels_at + layout.row_bytes * layout.height - len(content)
    if n_missing > layout.row_bytes - layout.width * layout.n_bytes:
        raise ImageError("The image is truncated: the last rows of the BMP are missing.")
    # The padding of the last row holds no picture.
    padded = content[layout.pixels_at :] + b"\0" * max(0, n_missing)
    stored = np.frombuffer(padded, np.uint8, layout.row_bytes * layout.height)
    stored = stored.reshape(layout.height, layout.row_bytes)
    upright = stored if layout.is_top_down else stored[::-1]

    def rows(y0: int, y1: int) -> Pixels:
        taken = np.ascontiguousarray(upright[y0:y1, : layout.width * layout.n_bytes])
        return _colours(taken.view(f"<u{layout.n_bytes}"), layout.masks)

    return Raster(layout.width, layout.height, rows)


def _layout(content: bytes) -> _Layout | None:
    if len(content) < _MASKS_AT + 16 or content[:2] != b"BM":
        return None
    (pixels_at,) = struct.unpack_from("<I", content, 10)
    header, width, height, _, bits, compression = struct.unpack_from("<IiiHHI", content, 14)
    has_fields = compression in (_BIT_FIELDS, _ALPHA_BIT_FIELDS) and bits in (16, 32)
    if header not in _INFO_HEADERS or not has_fields or width <= 0 or height == 0:
        return None
    masks = struct.unpack_from("<4I", content, _MASKS_AT)
    if header < _HEADER_WITH_ALPHA and compression != _ALPHA_BIT_FIELDS:
        masks = masks[:3]
    if not any(masks[:3]):
        return None
    return _Layout(width, abs(height), height < 0, bits // 8, pixels_at, masks)


def _colours(values: NDArray[Any], masks: tuple[int, ...]) -> Pixels:
    """Packed pixels ``[h, w]`` to colours ``[h, w, 3]``."""
    colours = np.stack([_channel(values, mask) for mask in masks[:3]], axis=2)
    shown = np.rint(colours * 255).astype(np.uint8)
    if len(masks) < 4 or not masks[3]:
        return shown
    return on_white(shown, _channel(values, masks[3]))


def _channel(values: NDArray[Any], mask: int) -> NDArray[np.float32]:
    """The bits under a mask as a share of their largest value."""
    if not mask:
        return np.zeros(values.shape, np.float32)
    shift = (mask & -mask).bit_length() - 1
    return ((values & mask) >> shift).astype(np.float32) / np.float32(mask >> shift)
