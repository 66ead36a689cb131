"""A journal's file that is taken away, replaced or cut while the journal is open."""

from __future__ import annotations

import os
import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from adaptation.errors import StoreError
from adaptation.journal import Journal
from tests.adaptation.journal.samples import interaction


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


def names_in(path: Path) -> list[str]:
    with Journal(url_of(path), create=False) as journal:
        return [record.request_id for record in journal.interactions()]


def test_a_removed_file_is_written_anew_with_all_it_held(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with Journal(url_of(path)) as journal:
        journal.append_interaction(interaction("before"))
        path.unlink()
        journal.append_interaction(interaction("after"))
    assert names_in(path) == ["before", "after"]


def test_a_removed_folder_is_made_anew_once_for_many_writers(tmp_path: Path) -> None:
    path = tmp_path / "data" / "journal.db"
    with Journal(url_of(path)) as journal, ThreadPoolExecutor(8) as threads:
        journal.append_interaction(interaction("before"))
        shutil.rmtree(path.parent)
        list(threads.map(lambda n: journal.append_interaction(interaction(f"{n}")), range(16)))
    assert names_in(path)[0] == "before"
    assert sorted(names_in(path)[1:]) == sorted(str(n) for n in range(16))


def test_a_replaced_file_is_the_journal_and_the_old_log_is_not_read_into_it(tmp_path: Path) -> None:
    path, other = tmp_path / "journal.db", tmp_path / "backup.db"
    with Journal(url_of(other)) as backup:
        backup.append_interaction(interaction("restored"))
    with Journal(url_of(path)) as journal:
        for n in range(5):
            journal.append_interaction(interaction(f"old-{n}"))
        os.replace(other, path)
        journal.append_interaction(interaction("new"))
    assert names_in(path) == ["restored", "new"]


def test_a_cut_file_takes_no_more_writes(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with Journal(url_of(path)) as journal:
        for n in range(20):
            journal.append_interaction(interaction(f"{n}"))
    with Journal(url_of(path)) as journal:
        journal.append_interaction(interaction("whole"))
        os.truncate(path, path.stat().st_size // 2)
        with pytest.raises(StoreError, match="is damaged"):
            journal.append_interaction(interaction("lost"))


def test_a_vacuumed_file_is_shorter_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with Journal(url_of(path)) as journal:
        kept = journal.keep_delivery("x" * 3_000_000 + str(os.urandom(200_000)))
        journal.finish_delivery(kept)
        with sqlite3.connect(path) as other:
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        journal.append_interaction(interaction("long"))
        n_bytes = path.stat().st_size
        other.execute("VACUUM")
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        other.close()
        assert path.stat().st_size < n_bytes
        journal.append_interaction(interaction("short"))
    assert names_in(path) == ["long", "short"]
