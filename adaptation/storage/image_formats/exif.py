"""What browsers obey of an EXIF block: the orientation, and in JPEG the size in CSS pixels.

Held to Chromium by `tests/e2e/test_images.py`.  It reads the tag in its strict form only: a SHORT,
once, from 1 to 8, in the first directory or the EXIF directory that this points to, whichever comes
first.  XMP is not read, and no block is ever written.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from adaptation.storage.image_formats.tiff_tags import (
    LONG,
    RATIONAL,
    SHORT,
    Field,
    byte_order,
    directory,
    first_directory,
)

_ORIENTATION, _X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 0x0112, 0x011A, 0x011B, 0x0128
_EXIF_DIRECTORY, _WIDTH, _HEIGHT = 0x8769, 0xA002, 0xA003
_INCH = 2
_CSS_DPI = 72


@dataclass(frozen=True, slots=True)
class Exif:
    """What is obeyed.

    Args:
        orientation: 1 to 8; 1 where none is named.
        dpi: (x, y) in pixels an inch, or None.
        declared: (width, height) that the EXIF directory declares, or None.
    """

    orientation: int = 1
    dpi: tuple[float, float] | None = None
    declared: tuple[int, int] | None = None

    def natural_size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) at which a browser shows a stored JPEG of this size.

        A JPEG of another resolution than 72 dpi is shown at the size it has at 72 dpi, if the block
        declares just this size (`Chromium's density-corrected size`_).

        .. _Chromium's density-corrected size: https://github.com/whatwg/html/pull/5574
        """
        if self.dpi is None or self.declared is None:
            return width, height
        sides = (width * _CSS_DPI / self.dpi[0], height * _CSS_DPI / self.dpi[1])
        rounded = (math.floor(sides[0] + 0.5), math.floor(sides[1] + 0.5))
        return self.declared if rounded == self.declared else (width, height)


def read_exif(block: bytes) -> Exif:
    """Read a block, which begins with its TIFF header; damage is no error, but ends the reading."""
    orientation: int | None = None
    numbers: dict[int, int] = {}
    resolutions: dict[int, float] = {}
    for field in _fields(block):
        if field.tag == _ORIENTATION and orientation is None:
            orientation = _valid_orientation(field)
        elif field.tag in (_RESOLUTION_UNIT, _WIDTH, _HEIGHT):
            value = field.one(SHORT, LONG)
            if value is not None:
                numbers.setdefault(field.tag, value)
        elif field.tag in (_X_RESOLUTION, _Y_RESOLUTION) and field.kind == RATIONAL:
            resolutions.setdefault(field.tag, _ratio(field))
    return Exif(
        orientation=orientation or 1,
        dpi=_dpi(numbers, resolutions),
        declared=_declared(numbers),
    )


def _fields(block: bytes) -> Iterator[Field]:
    """Fields of the first directory, those of the EXIF directory in the place of its pointer."""
    order = byte_order(block)
    if order is None:
        return
    for field in first_directory(block, order):
        yield field
        offset = field.one(LONG) if field.tag == _EXIF_DIRECTORY else None
        if offset is not None:
            yield from directory(block, order, offset)


def _valid_orientation(field: Field) -> int | None:
    value = field.one(SHORT)
    return value if value is not None and 1 <= value <= 8 else None


def _ratio(field: Field) -> float:
    if field.count != 1 or not field.values[1]:
        return 0.0
    return field.values[0] / field.values[1]


def _dpi(numbers: dict[int, int], resolutions: dict[int, float]) -> tuple[float, float] | None:
    x, y = resolutions.get(_X_RESOLUTION, 0.0), resolutions.get(_Y_RESOLUTION, 0.0)
    return (x, y) if numbers.get(_RESOLUTION_UNIT) == _INCH and x > 0 and y > 0 else None


def _declared(numbers: dict[int, int]) -> tuple[int, int] | None:
    width, height = numbers.get(_WIDTH, 0), numbers.get(_HEIGHT, 0)
    return (width, height) if width > 0 and height > 0 else None
