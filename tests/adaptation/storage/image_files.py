"""Image files of one scene, in every format, orientation and oddity that browsers meet.

Each is made such that a browser shows the scene: where it obeys an orientation the stored raster is
turned, where it does not the raster is the scene itself.  `tests/e2e/test_images.py` holds that
against a real Chromium, the tests beside this file hold our decoder against the scene.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]
SIZE = (160, 240)
"""(H, W) of the scene."""

CENTRE, RADIUS = (70, 50), 35
"""(x, y) of the disc, and its radius, in pixels."""

_LIGHT, _DARK = (225, 200, 170), (40, 60, 75)

UNDO: dict[int, Callable[[Array], Array]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}
"""What a camera stores for each orientation, of a scene ``[H, W, ...]``."""


def disc() -> NDArray[np.bool_]:
    """The object, ``[H, W]``."""
    rows, columns = np.ogrid[: SIZE[0], : SIZE[1]]
    return np.asarray((columns - CENTRE[0]) ** 2 + (rows - CENTRE[1]) ** 2 <= RADIUS**2)


def scene() -> NDArray[np.uint8]:
    """A light disc on a dark ground, ``[H, W, 3]``."""
    return np.where(disc()[:, :, None], np.uint8(_LIGHT), np.uint8(_DARK))


def stored(orientation: int = 1) -> Image.Image:
    """The raster that shows the scene once the orientation is obeyed."""
    return Image.fromarray(np.ascontiguousarray(UNDO[orientation](scene())))


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """A file of an image, by Pillow."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


# -- EXIF, by hand: Pillow writes only tidy ones --------------------------------------------------


def entry(tag: int, kind: int, count: int, value: bytes) -> bytes:
    """A big-endian field of a TIFF directory; values of more than 4 bytes are offsets."""
    return struct.pack(">HHI", tag, kind, count) + value.ljust(4, b"\0")


def orientation_field(orientation: int, kind: int = 3, count: int = 1) -> bytes:
    value = struct.pack({1: ">B", 3: ">H", 4: ">I"}[kind], orientation)
    return entry(0x0112, kind, count, value)


def tiff_block(*fields: bytes, rest: bytes = b"", header: bytes = b"MM\0*\0\0\0\x08") -> bytes:
    """A TIFF header with one directory; ``rest`` begins behind it."""
    directory = struct.pack(">H", len(fields)) + b"".join(fields)
    return header + directory + bytes(4) + rest


def rest_at(n_fields: int) -> int:
    """Offset of ``rest`` in :func:`tiff_block`."""
    return 8 + 2 + 12 * n_fields + 4


def little_endian(orientation: int) -> bytes:
    return b"II*\0\x08\0\0\0" + struct.pack("<HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)


def simple_exif(orientation: int) -> bytes:
    return tiff_block(orientation_field(orientation))


# -- containers -----------------------------------------------------------------------------------


def jpeg_segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def jpeg(orientation: int = 1, *segments: bytes, **options: Any) -> bytes:
    """A JPEG with segments right behind its start."""
    plain = encoded(stored(orientation), "JPEG", quality=92, **options)
    return plain[:2] + b"".join(segments) + plain[2:]


def app1(tiff: bytes) -> bytes:
    return jpeg_segment(0xE1, b"Exif\0\0" + tiff)


def chunk(kind: bytes, body: bytes, *, is_crc_wrong: bool = False) -> bytes:
    crc = zlib.crc32(kind + body) ^ is_crc_wrong
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)


def png(orientation: int = 1, *chunks: bytes, behind: bool = False) -> bytes:
    """A PNG with chunks behind its header, or behind its pixels."""
    plain = encoded(stored(orientation))
    at = len(plain) - 12 if behind else 33
    return plain[:at] + b"".join(chunks) + plain[at:]


def webp(*chunks: tuple[bytes, bytes], flags: int) -> bytes:
    """An extended WebP of the scene with chunks behind its pixels."""
    simple = encoded(stored(), "WEBP", lossless=True)[12:]
    height, width = SIZE
    vp8x = struct.pack("<I", flags) + struct.pack("<I", width - 1)[:3]
    vp8x += struct.pack("<I", height - 1)[:3]
    parts = [b"WEBPVP8X", struct.pack("<I", 10), vp8x, simple]
    for kind, body in chunks:
        parts += [kind, struct.pack("<I", len(body)), body, b"\0" * (len(body) % 2)]
    content = b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(content)) + content


def xmp(orientation: int) -> bytes:
    return (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
        b'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
        b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="%d"/>'
        b"</rdf:RDF></x:xmpmeta>" % orientation
    )
