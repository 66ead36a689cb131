"""The directories of TIFF files and of EXIF blocks, which are TIFF files without pixels."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

SHORT, LONG, RATIONAL = 3, 4, 5
WHOLE_NUMBERS = (1, 3, 4, 6, 8, 9)
_FORMATS = {1: "B", 2: "s", 3: "H", 4: "I", 5: "I", 6: "b", 8: "h", 9: "i", 11: "f", 12: "d"}
"""Field types -> `struct` characters; a rational is two LONGs."""

_MAX_FIELDS = 4096


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a directory; ``kind`` is TIFF's number of its type."""

    tag: int
    kind: int
    count: int
    raw: bytes
    order: str

    @property
    def values(self) -> tuple[int | float, ...]:
        """The numbers; a rational is two of them."""
        letter = _FORMATS[self.kind]
        return struct.unpack(
            f"{self.order}{len(self.raw) // struct.calcsize(letter)}{letter}", self.raw
        )

    def one(self, *kinds: int) -> int | None:
        """The value of a field that holds exactly one whole number of these types, else None."""
        if self.kind not in kinds or self.count != 1:
            return None
        return int(self.values[0])


def byte_order(block: bytes) -> str | None:
    """``"<"`` or ``">"`` of a TIFF header, None where there is none."""
    return {b"II*\0": "<", b"MM\0*": ">"}.get(bytes(block[:4]))


def first_directory(block: bytes, order: str) -> Iterator[Field]:
    """The fields of the first directory."""
    if len(block) >= 8:
        yield from directory(block, order, struct.unpack_from(order + "I", block, 4)[0])


def directory(block: bytes, order: str, offset: int) -> Iterator[Field]:
    """The fields of a directory, as far as the block reaches; values beyond it are left out."""
    if offset + 2 > len(block):
        return
    (n_fields,) = struct.unpack_from(order + "H", block, offset)
    for at in range(offset + 2, offset + 2 + 12 * min(n_fields, _MAX_FIELDS), 12):
        if at + 12 > len(block):
            return
        field = _field(block, order, at)
        if field is not None:
            yield field


def _field(block: bytes, order: str, at: int) -> Field | None:
    tag, kind, count = struct.unpack_from(order + "HHI", block, at)
    letter = _FORMATS.get(kind)
    if letter is None:
        return None
    n_bytes = struct.calcsize(letter) * count * (2 if kind == RATIONAL else 1)
    start = at + 8 if n_bytes <= 4 else struct.unpack_from(order + "I", block, at + 8)[0]
    if start + n_bytes > len(block):
        return None
    return Field(tag, kind, count, bytes(block[start : start + n_bytes]), order)
