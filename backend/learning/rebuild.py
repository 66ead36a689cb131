"""Sessions made again from the journal, bit for bit.

The same journal, the same model and the same number of threads give the same weights.  Where they
do not, because the machine, torch or Strop is another one, the first event that led elsewhere is
named.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError

from adaptation.errors import InputError, StropError
from adaptation.learning.adapter import Adapter
from adaptation.learning.settings import LearnerSettings
from backend.learning.events import (
    Began,
    Ended,
    Forgot,
    IdleTrained,
    Learned,
    Merged,
    SessionEvent,
)
from backend.learning.merging import mean_of
from backend.learning.objects import ReplayContext
from backend.learning.session import LearningSession

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Rebuilt:
    """What came of a project's events.

    Args:
        sessions: By name; those that could not be made again are left out.
        start: The project's start, where sessions were merged into one.
        differences: What came out otherwise than the journal says, by the session's name: the
            first one of each.
        elsewhere: Sessions whose last opening was upon another base decoder.
    """

    sessions: dict[str, LearningSession] = field(default_factory=dict)
    start: Adapter | None = None
    differences: dict[str, str] = field(default_factory=dict)
    elsewhere: set[str] = field(default_factory=set)


class Rebuilder:
    """Repeats a project's events.

    Args:
        context: Answers the journal's objects again.
        use_threads: Called with the number of threads that a session was computed with.
        on_event: Called after every event.
    """

    def __init__(
        self,
        context: ReplayContext,
        *,
        use_threads: Callable[[int], object] = lambda n: None,
        on_event: Callable[[], object] = lambda: None,
    ) -> None:
        self._sam, self._reader, self._pause = context.sam, context.reader, context.pause
        self._use_threads, self._on_event = use_threads, on_event

    def rebuild(self, project_id: str, events: Sequence[SessionEvent]) -> Rebuilt:
        """Make all sessions of a project again."""
        found = Rebuilt()
        last_of_opening = _last_of_opening(events)
        for number, event in enumerate(events):
            self._pause()
            if isinstance(event, Merged):
                self._merge(found, event)
            elif isinstance(event, Ended):
                found.sessions.pop(event.session, None)
                found.differences.pop(event.session, None)
            else:
                self._repeat_guarded(found, project_id, event)
                if number in last_of_opening and event.session in found.sessions:
                    found.sessions[event.session].release()
            self._on_event()
        return found

    def _repeat_guarded(
        self, found: Rebuilt, project_id: str, event: Began | Learned | IdleTrained | Forgot
    ) -> None:
        """What cannot be made again ends its session, until that begins anew from the base."""
        try:
            session = self._repeated(found, project_id, event)
        except StropError as error:
            found.differences.setdefault(event.session, str(error))
            found.sessions.pop(event.session, None)
            return
        if session is not None and session.adapter.version != event.version:
            what = f"{type(event).__name__.lower()} led to {session.adapter.version}"
            found.differences.setdefault(
                event.session, f"{what}, in the journal to {event.version}"
            )

    def _repeated(
        self, found: Rebuilt, project_id: str, event: Began | Learned | IdleTrained | Forgot
    ) -> LearningSession | None:
        if isinstance(event, Began):
            return self._begun(found, event)
        session = found.sessions.get(event.session)
        if session is None or event.session in found.elsewhere:
            return None
        if isinstance(event, Learned):
            finished = self._reader.again(project_id, event).session_object()
            session.train_on(finished, session.answer_again(finished, self._pause), self._pause)
        elif isinstance(event, IdleTrained):
            session.train_idle_again(event.n_begun, self._pause)
        else:
            session.unlearn(event.annotation_id, self._pause)
        return session

    def _begun(self, found: Rebuilt, event: Began) -> LearningSession | None:
        if event.decoder_id != self._sam.decoder_id:
            found.elsewhere.add(event.session)
            return None
        found.elsewhere.discard(event.session)
        self._use_threads(event.threads)
        settings = _settings(event)
        if event.start == "saved":
            session = found.sessions.get(event.session)
            if session is None:
                raise InputError(
                    "it goes on from weights that the journal does not explain; they were learned "
                    "by an older Strop, or an image or a submission is missing"
                )
            session.restart(settings, event.seed)
            return session
        start = found.start if event.start == "merged" else None
        origin = start or Adapter(decoder_id=self._sam.decoder_id)
        found.differences.pop(event.session, None)
        found.sessions[event.session] = LearningSession(self._sam, settings, event.seed, origin)
        return found.sessions[event.session]

    def _merge(self, found: Rebuilt, event: Merged) -> None:
        if found.elsewhere.intersection(event.sessions):
            return
        missing = [name for name in event.sessions if name not in found.sessions]
        if not event.is_used or missing:
            found.start = None
            return
        adapters = [found.sessions[name].adapter for name in event.sessions]
        mean = mean_of(adapters, event.weights)
        found.start = dataclasses.replace(mean, shares=event.shares, is_scored=event.is_scored)


def rebuild_project(
    context: ReplayContext, project_id: str, events: Sequence[SessionEvent]
) -> Rebuilt:
    """Make all sessions of a project again; the log tells what came out otherwise."""
    logger.info("project %s: its sessions are made again from the journal", project_id)
    rebuilt = Rebuilder(context).rebuild(project_id, events)
    for name, difference in rebuilt.differences.items():
        logger.warning("session %s was not made again as it was: %s", name, difference)
    return rebuilt


def _last_of_opening(events: Iterable[SessionEvent]) -> set[int]:
    """Numbers of the events after which a session's learner is not needed any more."""
    last: dict[str, int] = {}
    over: set[int] = set()
    for number, event in enumerate(events):
        if isinstance(event, Merged | Ended):
            continue
        if isinstance(event, Began) and event.session in last:
            over.add(last[event.session])
        last[event.session] = number
    return over | set(last.values())


def _settings(event: Began) -> LearnerSettings:
    try:
        return TypeAdapter(LearnerSettings).validate_python(dict(event.settings))
    except ValidationError as error:
        raise InputError(
            f"its learner's settings are those of another Strop ({error.error_count()} do not fit)"
        ) from error


def settings_json(settings: LearnerSettings) -> dict[str, Any]:
    """A learner's settings as the journal keeps them."""
    return dataclasses.asdict(settings)
