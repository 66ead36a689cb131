"""The images that were clicked on are kept, and no click notices."""

from __future__ import annotations

import base64
import errno
import hashlib
import logging
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from adaptation.errors import ImageError
from adaptation.storage.album import Album
from backend.images.album_writer import AlbumWriter
from backend.images.loader import ImageLoader, TaskImage
from tests.backend.making import until
from tests.backend.payloads import keypoint
from tests.backend.service_kit import (
    click_on,
    data_uri,
    interactions_of,
    mask_of,
    opened,
    pixels_of,
    png,
    running_service,
)

PIXELS = pixels_of()
IMAGE = data_uri(PIXELS)


class Files:
    """Files by reference; counts the reads."""

    def __init__(self, **contents: bytes) -> None:
        self.contents, self.reads = contents, 0

    def read(self, image_ref: str, task_id: str) -> bytes:
        self.reads += 1
        if image_ref not in self.contents:
            raise ImageError("no such file")
        return self.contents[image_ref]


def image(ref: str) -> TaskImage:
    return TaskImage(project_id="1", task_id="7", image_ref=ref)


def kept(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def full(self: Album, image_id: str, content: bytes) -> bool:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_the_image_of_an_answered_click_is_kept_under_the_journals_name(tmp_path: Path) -> None:
    with running_service(tmp_path) as service:
        service.predict(click_on(IMAGE, keypoint(30, 60, id="kp-1")))
        service.predict(click_on(IMAGE, keypoint(30, 60, id="kp-1"), keypoint(50, 50, id="kp-2")))
    (path,) = kept(tmp_path / "images")
    content = base64.b64decode(IMAGE.split(",")[1])
    assert path.read_bytes() == content
    first, _ = interactions_of(tmp_path)
    assert (Album(tmp_path / "images").read(first.image_id) == PIXELS).all()
    assert first.image_id == hashlib.sha256(content).hexdigest()


def test_an_image_that_was_only_opened_is_not_kept(tmp_path: Path) -> None:
    with running_service(tmp_path) as service:
        service.predict(opened(IMAGE))
    assert not (tmp_path / "images").exists()


def test_the_album_can_be_switched_off_and_put_elsewhere(tmp_path: Path) -> None:
    with running_service(tmp_path / "a", album__is_on="false") as service:
        service.predict(click_on(IMAGE, keypoint(30, 60)))
    assert not kept(tmp_path / "a" / "images")
    elsewhere = tmp_path / "elsewhere"
    with running_service(tmp_path / "b", album__folder=str(elsewhere)) as service:
        service.predict(click_on(IMAGE, keypoint(30, 60)))
    assert len(kept(elsewhere)) == 1 and not (tmp_path / "b" / "images").exists()


def test_a_full_disk_is_one_warning_and_the_clicks_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Album, "keep", full)
    with running_service(tmp_path) as service:
        for seed in range(3):
            picture = data_uri(pixels_of(seed))
            answer = service.predict(click_on(picture, keypoint(30, 60), task=seed))
            assert mask_of(answer).any(), "the click is answered with a mask all the same"
    assert len(interactions_of(tmp_path)) == 3 and not kept(tmp_path / "images")
    warnings = [r.message for r in caplog.records if r.name == "backend.images.album_writer"]
    assert len(warnings) == 1 and "No space left" in warnings[0] and "Make room" in warnings[0]


def test_what_could_not_be_kept_is_kept_at_the_next_click(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loader, album = ImageLoader(Files(a=png(PIXELS))), Album(tmp_path)
    keeper = AlbumWriter(album, loader)
    identity = loader.identify("a", "7")
    with monkeypatch.context() as patch:
        patch.setattr(Album, "keep", full)
        keeper.clicked(image("a"), identity)
        until(lambda: any(r.levelno == logging.WARNING for r in caplog.records))

    def is_kept() -> bool:
        keeper.clicked(image("a"), identity)
        return album.path(identity.digest) is not None

    until(is_kept)
    keeper.stop()
    assert np.array_equal(album.read(identity.digest), PIXELS), "whole, and the one clicked on"


def test_room_is_left_for_the_journal(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with running_service(tmp_path, album__min_free_mb=1e12) as service:
        service.predict(click_on(IMAGE, keypoint(30, 60)))
    assert not kept(tmp_path / "images")
    assert "would be left on the disk" in caplog.text


def test_no_click_waits_for_a_slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go, begun, keep = threading.Event(), threading.Event(), Album.keep

    def slow(self: Album, image_id: str, content: bytes) -> bool:
        begun.set()
        assert go.wait(20)
        return keep(self, image_id, content)

    monkeypatch.setattr(Album, "keep", slow)
    with running_service(tmp_path) as service:
        for seed in range(2):
            picture = data_uri(pixels_of(seed))
            service.predict(click_on(picture, keypoint(30, 60), task=seed))
        assert begun.wait(20) and not kept(tmp_path / "images")
        go.set()
    assert len(kept(tmp_path / "images")) == 2


def test_a_file_is_not_read_again_while_it_is_in_memory(tmp_path: Path) -> None:
    files = Files(a=png(PIXELS))
    loader = ImageLoader(files)
    keeper = AlbumWriter(Album(tmp_path), loader)
    keeper.clicked(image("a"), loader.identify("a", "7"))
    keeper.stop()
    assert files.reads == 1 and len(kept(tmp_path)) == 1


def test_an_image_that_is_gone_is_told_and_harms_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = Files(a=png(PIXELS), b=png(pixels_of(1)))
    loader = ImageLoader(files, cache_bytes=0)
    gone, here = loader.identify("a", "7"), loader.identify("b", "7")
    del files.contents["a"]
    keeper = AlbumWriter(Album(tmp_path), loader)
    keeper.clicked(image("a"), gone)
    keeper.clicked(image("b"), here)
    until(lambda: len(kept(tmp_path)) == 1)
    keeper.stop()
    assert "is not kept in the album: no such file" in caplog.text


def test_a_replaced_image_is_not_kept_under_the_old_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = Files(a=png(PIXELS))
    loader = ImageLoader(files, cache_bytes=0)
    identity = loader.identify("a", "7")
    files.contents["a"] = png(pixels_of(1))
    keeper = AlbumWriter(Album(tmp_path), loader)
    keeper.clicked(image("a"), identity)
    until(lambda: "was replaced" in caplog.text)
    keeper.stop()
    assert not kept(tmp_path)
