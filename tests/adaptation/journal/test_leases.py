"""Leases: one holder at a time, and a holder that lost its own writes nothing."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from adaptation.errors import StoreError
from adaptation.journal import Journal, Lease, LeaseLostError
from tests.adaptation.journal.samples import interaction, submission
from tests.adaptation.journal.test_concurrency import Child


def taken(journal: Journal, holder: str, ttl_s: float = 60.0) -> Lease:
    lease = journal.take_lease("learning", holder, ttl_s)
    assert lease is not None
    return lease


def test_one_of_many_gets_a_lease(journal: Journal, journal_url: str) -> None:
    def attempt(number: int) -> Lease | None:
        with Journal(journal_url) as own:
            return own.take_lease("learning", f"learner {number}", 60)

    with ThreadPoolExecutor(8) as pool:
        found = [lease for lease in pool.map(attempt, range(8)) if lease is not None]
    assert len(found) == 1
    assert journal.take_lease("something else", "anybody", 60) is not None


def test_a_lease_is_free_when_it_ran_out_or_was_returned_and_tokens_grow(journal: Journal) -> None:
    first = taken(journal, "first", ttl_s=0.0)
    second = taken(journal, "second")
    assert journal.take_lease("learning", "third", 60) is None
    journal.return_lease(second)
    third = taken(journal, "third")
    assert first.token < second.token < third.token
    # A journal that begins anew may not give tokens that were given before.
    assert abs(first.token / 1000 - time.time()) < 60


def test_a_lease_that_is_renewed_is_kept_and_one_that_was_lost_cannot_be(journal: Journal) -> None:
    lease = taken(journal, "first", ttl_s=0.0)
    journal.renew_lease(lease, 60)
    assert journal.take_lease("learning", "second", 60) is None
    journal.renew_lease(lease, 0.0)
    taken(journal, "second")
    with pytest.raises(LeaseLostError, match=r"of first was lost to second"):
        journal.renew_lease(lease, 60)


def test_returning_what_was_lost_takes_nothing_from_its_holder(journal: Journal) -> None:
    lost = taken(journal, "first", ttl_s=0.0)
    taken(journal, "second")
    journal.return_lease(lost)
    assert journal.take_lease("learning", "third", 60) is None


def test_nothing_is_written_without_the_lease(journal: Journal, journal_url: str) -> None:
    with Journal(journal_url) as fenced:
        fenced.fence(taken(fenced, "first", ttl_s=0.0))
        fenced.append_event("learned")  # it ran out, and nobody took it
        delivery = journal.keep_delivery("a message")
        journal.append_submission(submission())
        taken(journal, "second")
        writes: list[Callable[[], object]] = [
            lambda: fenced.append_event("learned"),
            lambda: fenced.append_interaction(interaction()),
            lambda: fenced.append_submissions([submission(annotation_id="2")]),
            lambda: fenced.finish_delivery(delivery),
            fenced.link_pending,
            fenced.check_writable,
        ]
        for write in writes:
            with pytest.raises(LeaseLostError):
                write()
        assert len(list(fenced.events())) == 1, "it may read"
    found = journal.counts()
    assert (found["interactions"], found["submissions"], found["events"]) == (0, 1, 1)
    assert (found["deliveries"], found["unlinked"]) == (1, 1)


def _taken_from_stopped(journal: Journal, pid: int) -> bool:
    """Stop a process and take its lease; False where it was stopped in the middle of a write."""
    os.kill(pid, signal.SIGSTOP)
    time.sleep(0.25)
    try:
        return journal.take_lease("learning", "second", 60) is not None
    except StoreError:
        return False


def test_a_holder_that_was_stopped_past_its_lease_writes_nothing(
    journal: Journal, journal_url: str
) -> None:
    def work(say: Callable[[str], None]) -> None:
        with Journal(journal_url) as own:
            own.fence(taken(own, "first", ttl_s=0.2))
            say("holds")
            while True:
                try:
                    own.append_event("by the first")
                    time.sleep(0.02)
                except LeaseLostError:
                    say("lost")
                    return

    child = Child(work)
    assert child.lines.readline() == "holds\n"
    while not list(journal.events()):
        time.sleep(0.005)
    while not _taken_from_stopped(journal, child.pid):
        os.kill(child.pid, signal.SIGCONT)
        time.sleep(0.05)
    n_before = len(list(journal.events()))
    os.kill(child.pid, signal.SIGCONT)
    assert child.lines.readline() == "lost\n"
    assert child.wait() == 0
    assert len(list(journal.events())) == n_before


def test_the_lease_of_a_holder_that_has_ended_need_not_run_out(journal: Journal) -> None:
    first = taken(journal, "first")
    assert journal.take_lease("learning", "second", 60, ended="another") is None
    second = journal.take_lease("learning", "second", 60, ended="first")
    assert second is not None and second.token > first.token
    with pytest.raises(LeaseLostError):
        journal.renew_lease(first, 60)
