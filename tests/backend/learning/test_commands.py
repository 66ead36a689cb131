"""What people ask of sessions: done, written down, and made again by a replay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adaptation.errors import InputError
from backend.commands.replay import replay
from backend.learning import manager
from backend.learning.commands import ANSWERED, PAUSED, SessionCommand, ask, unanswered
from backend.service.service import SegmentationService
from tests.backend.learning_kit import (
    delete,
    disk,
    draw,
    events_of,
    learning_service,
    painted,
    rest,
    version_now,
)
from tests.backend.service_kit import WatchedSam, journal_of, settings_for


def asked(service: SegmentationService, action: Any, **about: str) -> None:
    service.ask(SessionCommand(project_id="1", action=action, **about))
    rest(service)


def outcomes(folder: Path) -> list[str]:
    return [event.payload["outcome"] for event in events_of(folder, ANSWERED)]


def is_replayed(folder: Path) -> bool:
    return all(
        session.is_as_saved
        for session in replay(settings_for(folder), None, check=True, sam=WatchedSam())
    )


def test_a_forgotten_annotation_is_unlearned_and_stays_so(tmp_path: Path) -> None:
    with learning_service(tmp_path) as service:
        draw(service, 0)
        draw(service, 1)
        rest(service)
        before = version_now(service, tmp_path)
        asked(service, "forget", annotation_id="100")
        after = version_now(service, tmp_path)
        asked(service, "forget", annotation_id="100")
        asked(service, "forget", annotation_id="no such")
    assert after not in (before, "base")
    assert outcomes(tmp_path) == ["un-learned", *2 * ["no session knows it"]]
    assert is_replayed(tmp_path)
    with learning_service(tmp_path) as service:
        rest(service)
        assert version_now(service, tmp_path) == after, "not learned again at a start"


def test_what_is_too_old_to_be_forgotten_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with learning_service(tmp_path) as service:
        draw(service, 0)
        rest(service)
    monkeypatch.setattr(manager, "MAX_REBUILT", 0)
    with learning_service(tmp_path) as service:  # nothing is open: it would have to be rebuilt
        rest(service)
        before = version_now(service, tmp_path)
        asked(service, "forget", annotation_id="100")
        assert version_now(service, tmp_path) == before != "base"
    assert outcomes(tmp_path) == ["it stays learned: it is too old"]


def test_a_session_that_begins_anew_has_learned_nothing(tmp_path: Path) -> None:
    with learning_service(tmp_path) as service:
        draw(service, 0)
        rest(service)
        asked(service, "begin anew", session="project-1")
        assert version_now(service, tmp_path) == "base"
        delete(service, 0)  # nobody knows it any more
        rest(service)
        draw(service, 1)
        rest(service)
        learned = version_now(service, tmp_path)
        assert learned != "base"
        asked(service, "begin anew", session="project-2")
    assert outcomes(tmp_path) == ["begins anew", "there is no such session"]
    assert [e.payload["start"] for e in events_of(tmp_path, "session_began")] == ["base", "base"]
    assert events_of(tmp_path, "forgot") == []
    assert is_replayed(tmp_path)
    with learning_service(tmp_path) as service:
        rest(service)
        assert version_now(service, tmp_path) == learned


def test_what_a_crash_left_of_an_ended_session_answers_nothing(tmp_path: Path) -> None:
    with learning_service(tmp_path) as service:
        draw(service, 0)
        rest(service)
        (file,) = (tmp_path / "sessions").glob("*.safetensors")
        content = file.read_bytes()
        asked(service, "begin anew", session="project-1")
        assert not file.exists()
    file.write_bytes(content)  # it died before the file was removed
    with learning_service(tmp_path) as service:
        rest(service)
        assert version_now(service, tmp_path) == "base" and not file.exists()


def test_in_a_pause_nothing_is_learned_and_what_is_deleted_is_unlearned(tmp_path: Path) -> None:
    with learning_service(tmp_path) as service:
        draw(service, 0)
        draw(service, 1)
        rest(service)
        before = version_now(service, tmp_path)
        asked(service, "pause")
        answer = draw(service, 2)
        rest(service)
        assert version_now(service, tmp_path) == before
        delete(service, 0)
        rest(service)
        assert version_now(service, tmp_path) not in (before, "base")
    (passed,) = events_of(tmp_path, "passed_over")
    assert passed.payload["reason"] == PAUSED
    with learning_service(tmp_path) as service:
        draw(service, 3)
        rest(service)
        assert len(events_of(tmp_path)) == 2, "a pause outlives the process"
        asked(service, "resume")
        draw(service, 4)
        rest(service)
        body = painted(answer, ~disk(), id=102, task=12, updated_at="2026-11-22T10:00:00Z")
        service.webhook({**body, "action": "ANNOTATION_UPDATED"})
        rest(service)
    learned = [e.payload["annotation_id"] for e in events_of(tmp_path)]
    assert learned == ["100", "101", "104", "102"], "what is submitted again is learned"
    assert outcomes(tmp_path) == ["paused", "goes on"]
    assert is_replayed(tmp_path)


def test_what_was_asked_of_a_process_that_died_is_done_by_the_next(tmp_path: Path) -> None:
    with learning_service(tmp_path) as service:
        draw(service, 0)
        rest(service)
    with journal_of(tmp_path) as journal:
        ask(journal, SessionCommand(project_id="1", action="forget", annotation_id="100"))
        journal.append_event("session_asked", "1", {"action": "dance", "id": "x"})
        assert len(unanswered(journal)) == 1, "what this Strop does not know is left"
    with learning_service(tmp_path) as service:
        rest(service)
        assert version_now(service, tmp_path) == "base"
    assert outcomes(tmp_path) == ["un-learned"]


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ("dance", "no action 'dance'; there are forget, begin anew, pause, resume"),
        ("forget", "name its annotation"),
        ("begin anew", "name the session"),
    ],
)
def test_a_question_that_lacks_something_is_refused(action: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SessionCommand(project_id="1", action=action)
