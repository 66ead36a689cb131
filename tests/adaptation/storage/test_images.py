from __future__ import annotations

import io
import struct
import threading
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image

from adaptation.errors import ImageError
from adaptation.storage.images import Pixels, decode_image

LIMIT = 100_000_000
RGB = npst.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3)))


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decoded(content: bytes) -> Pixels:
    return decode_image(content, max_pixels=LIMIT).pixels


@given(RGB)
@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_colours_come_back_bit_by_bit(kind: str, pixels: Pixels) -> None:
    back = decoded(encoded(Image.fromarray(pixels), kind))
    assert back.dtype == np.uint8 and back.flags.c_contiguous and not back.flags.writeable
    np.testing.assert_array_equal(back, pixels)


@pytest.mark.parametrize(
    ("kind", "media_type"),
    [("JPEG", "image/jpeg"), ("WEBP", "image/webp"), ("GIF", "image/gif"), ("AVIF", "image/avif")],
)
def test_lossy_kinds_come_back_nearly(kind: str, media_type: str) -> None:
    pixels = np.full((32, 48, 3), (200, 40, 90), np.uint8)
    image = decode_image(encoded(Image.fromarray(pixels), kind), max_pixels=LIMIT)
    assert image.media_type == media_type
    assert image.pixels.shape == (32, 48, 3)
    assert np.abs(image.pixels.astype(int) - pixels).max() <= 8


@given(npst.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_grey_becomes_three_equal_channels(grey: np.ndarray[Any, Any]) -> None:
    back = decoded(encoded(Image.fromarray(grey)))
    np.testing.assert_array_equal(back, np.repeat(grey[:, :, None], 3, axis=2))


def test_one_bit_images_are_black_and_white() -> None:
    bits = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).convert("1")
    assert decoded(encoded(bits))[:, :, 0].tolist() == [[0, 255], [255, 0]]


@given(npst.arrays(np.uint16, (5, 7), elements=st.integers(0, 65_535)))
@pytest.mark.parametrize("kind", [".png", ".tiff"])
def test_sixteen_bits_are_stretched_by_their_own_range(
    kind: str, values: np.ndarray[Any, Any]
) -> None:
    grey = decoded(cv2.imencode(kind, values)[1].tobytes())[:, :, 1]
    low, high = int(values.min()), int(values.max())
    expected = (values - float(low)) * 255 / max(1, high - low)
    assert np.abs(grey - expected).max() <= 0.51
    assert high == low or (grey.min() == 0 and grey.max() == 255)


def test_a_float_image_with_holes_is_stretched() -> None:
    values = np.array([[0.0, 0.5], [1.0, np.nan]], np.float32)
    assert decoded(encoded(Image.fromarray(values), "TIFF"))[:, :, 0].tolist() == [
        [0, 128],
        [255, 0],
    ]


def test_transparency_lies_on_white_as_in_a_browser() -> None:
    rgba = np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [200, 0, 0, 128]]], np.uint8)
    clear, half = [255, 255, 255], [227, 127, 127]
    assert decoded(encoded(Image.fromarray(rgba)))[0].tolist() == [[200, 0, 0], clear, half]


def test_a_palette_with_a_transparent_colour() -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    shown = decoded(encoded(image, transparency=1))[0].tolist()
    assert shown == [[10, 20, 30], [255, 255, 255]]
    assert decoded(encoded(image))[0].tolist() == [[10, 20, 30], [40, 50, 60]]


def test_grey_with_alpha() -> None:
    image = Image.fromarray(np.array([[[7, 255], [7, 0]]], np.uint8), "LA")
    assert decoded(encoded(image))[0].tolist() == [[7, 7, 7], [255, 255, 255]]


def test_cmyk_becomes_rgb() -> None:
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert (
        np.abs(decoded(encoded(image, "JPEG", quality=95))[0, 0].astype(int) - [255, 0, 0]).max()
        < 8
    )
    assert decoded(encoded(image, "TIFF"))[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "AVIF", "TIFF"])
def test_images_stand_upright(kind: str, orientation: int) -> None:
    """What a camera stores for each orientation: one scene, bright at its top left."""
    scene = np.zeros((16, 32), np.uint8)
    scene[:8, :8] = 255
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.T,
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].T,
        8: lambda a: np.rot90(a, -1),
    }
    stored = Image.fromarray(np.ascontiguousarray(undo[orientation](scene)))
    if kind == "TIFF":
        content = encoded(stored, kind, tiffinfo={0x0112: orientation})
    else:
        exif = Image.Exif()
        exif[0x0112] = orientation
        content = encoded(stored, kind, exif=exif)
    shown = decoded(content)
    assert shown.shape == (16, 32, 3)
    assert np.abs(shown[:, :, 0].astype(int) - scene).max() < 40


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "WEBP"])
def test_only_the_first_page_or_frame_is_read(kind: str) -> None:
    pages = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime")]
    content = encoded(pages[0], kind, save_all=True, append_images=pages[1:])
    assert np.abs(decoded(content)[0, 0].astype(int) - [255, 0, 0]).max() < 8


# -- what is refused -----------------------------------------------------------------------------


def test_the_size_limit_is_the_callers_and_counts_before_decoding() -> None:
    content = encoded(Image.new("RGB", (20, 10)))
    assert decode_image(content, max_pixels=200).pixels.shape == (10, 20, 3)
    with pytest.raises(ImageError, match="20 x 10 pixels, more than the 199"):
        decode_image(content, max_pixels=199)


def test_a_decompression_bomb_costs_nothing() -> None:
    """A PNG of a few hundred bytes that claims, and would decompress to, 40 billion pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    header = struct.pack(">IIBBBBB", 200_000, 200_000, 8, 2, 0, 0, 0)
    body = (
        chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 10_000)) + chunk(b"IEND", b"")
    )
    with pytest.raises(ImageError, match="200000 x 200000"):
        decoded(b"\x89PNG\r\n\x1a\n" + body)


def test_an_image_above_the_limit_of_the_library_is_read_when_ours_allows_it() -> None:
    image = Image.new("1", (10_000, 9_500))
    assert decoded(encoded(image)).shape == (9_500, 10_000, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_a_truncated_file_is_an_error_not_half_a_picture(kind: str) -> None:
    rng = np.random.default_rng(0)
    content = encoded(Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)), kind)
    with pytest.raises(ImageError, match="truncated|no image"):
        decoded(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes arrived"),
        (b"<!doctype html><html>", "web page or SVG"),
        (b"  <svg xmlns='http://www.w3.org/2000/svg'/>", "web page or SVG"),
        (b"PK\x03\x04 a zip file", "no image that can be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "no image that can be read"),
    ],
)
def test_what_is_no_image_is_named(content: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        decoded(content)


@given(st.binary(max_size=200), st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"]))
def test_damage_is_an_image_error_or_an_image(noise: bytes, kind: str) -> None:
    content = encoded(Image.linear_gradient("L").resize((24, 24)), kind)
    for position in (8, len(content) // 2):
        damaged = content[:position] + noise + content[position + len(noise) :]
        try:
            image = decode_image(damaged, max_pixels=1_000_000)
        except ImageError:
            continue
        assert image.pixels.ndim == 3 and image.pixels.shape[2] == 3


def test_threads_decode_side_by_side() -> None:
    contents = [encoded(Image.new("RGB", (64, 64), (n, n, n))) for n in range(8)]
    seen: dict[int, list[int]] = {}

    def work(n: int) -> None:
        seen[n] = decoded(contents[n])[0, 0].tolist()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {n: [n, n, n] for n in range(8)}
