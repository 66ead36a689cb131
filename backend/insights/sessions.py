"""What a project's sessions know, from the events that made them.  Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from adaptation.learning.scale_evidence import STAGE_ENDS
from backend.insights.store import LearnedRow, SessionRow

N_SHOWN = 20
"""Annotations of a session that the page lists, and questions with their answers."""

SharesOf = Callable[[str], tuple[float, ...] | None]
"""Session -> share of what it learned that answers a click, by stage; None: nobody knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownAnnotation:
    """An annotation that a session was trained on.

    Args:
        annotation_id: Its id.
        at: When it was learned last, ISO 8601.
        n_objects: Objects of it.
        frozen_iou, adapted_iou: Mean over its objects.
    """

    annotation_id: str
    at: str
    n_objects: int
    frozen_iou: float
    adapted_iou: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Something that was asked of sessions.

    Args:
        at: When, ISO 8601.
        what: In words.
        outcome: What came of it; None while it waits.
    """

    at: str
    what: str
    outcome: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionState:
    """A session as it is now.

    Args:
        name: Its name.
        n_objects: Objects that it learned from and has not un-learned.
        n_remembered: Of these, how many it rehearses.
        n_skipped: Objects that it refused to learn from.
        turned_back: When the guard fell back to an earlier adapter, ISO 8601, oldest first.
        learned_at: When it learned last, ISO 8601; None where it has not.
        shares: Stage in words -> share of what it learned that answers a click there; empty where
            its file is not to be read.
        annotations: What it knows, the newest first, `N_SHOWN` at most.
    """

    name: str
    n_objects: int
    n_remembered: int
    n_skipped: int
    turned_back: Sequence[str]
    learned_at: str | None
    shares: Mapping[str, float]
    annotations: Sequence[KnownAnnotation]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPanel:
    """All of a project's sessions.

    Args:
        sessions: By when they learned, the last first.
        is_paused: Whether nothing is learned at present.
        questions: What was asked last, the newest first.
    """

    sessions: Sequence[SessionState]
    is_paused: bool
    questions: Sequence[Question]


def panel_of(
    learned: Sequence[LearnedRow], others: Sequence[SessionRow], shares_of: SharesOf
) -> SessionPanel:
    """Add up a project's events, each given oldest first."""
    sessions: dict[str, _Session] = {}
    rows: list[LearnedRow | SessionRow] = sorted([*learned, *others], key=lambda row: row.seq)
    for row in rows:
        if isinstance(row, LearnedRow):
            sessions.setdefault(row.session, _Session()).learn(row)
        elif row.kind == "session_ended":
            sessions.pop(str(row.payload.get("session")), None)
        elif row.kind in ("session_began", "forgot"):
            name = str(row.payload.get("session"))
            sessions.setdefault(name, _Session()).note(row)
    questions, is_paused = _questions(others)
    known = [found.state(name, shares_of) for name, found in sessions.items()]
    return SessionPanel(
        sessions=sorted(known, key=lambda state: state.learned_at or "", reverse=True),
        is_paused=is_paused,
        questions=questions,
    )


def stages() -> Iterator[str]:
    """An object's stages in words."""
    first = 1
    for end in STAGE_ENDS:
        yield f"click {end}" if first == end else f"clicks {first} to {end}"
        first = end + 1
    yield f"from click {first} on"


@dataclass(slots=True)
class _Session:
    """A session while its events are added up."""

    annotations: OrderedDict[str, list[LearnedRow]] = field(default_factory=OrderedDict)
    n_skipped: int = 0
    n_since_opened: int = 0
    replay: int = 0
    turned_back: list[str] = field(default_factory=list)
    learned_at: str | None = None

    def learn(self, row: LearnedRow) -> None:
        if row.turned_back:
            self.turned_back.append(row.at)
        if row.skipped is not None:
            self.n_skipped += 1
            return
        self.annotations.setdefault(row.annotation_id, []).append(row)
        self.annotations.move_to_end(row.annotation_id)
        self.n_since_opened += 1
        self.learned_at = row.at

    def note(self, row: SessionRow) -> None:
        said = row.payload
        if row.kind == "forgot":
            gone = self.annotations.pop(str(said.get("annotation_id")), [])
            self.n_since_opened = max(0, self.n_since_opened - len(gone))
            return
        self.replay, self.n_since_opened = int(said.get("replay") or 0), 0
        if said.get("start") != "saved":
            self.annotations.clear()

    def state(self, name: str, shares_of: SharesOf) -> SessionState:
        shares = shares_of(name) or ()
        newest = list(reversed(self.annotations))[:N_SHOWN]
        return SessionState(
            name=name,
            n_objects=sum(map(len, self.annotations.values())),
            n_remembered=min(self.replay, self.n_since_opened),
            n_skipped=self.n_skipped,
            turned_back=self.turned_back,
            learned_at=self.learned_at,
            shares=dict(zip(stages(), shares, strict=False)),
            annotations=[_known(name, self.annotations[name]) for name in newest],
        )


def _known(annotation_id: str, rows: Sequence[LearnedRow]) -> KnownAnnotation:
    return KnownAnnotation(
        annotation_id=annotation_id,
        at=rows[-1].at,
        n_objects=len(rows),
        frozen_iou=sum(row.frozen_iou for row in rows) / len(rows),
        adapted_iou=sum(row.adapted_iou for row in rows) / len(rows),
    )


def in_words(action: str, session: str, annotation_id: str) -> str:
    """A question as the page says it."""
    return {
        "forget": f"forget annotation {annotation_id}",
        "begin anew": f"begin session {session} anew",
        "pause": "pause learning",
        "resume": "go on learning",
    }.get(action, action)


def _questions(others: Sequence[SessionRow]) -> tuple[list[Question], bool]:
    asked: dict[str, Question] = {}
    is_paused = False
    for row in others:
        said: Mapping[str, Any] = row.payload
        number = str(said.get("id"))
        if row.kind == "session_asked":
            about = (str(said.get(name, "")) for name in ("action", "session", "annotation_id"))
            asked[number] = Question(at=row.at, what=in_words(*about), outcome=None)
        elif row.kind == "session_answered":
            if said.get("action") in ("pause", "resume"):
                is_paused = said["action"] == "pause"
            if number in asked:
                asked[number] = replace(asked[number], outcome=str(said.get("outcome")))
    return list(reversed(asked.values()))[:N_SHOWN], is_paused
