"""Files and folders that appear whole under their names, or not at all.

Every write goes beside its place first, under a hidden name that no other process or thread uses,
and gets its own name in one replacement.  So whoever reads finds the old content or the new one;
of two that write one path at once, one wins whole.  A failed write leaves what was there before and
removes its draft; a killed one leaves the draft, which a later write of the same path removes.

"Durable" waits for the disk: once the call returns, a power cut takes nothing of it back.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from adaptation.errors import InputError

_STALE_S = 3600.0
"""A draft that nobody wrote to for so long was left by a process that died."""


def write_whole(path: Path, write: Callable[[Path], object], *, durable: bool = False) -> None:
    """Write a file whole or not at all.

    Args:
        path: The file; an existing one is replaced at once. Its folder is made where it is missing.
        write: Writes the draft that it is given the path of; its permissions become the file's.
        durable: Wait until content and name are on the disk.

    Raises:
        OSError: It cannot be written; what was there before is still there. So after any other
            exception of ``write``.
    """
    _make_folder(path.parent, durable=durable)
    draft = draft_beside(path)
    try:
        write(draft)
        move_whole(draft, path, durable=durable)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
    _remove_stale_drafts(path)


def write_bytes(
    path: Path, content: bytes, *, durable: bool = False, mode: int | None = None
) -> None:
    """`write_whole` for bytes.

    Args:
        path: The file.
        content: What it will hold.
        durable: Wait until it is on the disk.
        mode: Its permissions, from its first byte on; None: what the process's umask leaves.
    """

    def write(draft: Path) -> None:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode or 0o666)
        with os.fdopen(descriptor, "wb") as file:
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            file.write(content)

    write_whole(path, write, durable=durable)


def write_text(path: Path, text: str, *, durable: bool = False) -> None:
    """`write_whole` for text, as UTF-8."""
    write_bytes(path, text.encode(), durable=durable)


def write_json(path: Path, content: Mapping[str, Any], *, durable: bool = False) -> None:
    """`write_whole` for a mapping, as indented JSON."""
    write_text(path, json.dumps(dict(content), indent=2) + "\n", durable=durable)


def move_whole(draft: Path, path: Path, *, durable: bool = False) -> None:
    """Give a finished file, or folder of files, its name; a file of that name is replaced.

    Args:
        draft: On the same disk as ``path``.
        path: The name.
        durable: Have all of it on the disk first, and the name afterwards.
    """
    if durable:
        _sync_all(draft)
    os.replace(draft, path)
    if durable:
        _sync(path.parent)


def draft_beside(path: Path) -> Path:
    """A hidden name in the folder of a path, which no other process, thread or machine uses."""
    return path.with_name(f".{_short(path.name)}.{uuid.uuid4().hex}.tmp")


@contextlib.contextmanager
def whole_folder(
    out: Path, *, may_replace: Callable[[Path], bool] | None = None, durable: bool = False
) -> Iterator[Path]:
    """A folder to fill, which gets its name only when all went well.

    A job that was killed leaves a hidden folder beside it, which the next one removes.

    Args:
        out: The folder to make; its parent is made too.
        may_replace: Tells whether what is there may be replaced by the new one, once that is whole;
            None replaces nothing.
        durable: Wait until all of it is on the disk.

    Yields:
        Where to write.

    Raises:
        InputError: There is one already, or another job is making it.
        OSError: It cannot be written; nothing is left behind.
    """
    _check_free(out, may_replace)
    _make_folder(out.absolute().parent, durable=durable)
    with _alone(out):
        _check_free(out, may_replace)
        partial = _beside(out, "partial")
        partial.mkdir()
        try:
            yield partial
            _check_free(out, may_replace)
            _give_name(partial, out, durable=durable)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


# Files -------------------------------------------------------------------------------------------


def _make_folder(folder: Path, *, durable: bool) -> None:
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing if durable else []:
        _sync(made.parent)


def _short(name: str) -> str:
    """A name with room for what is put around it: names have 255 bytes at most."""
    return name.encode()[:200].decode(errors="ignore")


def _remove_stale_drafts(path: Path) -> None:
    """Remove what processes left that died while they wrote this file."""
    prefix, oldest = f".{_short(path.name)}.", time.time() - _STALE_S
    with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            if entry.name.startswith(prefix) and entry.name.endswith(".tmp"):
                with contextlib.suppress(OSError):  # another process removed it, or finished it
                    if entry.stat(follow_symlinks=False).st_mtime < oldest:
                        os.unlink(entry.path)


def _sync_all(path: Path) -> None:
    """Have a file, or a folder with all that is in it, on the disk."""
    if path.is_dir() and not path.is_symlink():
        for inner in path.iterdir():
            _sync_all(inner)
    _sync(path)


def _sync(path: Path) -> None:
    """Have a file's content, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise  # some network disks cannot sync a folder, and keep its names anyway
    finally:
        os.close(descriptor)


# Folders -----------------------------------------------------------------------------------------


def _check_free(out: Path, may_replace: Callable[[Path], bool] | None) -> None:
    if not (out.exists() or out.is_symlink()):
        return
    if may_replace is None or not may_replace(out):
        raise InputError(f"{out} exists already, and is not replaced: name a new folder.")


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keep others from making the same folder; remove what killed jobs left of it."""
    lock = FileLock(out.absolute().with_name(f".{out.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(f"Another job is making {out}: wait for it or name another.") from error
    try:
        _tidy(out)
        yield
    finally:
        with contextlib.suppress(OSError):
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _tidy(out: Path) -> None:
    """What a job left that was killed: its draft goes, what it was about to replace stays."""
    for old in _others(out, "replaced"):
        if not out.exists():
            old.rename(out)
    for left in (*_others(out, "partial"), *_others(out, "replaced")):
        shutil.rmtree(left, ignore_errors=True)


def _others(out: Path, kind: str) -> list[Path]:
    hidden = f".{out.name}."
    return [
        path
        for path in out.absolute().parent.iterdir()
        if path.name.startswith(hidden) and path.name.endswith(f".{kind}")
    ]


def _give_name(partial: Path, out: Path, *, durable: bool) -> None:
    if not out.exists():
        move_whole(partial, out, durable=durable)
        return
    if durable:
        _sync_all(partial)
    old = _beside(out, "replaced")
    out.rename(old)
    try:
        move_whole(partial, out, durable=durable)
    except OSError:
        old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _beside(out: Path, kind: str) -> Path:
    return out.absolute().with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.{kind}")
