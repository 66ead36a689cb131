"""What learning does when the journal or the image of an object is gone for a while."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from adaptation.errors import ImageError
from adaptation.journal import database, spool
from adaptation.types import Embedding
from backend.learning import worker
from backend.learning.events import Learned
from backend.learning.index import SessionIndex
from tests.backend.learning_kit import (
    draw,
    events_of,
    handed_over,
    learn_from_spoiled_images,
    learning_of,
    learning_service,
    rest,
    version_now,
)
from tests.backend.making import until


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "LOCK_TIMEOUT_S", 0.5)
    monkeypatch.setattr(worker, "WAITS_S", (0.02, 0.1))
    monkeypatch.setattr(spool, "WAITS_S", (0.02, 0.1))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The journal fails: another program keeps its file locked."""
    other = sqlite3.connect(folder / "journal.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


def learned(folder: Path) -> list[str]:
    return [event.payload["annotation_id"] for event in events_of(folder)]


def test_an_outage_of_the_journal_loses_no_learning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with learning_service(tmp_path) as service:
        with learning_of(service).click():
            for number in range(3):
                draw(service, number)
            handed_over(service)
            lock = locked(tmp_path)
            lock.__enter__()
        until(lambda: "it is tried again" in caplog.text)
        lock.__exit__(None, None, None)
        rest(service)
        assert learned(tmp_path) == ["100", "101", "102"]


def test_submissions_of_an_outage_are_learned_after_it(tmp_path: Path) -> None:
    with learning_service(tmp_path) as service:
        with locked(tmp_path):
            draw(service, 0)
            draw(service, 1)
        until(lambda: len(learned(tmp_path)) == 2)
        rest(service)
        assert learned(tmp_path) == ["100", "101"]


def test_an_object_that_failed_is_learned_later_though_newer_ones_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "MISSED_WAITS_S", (0.2, 0.2))
    with learning_service(tmp_path) as service:
        is_back, away = threading.Event(), list[str]()

        def unsteady(embedding: Embedding) -> Embedding:
            away[:] = away or [embedding.image_id]
            if embedding.image_id == away[0] and not is_back.is_set():
                raise ImageError("its host is away")
            return embedding

        learn_from_spoiled_images(service, tmp_path).spoil = unsteady
        draw(service, 0)
        draw(service, 1)
        until(lambda: learned(tmp_path) == ["101"])
        is_back.set()
        until(lambda: learned(tmp_path) == ["101", "100"])
        rest(service)
        assert learned(tmp_path) == ["101", "100"], "and once only"


def test_what_failed_is_found_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with learning_service(tmp_path) as service:
        monkeypatch.setattr(worker.OnlineLearning, "_learn", lambda *_: None)
        draw(service, 0)
        rest(service)
        monkeypatch.undo()
        draw(service, 1)
        rest(service)
        assert learned(tmp_path) == ["101"]
    with learning_service(tmp_path) as service:
        rest(service)
        assert learned(tmp_path) == ["101", "100"]
        now = version_now(service, tmp_path)
    with learning_service(tmp_path) as service:
        rest(service)
        assert learned(tmp_path) == ["101", "100"]
        assert version_now(service, tmp_path) == now


def test_each_object_is_remembered_by_itself() -> None:
    index = SessionIndex("decoder")
    index.note("1", learned_event(seq=9, position=1))
    assert index.knows(9, 1)
    assert not index.knows(9, 0) and not index.knows(8, 1)
    index.settle(8, 1)
    assert index.knows(8, 1)


def learned_event(seq: int, position: int) -> Learned:
    return Learned(
        session="project-1",
        annotation_id="100",
        region_id="r",
        submission="100/x/created",
        submission_seq=seq,
        position=position,
        requests=("q",),
        adapted_iou=0.9,
        frozen_iou=0.8,
        n_steps=1,
        skipped=None,
        turned_back=False,
        version="v",
    )


@pytest.mark.parametrize("is_running", [False, True])
def test_a_damaged_session_file_is_made_again(tmp_path: Path, is_running: bool) -> None:
    """Damaged between two runs, or while the session is not in memory."""
    with learning_service(tmp_path) as service:
        draw(service, 0)
        rest(service)
        right = version_now(service, tmp_path)
        (path,) = (tmp_path / "sessions").glob("project-1.safetensors")
        content = path.read_bytes()
        path.write_bytes(content[:-64] + bytes(64))  # still safetensors, other numbers
        if is_running:
            learn_from_spoiled_images(service, tmp_path)  # with nothing in memory
            draw(service, 1)
            rest(service)
            began = events_of(tmp_path, "session_began")[-1].payload
            assert (began["start"], began["version"]) == ("saved", right)
    if not is_running:
        with learning_service(tmp_path) as service:
            rest(service)
            assert version_now(service, tmp_path) == right
