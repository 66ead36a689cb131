"""What can be wrong with a database, made wrong for real."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, text

from adaptation.errors import StoreError
from adaptation.journal import InteractionRecord, Journal, database
from tests.adaptation.journal import raw
from tests.adaptation.journal.samples import interaction
from tests.adaptation.journal.servers import PostgresServer

NOBODY = 65534
as_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can mount a small disk"
)


def sqlite_url(folder: Path) -> str:
    return f"sqlite:///{folder}/journal.db"


def large() -> InteractionRecord:
    """An interaction of some 60 kB."""
    noise = random.Random(0)
    return interaction(context={"noise": [noise.random() for _ in range(3000)]})


# The disk


@contextmanager
def full_beyond() -> Iterator[list[int]]:
    """SQLite takes the disk for full beyond so many pages: the list's one number."""
    limit = [100_000]

    def limited(raw_connection: Any, *_: object) -> None:
        raw_connection.execute(f"PRAGMA max_page_count = {limit[0]}")

    event.listen(Engine, "checkout", limited)
    try:
        yield limit
    finally:
        event.remove(Engine, "checkout", limited)


def test_a_full_database_says_so_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    with full_beyond() as limit, Journal(sqlite_url(tmp_path)) as journal:
        journal.append_interaction(interaction("before"))
        limit[0] = 60
        acknowledged = ["before"]
        with pytest.raises(StoreError, match="disk is full: free some space"):
            for _ in range(20):
                record = large()
                journal.append_interaction(record)
                acknowledged.append(record.request_id)
        assert [record.request_id for record in journal.interactions()] == acknowledged
        limit[0] = 100_000
        journal.append_interaction(interaction("after"))
        assert journal.counts()["interactions"] == len(acknowledged) + 1


@contextmanager
def small_disk(n_bytes: int, options: str = "") -> Iterator[Path]:
    """A file system in memory of a few bytes."""
    with tempfile.TemporaryDirectory() as folder:
        settings = f"size={n_bytes}{options}"
        mount = ["mount", "-t", "tmpfs", "-o", settings, "tmpfs", folder]
        if subprocess.run(mount, stderr=subprocess.DEVNULL).returncode != 0:
            pytest.skip("this machine lets no one mount a small disk")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


@as_root
def test_a_full_disk_loses_nothing_that_was_acknowledged() -> None:
    with small_disk(600_000) as folder:
        acknowledged = []
        with Journal(sqlite_url(folder)) as journal:
            with pytest.raises(StoreError, match="disk is full|failed to read or write"):
                for _ in range(50):
                    record = large()
                    journal.append_interaction(record)
                    acknowledged.append(record.request_id)
            assert acknowledged
        with Journal(sqlite_url(folder), create=False) as journal:
            assert [r.request_id for r in journal.interactions()] == acknowledged


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's right to write everywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everyone may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
        Path(folder).chmod(0o755)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no such rights on this system")
def test_a_read_only_folder_is_said_to_be_one(open_folder: Path) -> None:
    open_folder.chmod(0o555)
    with as_nobody():
        with pytest.raises(StoreError, match="cannot be opened: check that its folder exists"):
            Journal(sqlite_url(open_folder))
        with pytest.raises(StoreError, match="folder .* cannot be made"):
            Journal(sqlite_url(open_folder / "deeper"))


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no such rights on this system")
def test_a_read_only_file_is_said_to_be_one(open_folder: Path) -> None:
    Journal(sqlite_url(open_folder)).close()
    for path in open_folder.iterdir():
        path.chmod(0o444)
    open_folder.chmod(0o555)
    with as_nobody(), pytest.raises(StoreError, match="make its file and folder writable|opened"):
        Journal(sqlite_url(open_folder))


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(StoreError, match="cannot be made"):
        Journal(f"sqlite:///{tmp_path}/data/journal.db")


# The file


def test_a_file_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "journal.db").write_text("Dear diary, " * 1000)
    with pytest.raises(StoreError, match="not a SQLite database"):
        Journal(sqlite_url(tmp_path))


def test_a_damaged_file_is_noticed_while_reading(tmp_path: Path) -> None:
    with Journal(sqlite_url(tmp_path)) as journal:
        for _ in range(20):
            journal.append_interaction(large())
    path = tmp_path / "journal.db"
    content = bytearray(path.read_bytes())
    page = 4096
    for start in range(5 * page, len(content), page):
        content[start : start + 64] = b"\xff" * 64
    path.write_bytes(content)
    with pytest.raises(StoreError, match="damaged: stop Strop, keep a copy"):
        with Journal(sqlite_url(tmp_path)) as journal:
            list(journal.entries())


def test_a_damaged_value_is_noticed_while_reading(tmp_path: Path) -> None:
    with Journal(sqlite_url(tmp_path)) as journal:
        journal.append_interaction(interaction())
        with raw.writing(sqlite_url(tmp_path)) as connection:
            connection.execute(text("UPDATE journal_interactions SET prompt = '{\"clicks'"))
        with pytest.raises(StoreError, match="damaged"):
            list(journal.interactions())


def test_tables_that_are_gone(journal: Journal, journal_url: str) -> None:
    with raw.writing(journal_url) as connection:
        connection.execute(text("DROP TABLE journal_events"))
    with pytest.raises(StoreError, match="tables are gone"):
        journal.append_event("saved")


def test_a_file_that_another_program_keeps_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "LOCK_TIMEOUT_S", 0.1)
    with Journal(sqlite_url(tmp_path)) as journal:
        other = sqlite3.connect(tmp_path / "journal.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="Another process has kept the journal locked"):
            journal.append_interaction(interaction("a"))
        other.execute("ROLLBACK")
        other.close()
        assert journal.append_interaction(interaction("a")).is_new


def test_a_write_that_never_ends_does_not_block_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Journal(sqlite_url(tmp_path)).close()
    with raw.opened(sqlite_url(tmp_path)) as shared, shared.writing():
        monkeypatch.setattr(database, "LOCK_TIMEOUT_S", 0.05)
        with pytest.raises(StoreError, match="busy writing"), shared.writing():
            pytest.fail("two threads of one process write at once")


# The URL


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("journal.db", "cannot be parsed; it looks like sqlite:///"),
        ("sqlite://", "A journal in memory would be lost"),
        ("sqlite:///:memory:", "A journal in memory would be lost"),
        ("mysql://user:secret@host/db", "SQLite or PostgreSQL, got the driver 'mysql'"),
    ],
)
def test_a_url_of_no_use(url: str, message: str) -> None:
    with pytest.raises(StoreError, match=message) as caught:
        Journal(url)
    assert "secret" not in str(caught.value)


def test_reading_a_name_mistyped_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="There is no journal at"):
        Journal(f"sqlite:///{tmp_path}/journl.db", create=False)
    assert list(tmp_path.iterdir()) == []


def test_the_location_tells_no_password() -> None:
    location = database.Database("postgresql://me:secret@host/db?sslpassword=hidden").location
    assert "secret" not in location
    assert "hidden" not in location
    assert "host/db" in location


# The server


@pytest.mark.postgres
def test_a_server_that_is_not_there() -> None:
    with pytest.raises(StoreError, match="cannot be reached"):
        Journal("postgresql://strop@127.0.0.1:1/postgres")


@pytest.mark.postgres
def test_a_database_that_is_not_there(postgres_url: str) -> None:
    with pytest.raises(StoreError, match="does not exist on that server"):
        Journal(postgres_url.rsplit("/", 1)[0] + "/nowhere")


@pytest.mark.postgres
def test_a_user_that_is_not_there(postgres_url: str) -> None:
    with pytest.raises(StoreError, match="refused the user or the password"):
        Journal(postgres_url.replace("strop@", "stranger:secret@"))


@pytest.mark.postgres
def test_a_user_without_rights(postgres_database: str) -> None:
    with Journal(postgres_database):
        with raw.writing(postgres_database) as connection:
            connection.execute(text("DROP ROLE IF EXISTS reader"))
            connection.execute(text("CREATE ROLE reader LOGIN"))
        with pytest.raises(StoreError, match="lacks a right"):
            Journal(postgres_database.replace("strop@", "reader@"))


@pytest.mark.postgres
def test_a_database_that_another_program_keeps_locked(
    postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Journal(postgres_database).close()
    with raw.writing(postgres_database):
        monkeypatch.setattr(database, "LOCK_TIMEOUT_S", 0.1)
        with pytest.raises(StoreError, match="Another process has kept the journal locked"):
            Journal(postgres_database)


@pytest.mark.postgres
def test_a_commit_waits_for_the_disk_on_a_careless_server(postgres_database: str) -> None:
    Journal(postgres_database).close()
    with raw.writing(postgres_database) as connection:
        role = connection.scalar(text("SELECT current_user"))
        name = connection.scalar(text("SELECT current_database()"))
        connection.execute(
            text(f"ALTER ROLE {role} IN DATABASE {name} SET synchronous_commit = off")
        )
    with raw.reading(postgres_database) as connection:
        assert connection.scalar(text("SHOW synchronous_commit")) == "on"


@pytest.mark.postgres
def test_a_server_that_stops_and_comes_back(postgres_server: PostgresServer) -> None:
    with Journal(postgres_server.url) as journal:
        name = interaction().request_id
        journal.append_interaction(interaction(f"{name}-before"))
        postgres_server.stop()
        try:
            with pytest.raises(StoreError, match="cannot be reached|shutting down"):
                journal.append_interaction(interaction(f"{name}-meanwhile"))
        finally:
            postgres_server.start()
        assert journal.append_interaction(interaction(f"{name}-after")).is_new
        found = [record.request_id.rsplit("-")[-1] for record in journal.interactions()]
        assert found == ["before", "after"]
