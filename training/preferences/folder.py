"""A folder that appears whole under its name, or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from adaptation.errors import InputError, StoreError
from training.preferences.rows import FORMAT

REPORT = "report.json"
"""Is in every finished folder, and names its format: nobody's other files are ever replaced."""


@contextmanager
def whole_folder(out: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder to fill, which gets its name only when all went well.

    A job that was killed leaves a hidden folder beside it, which the next one removes.

    Args:
        out: The folder to make; its parent is made too.
        replace: Put it in the place of an older one, once it is whole.

    Raises:
        InputError: There is one already, or another job is making it.
        StoreError: It cannot be written; nothing is left behind.
    """
    _check_free(out, replace)
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        with _alone(out):
            _check_free(out, replace)
            partial = _beside(out, "partial")
            partial.mkdir()
            try:
                yield partial
                _to_disk(partial)
                _check_free(out, replace)
                _give_name(partial, out)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        advice = "make room on the disk" if error.errno == errno.ENOSPC else "make it writable"
        raise StoreError(
            f"{out} cannot be written ({error.strerror or error}): {advice} and run the same "
            "command again. Nothing was left behind."
        ) from error


def _check_free(out: Path, replace: bool) -> None:
    if not (out.exists() or out.is_symlink()):
        return
    if not replace:
        raise InputError(
            f"{out} exists already: name a new folder, or say that it may be replaced (--replace)."
        )
    if not _is_ours(out):
        raise InputError(f"{out} is no folder of preferences and is not replaced: name another.")


def _is_ours(out: Path) -> bool:
    try:
        report = json.loads((out / REPORT).read_text(encoding="utf-8"))
        return bool(report["format"] == FORMAT)
    except (OSError, ValueError, LookupError, TypeError):
        return False


@contextmanager
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


def _give_name(partial: Path, out: Path) -> None:
    if not out.exists():
        partial.rename(out)
        return
    old = _beside(out, "replaced")
    out.rename(old)
    try:
        partial.rename(out)
    except OSError:
        old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _beside(out: Path, kind: str) -> Path:
    return out.absolute().with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.{kind}")


def _to_disk(folder: Path) -> None:
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
