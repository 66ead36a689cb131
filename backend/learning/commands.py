"""What people ask of sessions: forget an annotation, begin anew, pause learning, go on.

A question is an event of the journal before anything happens, and its answer is one after it; what
it changed in a session is an event between them, as everything that changes one.  So a replay comes
to the same weights, a learner that died in between goes on, and anybody may ask, in whatever
process the learner runs.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from adaptation.errors import InputError
from adaptation.journal import EventRecord, Journal

Action = Literal["forget", "begin anew", "pause", "resume"]

ASKED, ANSWERED = "session_asked", "session_answered"
"""Kinds of the events: a `SessionCommand`, and what came of it."""

PAUSED = "learning was paused"
"""Why an object that was submitted in a pause is passed over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionCommand:
    """Something that is asked of a project's sessions.

    Args:
        project_id: The project.
        action: What.
        session: Name of the session that is to begin anew; "" for other actions.
        annotation_id: Of what is to be forgotten; "" for other actions.
        id: Of this question.

    Raises:
        InputError: The action is unknown, or lacks what it is about.
    """

    project_id: str
    action: Action
    session: str = ""
    annotation_id: str = ""
    id: str = ""

    def __post_init__(self) -> None:
        if self.action not in get_args(Action):
            known = ", ".join(get_args(Action))
            raise InputError(f"There is no action {self.action!r}; there are {known}.")
        if self.action == "forget" and not self.annotation_id:
            raise InputError("To forget something, name its annotation.")
        if self.action == "begin anew" and not self.session:
            raise InputError("To begin anew, name the session.")


def ask(journal: Journal, command: SessionCommand) -> None:
    """Write a question down; StoreError where the journal cannot take it."""
    payload = {f.name: getattr(command, f.name) for f in fields(command) if f.name != "project_id"}
    payload["id"] = secrets.token_hex(8)
    journal.append_event(ASKED, command.project_id, payload)


def answer(journal: Journal, command: SessionCommand, outcome: str) -> None:
    """Write down what came of a question; StoreError likewise."""
    payload = {"id": command.id, "action": command.action, "outcome": outcome}
    journal.append_event(ANSWERED, command.project_id, payload)


def unanswered(journal: Journal) -> list[SessionCommand]:
    """What was asked and not answered yet, oldest first."""
    answered = {event.payload.get("id") for event in journal.events(kind=ANSWERED)}
    asked = map(_parsed, journal.events(kind=ASKED))
    return [command for command in asked if command is not None and command.id not in answered]


def paused_projects(journal: Journal) -> set[str]:
    """Projects whose sessions learn nothing at present."""
    paused: set[str] = set()
    for event in journal.events(kind=ANSWERED):
        note_pause(paused, event.project_id or "", str(event.payload.get("action")))
    return paused


def note_pause(paused: set[str], project_id: str, action: str) -> None:
    """Take one more answer into account."""
    if action == "pause":
        paused.add(project_id)
    elif action == "resume":
        paused.discard(project_id)


def _parsed(event: EventRecord) -> SessionCommand | None:
    """None for a question of another Strop that asked otherwise."""
    known = {field.name for field in fields(SessionCommand)}
    values: dict[str, Any] = {k: str(v) for k, v in event.payload.items() if k in known}
    try:
        return SessionCommand(**{**values, "project_id": event.project_id or ""})
    except (InputError, TypeError):
        return None
