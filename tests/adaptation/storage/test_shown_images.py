"""Files are decoded to what a browser shows; `tests/e2e/test_images.py` asks a real one."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from adaptation.errors import ImageError
from adaptation.masks import iou
from adaptation.storage import images
from adaptation.storage.images import Pixels, decode_image
from tests.adaptation.storage.image_files import (
    SIZE,
    UNDO,
    app1,
    bmp,
    chunk,
    disc,
    encoded,
    jpeg,
    orientation_field,
    png,
    raw_png,
    scene,
    shown_resized,
    shown_see_through,
    shown_whole,
    stored,
    with_dpi,
)
from tests.adaptation.storage.tiff_files import tiff

WHOLE, RESIZED, SEE_THROUGH = shown_whole(), shown_resized(), shown_see_through()
GREY = scene()[:, :, 1]
DEEP = GREY.astype(np.uint16) * 257
DEEP_RGB = scene().astype(np.uint16) * 257
OPAQUE = np.full(SIZE, 65_535, np.uint16)


def decoded(content: bytes) -> Pixels:
    return decode_image(content, max_pixels=10_000_000).pixels


def light(pixels: Pixels) -> NDArray[np.bool_]:
    """The lighter half of the range, ``[H, W]``: the disc."""
    grey = pixels.astype(float).mean(axis=2)
    return np.asarray(grey > (grey.min() + grey.max()) / 2)


@pytest.mark.parametrize("name", WHOLE)
def test_the_scene_is_seen_the_right_way_up(name: str) -> None:
    pixels = decoded(WHOLE[name])
    assert pixels.shape == (*SIZE, 3)
    assert iou(light(pixels), disc()) > 0.98
    assert np.abs(pixels.astype(int) - scene()).mean() < 8


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("jpeg, 144 dpi", (80, 120)),
        ("jpeg, 36 dpi", (320, 480)),
        ("jpeg, 144 dpi, exif 6", (80, 120)),
        ("jpeg, 144 dpi, another size", SIZE),
    ],
)
def test_a_jpeg_has_the_size_at_72_dpi_that_it_declares(name: str, size: tuple[int, int]) -> None:
    pixels = decoded(RESIZED[name])
    assert pixels.shape[:2] == size
    at_scene = Image.fromarray(pixels).resize(SIZE[::-1])
    assert iou(light(np.asarray(at_scene)), disc()) > 0.95


def test_a_declared_size_above_the_limit_is_refused_before_it_is_made() -> None:
    block = with_dpi(1, 240 * 72, 160 * 72, orientation_field(1))
    with pytest.raises(ImageError, match="17280 x 11520"):
        decoded(jpeg(1, app1(block)))


def test_what_is_transparent_is_white() -> None:
    for name in ("png, grey", "png, four bits"):
        assert (decoded(SEE_THROUGH[name])[~disc()] == 255).all(), name
    half = decoded(SEE_THROUGH["png, alpha"])[0, 0].astype(int)
    alpha = int(GREY[0, 0]) / 255
    assert np.abs(half - (scene()[0, 0] * alpha + 255 * (1 - alpha))).max() <= 1
    screen = decoded(SEE_THROUGH["gif, a frame smaller than the screen"])
    assert screen.shape == (SIZE[0] + 30, SIZE[1] + 40, 3)
    assert (screen[SIZE[0] :] == 255).all() and (screen[:, SIZE[1] :] == 255).all()
    assert iou(light(screen)[: SIZE[0], : SIZE[1]], disc()) > 0.98


# -- files that end early -------------------------------------------------------------------------


@pytest.mark.parametrize("n_bytes", [1, 2])
def test_a_jpeg_may_lack_its_end_marker(n_bytes: int) -> None:
    np.testing.assert_array_equal(decoded(jpeg()[:-n_bytes]), decoded(jpeg()))


@pytest.mark.parametrize("n_bytes", [1, 3, 4, 8, 16])
@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "JPEG"])
def test_a_shorter_file_is_whole_or_an_error(kind: str, n_bytes: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    content = encoded(Image.fromarray(noise), kind)
    whole = decoded(content)
    try:
        pixels = decoded(content[:-n_bytes])
    except ImageError as error:
        assert "truncated" in str(error)
    else:
        np.testing.assert_array_equal(pixels, whole)


@pytest.mark.parametrize(
    "content",
    [
        jpeg()[:-50],
        jpeg(progressive=True)[:-50],
        png()[: len(png()) // 2],
        encoded(stored().quantize(8), "GIF")[:-12],
        bmp((0xFF, 0xFF00, 0xFF0000))[:-1],
        tiff(DEEP)[:-2],
        tiff(DEEP_RGB, is_planar=True, is_deflated=True)[:-20],
    ],
    ids=["jpeg", "progressive jpeg", "png", "gif", "bmp", "tiff", "deflated tiff"],
)
def test_truncation_that_loses_picture_is_an_error(content: bytes) -> None:
    with pytest.raises(ImageError, match="truncated"):
        decoded(content)


# -- samples of more than eight bits --------------------------------------------------------------


def big_endian(samples: NDArray[Any]) -> NDArray[Any]:
    return samples.astype(">u2")


DARK = {
    "grey": raw_png(16, 0, big_endian(DEEP // 16)),
    "grey and alpha": raw_png(16, 4, big_endian(np.dstack([DEEP // 16, OPAQUE]))),
    "RGB": raw_png(16, 2, big_endian(DEEP_RGB // 16)),
    "RGB and alpha": raw_png(16, 6, big_endian(np.dstack([DEEP_RGB // 16, OPAQUE]))),
}


@pytest.mark.parametrize("name", DARK)
def test_sixteen_bits_are_stretched_in_every_kind_of_colour(name: str) -> None:
    """A browser would show nearly black: the highest byte of 12 bits in 16."""
    pixels = decoded(DARK[name])
    assert iou(light(pixels), disc()) > 0.98
    assert (pixels.min(), pixels.max()) == (0, 255)


def test_all_colours_are_stretched_by_one_range() -> None:
    pixels = decoded(DARK["RGB"]).astype(float)
    values = scene().astype(float)
    expected = (values - values.min()) * 255 / (values.max() - values.min())
    assert np.abs(pixels - expected).max() <= 1


def test_transparent_values_of_sixteen_bits_are_white_and_take_no_part() -> None:
    ground = int(DEEP[0, 0]).to_bytes(2, "big")
    grey = raw_png(16, 0, big_endian(DEEP), chunk(b"tRNS", ground))
    assert (decoded(grey)[~disc()] == 255).all() and (decoded(grey)[disc()] == 0).all()


TIFFS = {
    "planar RGB": tiff(DEEP_RGB, is_planar=True),
    "planar RGB, big endian": tiff(DEEP_RGB, is_planar=True, order=">"),
    "planar RGB, deflated": tiff(DEEP_RGB, is_planar=True, is_deflated=True),
    "planar RGB and alpha": tiff(np.dstack([DEEP_RGB, OPAQUE]), is_planar=True, has_alpha=True),
    "RGB": tiff(DEEP_RGB // 16),
    "grey and alpha": tiff(np.dstack([DEEP, OPAQUE]), has_alpha=True),
    "white is zero": tiff(65_535 - DEEP, photometric=0),
    "signed": tiff(DEEP.astype(np.int32) - 40_000),
    "32 bits unsigned": tiff(DEEP.astype(np.uint32) * 60_000),
    "64 bits unsigned": tiff(DEEP.astype(np.uint64)),
    "half floats": tiff(GREY.astype(np.float16)),
    "floats": tiff(GREY.astype(np.float32), order=">"),
    "double floats": tiff(GREY.astype(np.float64)),
    "float RGB": tiff(scene().astype(np.float32) / 255),
    "five bands": tiff(np.dstack([GREY] * 5), photometric=1),
    "twelve deep bands": tiff(np.dstack([DEEP] * 12), photometric=1),
}


@pytest.mark.parametrize("name", TIFFS)
def test_a_tiff_of_deep_samples_is_read(name: str) -> None:
    assert iou(light(decoded(TIFFS[name])), disc()) > 0.98


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("is_deep", [False, True])
def test_a_tiff_is_turned_once(orientation: int, is_deep: bool) -> None:
    samples = UNDO[orientation](DEEP_RGB if is_deep else scene())
    pixels = decoded(tiff(np.ascontiguousarray(samples), orientation=orientation))
    assert pixels.shape == (*SIZE, 3) and iou(light(pixels), disc()) > 0.98


@pytest.mark.parametrize(
    ("value", "tag"),
    [
        (-9999.0, None),
        (-9999.0, "-9999"),
        (-3.4028234663852886e38, None),
        (-3.4028234663852886e38, "-3.4028234663852886e+38"),
        (1e38, None),
        (np.nan, None),
        (np.inf, None),
        (1234.5, "1234.5"),
    ],
)
def test_pixels_without_a_value_take_no_part_and_are_black(value: float, tag: str | None) -> None:
    samples = GREY.astype(np.float32) + 500
    samples[120:, 150:] = value
    pixels = decoded(tiff(samples, no_data=tag))
    assert iou(light(pixels), disc()) > 0.98
    assert (pixels[120:, 150:] == 0).all()


def test_a_usual_mark_amid_the_values_is_a_value() -> None:
    samples = np.linspace(-9999, 9999, 240 * 160, dtype=np.float32).reshape(SIZE)
    grey = decoded(tiff(samples))[:, :, 0]
    assert grey[0, 0] == 0 and abs(int(grey[SIZE[0] // 2, 0]) - 127) <= 1 and grey[-1, -1] == 255


def test_an_image_without_any_value_is_black() -> None:
    assert not decoded(tiff(np.full(SIZE, np.nan, np.float32))).any()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            tiff(GREY.astype(np.complex64)),
            "1 sample of 64 bits a pixel .complex., compression none",
        ),
        (
            tiff(DEEP_RGB, is_planar=True, is_deflated=True).replace(
                b"\x03\x01\x03\0\x01\0\0\0\x08\0", b"\x03\x01\x03\0\x01\0\0\0\x05\0"
            ),
            "3 samples of 16 bits a pixel .unsigned., in planes, compression LZW",
        ),
    ],
)
def test_a_tiff_that_is_not_read_is_named(content: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        decoded(content)


# -- cost -----------------------------------------------------------------------------------------


def test_huge_images_are_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "HUGE_PIXELS", 1000)
    n_running, most = 0, 0
    lock = threading.Lock()
    draw = images.draw

    def counted(*args: Any) -> Pixels:
        nonlocal n_running, most
        with lock:
            n_running += 1
            most = max(most, n_running)
        pixels = draw(*args)
        threading.Event().wait(0.02)
        with lock:
            n_running -= 1
        return pixels

    monkeypatch.setattr(images, "draw", counted)
    threads = [threading.Thread(target=decoded, args=(png(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_a_huge_image_that_cannot_be_read_gives_its_turn_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(images, "HUGE_PIXELS", 1000)
    with pytest.raises(ImageError):
        decoded(png()[: len(png()) // 2])
    assert decoded(png()).shape == (*SIZE, 3)
