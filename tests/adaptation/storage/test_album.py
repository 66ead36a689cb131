from __future__ import annotations

import errno
import io
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adaptation.errors import ImageError
from adaptation.storage.album import Album, image_id_of


def png(value: int = 7, size: tuple[int, int] = (6, 4)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (value, 0, 0)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def album(tmp_path: Path) -> Album:
    return Album(tmp_path / "data" / "images")


def test_a_kept_image_is_read_back_as_it_was(album: Album) -> None:
    content = png(200)
    image_id = image_id_of(content)
    assert album.path(image_id) is None
    assert album.keep(image_id, content) is True
    path = album.path(image_id)
    assert path is not None and path.read_bytes() == content
    pixels = album.read(image_id)
    assert pixels.shape == (4, 6, 3) and pixels.dtype == np.uint8
    assert pixels[0, 0].tolist() == [200, 0, 0]


def test_an_image_that_lies_on_its_side_is_read_upright(album: Album) -> None:
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # turn by a quarter to see it upright
    Image.new("RGB", (6, 4)).save(file, "JPEG", exif=exif)
    image_id = image_id_of(file.getvalue())
    album.keep(image_id, file.getvalue())
    assert album.read(image_id).shape == (6, 4, 3)


def test_keeping_again_changes_nothing(album: Album) -> None:
    content = png()
    album.keep(image_id_of(content), content)
    before = [(p, p.stat().st_mtime_ns) for p in sorted(album.folder.rglob("*"))]
    assert album.keep(image_id_of(content), content) is False
    assert [(p, p.stat().st_mtime_ns) for p in sorted(album.folder.rglob("*"))] == before


def test_many_threads_keep_one_image_once(album: Album) -> None:
    content = png()
    threads = [
        threading.Thread(target=album.keep, args=(image_id_of(content), content)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [p for p in album.folder.rglob("*") if p.is_file()] == [
        album.path(image_id_of(content)),
    ]


def test_a_missing_image_is_named_with_what_to_do(album: Album) -> None:
    with pytest.raises(ImageError, match=r"Image 0123.* is not in the album .*album\.is_on"):
        album.read("0123" * 16)


@pytest.mark.parametrize("image_id", ["", "5f0e", "../../etc/passwd", "A" * 64, "a" * 64 + "\n"])
def test_what_is_no_digest_is_in_no_album(album: Album, image_id: str) -> None:
    assert album.path(image_id) is None
    with pytest.raises(ImageError, match="is not in the album"):
        album.read(image_id)


def test_a_changed_image_is_noticed(album: Album) -> None:
    content = png(1)
    image_id = image_id_of(content)
    album.keep(image_id, content)
    path = album.path(image_id)
    assert path is not None
    path.write_bytes(png(2))
    with pytest.raises(ImageError, match="changed or damaged"):
        album.read(image_id)


def test_an_image_under_a_wrong_name_is_refused(album: Album) -> None:
    with pytest.raises(ImageError, match="SHA-256"):
        album.keep(image_id_of(png(1)), png(2))
    assert not album.folder.exists()


def test_a_full_disk_leaves_nothing_half_written(
    album: Album, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("adaptation.storage.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        album.keep(image_id_of(png()), png())
    assert not [p for p in album.folder.rglob("*") if p.is_file()]
