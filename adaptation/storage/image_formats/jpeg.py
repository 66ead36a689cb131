"""JPEG: only the segments that make the picture, and where the EXIF block is.

Of the application's segments only JFIF and Adobe decide about colours; previews, comments and
camera's notes decide nothing, but a decoder that reads them may fail.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
_EOI, _SOS, _COM = 0xD9, 0xDA, 0xFE
_APP0, _APP1, _APP14, _APP15 = 0xE0, 0xE1, 0xEE, 0xEF
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})


class _Segment(NamedTuple):
    marker: int
    start: int
    end: int

    @property
    def is_picture(self) -> bool:
        is_application = _APP0 <= self.marker <= _APP15
        return self.marker in (_APP0, _APP14) or not (is_application or self.marker == _COM)


def exif_block(content: bytes) -> bytes:
    """The first EXIF block before the pixels, from its TIFF header on; empty without one."""
    for segment in _segments(content):
        is_exif = content[segment.start + 4 : segment.start + 9] == b"Exif\0"
        if segment.marker == _APP1 and is_exif:
            return content[segment.start + 10 : segment.end]
    return b""


def picture_segments(content: bytes) -> bytes:
    """The file without comments and application's segments, but for those about colours."""
    parts, at = [content[:2]], 2
    for segment in _segments(content):
        if segment.is_picture:
            parts.append(content[segment.start : segment.end])
        at = segment.end
    return b"".join([*parts, content[at:]])


def _segments(content: bytes) -> Iterator[_Segment]:
    """Those before the pixels."""
    at = 2
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF:  # a fill byte
            end = at + 1
        elif marker in _WITHOUT_LENGTH:
            end = at + 2
        elif marker in (_SOS, _EOI):
            return
        else:
            end = at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        if marker != 0xFF:
            yield _Segment(marker, at, min(end, len(content)))
        at = end
