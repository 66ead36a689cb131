"""A learner that finds everything it does in the journal, beside a service that only answers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from adaptation.journal import Journal
from backend.learning.commands import ANSWERED, SessionCommand
from backend.service.learner import LearnerService
from backend.wiring.learner import build_learner
from tests.backend.learning_kit import FAST, draw, events_of
from tests.backend.service_kit import WatchedSam, journal_of, running_service, settings_for
from tests.backend.team_kit import WAIT_S, n_saved


@pytest.fixture
def apart(tmp_path: Path) -> dict[str, Any]:
    """Settings of a service and a learner that are apart."""
    config = tmp_path / "learner.yaml"
    config.write_text(yaml.safe_dump({**FAST, "think_steps": 0}))
    return {"learning__is_on": True, "learning__config": config, "learning__process": "apart"}


@contextmanager
def learning(folder: Path, apart: dict[str, Any], sam: WatchedSam) -> Iterator[LearnerService]:
    settings = settings_for(folder, **apart)
    journal = Journal(settings.journal_url)
    lease = journal.take_lease("learning", "a test", 60)
    assert lease is not None
    journal.fence(lease)
    learner = build_learner(settings, sam, journal, lease)
    try:
        yield learner
    finally:
        learner.close()


def look_until_learned(learner: LearnerService, folder: Path, *annotations: str) -> None:
    end = time.monotonic() + WAIT_S
    while n_saved(folder) != len(annotations) or [
        e.payload["annotation_id"] for e in events_of(folder)
    ] != list(annotations):
        assert time.monotonic() < end
        learner.look()
        time.sleep(0.01)


def version_of(answer: dict[str, Any]) -> str:
    found: str = answer["results"][0]["model_version"]
    return found


def test_what_a_service_keeps_is_learned_by_another_and_answers_its_clicks(
    tmp_path: Path, apart: dict[str, Any]
) -> None:
    sam = WatchedSam()
    with running_service(tmp_path, sam, **apart) as service:
        assert "learned" not in version_of(draw(service, 0))
        with journal_of(tmp_path) as journal:
            assert journal.counts()["deliveries"] == 1, "a worker takes nothing in"
        with learning(tmp_path, apart, sam) as learner:
            look_until_learned(learner, tmp_path, "100")
            assert version_of(draw(service, 1)).endswith("learned from 1 object")
            look_until_learned(learner, tmp_path, "100", "101")
            assert version_of(draw(service, 2)).endswith("learned from 2 objects")
            look_until_learned(learner, tmp_path, "100", "101", "102")


def test_what_is_asked_of_sessions_is_found_in_the_journal(
    tmp_path: Path, apart: dict[str, Any]
) -> None:
    sam = WatchedSam()
    with running_service(tmp_path, sam, **apart) as service, learning(tmp_path, apart, sam) as it:
        draw(service, 0)
        look_until_learned(it, tmp_path, "100")
        service.ask(SessionCommand(project_id="1", action="begin anew", session="project-1"))
        end = time.monotonic() + WAIT_S
        while not events_of(tmp_path, ANSWERED):
            assert time.monotonic() < end
            it.look()
            time.sleep(0.01)
        assert "learned" not in version_of(draw(service, 1))


def test_a_click_that_comes_after_its_submission_is_learned_from(
    tmp_path: Path, apart: dict[str, Any]
) -> None:
    """As it comes out of the spool of another worker, after an outage."""
    sam = WatchedSam()
    first, second = tmp_path / "first", tmp_path / "second"
    with running_service(first, sam, **apart) as service:
        draw(service, 0)
    with journal_of(first) as journal:
        clicks = list(journal.interactions())
        (delivery,) = journal.deliveries()
    apart = {**apart, "album__folder": first / "images"}
    with learning(second, apart, sam) as learner, journal_of(second) as journal:
        journal.keep_delivery(delivery.body, delivery.received_at)
        end = time.monotonic() + WAIT_S
        while journal.counts()["deliveries"] or not journal.counts()["links"]:
            assert time.monotonic() < end
            learner.look()
            time.sleep(0.01)
        assert not events_of(second), "nothing is known of its clicks"
        for click in clicks:
            journal.append_interaction(click)
        look_until_learned(learner, second, "100")
