"""Many hands at once, and hands that stop in the middle."""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

import pytest
from sqlalchemy import create_engine, text

from adaptation.errors import StoreError
from adaptation.journal import Journal, database
from adaptation.journal.append import add_interaction
from tests.adaptation.journal import raw
from tests.adaptation.journal.samples import interaction, square, submission


class Child:
    """A forked process that says a line now and then."""

    def __init__(self, work: Callable[[Callable[[str], None]], None]) -> None:
        incoming, outgoing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(incoming)
            _run_and_exit(work, outgoing)
        os.close(outgoing)
        self.lines = os.fdopen(incoming)

    def wait(self) -> int:
        """The exit code; negative for the signal that ended it."""
        self.lines.close()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def _run_and_exit(work: Callable[[Callable[[str], None]], None], outgoing: int) -> NoReturn:
    try:
        work(lambda line: _say(outgoing, line))
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _say(outgoing: int, line: str) -> None:
    os.write(outgoing, f"{line}\n".encode())


def keep_writing(url: str, name: str, n_records: int) -> Callable[[Callable[[str], None]], None]:
    """Work for a child: to append, and to say the id of what was acknowledged."""

    def work(say: Callable[[str], None]) -> None:
        with Journal(url) as journal:
            for i in range(n_records):
                masks = [square(0, 0, 3), square(5, 5, 9), square(1, 2, 3)]
                journal.append_interaction(interaction(f"{name}-{i}", masks=masks, step=i))
                say(f"{name}-{i}")

    return work


# Python 3.12 warns of forking beside threads: the tests' own libraries have some, unused here.
forks = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def in_threads(*works: object) -> list[BaseException]:
    """Run all at once, and answer what they raised."""
    errors: list[BaseException] = []

    def guarded(work: object) -> None:
        try:
            work()  # type: ignore[operator]
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def test_eight_threads_append_while_one_reads(journal: Journal) -> None:
    n_threads, n_each = 8, 15
    is_done = threading.Event()
    seen: list[list[int]] = []

    def append(name: int) -> None:
        for i in range(n_each):
            journal.append_interaction(interaction(f"{name}-{i}", step=i, task_id=str(name)))

    def read() -> None:
        while not is_done.is_set():
            seen.append([entry.seq for entry in journal.entries()])

    reader = threading.Thread(target=read)
    reader.start()
    errors = in_threads(*(lambda name=name: append(name) for name in range(n_threads)))
    is_done.set()
    reader.join()
    assert errors == []
    assert journal.counts()["interactions"] == n_threads * n_each
    for name in range(n_threads):
        steps = [record.step for record in journal.interactions(task_id=str(name))]
        assert steps == list(range(n_each))
    # Who has read up to a number has seen everything below it.
    for earlier, later in pairwise(seen):
        assert later[: len(earlier)] == earlier


def test_the_same_news_from_many_threads_is_written_once(journal: Journal) -> None:
    click, news = interaction("r1"), submission()
    works = [lambda: journal.append_interaction(click), lambda: journal.append_submission(news)] * 5
    assert in_threads(*works) == []
    counts = journal.counts()
    assert (counts["interactions"], counts["submissions"]) == (1, 1)


def test_a_new_journal_opened_by_many_at_once(journal_url: str) -> None:
    def open_and_append() -> None:
        with Journal(journal_url) as journal:
            journal.append_interaction(interaction())

    assert in_threads(*[open_and_append] * 6) == []
    with Journal(journal_url) as journal:
        assert journal.counts()["interactions"] == 6


@forks
def test_processes_append_side_by_side(journal_url: str) -> None:
    n_processes, n_each = 3, 30
    children = [Child(keep_writing(journal_url, f"p{i}", n_each)) for i in range(n_processes)]
    said = [len(child.lines.readlines()) for child in children]
    assert [child.wait() for child in children] == [0] * n_processes
    assert said == [n_each] * n_processes
    with Journal(journal_url) as journal:
        records = list(journal.interactions())
    assert len(records) == n_processes * n_each
    for i in range(n_processes):
        steps = [record.step for record in records if record.request_id.startswith(f"p{i}-")]
        assert steps == list(range(n_each))


@forks
def test_a_killed_writer_leaves_everything_it_acknowledged(journal_url: str) -> None:
    child = Child(keep_writing(journal_url, "killed", 10**6))
    acknowledged = [child.lines.readline().strip() for _ in range(40)]
    os.kill(child.pid, signal.SIGKILL)
    acknowledged += [line.strip() for line in child.lines if line.endswith("\n")]
    assert child.wait() == -signal.SIGKILL
    with Journal(journal_url) as journal:
        found = {record.request_id: record for record in journal.interactions()}
        assert set(acknowledged) <= set(found)
        # At most the one that was written and not yet acknowledged is there besides.
        assert len(found) - len(acknowledged) in (0, 1)
        assert all(len(record.candidates) == 3 for record in found.values())
        assert len(list(journal.entries())) == len(found)
        journal.append_interaction(interaction("after"))
    assert_intact(journal_url)


def assert_intact(url: str) -> None:
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            assert connection.scalar(text("PRAGMA integrity_check")) == "ok"
            assert connection.execute(text("PRAGMA foreign_key_check")).all() == []
    engine.dispose()


def test_an_append_cut_off_halfway_leaves_nothing(journal: Journal, journal_url: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        with raw.writing(journal_url) as connection:
            add_interaction(connection, interaction("half"))
            raise KeyboardInterrupt
    assert list(journal.entries()) == []
    journal.append_interaction(interaction("whole"))
    assert [record.request_id for record in journal.interactions()] == ["whole"]


@forks
def test_a_fork_goes_on_with_connections_of_its_own(journal: Journal, journal_url: str) -> None:
    journal.append_interaction(interaction("before"))

    def append_all(name: str) -> None:
        for i in range(20):
            journal.append_interaction(interaction(f"{name}-{i}"))

    child = Child(lambda say: append_all("child"))
    append_all("parent")
    assert child.wait() == 0
    assert journal.counts()["interactions"] == 41
    assert_intact(journal_url)


@forks
def test_a_fork_while_another_thread_writes_does_not_inherit_its_lock(
    journal: Journal, journal_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def try_to_write(say: Callable[[str], None]) -> None:
        try:
            with shared.writing():
                say("written")
        except StoreError as error:
            say(str(error))

    monkeypatch.setattr(database, "LOCK_TIMEOUT_S", 0.2)
    with raw.opened(journal_url) as shared, shared.writing():
        child = Child(try_to_write)
        told = child.lines.read()
    assert child.wait() == 0
    # It meets the parent's transaction, not the lock of a thread that it does not have.
    assert "Another process has kept the journal locked" in told


def test_a_commit_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(database, "SYNCHRONOUS", "FULL")
    Journal(f"sqlite:///{tmp_path}/journal.db").close()
    with raw.writing(f"sqlite:///{tmp_path}/journal.db") as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


def test_a_reader_does_not_make_a_writer_wait(journal: Journal, journal_url: str) -> None:
    journal.append_interaction(interaction("a", masks=[square(0, 0, 3)]))
    count = text("SELECT count(*) FROM journal_interactions")
    with raw.reading(journal_url) as connection, ThreadPoolExecutor(1) as pool:
        assert connection.scalar(count) == 1
        receipt = pool.submit(journal.append_interaction, interaction("b")).result(10)
        assert receipt.is_new, "written while the reader's transaction is open"
        if connection.dialect.name == "sqlite":  # PostgreSQL's statements each see the latest
            assert connection.scalar(count) == 1, "the reader sees what was there when it began"
    assert [record.request_id for record in journal.interactions()] == ["a", "b"]
