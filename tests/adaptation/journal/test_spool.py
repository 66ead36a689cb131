"""Clicks and webhooks while the journal fails, with a journal that fails for real."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from adaptation.errors import StoreError
from adaptation.journal import Journal, LeaseLostError, SpoolingJournal, database, spool
from tests.adaptation.journal.samples import interaction, region, submission
from tests.adaptation.journal.servers import PostgresServer


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "LOCK_TIMEOUT_S", 0.05)
    monkeypatch.setattr(spool, "WAITS_S", (0.02, 0.1))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another program keeps the file locked, as a backup tool may."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.005)


@contextmanager
def opened(folder: Path) -> Iterator[tuple[Journal, SpoolingJournal]]:
    with Journal(f"sqlite:///{folder}/journal.db") as journal:
        intake = SpoolingJournal(journal, folder / "spool")
        intake.start()
        try:
            yield journal, intake
        finally:
            intake.close()


def requests_of(journal: Journal) -> list[str]:
    return [record.request_id for record in journal.interactions()]


def test_what_arrives_in_an_outage_is_acknowledged_and_comes_to_the_journal(tmp_path: Path) -> None:
    with opened(tmp_path) as (journal, intake):
        assert intake.append_interaction(interaction("before")).seq > 0
        with locked(tmp_path / "journal.db"):
            for n in range(3):
                assert intake.append_interaction(interaction(f"meanwhile-{n}")).is_new
                assert not intake.keep_delivery(f"message {n}")
            assert requests_of(journal) == ["before"]
            assert (tmp_path / "spool" / "spool.db").exists()
        until(lambda: not (tmp_path / "spool" / "spool.db").exists())
        assert requests_of(journal) == ["before", *(f"meanwhile-{n}" for n in range(3))]
        assert [d.body for d in journal.deliveries()] == [f"message {n}" for n in range(3)]
        until(lambda: intake.keep_delivery("after"))
        assert [d.body for d in journal.deliveries()][-1] == "after"


def test_a_crash_in_an_outage_loses_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as (_, intake), locked(tmp_path / "journal.db"):
        intake.append_interaction(interaction("meanwhile"))
        intake.keep_delivery("message")
        received_at = [d.received_at for d in _spooled(tmp_path).deliveries()]
        intake.close()  # what a killed process leaves
    with opened(tmp_path) as (journal, _):
        until(lambda: bool(list(journal.deliveries())))
        assert requests_of(journal) == ["meanwhile"]
        assert [d.received_at for d in journal.deliveries()] == received_at


def _spooled(folder: Path) -> Journal:
    return Journal(f"sqlite:///{folder}/spool/spool.db", create=False)


def test_moving_again_changes_nothing(tmp_path: Path) -> None:
    file = spool.Spool(tmp_path)
    file.add_interaction(interaction("once"))
    with Journal(f"sqlite:///{tmp_path}/journal.db") as journal:
        assert file.move_to(journal) == 1
        file.close()
        assert spool.Spool(tmp_path).is_there
        again = spool.Spool(tmp_path)
        again.move_to(journal)
        again.remove()
        assert requests_of(journal) == ["once"]
        assert not spool.Spool(tmp_path).is_there


def test_those_who_wait_are_called_when_the_outage_is_over(tmp_path: Path) -> None:
    called = threading.Event()
    with Journal(f"sqlite:///{tmp_path}/journal.db") as journal:
        intake = SpoolingJournal(journal, tmp_path / "spool")
        intake.start(called.set)
        with locked(tmp_path / "journal.db"):
            intake.failed()
            assert not called.wait(0.3)
        assert called.wait(30)
        intake.close()


def test_a_submission_finds_its_click_though_both_were_spooled(tmp_path: Path) -> None:
    click = interaction("meanwhile")
    with opened(tmp_path) as (journal, intake):
        with locked(tmp_path / "journal.db"):
            intake.append_interaction(click)
        until(lambda: requests_of(journal) == ["meanwhile"])
        [made] = [c for c in click.candidates if c.was_shown][:1]
        journal.append_submission(submission(region(made.region_id, made.rle)))
        journal.link_pending()
        assert [link.request_id for link in journal.links()] == ["meanwhile"]


def test_a_spool_that_cannot_be_read_is_kept_aside_and_the_journal_goes_on(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "spool.db").write_bytes(b"no database at all" * 300)
    with opened(tmp_path) as (journal, intake):
        until(lambda: bool(list((tmp_path / "spool").glob("unreadable-*.db"))))
        until(lambda: intake.append_interaction(interaction("after")).seq > 0)
        assert requests_of(journal) == ["after"]


def test_where_neither_takes_it_the_sender_is_told(tmp_path: Path) -> None:
    with opened(tmp_path) as (_, intake), locked(tmp_path / "journal.db"):
        (tmp_path / "spool").write_text("a file where the folder should be")
        with pytest.raises(StoreError, match="kept the journal locked"):
            intake.keep_delivery("message")


@pytest.mark.postgres
def test_a_frozen_server_holds_nobody_for_long(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    name = interaction().request_id
    with Journal(postgres_server.url) as journal:
        intake = SpoolingJournal(journal, tmp_path)
        intake.append_interaction(interaction(f"{name}-before"))
        with postgres_server.frozen():
            began = time.monotonic()
            intake.append_interaction(interaction(f"{name}-meanwhile"))
            assert time.monotonic() - began < 15  # ping and connect; 65 s without limits
            began = time.monotonic()
            intake.append_interaction(interaction(f"{name}-again"))
            assert time.monotonic() - began < 2  # nobody waits for what is known to fail
        until(lambda: not (tmp_path / "spool.db").exists())
        found = [r for r in requests_of(journal) if r.startswith(name)]
        assert [r.rsplit("-")[-1] for r in found] == ["before", "meanwhile", "again"]
        intake.close()


def test_processes_that_share_a_folder_spool_apart_and_take_over_from_the_dead(
    tmp_path: Path,
) -> None:
    with Journal(f"sqlite:///{tmp_path}/journal.db") as journal:
        first, second = (
            SpoolingJournal(journal, tmp_path / "spool", is_shared=True) for _ in range(2)
        )
        with locked(tmp_path / "journal.db"):
            first.append_interaction(interaction("of the first"))
            second.append_interaction(interaction("of the second"))
            for intake in (first, second):
                intake.close()  # what killed processes leave
        assert len(list(tmp_path.glob("spool/worker-*/spool.db"))) == 2

        alive = SpoolingJournal(journal, tmp_path / "spool", is_shared=True)
        alive.start()
        until(lambda: not list(tmp_path.glob("spool/worker-*/spool.db")))
        assert sorted(requests_of(journal)) == ["of the first", "of the second"]
        alive.close()


def test_the_spool_of_a_process_that_lives_is_left_to_it(tmp_path: Path) -> None:
    with Journal(f"sqlite:///{tmp_path}/journal.db") as journal:
        lives = SpoolingJournal(journal, tmp_path / "spool", is_shared=True)
        with locked(tmp_path / "journal.db"):
            lives.append_interaction(interaction("mine"))
            lives._is_stopping.set()  # it hangs: nothing of its own is moved
            lives._thread.join(10)  # type: ignore[union-attr]
        other = SpoolingJournal(journal, tmp_path / "spool", is_shared=True)
        other.start()
        until(lambda: not other._is_down())
        assert requests_of(journal) == []
        other.close()
        lives.close()


def test_one_process_moves_what_several_left(tmp_path: Path) -> None:
    with opened(tmp_path) as (journal, _):
        several = SpoolingJournal(journal, tmp_path / "spool", is_shared=True)
        with locked(tmp_path / "journal.db"):
            several.append_interaction(interaction("left"))
            several.close()
    with opened(tmp_path) as (journal, _):
        until(lambda: bool(requests_of(journal)))
        assert requests_of(journal) == ["left"]


def test_what_a_lost_lease_forbids_is_not_spooled(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'journal.db'}"
    with Journal(url) as journal, Journal(url) as other:
        lease = journal.take_lease("learning", "first", 0.0)
        assert lease is not None
        journal.fence(lease)
        assert other.take_lease("learning", "second", 60) is not None
        spooling = SpoolingJournal(journal, tmp_path / "spool")
        with pytest.raises(LeaseLostError):
            spooling.keep_delivery("a message")
        with pytest.raises(LeaseLostError):
            spooling.append_interaction(interaction())
        assert not spooling.is_spooling
        spooling.close()
        counts = other.counts()
    assert (counts["deliveries"], counts["interactions"]) == (0, 0)
