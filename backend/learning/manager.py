"""Where sessions are taught: every call that moves one is written down before it shows.

Used by the one thread that learns, but for :meth:`School.weights`.  An event goes to the journal
first; then the weights are published and saved.  So no file is ahead of the journal, and one that
is behind it, or missing, is made again from it.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from adaptation.journal import Journal, Link, SubmissionRecord
from adaptation.learning.learner import ObjectReport
from adaptation.learning.settings import LearnerSettings
from adaptation.models.sam import PromptableSam
from adaptation.predictor.interactive import WeightsAt
from backend.learning.adapter_store import Shelf
from backend.learning.events import (
    Began,
    Forgot,
    Happening,
    Learned,
    Start,
    ThoughtOver,
    read_events,
    start_of,
    write_event,
)
from backend.learning.index import Ledger
from backend.learning.merging import Merger
from backend.learning.objects import Embed, Finished, Recall
from backend.learning.rebuild import Rebuilder, Rebuilt, settings_json
from backend.learning.session import Pause, TaughtSession, Thought

logger = logging.getLogger(__name__)

Scope = Literal["project", "label", "task"]

MAX_DIARY = 500
"""Objects after which a session goes on with an empty memory."""

MOST_AGAIN = 200
"""A project with more objects than this is not taught again for one that is deleted after its
session left the memory: the object stays learned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineOptions:
    """How sessions are kept.

    Args:
        scope: What shares a session: a click carries no user, so the default is the project.
        folder: Where adapters are kept between runs.
        max_sessions: Adapters in memory; the least recently used leave it.
        max_learners: Sessions that remember their objects; the least recently taught one goes to
            sleep, and wakes up with its weights and an empty memory.
        ttl_s: Seconds after which a session that nobody uses leaves the memory.
        merge: Finished sessions whose mean is the project's start; 0 for none.
        seed: Of all draws.
    """

    scope: Scope
    folder: Path
    max_sessions: int = 200
    max_learners: int = 16
    ttl_s: float = 86_400.0
    merge: int = 8
    seed: int = 0


@dataclass(slots=True, eq=False)
class _Awake:
    """A session with its learner."""

    name: str
    project_id: str
    taught: TaughtSession
    start: Start
    has_begun: bool = False
    may_think: bool = False


class School:
    """Teaches sessions.

    Args:
        sam: The shared model.
        journal: Where everything that moves a session goes.
        settings: How sessions learn.
        options: How they are kept.
        embed: Embedding of a view of an image.
        pause: Returns when no click waits for the processor.
    """

    def __init__(
        self,
        sam: PromptableSam,
        journal: Journal,
        settings: LearnerSettings,
        options: OnlineOptions,
        embed: Embed,
        pause: Pause,
    ) -> None:
        self._sam, self._journal = sam, journal
        self._settings, self._options = settings, options
        self._embed, self._pause = embed, pause
        self._recall, self._ledger = Recall(journal), Ledger(sam.decoder_id)
        self._awake: OrderedDict[str, _Awake] = OrderedDict()
        self._shelf = Shelf(
            sam, options.folder, max_sessions=options.max_sessions, ttl_s=options.ttl_s
        )
        most = 0 if options.scope == "project" else options.merge
        self._merger = Merger(
            sam, settings, self._recall, self._ledger, self._shelf, embed, pause, most
        )
        self._to_merge: list[str] = []
        self._first_seq = journal.append_event("learning_began").seq

    # Answers -----------------------------------------------------------------------------------

    def weights(self, project_id: str, label: str, task_id: str) -> tuple[WeightsAt, str]:
        """What a session answers with, and its version.  Any thread may ask."""
        return self._shelf.weights(self._name(project_id, label, task_id), start_of(project_id))

    def _name(self, project_id: str, label: str, task_id: str) -> str:
        if self._options.scope == "label":
            return f"project-{project_id}-label-{label}"
        if self._options.scope == "task":
            return f"project-{project_id}-task-{task_id}"
        return f"project-{project_id}"

    # Teaching ----------------------------------------------------------------------------------

    def teach(self, submission: SubmissionRecord, link: Link) -> None:
        """Teach a session a submitted region; nothing where no session answered its clicks.

        Raises:
            StropError: It cannot be taught; the session stays as it was.
        """
        if link.request_id is None:
            return
        finished = self._recall.finished(submission, link.position, link.request_id)
        if finished is None:
            return
        taught, last = finished.taught(self._embed), finished.last
        awake = self._wake(self._name(last.project_id, last.label, last.task_id), last.project_id)
        asked = awake.taught.asked(taught, self._pause)
        with self._whole(awake):
            report = awake.taught.teach(taught, asked, self._pause)
            self._write(awake, _learned(awake.name, finished, link, report))
        awake.may_think = True
        self._note_due(awake.project_id, at_rest=False)
        _log(awake.name, report)

    def think(self, should_stop: Callable[[], bool]) -> bool:
        """One stretch of thinking in the session used last; False when none can gain anything."""
        thinkers = [awake for awake in self._awake.values() if awake.may_think]
        if not thinkers:
            return False
        awake = max(thinkers, key=lambda a: self._shelf.used_at(a.name))
        with self._whole(awake):
            thought = awake.taught.think(should_stop, self._pause)
            if thought.n_begun:
                self._write(awake, _thought(awake, thought))
        if not thought.n_steps and not should_stop():
            awake.may_think = False
            self._note_due(awake.project_id, at_rest=self._is_at_rest(awake.project_id))
        return True

    def is_at_rest(self) -> bool:
        """Whether no session may gain anything, and no start is due; any thread may ask."""
        awake = tuple(self._awake.values())
        return not self._to_merge and not any(session.may_think for session in awake)

    def forget(self, annotation_id: str) -> None:
        """Un-learn an annotation in every session that knows it."""
        project_id, _ = self._ledger.standing.get(annotation_id, (None, 0))
        if project_id is None:
            return
        n_forgotten = 0
        for awake in list(self._awake.values()):
            with self._whole(awake):
                n_objects = awake.taught.forget(annotation_id, self._pause)
                if n_objects:
                    self._write(awake, _forgot(awake.name, annotation_id, n_objects, awake.taught))
            n_forgotten += n_objects
        if not n_forgotten:
            self._forget_older(project_id, annotation_id)

    def _forget_older(self, project_id: str, annotation_id: str) -> None:
        """Un-learn what sessions were taught before they woke up last."""
        events = [event for _, event in read_events(self._journal, project_id)]
        if sum(isinstance(event, Learned) for event in events) > MOST_AGAIN:
            logger.warning("annotation %s stays learned: it is too old", annotation_id)
            self._ledger.standing.pop(annotation_id)
            return
        for name, session in self._rebuilt(project_id, events).sessions.items():
            n_objects = session.forget(annotation_id, self._pause)
            if n_objects:
                self._awake.pop(name, None)
                event = _forgot(name, annotation_id, n_objects, session)
                self._append(project_id, event)
                self._shelf.publish(name, session.adapter)

    # What was missed -----------------------------------------------------------------------------

    def rebuild_missing(self) -> None:
        """Make sessions again whose file is missing or behind the journal."""
        for project_id, event in read_events(self._journal):
            self._ledger.note(project_id, event)
        behind = {
            project_id
            for name, (project_id, version) in self._ledger.versions.items()
            if self._shelf.saved_version(name) != version
        }
        for project_id in sorted(behind):
            events = [event for _, event in read_events(self._journal, project_id)]
            rebuilt = self._rebuilt(project_id, events)
            for name, session in rebuilt.sessions.items():
                self._shelf.publish(name, session.adapter)
            if rebuilt.start is not None:
                self._shelf.publish(start_of(project_id), rebuilt.start)

    def take_up(self) -> Iterator[Callable[[], None]]:
        """What happened to annotations while nobody was there to learn from it, to be done."""
        self._journal.link_pending()
        known = self._ledger
        for link in self._journal.links(current_only=False):
            if link.submission_seq >= self._first_seq:
                return
            if link.standing != "current":
                if known.standing.get(link.annotation_id, ("", 0))[1] == link.submission_seq:
                    yield lambda link=link: self.forget(link.annotation_id)  # type: ignore[misc]
            elif link.request_id is not None and not known.knows(
                link.submission_seq, link.position
            ):
                yield lambda link=link: self._teach_missed(link)  # type: ignore[misc]

    def _teach_missed(self, link: Link) -> None:
        found = self._journal.submissions(annotation_id=link.annotation_id, current_only=True)
        for submission in found:
            self.teach(submission, link)

    def _rebuilt(self, project_id: str, events: list[Happening]) -> Rebuilt:
        logger.info("project %s: its sessions are made again from the journal", project_id)
        rebuilder = Rebuilder(self._sam, self._recall, self._embed, pause=self._pause)
        rebuilt = rebuilder.rebuild(project_id, events)
        for name, difference in rebuilt.differences.items():
            logger.warning("session %s was not made again as it was: %s", name, difference)
        return rebuilt

    # Sessions ----------------------------------------------------------------------------------

    def _wake(self, name: str, project_id: str) -> _Awake:
        known = self._awake.get(name)
        if known is None or known.taught.n_objects >= MAX_DIARY:
            origin, start = self._shelf.origin(name, start_of(project_id))
            taught = TaughtSession(self._sam, self._settings, self._options.seed, origin)
            known = self._awake[name] = _Awake(name, project_id, taught, start)
        self._awake.move_to_end(name)
        while len(self._awake) > self._options.max_learners:
            _, asleep = self._awake.popitem(last=False)
            logger.info("session %s goes to sleep", asleep.name)
        return known

    @contextmanager
    def _whole(self, awake: _Awake) -> Iterator[None]:
        """A session that failed in the middle of something goes on from what was saved last."""
        try:
            yield
        except BaseException:
            self._awake.pop(awake.name, None)
            raise

    def _write(self, awake: _Awake, event: Learned | ThoughtOver | Forgot) -> None:
        """Write an event down, and only then show and save what it led to."""
        if not awake.has_begun:
            self._append(awake.project_id, self._began(awake))
            awake.has_begun = True
        self._append(awake.project_id, event)
        self._shelf.publish(awake.name, awake.taught.adapter)

    def _append(self, project_id: str, event: Happening) -> None:
        write_event(self._journal, project_id, event)
        self._ledger.note(project_id, event)

    def _began(self, awake: _Awake) -> Began:
        return Began(
            session=awake.name,
            start=awake.start,
            version=awake.taught.origin.version,
            seed=self._options.seed,
            settings=settings_json(self._settings),
            decoder_id=self._sam.decoder_id,
            threads=torch.get_num_threads(),
            torch=torch.__version__,
        )

    # Starts ------------------------------------------------------------------------------------

    def _note_due(self, project_id: str, *, at_rest: bool) -> None:
        if self._merger.is_due(project_id, at_rest=at_rest) and project_id not in self._to_merge:
            self._to_merge.append(project_id)

    def _is_at_rest(self, project_id: str) -> bool:
        awake = self._awake.values()
        return not any(session.may_think for session in awake if session.project_id == project_id)

    def merge(self) -> bool:
        """Make a new start for a project's next sessions of those taught last; False: none is due.

        It is made between two lessons, before any thinking: on a busy day that is never over.
        """
        if not self._to_merge:
            return False
        project_id = self._to_merge[0]
        try:
            self._merge(project_id)
        finally:
            self._to_merge.pop(0)
        return True

    def _merge(self, project_id: str) -> None:
        found = self._merger.merge(project_id)
        if found is None:
            return
        merged, event = found
        self._append(project_id, event)
        if event.is_used:
            self._shelf.publish(start_of(project_id), merged)
        else:
            logger.info("project %s: its sessions' mean lost against the base", project_id)
            self._shelf.drop(start_of(project_id))


def _learned(name: str, finished: Finished, link: Link, report: ObjectReport) -> Learned:
    return Learned(
        session=name,
        annotation_id=finished.submission.annotation_id,
        region_id=link.region_id,
        submission=finished.submission.idempotency_key,
        submission_seq=link.submission_seq,
        position=link.position,
        requests=finished.requests,
        adapted_iou=report.adapted_iou,
        frozen_iou=report.frozen_iou,
        n_steps=report.n_steps,
        skipped=report.skipped,
        turned_back=report.turned_back,
        version=report.version,
    )


def _thought(awake: _Awake, thought: Thought) -> ThoughtOver:
    return ThoughtOver(
        session=awake.name,
        n_begun=thought.n_begun,
        n_steps=thought.n_steps,
        version=awake.taught.adapter.version,
    )


def _forgot(name: str, annotation_id: str, n_objects: int, session: TaughtSession) -> Forgot:
    logger.info("session %s forgot %d objects", name, n_objects)
    return Forgot(
        session=name,
        annotation_id=annotation_id,
        n_objects=n_objects,
        version=session.adapter.version,
    )


def _log(name: str, report: ObjectReport) -> None:
    logger.info(
        "session %s: adapted IoU %.3f, frozen %.3f, %d steps%s",
        name,
        report.adapted_iou,
        report.frozen_iou,
        report.n_steps,
        ", turned back" if report.turned_back else "",
    )
