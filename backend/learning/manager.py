"""Where sessions are trained: every call that moves one is written down before it shows.

Used by the one thread that learns, but for :meth:`SessionManager.weights`.  An event goes to the
journal first; then the weights are published and saved.  So no file is ahead of the journal, and
one that is behind it, or missing, is made again from it.
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

from adaptation.errors import InputError
from adaptation.journal import Journal, Link, SubmissionRecord
from adaptation.learning.learner import ObjectReport
from adaptation.learning.settings import LearnerSettings
from adaptation.models.sam import PromptableSam
from adaptation.predictor.interactive import WeightsAt
from backend.learning.adapter_store import AdapterStore
from backend.learning.events import (
    Began,
    Forgot,
    IdleTrained,
    Learned,
    SessionEvent,
    Start,
    read_events,
    read_passed_over,
    start_of,
    write_event,
    write_passed_over,
)
from backend.learning.index import SessionIndex
from backend.learning.merging import Merger
from backend.learning.objects import Embed, LinkedObject, ObjectReader
from backend.learning.rebuild import Rebuilder, Rebuilt, settings_json
from backend.learning.session import IdleStretch, LearningSession, Pause

logger = logging.getLogger(__name__)

Scope = Literal["project", "label", "task"]

MAX_HISTORY = 500
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
class _OpenSession:
    """A session with its learner."""

    name: str
    project_id: str
    session: LearningSession
    start: Start
    has_begun: bool = False
    may_train_idle: bool = False


class SessionManager:
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
        self._reader, self._index = ObjectReader(journal), SessionIndex(sam.decoder_id)
        self._open: OrderedDict[str, _OpenSession] = OrderedDict()
        self._adapters = AdapterStore(
            sam, options.folder, max_sessions=options.max_sessions, ttl_s=options.ttl_s
        )
        most = 0 if options.scope == "project" else options.merge
        self._merger = Merger(
            sam, settings, self._reader, self._index, self._adapters, embed, pause, most
        )
        self._to_merge: list[str] = []
        self._mended: set[str] = set()
        journal.append_event("learning_began")

    # Answers -----------------------------------------------------------------------------------

    def weights(self, project_id: str, label: str, task_id: str) -> tuple[WeightsAt, str]:
        """What a session answers with, and its version.  Any thread may ask."""
        return self._adapters.weights(self._name(project_id, label, task_id), start_of(project_id))

    def _name(self, project_id: str, label: str, task_id: str) -> str:
        if self._options.scope == "label":
            return f"project-{project_id}-label-{label}"
        if self._options.scope == "task":
            return f"project-{project_id}-task-{task_id}"
        return f"project-{project_id}"

    # Teaching ----------------------------------------------------------------------------------

    def train_on(self, submission: SubmissionRecord, link: Link) -> None:
        """Teach a session a submitted region; nothing where no session answered its clicks.

        Raises:
            StropError: It cannot be taught; the session stays as it was.
        """
        if link.request_id is None or self._index.knows(link.submission_seq, link.position):
            return
        try:
            linked = self._reader.linked(submission, link.position, link.request_id)
            finished = None if linked is None else linked.session_object(self._embed)
        except InputError as error:  # the journal holds no mask or no request, now and for ever
            self._pass_over(submission.project_id, link, str(error))
            raise
        if linked is None or finished is None:
            self._pass_over(submission.project_id, link, "no session answered its clicks")
            return
        last = linked.last
        opened = self._wake(self._name(last.project_id, last.label, last.task_id), last.project_id)
        asked = opened.session.answer_again(finished, self._pause)
        with self._whole(opened):
            report = opened.session.train_on(finished, asked, self._pause)
            self._write(opened, _learned(opened.name, linked, link, report))
        opened.may_train_idle = True
        self._note_due(opened.project_id, at_rest=False)
        _log(opened.name, report)

    def _pass_over(self, project_id: str, link: Link, reason: str) -> None:
        write_passed_over(self._journal, project_id, link.submission_seq, link.position, reason)
        self._index.settle(link.submission_seq, link.position)

    def train_idle(self, should_stop: Callable[[], bool]) -> bool:
        """One stretch of thinking in the session used last; False when none can gain anything."""
        thinkers = [opened for opened in self._open.values() if opened.may_train_idle]
        if not thinkers:
            return False
        opened = max(thinkers, key=lambda a: self._adapters.used_at(a.name))
        with self._whole(opened):
            thought = opened.session.train_idle(should_stop, self._pause)
            if thought.n_begun:
                self._write(opened, _idle_trained(opened, thought))
        if not thought.n_steps and not should_stop():
            opened.may_train_idle = False
            self._note_due(opened.project_id, at_rest=self._is_at_rest(opened.project_id))
        return True

    def is_at_rest(self) -> bool:
        """Whether no session may gain anything, and no start is due; any thread may ask."""
        opened = tuple(self._open.values())
        return not self._to_merge and not any(session.may_train_idle for session in opened)

    def rewritten(self, annotation_id: str, newest_seq: int | None) -> None:
        """Un-learn an annotation unless sessions know its newest version already.

        Args:
            annotation_id: The annotation.
            newest_seq: The entry of the version in force; None where it was deleted.
        """
        known = self._index.standing.get(annotation_id)
        if known is not None and known[1] != newest_seq:
            self.unlearn(annotation_id)

    def unlearn(self, annotation_id: str) -> None:
        """Un-learn an annotation in every session that knows it.

        Raises:
            StoreError: The journal fails; asked again, it goes on.
        """
        known = self._index.standing.get(annotation_id)
        if known is None:
            return
        try:
            self._unlearn(known[0], annotation_id)
        except BaseException:
            self._index.standing[annotation_id] = known
            raise

    def _unlearn(self, project_id: str, annotation_id: str) -> None:
        n_forgotten = 0
        for opened in list(self._open.values()):
            with self._whole(opened):
                n_objects = opened.session.unlearn(annotation_id, self._pause)
                if n_objects:
                    self._write(
                        opened, _forgot(opened.name, annotation_id, n_objects, opened.session)
                    )
            n_forgotten += n_objects
        if not n_forgotten:
            self._unlearn_older(project_id, annotation_id)

    def _unlearn_older(self, project_id: str, annotation_id: str) -> None:
        """Un-learn what sessions were taught before they woke up last."""
        events = [event for _, event in read_events(self._journal, project_id)]
        if sum(isinstance(event, Learned) for event in events) > MOST_AGAIN:
            logger.warning("annotation %s stays learned: it is too old", annotation_id)
            self._index.standing.pop(annotation_id)
            return
        for name, session in self._rebuilt(project_id, events).sessions.items():
            n_objects = session.unlearn(annotation_id, self._pause)
            if n_objects:
                self._open.pop(name, None)
                event = _forgot(name, annotation_id, n_objects, session)
                self._append(project_id, event)
                self._adapters.publish(name, session.adapter)

    # What was missed -----------------------------------------------------------------------------

    def rebuild_missing(self) -> None:
        """Make sessions again whose file is missing or behind the journal.

        Everything is read anew: after an outage nobody knows whether the last event was kept.
        """
        self._read_index()
        behind = {
            project_id
            for name, (project_id, version) in self._index.versions.items()
            if self._adapters.saved_version(name) != version
        }
        for project_id in sorted(behind):
            events = [event for _, event in read_events(self._journal, project_id)]
            rebuilt = self._rebuilt(project_id, events)
            for name, session in rebuilt.sessions.items():
                self._adapters.publish(name, session.adapter)
            if rebuilt.start is not None:
                self._adapters.publish(start_of(project_id), rebuilt.start)

    def _read_index(self) -> None:
        self._index.clear()
        for project_id, event in read_events(self._journal):
            self._index.note(project_id, event)
        for submission_seq, position in read_passed_over(self._journal):
            self._index.settle(submission_seq, position)

    def take_up(self) -> Iterator[Callable[[], None]]:
        """What happened to annotations while nobody was there to learn from it, to be done."""
        self._journal.link_pending()
        known = self._index
        for link in self._journal.links(current_only=False):
            if link.standing != "current":
                if known.standing.get(link.annotation_id, ("", 0))[1] == link.submission_seq:
                    yield lambda link=link: self.unlearn(link.annotation_id)  # type: ignore[misc]
            elif link.request_id is not None and not known.knows(
                link.submission_seq, link.position
            ):
                yield lambda link=link: self._train_missed(link)  # type: ignore[misc]

    def _train_missed(self, link: Link) -> None:
        found = self._journal.submissions(annotation_id=link.annotation_id, current_only=True)
        for submission in found:
            self.train_on(submission, link)

    def _rebuilt(self, project_id: str, events: list[SessionEvent]) -> Rebuilt:
        logger.info("project %s: its sessions are made again from the journal", project_id)
        rebuilder = Rebuilder(self._sam, self._reader, self._embed, pause=self._pause)
        rebuilt = rebuilder.rebuild(project_id, events)
        for name, difference in rebuilt.differences.items():
            logger.warning("session %s was not made again as it was: %s", name, difference)
        return rebuilt

    # Sessions ----------------------------------------------------------------------------------

    def _wake(self, name: str, project_id: str) -> _OpenSession:
        known = self._open.get(name)
        if known is None or known.session.n_objects >= MAX_HISTORY:
            self._mend(name, project_id)
            origin, start = self._adapters.origin(name, start_of(project_id))
            session = LearningSession(self._sam, self._settings, self._options.seed, origin)
            known = self._open[name] = _OpenSession(name, project_id, session, start)
        self._open.move_to_end(name)
        while len(self._open) > self._options.max_learners:
            _, asleep = self._open.popitem(last=False)
            logger.info("session %s goes to sleep", asleep.name)
        return known

    def _mend(self, name: str, project_id: str) -> None:
        """Make a session again whose weights are not those that the journal speaks of.

        So it is when its file was damaged or removed; tried once, it may be impossible.
        """
        _, version = self._index.versions.get(name, (project_id, None))
        held = self._adapters.adapter(name)
        if version is None or name in self._mended or (held and held.version == version):
            return
        self._mended.add(name)
        events = [event for _, event in read_events(self._journal, project_id)]
        session = self._rebuilt(project_id, events).sessions.get(name)
        if session is not None:
            self._adapters.publish(name, session.adapter)

    @contextmanager
    def _whole(self, opened: _OpenSession) -> Iterator[None]:
        """A session that failed in the middle of something goes on from what was saved last."""
        try:
            yield
        except BaseException:
            self._open.pop(opened.name, None)
            raise

    def _write(self, opened: _OpenSession, event: Learned | IdleTrained | Forgot) -> None:
        """Write an event down, and only then show and save what it led to."""
        if not opened.has_begun:
            self._append(opened.project_id, self._began(opened))
            opened.has_begun = True
        self._append(opened.project_id, event)
        self._adapters.publish(opened.name, opened.session.adapter)

    def _append(self, project_id: str, event: SessionEvent) -> None:
        write_event(self._journal, project_id, event)
        self._index.note(project_id, event)

    def _began(self, opened: _OpenSession) -> Began:
        return Began(
            session=opened.name,
            start=opened.start,
            version=opened.session.origin.version,
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
        opened = self._open.values()
        return not any(
            session.may_train_idle for session in opened if session.project_id == project_id
        )

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
            self._adapters.publish(start_of(project_id), merged)
        else:
            logger.info("project %s: its sessions' mean lost against the base", project_id)
            self._adapters.drop(start_of(project_id))


def _learned(name: str, linked: LinkedObject, link: Link, report: ObjectReport) -> Learned:
    return Learned(
        session=name,
        annotation_id=linked.submission.annotation_id,
        region_id=link.region_id,
        submission=linked.submission.idempotency_key,
        submission_seq=link.submission_seq,
        position=link.position,
        requests=linked.requests,
        adapted_iou=report.adapted_iou,
        frozen_iou=report.frozen_iou,
        n_steps=report.n_steps,
        skipped=report.skipped,
        turned_back=report.turned_back,
        version=report.version,
    )


def _idle_trained(opened: _OpenSession, thought: IdleStretch) -> IdleTrained:
    return IdleTrained(
        session=opened.name,
        n_begun=thought.n_begun,
        n_steps=thought.n_steps,
        version=opened.session.adapter.version,
    )


def _forgot(name: str, annotation_id: str, n_objects: int, session: LearningSession) -> Forgot:
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
