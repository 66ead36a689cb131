from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from adaptation.errors import InputError
from adaptation.storage.files import (
    draft_beside,
    move_whole,
    whole_folder,
    write_bytes,
    write_json,
    write_text,
    write_whole,
)
from adaptation.storage.tensors import write_tensors

DEV_FULL = pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="needs a device that is always full"
)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A disk that is full from the write or from the sync on."""

    def break_at(name: str) -> None:
        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(f"adaptation.storage.files.os.{name}", full)

    return break_at


# Files


def test_a_file_is_written_with_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c.json"
    write_json(path, {"is": "whole"}, durable=True)
    assert path.read_text() == '{\n  "is": "whole"\n}\n'
    assert names(path.parent) == {"c.json"}


def test_a_writer_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")

    def write(draft: Path) -> None:
        draft.write_text("half of the ne")
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        write_whole(path, write)
    assert path.read_text() == "old" and names(tmp_path) == {"file"}


def test_ctrl_c_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")

    def write(draft: Path) -> None:
        draft.write_text("half of the ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, write)
    assert path.read_text() == "old" and names(tmp_path) == {"file"}


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_disk_that_fills_leaves_the_old_file(
    tmp_path: Path, full_disk: Callable[[str], None], where: str
) -> None:
    path = tmp_path / "file"
    write_text(path, "old", durable=True)
    full_disk(where)
    with pytest.raises(OSError, match="No space left") as told:
        write_text(path, "new", durable=True)
    assert told.value.errno == errno.ENOSPC
    assert path.read_text() == "old" and names(tmp_path) == {"file"}


@DEV_FULL
def test_a_device_that_is_full_is_an_os_error_for_tensors_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # safetensors' own `save_file` raises an error that is no OSError
    path = tmp_path / "file"
    write_tensors(path, {"w": torch.zeros(3)})
    monkeypatch.setattr("adaptation.storage.files.os.open", lambda *_: os.dup(os.memfd_create("w")))
    monkeypatch.setattr("adaptation.storage.files.os.fdopen", lambda *_: open("/dev/full", "wb"))
    with pytest.raises(OSError, match="No space left"):
        write_tensors(path, {"w": torch.ones(100_000)})
    assert load_file(path)["w"].tolist() == [0, 0, 0]


def test_only_what_is_durable_waits_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def note(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        real(descriptor)

    monkeypatch.setattr("adaptation.storage.files.os.fsync", note)
    write_text(tmp_path / "quick", "x")
    assert synced == []
    write_text(tmp_path / "new" / "safe", "x", durable=True)
    assert synced[0] == tmp_path.name, "the name of the new folder"
    assert synced[1].startswith(".safe.") and synced[2] == "new", "content first, then the name"


def test_a_disk_that_cannot_sync_folders_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def refuse_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(descriptor)

    monkeypatch.setattr("adaptation.storage.files.os.fsync", refuse_folders)
    write_text(tmp_path / "file", "x", durable=True)
    assert names(tmp_path) == {"file"}


def test_permissions_are_the_umasks_or_what_is_asked_for(tmp_path: Path, umask: None) -> None:
    write_text(tmp_path / "text", "x")
    write_bytes(tmp_path / "bytes", b"x", mode=0o604)
    write_tensors(tmp_path / "own", {"w": torch.zeros(1)})
    write_tensors(tmp_path / "shared", {"w": torch.zeros(1)}, mode=0o644)
    assert [mode(tmp_path / n) for n in ("text", "bytes", "own", "shared")] == [
        0o640,
        0o604,
        0o600,
        0o644,
    ]


def test_a_long_name_has_room_for_its_draft(tmp_path: Path) -> None:
    path = tmp_path / ("ö" * 127)
    write_text(path, "x")
    assert names(tmp_path) == {path.name}


def test_drafts_of_dead_processes_are_removed_after_an_hour(tmp_path: Path) -> None:
    path = tmp_path / "file"
    old, new, other = draft_beside(path), draft_beside(path), draft_beside(tmp_path / "other")
    for draft in (old, new, other):
        draft.write_text("half")
    for draft in (old, other):
        os.utime(draft, (time.time() - 4000,) * 2)
    write_text(path, "x")
    assert names(tmp_path) == {"file", new.name, other.name}


MEETING = """
import sys
from pathlib import Path
from adaptation.storage.files import write_bytes
sys.stdin.readline()
for _ in range(100):
    write_bytes(Path(sys.argv[1]), sys.argv[2].encode() * 100_000)
"""


def test_two_processes_that_meet_on_a_path_write_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"c" * 100_000)
    command = [sys.executable, "-c", MEETING, str(path)]
    writers = [
        subprocess.Popen([*command, letter], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        for letter in "ab"
    ]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write(b"\n")
        writer.stdin.flush()
    while any(writer.poll() is None for writer in writers):
        content = path.read_bytes()
        assert len(content) == 100_000 and len(set(content)) == 1
    assert [writer.communicate()[1] for writer in writers] == [b"", b""]
    assert names(tmp_path) == {"file"}


def test_threads_that_meet_on_a_path_write_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    start = threading.Barrier(4)

    def write(letter: str) -> None:
        start.wait(10)
        for _ in range(50):
            write_text(path, letter * 10_000)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, "abcd"))
    content = path.read_text()
    assert len(content) == 10_000 and len(set(content)) == 1
    assert names(tmp_path) == {"file"}


def test_a_finished_file_is_moved_over_an_older_one(tmp_path: Path) -> None:
    (tmp_path / "draft").write_text("new")
    (tmp_path / "file").write_text("old")
    move_whole(tmp_path / "draft", tmp_path / "file", durable=True)
    assert (tmp_path / "file").read_text() == "new" and names(tmp_path) == {"file"}


# Folders; what is replaced, locked and left behind: tests/training/preferences/test_folder.py


def test_a_folder_appears_when_it_is_filled(tmp_path: Path) -> None:
    out = tmp_path / "a" / "out"
    with whole_folder(out, durable=True) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_text("x")
        assert not out.exists()
    assert (out / "inner" / "file").read_text() == "x" and names(out.parent) == {"out"}


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_folder(
    tmp_path: Path, full_disk: Callable[[str], None], where: str
) -> None:
    out = tmp_path / "out"
    with whole_folder(out) as folder:
        (folder / "file").write_text("old")
    full_disk(where)
    with pytest.raises(OSError, match="No space left"):
        with whole_folder(out, may_replace=lambda _: True, durable=True) as folder:
            (folder / "file").write_text("new")
    assert (out / "file").read_text() == "old" and names(tmp_path) == {"out"}


def test_a_folder_is_replaced_only_where_that_may_be(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for may_replace in (None, lambda _: False):
        with pytest.raises(InputError, match="exists already, and is not replaced"):
            with whole_folder(out, may_replace=may_replace):
                pytest.fail("nothing may be written")
    assert names(tmp_path) == {"out"}


def test_all_of_a_durable_folder_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []

    def note(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)

    monkeypatch.setattr("adaptation.storage.files.os.fsync", note)
    with whole_folder(tmp_path / "out", durable=True) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_text("x")
    assert synced == ["file", "inner", folder.name, tmp_path.name]
