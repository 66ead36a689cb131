"""What sessions know, added up from events that are written out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from backend.insights.sessions import SessionPanel, panel_of, stages
from backend.insights.store import LearnedRow, SessionRow

S = "project-1"


def learned(seq: int, annotation: str, region: str = "r", **changes: Any) -> LearnedRow:
    row = LearnedRow(
        seq=seq,
        session=S,
        annotation_id=annotation,
        region_id=region,
        frozen_iou=0.5,
        adapted_iou=0.7,
        turned_back=0,
        skipped=None,
        version=f"v{seq}",
        at=f"2026-11-02T09:{seq:02}:00+00:00",
    )
    return row._replace(**changes)


def event(seq: int, kind: str, **payload: Any) -> SessionRow:
    return SessionRow(seq, kind, f"2026-11-02T09:{seq:02}:00+00:00", payload)


def began(seq: int, start: str = "base", replay: int = 2) -> SessionRow:
    return event(seq, "session_began", session=S, start=start, version="base", replay=replay)


def panel(*rows: LearnedRow | SessionRow) -> SessionPanel:
    return panel_of(
        [row for row in rows if isinstance(row, LearnedRow)],
        [row for row in rows if isinstance(row, SessionRow)],
        {S: (0.0, 0.5, 1.0, 1.0)}.get,
    )


def test_stages_in_words() -> None:
    assert list(stages()) == ["click 1", "clicks 2 to 3", "clicks 4 to 7", "from click 8 on"]


def test_objects_refusals_turns_and_shares() -> None:
    (state,) = panel(
        began(1),
        learned(2, "100", "a", adapted_iou=0.6),
        learned(3, "100", "b", adapted_iou=0.8),
        learned(4, "101", turned_back=1),
        learned(5, "102", skipped="too small"),
        learned(9, "103"),
    ).sessions
    assert (state.n_objects, state.n_skipped, state.n_remembered) == (4, 1, 2)
    assert state.turned_back == ["2026-11-02T09:04:00+00:00"]
    assert state.learned_at == "2026-11-02T09:09:00+00:00"
    assert [a.annotation_id for a in state.annotations] == ["103", "101", "100"]
    assert state.annotations[2].n_objects == 2
    assert state.annotations[2].adapted_iou == pytest.approx(0.7)
    assert state.shares == dict(zip(stages(), (0.0, 0.5, 1.0, 1.0), strict=True))


def test_what_was_forgotten_is_gone_and_an_opened_session_has_an_empty_memory() -> None:
    rows = [began(1), learned(2, "100"), learned(3, "101")]
    forgot = event(4, "forgot", session=S, annotation_id="100", n_objects=1, version="v4")
    (state,) = panel(*rows, forgot).sessions
    assert [a.annotation_id for a in state.annotations] == ["101"] and state.n_remembered == 1
    (state,) = panel(*rows, forgot, began(5, "saved"), learned(6, "102")).sessions
    assert state.n_objects == 2 and state.n_remembered == 1
    (state,) = panel(*rows, forgot, began(5, "base"), learned(6, "102")).sessions
    assert state.n_objects == 1, "begun from the base, it knows nothing of before"


def test_an_ended_session_is_gone_until_it_learns_again() -> None:
    ended = event(3, "session_ended", session=S, version="v2")
    assert panel(began(1), learned(2, "100"), ended).sessions == []
    (state,) = panel(began(1), learned(2, "100"), ended, began(4), learned(5, "101")).sessions
    assert state.n_objects == 1


def test_questions_wait_until_they_are_answered() -> None:
    asked = event(1, "session_asked", id="a", action="pause", session="", annotation_id="")
    found = panel(asked)
    assert not found.is_paused and found.questions[0].outcome is None
    answered = event(2, "session_answered", id="a", action="pause", outcome="paused")
    found = panel(asked, answered)
    assert found.is_paused and found.questions[0].outcome == "paused"
    on = event(3, "session_answered", id="b", action="resume", outcome="goes on")
    assert not panel(asked, answered, on).is_paused
