"""TIFF files of any kind of samples, written by hand: few libraries write the odd ones."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SHORT, _LONG, _ASCII = 3, 4, 2
_FORMATS = {"u": 1, "i": 2, "f": 3, "c": 6}


def tiff(
    samples: NDArray[Any],
    *,
    photometric: int | None = None,
    is_planar: bool = False,
    is_deflated: bool = False,
    has_alpha: bool = False,
    no_data: str | None = None,
    orientation: int = 1,
    order: str = "<",
) -> bytes:
    """A TIFF of one strip a plane.

    Args:
        samples: ``[H, W]`` or ``[H, W, C]``.
        photometric: 0 white is zero, 1 black is zero, 2 RGB; by the number of samples if None.
        is_planar: A plane for each sample.
        is_deflated: Packed with zlib.
        has_alpha: The last sample is the opacity.
        no_data: GDAL's mark of pixels without a value.
        orientation: 1 to 8.
        order: Of bytes, "<" or ">".
    """
    samples = samples[:, :, None] if samples.ndim == 2 else samples
    height, width, n_samples = samples.shape
    ordered = samples.astype(samples.dtype.newbyteorder(order))
    planes = [ordered[:, :, n].tobytes() for n in range(n_samples)]
    strips = planes if is_planar else [ordered.tobytes()]
    strips = [zlib.compress(strip) for strip in strips] if is_deflated else strips
    colour = 2 if n_samples >= 3 else 1
    fields: dict[int, tuple[int, list[int] | bytes]] = {
        256: (_SHORT, [width]),
        257: (_SHORT, [height]),
        258: (_SHORT, [samples.dtype.itemsize * 8] * n_samples),
        259: (_SHORT, [8 if is_deflated else 1]),
        262: (_SHORT, [colour if photometric is None else photometric]),
        273: (_LONG, [0] * len(strips)),
        274: (_SHORT, [orientation]),
        277: (_SHORT, [n_samples]),
        278: (_SHORT, [height]),
        279: (_LONG, [len(strip) for strip in strips]),
        284: (_SHORT, [2 if is_planar else 1]),
        339: (_SHORT, [_FORMATS[samples.dtype.kind]] * n_samples),
    }
    n_colours = 3 if fields[262][1] == [2] else 1
    if n_samples > n_colours:
        n_extra = n_samples - n_colours
        fields[338] = (_SHORT, [2 if has_alpha else 0] + [0] * (n_extra - 1))
    if no_data is not None:
        fields[42113] = (_ASCII, no_data.encode() + b"\0")
    start = len(_assembled(fields, order))
    offsets = np.cumsum([start, *(len(strip) for strip in strips[:-1])])
    fields[273] = (_LONG, [int(offset) for offset in offsets])
    return _assembled(fields, order) + b"".join(strips)


def _assembled(fields: dict[int, tuple[int, list[int] | bytes]], order: str) -> bytes:
    """Header, directory and the values that do not fit into it."""
    directory, values = b"", b""
    values_at = 8 + 2 + 12 * len(fields) + 4
    for tag, (kind, value) in sorted(fields.items()):
        letter = {_SHORT: "H", _LONG: "I", _ASCII: "B"}[kind]
        raw = struct.pack(f"{order}{len(value)}{letter}", *value)
        place = raw.ljust(4, b"\0")
        if len(raw) > 4:
            place = struct.pack(order + "I", values_at + len(values))
            values += raw + b"\0" * (len(raw) % 2)
        directory += struct.pack(order + "HHI", tag, kind, len(value)) + place
    magic = b"II*\0" if order == "<" else b"MM\0*"
    count = struct.pack(order + "H", len(fields))
    return magic + struct.pack(order + "I", 8) + count + directory + bytes(4) + values
