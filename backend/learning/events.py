"""What the journal says of sessions: everything that changed one, in order.

The events are enough to make every session again (:mod:`backend.learning.rebuild`).  Each names the
version of the weights that it led to, so that a difference shows where it begins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Literal, TypeVar

from adaptation.journal import EventRecord, Journal

RECENT = 64
"""Objects of a project that are remembered to try a merged start on."""

Start = Literal["base", "saved", "merged"]
"""Where a session begins: the base decoder, its own weights of before, the project's start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Began:
    """A session was opened: its learner is new, and its memory empty.

    Args:
        session: Its name.
        start: Where its weights come from.
        version: Of these weights.
        seed: Of the learner's draws.
        settings: The learner's settings, all of them.
        decoder_id: Digest of the base decoder.
        threads: torch threads of every computation; other numbers give other last bits.
        torch: Version of torch.
    """

    session: str
    start: Start
    version: str
    seed: int
    settings: Mapping[str, Any]
    decoder_id: str
    threads: int
    torch: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """A session was trained on a finished object, or refused to learn from it.

    Args:
        session: Its name.
        annotation_id: The object's annotation.
        region_id: The object's region in it.
        submission: Idempotency key of the submission that it was taken from.
        submission_seq: That submission's entry in the journal.
        position: The region's index in it.
        requests: The interactions that were answered again, oldest first.
        adapted_iou: Of the session's answers with the submitted mask.
        frozen_iou: Of the base decoder's.
        n_steps: Optimiser steps made.
        skipped: Why nothing was learned, or None.
        turned_back: Whether the session fell back to the last adapter that won.
        version: Of the weights afterwards.
    """

    session: str
    annotation_id: str
    region_id: str
    submission: str
    submission_seq: int
    position: int
    requests: tuple[str, ...]
    adapted_iou: float
    frozen_iou: float
    n_steps: int
    skipped: str | None
    turned_back: bool
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleTrained:
    """A session was trained while nothing else was to be done.

    Args:
        session: Its name.
        n_begun: Steps begun.
        n_steps: Steps made.
        version: Of the weights afterwards.
    """

    session: str
    n_begun: int
    n_steps: int
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgot:
    """A session un-learned an annotation.

    Args:
        session: Its name.
        annotation_id: The annotation.
        n_objects: Objects of it that were un-learned.
        version: Of the weights afterwards.
    """

    session: str
    annotation_id: str
    n_objects: int
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """Somebody had a session begin anew: what it had learned is gone.

    Args:
        session: Its name.
        version: Of the weights before.
    """

    session: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """Sessions were merged into a start for the project's next ones.

    Args:
        sessions: Their names, oldest first.
        weights: Finished objects of each.
        shares: How much of the mean answers a click, by the stage of an object.
        version: Of the mean.
        is_used: False where it lost against the base decoder.
        merged_iou: On objects of these sessions.
        frozen_iou: The base decoder's on the same.
        n_tried: Objects that both were tried on.
        is_scored: Whether first clicks without a share of the mean are answered by its scores.
    """

    sessions: tuple[str, ...]
    weights: tuple[int, ...]
    shares: tuple[float, ...]
    version: str
    is_used: bool
    merged_iou: float
    frozen_iou: float
    n_tried: int
    is_scored: bool = False


SessionEvent = Began | Learned | IdleTrained | Forgot | Ended | Merged

KINDS: Mapping[str, type[SessionEvent]] = {
    "session_began": Began,
    "learned": Learned,
    "thought": IdleTrained,
    "forgot": Forgot,
    "session_ended": Ended,
    "sessions_merged": Merged,
}
"""Kinds of the journal's events."""

PASSED_OVER = "passed_over"
"""Kind of the event that a region can never be trained on; it changes no session."""

_NAMES = {kind: name for name, kind in KINDS.items()}

H = TypeVar("H", bound=SessionEvent)


def write_event(journal: Journal, project_id: str, event: SessionEvent) -> None:
    """Append an event; StoreError where the journal cannot take it."""
    journal.append_event(_NAMES[type(event)], project_id, asdict(event))


def read_events(
    journal: Journal, project_id: str | None = None
) -> Iterator[tuple[str, SessionEvent]]:
    """All events of sessions with their projects' ids, in order; other events are left out."""
    for event in journal.events(project_id=project_id):
        found = _parsed(event)
        if found is not None:
            yield event.project_id or "", found


def write_passed_over(
    journal: Journal, project_id: str, submission_seq: int, position: int, reason: str
) -> None:
    """Append that a region can never be trained on, and why; StoreError as above."""
    payload = {"submission_seq": submission_seq, "position": position, "reason": reason}
    journal.append_event(PASSED_OVER, project_id, payload)


def read_passed_over(journal: Journal) -> Iterator[tuple[int, int]]:
    """Submission entry and position of every region that can never be trained on."""
    for event in journal.events(kind=PASSED_OVER):
        yield int(event.payload["submission_seq"]), int(event.payload["position"])


def _parsed(event: EventRecord) -> SessionEvent | None:
    """None for other kinds, and for events of a Strop that kept less."""
    kind = KINDS.get(event.kind)
    if kind is None:
        return None
    needed = {field.name for field in fields(kind) if field.default is MISSING}
    if needed - event.payload.keys():
        return None
    known = (field.name for field in fields(kind) if field.name in event.payload)
    return kind(**{name: _frozen(event.payload[name]) for name in known})


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
