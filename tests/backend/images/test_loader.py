from __future__ import annotations

import hashlib
import io
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from adaptation.errors import ImageError
from backend.images.guarded_http import Fetcher, HostRules
from backend.images.loader import ImageLoader
from backend.images.sources import ImageSource
from backend.label_studio.client import LabelStudioClient, Transport
from tests.backend.sites import LEGACY_TOKEN, LabelStudioSite


def png(value: int, size: tuple[int, int] = (6, 4)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (value, value, value)).save(file, "PNG")
    return file.getvalue()


def ppm(value: int) -> bytes:
    """A file of the same length for every value."""
    file = io.BytesIO()
    Image.new("RGB", (6, 4), (value, value, value)).save(file, "PPM")
    return file.getvalue()


class Files:
    """Files by reference; counts the reads and can be slow."""

    def __init__(self, **contents: bytes) -> None:
        self.contents = contents
        self.reads: list[str] = []
        self.delay_s = 0.0

    def read(self, image_ref: str, task_id: str) -> bytes:
        self.reads.append(image_ref)
        time.sleep(self.delay_s)
        if image_ref not in self.contents:
            raise ImageError("no such file")
        return self.contents[image_ref]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_an_image_carries_the_digest_of_its_file_its_size_and_kind() -> None:
    content = png(7)
    image = ImageLoader(Files(a=content)).load("a", "1")
    assert image.digest == hashlib.sha256(content).hexdigest()
    assert image.size == (4, 6)
    assert image.identity.media_type == "image/png"
    assert image.pixels.shape == (4, 6, 3) and image.pixels[0, 0].tolist() == [7, 7, 7]


def test_shared_pixels_cannot_be_written() -> None:
    pixels = ImageLoader(Files(a=png(7))).load("a", "1").pixels
    with pytest.raises(ValueError, match="read-only"):
        pixels[0, 0] = 0


def test_a_second_load_reads_and_decodes_nothing() -> None:
    files = Files(a=png(7))
    loader = ImageLoader(files)
    first = loader.load("a", "1")
    assert loader.load("a", "1").pixels is first.pixels
    assert loader.identify("a", "1") is first.identity
    assert files.reads == ["a"]


def test_identify_needs_no_pixels_once_they_have_left_the_cache() -> None:
    files = Files(a=png(1), b=png(2))
    loader = ImageLoader(files, cache_bytes=4 * 6 * 3)
    digest = loader.identify("a", "1").digest
    loader.load("b", "2")
    assert loader.identify("a", "1").digest == digest
    assert files.reads == ["a", "b"]
    loader.load("a", "1")
    assert files.reads == ["a", "b", "a"]


def test_the_same_reference_in_two_tasks_is_read_twice_and_decoded_once() -> None:
    """A bucket's address may mean different files to different projects."""
    files = Files(a=png(1))
    loader = ImageLoader(files)
    first, second = loader.load("a", "1"), loader.load("a", "2")
    assert files.reads == ["a", "a"]
    assert second.pixels is first.pixels


def test_an_old_image_is_read_again_and_a_replaced_one_is_noticed() -> None:
    clock, files = Clock(), Files(a=png(1))
    loader = ImageLoader(files, max_age_s=60, clock=clock)
    first = loader.load("a", "1")
    clock.now += 59
    assert loader.load("a", "1").pixels is first.pixels
    clock.now += 2
    assert loader.load("a", "1").pixels is first.pixels, "unchanged bytes are not decoded again"
    assert files.reads == ["a", "a"]
    files.contents["a"] = png(2)
    assert loader.load("a", "1").digest == first.digest
    clock.now += 61
    assert loader.load("a", "1").pixels[0, 0, 0] == 2


def test_ten_clicks_at_once_wait_for_one_download() -> None:
    files = Files(a=png(1))
    files.delay_s = 0.1
    loader = ImageLoader(files)
    barrier = threading.Barrier(10)
    digests: list[str] = []

    def click() -> None:
        barrier.wait()
        digests.append(loader.load("a", "1").digest)

    _run([threading.Thread(target=click) for _ in range(10)])
    assert len(digests) == 10 and len(set(digests)) == 1
    assert files.reads == ["a"]


def test_two_images_do_not_wait_for_each_other() -> None:
    loader = ImageLoader(_Meeting(png(1)))
    threads = [threading.Thread(target=loader.load, args=(name, "1")) for name in "ab"]
    _run(threads)
    assert loader.identify("a", "1").digest == loader.identify("b", "1").digest


class _Meeting:
    """Both readers have to be inside `read` at the same time."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._barrier = threading.Barrier(2, timeout=5)

    def read(self, image_ref: str, task_id: str) -> bytes:
        self._barrier.wait()
        return self._content


def test_a_failure_is_raised_and_not_remembered() -> None:
    files = Files(broken=b"no image")
    loader = ImageLoader(files)
    for _ in range(2):
        with pytest.raises(ImageError, match="no such file"):
            loader.load("a", "1")
    with pytest.raises(ImageError, match="no image that can be read"):
        loader.identify("broken", "1")
    files.contents |= {"a": png(3), "broken": png(4)}
    assert loader.load("a", "1").pixels[0, 0, 0] == 3
    assert loader.load("broken", "1").pixels[0, 0, 0] == 4


def test_an_image_larger_than_the_cache_is_loaded_and_leaves_the_others_in_peace() -> None:
    files = Files(small=png(1), large=png(2, (60, 40)))
    loader = ImageLoader(files, cache_bytes=1000)
    small = loader.load("small", "1")
    assert loader.load("large", "1").size == (40, 60)
    assert loader.load("small", "1").pixels is small.pixels


@given(st.lists(st.integers(0, 7), max_size=40), st.integers(0, 5))
def test_the_cache_holds_the_images_used_last_and_no_more_bytes(
    order: list[int], room: int
) -> None:
    n_bytes = 4 * 6 * 3 + len(ppm(0))  # pixels and file
    files = Files(**{str(n): ppm(n) for n in range(8)})
    loader = ImageLoader(files, cache_bytes=room * n_bytes)
    recent: list[int] = []
    for n in order:
        expected_reads = len(files.reads) + (n not in recent)
        assert loader.load(str(n), "1").pixels[0, 0, 0] == n
        assert len(files.reads) == expected_reads
        recent = [*(m for m in recent if m != n), n][-room:] if room else []


def test_a_file_is_taken_from_memory_and_else_read_again_and_compared() -> None:
    files = Files(a=png(1))
    remembering, forgetful = ImageLoader(files), ImageLoader(files, cache_bytes=0)
    identity = remembering.identify("a", "1")
    forgetful.identify("a", "1")
    del files.reads[:]
    assert remembering.file(identity, "a", "1") == png(1) and not files.reads
    assert forgetful.file_in_memory(identity) is None
    assert forgetful.file(identity, "a", "1") == png(1) and files.reads == ["a"]
    files.contents["a"] = png(2)
    with pytest.raises(ImageError, match="replaced"):
        forgetful.file(identity, "a", "1")


def test_the_pixel_limit_is_passed_on() -> None:
    with pytest.raises(ImageError, match="6 x 4 pixels, more than the 23"):
        ImageLoader(Files(a=png(1)), max_pixels=23).load("a", "1")


def test_from_label_studio_to_pixels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="backend.images.loader")
    with LabelStudioSite().running() as site:
        site.serve("/data/upload/1/a.png", png(9))
        client = LabelStudioClient(Transport(site.url, LEGACY_TOKEN))
        loader = ImageLoader(ImageSource(client, Fetcher(HostRules()), max_bytes=10_000))
        assert loader.load("/data/upload/1/a.png", "5").pixels[0, 0].tolist() == [9, 9, 9]
    assert "read image /data/upload/1/a.png of task 5" in caplog.text
    assert LEGACY_TOKEN not in caplog.text


def _run(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
