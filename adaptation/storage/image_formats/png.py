"""PNG: only the chunks that make the picture.

Comments, colour profiles and animations decide nothing about it, but a decoder that reads them may
fail: on a checksum, on a length, on a comment that unpacks to megabytes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER_BYTES = 8
_CRC_BYTES = 4
_ADLER_BYTES = 4


class _Chunk(NamedTuple):
    kind: bytes
    start: int
    end: int
    """Of the whole chunk, with its checksum, within the file."""


def picture_chunks(content: bytes) -> bytes:
    """The file with its header, palette, transparency and pixels, and nothing else."""
    parts = [SIGNATURE]
    for chunk in _picture(content):
        if chunk.kind != b"tRNS" or _is_intact(content, chunk):
            parts.append(content[chunk.start : chunk.end])
    return b"".join(parts)


def exif_block(content: bytes) -> bytes:
    """The first intact eXIf chunk before the pixels; empty where there is none."""
    for chunk in _chunks(content):
        if chunk.kind == b"IDAT":
            break
        if chunk.kind == b"eXIf" and _is_intact(content, chunk):
            return content[chunk.start + _HEADER_BYTES : chunk.end - _CRC_BYTES]
    return b""


def without_checksum(content: bytes) -> bytes:
    """The file without the checksum over its unpacked pixels, which browsers do not look at."""
    chunks = list(_picture(content))
    pixels = [chunk for chunk in chunks if chunk.kind == b"IDAT"]
    if not pixels:
        return content
    parts = (content[c.start + _HEADER_BYTES : c.end - _CRC_BYTES] for c in pixels)
    packed = b"".join(parts)[:-_ADLER_BYTES]
    length = struct.pack(">I", len(packed))
    crc = struct.pack(">I", zlib.crc32(b"IDAT" + packed))
    return content[: pixels[0].start] + length + b"IDAT" + packed + crc + content[pixels[-1].end :]


def _picture(content: bytes) -> Iterator[_Chunk]:
    has_pixels = False
    for chunk in _chunks(content):
        is_pixels = chunk.kind == b"IDAT"
        if (has_pixels and not is_pixels) or chunk.kind == b"IEND":
            break
        has_pixels |= is_pixels
        if is_pixels or chunk.kind in (b"IHDR", b"PLTE", b"tRNS"):
            yield chunk


def _chunks(content: bytes) -> Iterator[_Chunk]:
    """All chunks; the last may be cut off."""
    at = len(SIGNATURE)
    while at + _HEADER_BYTES <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        end = min(at + _HEADER_BYTES + length + _CRC_BYTES, len(content))
        yield _Chunk(content[at + 4 : at + 8], at, end)
        at = end


def _is_intact(content: bytes, chunk: _Chunk) -> bool:
    body_end = chunk.end - _CRC_BYTES
    crc = int.from_bytes(content[body_end : chunk.end], "big")
    return body_end > chunk.start and zlib.crc32(content[chunk.start + 4 : body_end]) == crc


def as_four_channels(content: bytes) -> bytes:
    """Grey and alpha of 16 bits, declared as RGBA of 8: the same bytes, which Pillow can read."""
    start = len(SIGNATURE)
    body = content[start + 4 : start + 16] + bytes([8, 6]) + content[start + 18 : start + 21]
    crc = struct.pack(">I", zlib.crc32(body))
    return content[: start + 4] + body + crc + content[start + 21 + _CRC_BYTES :]
