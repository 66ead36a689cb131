"""`strop backup` and `strop restore`: all that cannot be made again, in one file.

A backup is a tar file with the journal (SQLite's) and its spool, the images that were clicked on,
what sessions learned and the promoted versions, and at its end a list of their SHA-256.  It is
taken from a running server in the order in which one part stands on the next: a session never knows
of clicks that the journal lacks, nor the journal of an image that is missing.  What moves from the
spool to the journal meanwhile is in both, and moving may be repeated.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import unquote

from adaptation.errors import InputError, SettingsError, StoreError
from adaptation.storage.files import write_whole
from backend.server.folder_lock import lock_folder
from backend.settings import Settings

LIST = "strop-backup.json"
JOURNAL = "journal.db"
PARTS = (JOURNAL, "sessions", "registry", "spool", "images")
SPOOLED = "spool.db"
"""Name of the file in a spool's folder, and in those of several workers below it."""
SQLITE = "sqlite:///"
_CHUNK = 1 << 20

# Making ------------------------------------------------------------------------------------------


def make_backup(settings: Settings, out: Path) -> str:
    """Write a backup under a name that nothing has yet; it appears whole or not at all.

    Args:
        settings: Those that `strop serve` runs with.
        out: The file.

    Returns:
        What was kept, for people.

    Raises:
        InputError: The file exists.
        SettingsError: There is nothing to keep.
        StoreError: Something cannot be read or written.
    """
    if out.exists():
        raise InputError(f"{out} exists already, and a backup replaces nothing: name a new file.")
    journal = journal_file(settings)
    if not any(place.exists() for place in (*folders(settings).values(), journal) if place):
        raise SettingsError(
            f"There is nothing to keep in {settings.data_dir}: name the folder with --data-dir."
        )
    counts: dict[str, int] = {}

    def write(draft: Path) -> None:
        with draft.open("xb") as file:
            counts.update(_write(settings, journal, file))

    try:
        write_whole(out, write, durable=True)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"The backup to {out} failed: {error}; nothing was left behind.") from None
    kept = ", ".join(f"{count} files of {name}" for name, count in counts.items() if count)
    told = f"{out}: {kept}, {out.stat().st_size / 1e6:.1f} MB"
    return told if journal is not None else f"{told}. {_POSTGRES}"


_POSTGRES = "The journal is in PostgreSQL and not in this file: run pg_dump now, after this."


def journal_file(settings: Settings) -> Path | None:
    """The journal's file, or None where it is no file."""
    url = settings.journal_url
    if not url.startswith(SQLITE):
        return None
    return Path(unquote(url.removeprefix(SQLITE).partition("?")[0]))


def folders(settings: Settings) -> Mapping[str, Path]:
    """What is kept beside the journal, by its name in a backup, in the order of keeping."""
    return {
        "sessions": settings.adapters_dir,
        "registry": settings.registry_dir,
        "spool": settings.spool_dir,
        "images": settings.album_dir,
    }


def _write(settings: Settings, journal: Path | None, file: IO[bytes]) -> dict[str, int]:
    counts = {"sessions": 0, "registry": 0, "spool": 0, "journal": 0, "images": 0}
    digests: dict[str, str] = {}
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, folder in folders(settings).items():
            if name == "images" and journal is not None and journal.exists():
                digests[JOURNAL] = _add_database(archive, journal, JOURNAL)
                counts["journal"] = 1
            for path in _files(folder):
                member = f"{name}/{path.relative_to(folder).as_posix()}"
                is_database = name == "spool" and path.name == SPOOLED
                add = _add_database if is_database else _add
                try:
                    digests[member] = add(archive, path, member)
                except FileNotFoundError:  # the server has replaced or dropped it meanwhile
                    continue
                counts[name] += 1
        content = {"strop": version("strop"), "sha256": digests}
        text = json.dumps(content, indent=1).encode()
        entry = tarfile.TarInfo(LIST)
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text))
    return counts


def _files(folder: Path) -> Iterator[Path]:
    """Files that are complete: no locks, and none that is being written."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        is_whole = not any(part.startswith(".") for part in parts) and path.suffix != ".partial"
        is_beside = path.name == "lock" or path.name.endswith(("-wal", "-shm", ".lock"))
        if path.is_file() and is_whole and not is_beside:
            yield path


def _add(archive: tarfile.TarFile, path: Path, name: str) -> str:
    """Append a file; returns its digest."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
        entry = tarfile.TarInfo(name)
        entry.size = file.tell()
        entry.mtime = int(path.stat().st_mtime)
        file.seek(0)
        archive.addfile(entry, file)
    return digest.hexdigest()


def _add_database(archive: tarfile.TarFile, path: Path, name: str) -> str:
    """Append a database as of one moment, with what is in its write-ahead log; its digest."""
    if not path.exists():
        raise FileNotFoundError(path)
    place = Path(str(archive.name)).parent if archive.name else Path()
    with tempfile.TemporaryDirectory(dir=place) as work:
        copy = Path(work) / path.name
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        return _add(archive, copy, name)


# Restoring ---------------------------------------------------------------------------------------


def restore_backup(settings: Settings, file: Path) -> str:
    """Put everything in a backup into its place, after all of it was checked.

    Args:
        settings: Those that `strop serve` will run with.
        file: What `make_backup` has written.

    Returns:
        What was restored, for people.

    Raises:
        InputError: There is something already, or the file is damaged or no backup.
        SettingsError: A server has the data folder.
        StoreError: Something cannot be written.
    """
    places = _places(settings)
    for place in places.values():
        if place.is_file() or (place.is_dir() and any(place.iterdir())):
            raise InputError(
                f"{place} exists already, and a backup replaces nothing: move it away, or name "
                "another folder with --data-dir."
            )
    held = lock_folder(settings.data_dir)
    try:
        with tempfile.TemporaryDirectory(dir=settings.data_dir, prefix=".restore-") as work:
            restored = _unpack(file, Path(work))
            if JOURNAL in restored and JOURNAL not in places:
                raise InputError(
                    f"{file} holds a SQLite journal, but journal.url names PostgreSQL."
                )
            for name in restored:
                _move(Path(work) / name, places[name])
    except OSError as error:
        raise StoreError(f"{file} cannot be restored: {error}.") from None
    finally:
        os.close(held)
    return f"Restored {', '.join(restored)} into {settings.data_dir}."


def _places(settings: Settings) -> dict[str, Path]:
    journal = journal_file(settings)
    return {**({JOURNAL: journal} if journal is not None else {}), **folders(settings)}


def _unpack(file: Path, folder: Path) -> list[str]:
    """Unpack a backup below a folder; returns the names of its parts once all is as listed."""
    try:
        with tarfile.open(file, "r:") as archive:
            found = dict(_unpack_entries(archive, folder))
        if found.pop(LIST, None) is None:
            raise ValueError("it is no backup of Strop, or its end is missing")
        listed = json.loads((folder / LIST).read_text(encoding="utf-8"))["sha256"]
        if found != listed:
            different = sorted(set(found.items()) ^ set(listed.items()))
            raise ValueError(f"it is damaged at {different[0][0]}")
    except (tarfile.TarError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file} cannot be restored: {error}. Nothing was changed.") from None
    return sorted({name.partition("/")[0] for name in found})


def _unpack_entries(archive: tarfile.TarFile, folder: Path) -> Iterator[tuple[str, str]]:
    """Unpack all entries, which must be files of ours; yields names and digests."""
    for entry in archive:
        parts = PurePosixPath(entry.name).parts
        source = archive.extractfile(entry) if entry.isreg() else None
        if source is None or ".." in parts or parts[0] not in (*PARTS, LIST):
            raise ValueError(f"it holds {entry.name!r}, which no backup does")
        target = folder / entry.name
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as output:
            shutil.copyfileobj(source, output)
        yield entry.name, _digest(target)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        target.rmdir()  # empty, as was checked
    shutil.move(source, target)
