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


def bmp(
    masks: tuple[int, ...], *, bits: int = 32, header: int = 40, is_top_down: bool = False
) -> bytes:
    """A BMP with bit fields, opaque."""
    height, width = SIZE
    channels = [*np.moveaxis(scene().astype(np.uint32), 2, 0), np.uint32(255)]
    packed = np.zeros(SIZE, np.uint32)
    for values, mask in zip(channels, masks, strict=False):
        if not mask:
            continue
        shift = (mask & -mask).bit_length() - 1
        n_bits = mask.bit_length() - shift
        shown = values >> (8 - n_bits) if n_bits <= 8 else values << (n_bits - 8)
        packed |= (shown.astype(np.uint32) << np.uint32(shift)) & np.uint32(mask)
    rows = packed.astype(f"<u{bits // 8}")
    data = (rows if is_top_down else rows[::-1]).tobytes()
    info = struct.pack(
        "<IiiHHIIiiII",
        *(header, width, -height if is_top_down else height, 1, bits, 3, 0, 2835, 2835, 0, 0),
    )
    info += struct.pack(f"<{len(masks)}I", *masks)
    info = info[:52] if header == 40 else info.ljust(header, b"\0")
    start = 14 + len(info)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + info + data


def raw_png(depth: int, colour_type: int, samples: Array, *chunks: bytes) -> bytes:
    """A PNG of rows of bytes as they are."""
    height, width = SIZE
    rows = b"".join(b"\0" + row.tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(rows))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def with_dpi(dpi: int, width: int, height: int, *fields: bytes) -> bytes:
    """An EXIF block that declares a resolution and a size."""
    n_fields = len(fields) + 4
    at = rest_at(n_fields)
    own = [
        entry(0x011A, 5, 1, struct.pack(">I", at)),
        entry(0x011B, 5, 1, struct.pack(">I", at + 8)),
        entry(0x0128, 3, 1, struct.pack(">H", 2)),
        entry(0x8769, 4, 1, struct.pack(">I", at + 16)),
    ]
    rest = struct.pack(">IIII", dpi, 1, dpi, 1) + struct.pack(">H", 2)
    rest += entry(0xA002, 4, 1, struct.pack(">I", width))
    rest += entry(0xA003, 4, 1, struct.pack(">I", height)) + bytes(4)
    return tiff_block(*fields, *own, rest=rest)


def in_exif_directory(orientation: int) -> bytes:
    """A block that has the tag in the directory behind the pointer only."""
    pointer = entry(0x8769, 4, 1, struct.pack(">I", rest_at(1)))
    inner = struct.pack(">H", 1) + orientation_field(orientation) + bytes(4)
    return tiff_block(pointer, rest=inner)


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _oriented() -> dict[str, bytes]:
    """Where an orientation is obeyed."""
    files: dict[str, bytes] = {}
    for n in range(2, 9):
        files[f"jpeg, exif {n}"] = jpeg(n, app1(simple_exif(n)))
        files[f"png, eXIf {n}"] = png(n, chunk(b"eXIf", simple_exif(n)))
        files[f"avif, boxes {n}"] = encoded(stored(n), "AVIF", quality=90, speed=9, exif=_exif(n))
    files["mpo, exif 6"] = encoded(
        stored(6), "MPO", quality=92, exif=_exif(6), save_all=True, append_images=[stored()]
    )
    blocks = {
        "little endian": little_endian(6),
        "twice, the first wins": tiff_block(orientation_field(6), orientation_field(3)),
        "twice, the first is none": tiff_block(orientation_field(99), orientation_field(6)),
        "in the EXIF directory": in_exif_directory(6),
        "too few fields": b"MM\0*\0\0\0\x08\0\x09" + simple_exif(6)[10:],
        "no next directory": simple_exif(6)[:22],
        "a value beyond the end": tiff_block(
            entry(0x010F, 2, 300, struct.pack(">I", 60_000)), orientation_field(6)
        ),
        "a negative rational": tiff_block(
            orientation_field(6),
            entry(0x011A, 5, 1, struct.pack(">I", rest_at(2))),
            rest=struct.pack(">iI", -5, 1),
        ),
        "a double in a text tag": tiff_block(
            orientation_field(6),
            entry(0x0131, 12, 1, struct.pack(">I", rest_at(2))),
            rest=struct.pack(">d", 2.5),
        ),
    }
    files |= {f"jpeg, exif 6, {name}": jpeg(6, app1(block)) for name, block in blocks.items()}
    files["jpeg, exif 6, odd padding"] = jpeg(6, jpeg_segment(0xE1, b"Exif\0\xff" + simple_exif(6)))
    files["png, eXIf 6, another after it"] = png(
        6, chunk(b"eXIf", simple_exif(6)), chunk(b"eXIf", simple_exif(3))
    )
    return files


def _not_oriented() -> dict[str, bytes]:
    """Where an orientation is not obeyed: the tag says 6 or 3, and the raster is upright."""
    profile = b"Exif\0\0" + simple_exif(6)
    text = b"\nexif\n%8d\n" % len(profile) + profile.hex().encode() + b"\n"
    files = {
        "png, eXIf behind the pixels": png(1, chunk(b"eXIf", simple_exif(6)), behind=True),
        "png, eXIf with a prefix": png(1, chunk(b"eXIf", b"Exif\0\0" + simple_exif(6))),
        "png, eXIf, wrong crc": png(1, chunk(b"eXIf", simple_exif(6), is_crc_wrong=True)),
        "png, raw profile": png(
            1, chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text))
        ),
        "webp, xmp": webp((b"XMP ", xmp(6)), flags=4),
        "avif, xmp": encoded(stored(), "AVIF", quality=90, speed=9, xmp=xmp(3)),
    }
    for n in range(2, 9):
        files[f"webp, exif {n}"] = webp((b"EXIF", simple_exif(n)), flags=8)
        segment = jpeg_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp(n))
        files[f"jpeg, xmp {n}"] = jpeg(1, segment)
        files[f"png, xmp {n}"] = png(1, chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(n)))
    blocks = {
        "a LONG": tiff_block(orientation_field(6, 4)),
        "a BYTE": tiff_block(orientation_field(6, 1)),
        "two values": tiff_block(orientation_field(6, 3, 2)),
        "no value": tiff_block(orientation_field(6, 3, 0)),
        "0": simple_exif(0),
        "9": simple_exif(9),
        "a wrong magic number": b"MM\0+" + simple_exif(6)[4:],
        "a directory beyond the end": b"MM\0*\0\0\xff\xff" + simple_exif(6)[8:],
        "cut off": simple_exif(6)[:20],
    }
    files |= {f"jpeg, exif, {name}": jpeg(1, app1(block)) for name, block in blocks.items()}
    files["jpeg, exif, a second block"] = jpeg(
        1, app1(tiff_block(entry(0x010F, 2, 3, b"ab\0"))), app1(simple_exif(6))
    )
    return files


def _odd() -> dict[str, bytes]:
    """What browsers show and careful decoders refuse."""
    long_text = zlib.compress(b"x" * 2_000_000)
    chunks = {
        b"tEXt": b"Comment\0hello",
        b"gAMA": struct.pack(">I", 45_455),
        b"pHYs": struct.pack(">IIB", 2835, 2835, 1),
        b"iCCP": b"p\0\0" + zlib.compress(b"no profile"),
        b"tIME": bytes(7),
    }
    files = {
        "png, zTXt of 2 MB": png(1, chunk(b"zTXt", b"Comment\0\0" + long_text)),
        "png, iTXt of 2 MB": png(1, chunk(b"iTXt", b"Comment\0\x01\0\0\0" + long_text)),
        "png, iCCP of 2 MB": png(1, chunk(b"iCCP", b"p\0\0" + long_text)),
    }
    for kind, body in chunks.items():
        name = kind.decode()
        files[f"png, {name}, wrong crc"] = png(1, chunk(kind, body, is_crc_wrong=True))
        files[f"png, {name}, cut"] = png(1, chunk(kind, body[:1]))
    plain = png()
    files["png, no end chunk"] = plain[:-12]
    at = plain.index(b"IDAT")
    length = int.from_bytes(plain[at - 4 : at], "big")
    pixels = bytearray(plain[at + 4 : at + 4 + length])
    pixels[-1] ^= 1
    files["png, wrong checksum of pixels"] = (
        plain[: at - 4] + chunk(b"IDAT", bytes(pixels)) + plain[-12:]
    )
    red, green, blue = 0xFF, 0xFF00, 0xFF0000
    files |= {
        "jpeg, progressive, no end": jpeg(progressive=True)[:-2],
        "gif, no end": encoded(stored().quantize(8), "GIF")[:-3],
        "bmp, red first": bmp((red, green, blue)),
        "bmp, red first, long header": bmp((red, green, blue, 0), header=56),
        "bmp, red first, top down": bmp((red, green, blue), is_top_down=True),
        "bmp, ten bits": bmp((0x3FF00000, 0xFFC00, 0x3FF)),
        "bmp, 16 bits, alpha": bmp((0xF00, 0xF0, 0xF, 0xF000), bits=16, header=56),
    }
    return files


def shown_whole() -> dict[str, bytes]:
    """Files of which a browser shows just the scene, by name."""
    plain = {
        "jpeg": jpeg(),
        "jpeg, cmyk": encoded(stored().convert("CMYK"), "JPEG", quality=92),
        "png": png(),
        "png, palette": encoded(stored().quantize(8)),
        "webp": encoded(stored(), "WEBP", quality=92),
        "webp, lossless": webp(flags=0),
        "avif": encoded(stored(), "AVIF", quality=90, speed=9),
        "gif": encoded(stored().quantize(8), "GIF"),
        "bmp": encoded(stored(), "BMP"),
    }
    return plain | _oriented() | _not_oriented() | _odd()


def shown_resized() -> dict[str, bytes]:
    """JPEGs that a browser shows at another size than they have in the file."""
    return {
        "jpeg, 144 dpi": jpeg(1, app1(with_dpi(144, 120, 80))),
        "jpeg, 36 dpi": jpeg(1, app1(with_dpi(36, 480, 320))),
        "jpeg, 144 dpi, exif 6": jpeg(6, app1(with_dpi(144, 80, 120, orientation_field(6)))),
        "jpeg, 144 dpi, another size": jpeg(1, app1(with_dpi(144, 121, 80))),
    }


def shown_see_through() -> dict[str, bytes]:
    """Files with transparent parts."""
    grey = scene()[:, :, 1]
    nibbles = np.where(disc(), np.uint8(10), np.uint8(3))
    packed = nibbles[:, ::2] << 4 | nibbles[:, 1::2]
    gif = bytearray(encoded(stored().quantize(8), "GIF"))
    gif[6:10] = struct.pack("<HH", SIZE[1] + 40, SIZE[0] + 30)
    return {
        "png, grey": raw_png(8, 0, grey, chunk(b"tRNS", struct.pack(">H", int(grey[0, 0])))),
        "png, four bits": raw_png(4, 0, packed, chunk(b"tRNS", b"\0\x03")),
        "png, alpha": encoded(Image.fromarray(np.dstack([scene(), grey]))),
        "gif, a frame smaller than the screen": bytes(gif),
        "bmp, alpha": bmp((0xFF, 0xFF00, 0xFF0000, 0xFF000000), header=124),
    }
