"""Masks that nobody saw come to the journal behind the reply, and none is lost on the way."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from adaptation.errors import StoreError
from adaptation.journal import CandidateRecord
from backend.service import unshown
from backend.service.clicks import ClickHandler
from backend.service.unshown import UnshownMasks
from tests.adaptation.journal.samples import candidate
from tests.backend.payloads import keypoint
from tests.backend.service_kit import (
    click_on,
    data_uri,
    interactions_of,
    pixels_of,
    running_service,
)

IMAGE = data_uri(pixels_of())


class Store:
    """Keeps masks, unless it is told to fail, of the requests that it knows."""

    def __init__(self) -> None:
        self.kept: dict[str, Sequence[CandidateRecord]] = {}
        self.fails, self.unknown = False, set[str]()

    def keep(self, request_id: str, masks: Sequence[CandidateRecord]) -> bool:
        if self.fails:
            raise StoreError("the disk is full")
        if request_id in self.unknown:
            return False
        self.kept[request_id] = masks
        return True


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def masks(store: Store) -> Iterator[UnshownMasks]:
    made = UnshownMasks(store.keep)
    yield made
    made.close()


def drawn() -> Sequence[CandidateRecord]:
    return (candidate("a-1"),)


def test_masks_are_drawn_behind_the_call(masks: UnshownMasks, store: Store) -> None:
    may_draw, threads = threading.Event(), list[threading.Thread]()

    def draw() -> Sequence[CandidateRecord]:
        may_draw.wait(10)
        threads.append(threading.current_thread())
        return drawn()

    masks.later("a", draw)
    assert not store.kept
    may_draw.set()
    masks.drain()
    assert store.kept == {"a": drawn()} and threads != [threading.current_thread()]


def test_where_too_many_wait_they_are_drawn_by_who_asks(
    masks: UnshownMasks, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unshown, "MAX_WAITING", 2)
    few, may_draw = UnshownMasks(store.keep), threading.Event()
    threads: dict[str, threading.Thread] = {}

    def draw(name: str) -> Sequence[CandidateRecord]:
        threads[name] = threading.current_thread()
        if threads[name] is not threading.main_thread():
            may_draw.wait(10)
        return drawn()

    for name in ("a", "b", "c"):
        few.later(name, lambda name=name: draw(name))  # type: ignore[misc]
    assert threads["c"] is threading.main_thread()
    may_draw.set()
    few.close()
    assert set(store.kept) == {"a", "b", "c"}


def test_what_the_store_does_not_take_is_tried_again(masks: UnshownMasks, store: Store) -> None:
    store.fails = True
    for name in ("a", "b"):
        masks.later(name, drawn)
    masks.drain()
    assert not store.kept
    store.fails, store.unknown = False, {"a"}  # whose click is in the spool still
    masks.later("c", drawn)
    masks.drain()
    assert set(store.kept) == {"b", "c"}
    store.unknown.clear()
    masks.retry()
    masks.drain()
    assert set(store.kept) == {"a", "b", "c"}


def test_what_cannot_be_drawn_stops_nothing(
    masks: UnshownMasks, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> Sequence[CandidateRecord]:
        raise ValueError("no such token")

    for _ in range(2 * unshown.MAX_WAITING):
        masks.later("a", broken)
        masks.drain()
    masks.later("b", drawn)
    masks.drain()
    assert set(store.kept) == {"b"} and "the masks of click a" in caplog.text


def test_what_is_shown_is_in_the_journal_before_the_other_masks_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_draw, draw_all = threading.Event(), UnshownMasks._work

    def later(self: UnshownMasks, request_id: str, draw: unshown.Draw) -> None:
        may_draw.wait(10)
        draw_all(self, request_id, draw)

    monkeypatch.setattr(UnshownMasks, "_work", later)
    with running_service(tmp_path) as service:
        service.predict(click_on(IMAGE, keypoint(30, 60)))
        (record,) = interactions_of(tmp_path)
        assert [c.was_shown for c in record.candidates] == [True]
        may_draw.set()
        service.drain()
        (record,) = interactions_of(tmp_path)
    assert [c.was_shown for c in record.candidates] == [True, False, False]
    assert [c.region_id for c in record.candidates] == [
        f"{record.request_id}-{i}" for i in range(3)
    ]
    assert len({c.token for c in record.candidates}) == 3


def test_masks_of_a_click_in_the_spool_come_behind_it(tmp_path: Path) -> None:
    with running_service(tmp_path) as service:
        service.drain()
        locker = sqlite3.connect(tmp_path / "journal.db")
        locker.execute("BEGIN IMMEDIATE")
        service.predict(click_on(IMAGE, keypoint(30, 60)))
        assert (tmp_path / "spool" / "spool.db").exists()
        locker.rollback()
        locker.close()
        handler: ClickHandler = service._clicks
        intake = handler._journal
        thread = intake._thread
        assert thread is not None
        thread.join(20)
        service.drain()
        (record,) = interactions_of(tmp_path)
    assert [c.was_shown for c in record.candidates] == [True, False, False]
