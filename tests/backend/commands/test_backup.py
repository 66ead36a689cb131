"""A backup is whole or not at all, and what comes back is what was kept."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from adaptation.errors import InputError, SettingsError
from adaptation.journal import Journal, SubmissionRecord
from backend.commands.backup import LIST, make_backup, restore_backup
from backend.server.folder_lock import lock_folder
from backend.settings import Settings, load_settings


def a_submission(annotation_id: str) -> SubmissionRecord:
    return SubmissionRecord(
        event="created", annotation_id=annotation_id, project_id="7", task_id="1"
    )


def settings_of(folder: Path, **values: str) -> Settings:
    return load_settings(None, {"data_dir": str(folder), **values}, environ={})


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Settings]:
    """A data folder with something of everything, some of it not to be kept."""
    settings = settings_of(tmp_path / "data")
    with Journal(settings.journal_url) as journal:
        journal.append_submission(a_submission("1"))
    files = {
        "sessions/4.safetensors": b"learned",
        "sessions/5.partial": b"half",
        "sessions/fence.lock": b"1796034998749",
        "registry/sft-1/decoder.safetensors": b"tuned",
        "registry/lock": b"",
        "images/ab/abcd": b"picture",
        "images/ab/.1234.tmp": b"half",
        "embeddings/x": b"can be made again",
    }
    for name, content in files.items():
        path = settings.data_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with ExitStack() as stack:
        for folder in (settings.spool_dir, settings.spool_dir / "worker-2"):
            folder.mkdir()
            spool = stack.enter_context(closing(sqlite3.connect(folder / "spool.db")))
            spool.execute("PRAGMA journal_mode = WAL")
            spool.execute("CREATE TABLE waiting (click TEXT)")
            spool.execute("INSERT INTO waiting VALUES ('acknowledged')")
            spool.commit()
        yield settings  # open: what waits lies in the write-ahead log


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".db" and path.name != "server.lock"
    }


def test_what_comes_back_is_what_was_kept(kept: Settings, tmp_path: Path) -> None:
    told = make_backup(kept, tmp_path / "strop.tar")
    assert "1 files of journal" in told and "1 files of images" in told
    there = settings_of(tmp_path / "elsewhere")
    restore_backup(there, tmp_path / "strop.tar")
    assert files_of(there.data_dir) == {
        "sessions/4.safetensors": b"learned",
        "registry/sft-1/decoder.safetensors": b"tuned",
        "images/ab/abcd": b"picture",
    }
    with Journal(there.journal_url, create=False) as journal:
        assert journal.counts()["submissions"] == 1
    for folder in (there.spool_dir, there.spool_dir / "worker-2"):
        with closing(sqlite3.connect(folder / "spool.db")) as spool:
            assert spool.execute("SELECT click FROM waiting").fetchall() == [("acknowledged",)]


def test_a_server_that_runs_is_not_restored_under(tmp_path: Path, kept: Settings) -> None:
    make_backup(kept, tmp_path / "strop.tar")
    there = settings_of(tmp_path / "elsewhere")
    there.data_dir.mkdir()
    lock = lock_folder(there.data_dir)
    with pytest.raises(SettingsError):
        restore_backup(there, tmp_path / "strop.tar")
    os.close(lock)


def test_the_journal_is_copied_while_it_is_being_written(kept: Settings, tmp_path: Path) -> None:
    with Journal(kept.journal_url) as journal:  # its last entries are in the write-ahead log
        journal.append_submission(a_submission("2"))
        make_backup(kept, tmp_path / "strop.tar")
    there = settings_of(tmp_path / "elsewhere")
    restore_backup(there, tmp_path / "strop.tar")
    with closing(sqlite3.connect(there.data_dir / "journal.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    with Journal(there.journal_url, create=False) as journal:
        assert journal.counts()["submissions"] == 2


def test_nothing_is_replaced(kept: Settings, tmp_path: Path) -> None:
    out = tmp_path / "strop.tar"
    make_backup(kept, out)
    before = out.read_bytes()
    with pytest.raises(InputError, match="replaces nothing: name a new file"):
        make_backup(kept, out)
    with pytest.raises(InputError, match="replaces nothing: move it away"):
        restore_backup(kept, out)
    assert out.read_bytes() == before


def test_an_empty_data_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--data-dir"):
        make_backup(settings_of(tmp_path / "none"), tmp_path / "strop.tar")
    assert not (tmp_path / "strop.tar").exists()


@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_truncated_backup_changes_nothing(kept: Settings, tmp_path: Path, share: float) -> None:
    out = tmp_path / "strop.tar"
    make_backup(kept, out)
    content = out.read_bytes().rstrip(b"\0")
    out.write_bytes(content[: int(share * len(content))])
    there = settings_of(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="Nothing was changed"):
        restore_backup(there, out)
    assert files_of(there.data_dir) == {}
    assert not (there.data_dir / "journal.db").exists()


def test_one_wrong_bit_is_found(kept: Settings, tmp_path: Path) -> None:
    out = tmp_path / "strop.tar"
    make_backup(kept, out)
    out.write_bytes(out.read_bytes().replace(b"learned", b"leaRned"))
    with pytest.raises(InputError, match=r"damaged at sessions/4\.safetensors"):
        restore_backup(settings_of(tmp_path / "elsewhere"), out)


@pytest.mark.parametrize("name", ["../outside", "images/../../outside", "/etc/outside", "other/x"])
def test_a_foreign_file_writes_nowhere_else(tmp_path: Path, name: str) -> None:
    out = tmp_path / "strop.tar"
    with tarfile.open(out, "w") as archive:
        for path, content in ((name, b"x"), (LIST, json.dumps({"sha256": {}}).encode())):
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    with pytest.raises(InputError, match="which no backup does"):
        restore_backup(settings_of(tmp_path / "data"), out)
    assert not (tmp_path / "outside").exists()


def test_a_journal_in_postgresql_is_told(kept: Settings, tmp_path: Path) -> None:
    elsewhere = settings_of(kept.data_dir, **{"journal.url": "postgresql://host/database"})
    told = make_backup(elsewhere, tmp_path / "strop.tar")
    assert "run pg_dump now" in told
    assert "journal" not in told.partition(".tar")[2].partition("MB")[0]
