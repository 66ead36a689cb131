"""Where sessions are trained: every call that changes one is written down before it shows.

Used by the one thread that learns, but for :meth:`SessionManager.weights`,
:meth:`SessionManager.n_learned` and :meth:`SessionManager.is_at_rest`, which any thread may call.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from adaptation.errors import InputError
from adaptation.journal import Link, SubmissionRecord
from adaptation.learning.learner import ObjectReport
from adaptation.learning.settings import LearnerSettings
from adaptation.predictor.interactive import WeightsAt
from backend.learning.events import Began, Ended, Forgot, IdleTrained, Learned, Start
from backend.learning.merging import Merger
from backend.learning.names import Scope, session_name, start_of
from backend.learning.objects import LinkedObject, ReplayContext
from backend.learning.rebuild import rebuild_project, settings_json
from backend.learning.session import IdleStretch, LearningSession
from backend.learning.session_log import SessionLog

logger = logging.getLogger(__name__)

MAX_HISTORY = 500
"""Objects after which a session goes on with an empty memory."""

MAX_REBUILT = 200
"""A project with more objects than this is not trained again for one that is deleted after its
session was closed: the object stays learned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineOptions:
    """How sessions are kept.

    Args:
        scope: What shares a session: a click carries no user, so the default is the project.
        folder: Where adapters are kept between runs.
        max_sessions: Adapters in memory; the least recently used leave it.
        max_learners: Open sessions, which remember their objects; the one whose last training is
            the oldest is closed, and opens again with its weights and an empty memory.
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
    """Trains sessions.

    Args:
        context: The model, and what gives it the journal's objects.
        log: What is known of sessions.
        settings: How sessions learn.
        options: How they are kept.
    """

    def __init__(
        self,
        context: ReplayContext,
        log: SessionLog,
        settings: LearnerSettings,
        options: OnlineOptions,
    ) -> None:
        self._context, self._log = context, log
        self._settings, self._options = settings, options
        self._open: OrderedDict[str, _OpenSession] = OrderedDict()
        most = 0 if options.scope == "project" else options.merge
        self._merger = Merger(context, log, settings, most)
        self._to_merge: list[str] = []
        self._mended: set[str] = set()

    # Answers -----------------------------------------------------------------------------------

    def weights(self, project_id: str, label: str, task_id: str) -> tuple[WeightsAt, str]:
        """What a session answers with, and its version.  Any thread may ask."""
        name = session_name(self._options.scope, project_id, label, task_id)
        return self._log.adapters.weights(name, start_of(project_id))

    def n_learned(self, project_id: str, label: str, task_id: str) -> int:
        """Objects that a session has learned from and not un-learned.  Any thread may ask."""
        name = session_name(self._options.scope, project_id, label, task_id)
        return self._log.index.tallies.get(project_id, {}).get(name, 0)

    # Training ----------------------------------------------------------------------------------

    def train_on(self, submission: SubmissionRecord, link: Link) -> None:
        """Train a session on a submitted region; nothing where no session answered its clicks.

        Raises:
            StropError: The region cannot be trained on; the session stays as it was.
        """
        if link.request_id is None or self._log.index.knows(link.submission_seq, link.position):
            return
        if self._log.pass_over_in_pause(submission.project_id, link):
            return
        try:
            linked = self._context.reader.linked(submission, link.position, link.request_id)
            finished = None if linked is None else linked.session_object()
        except InputError as error:  # the journal holds no mask or no request, now and for ever
            self._log.pass_over(submission.project_id, link, str(error))
            raise
        if linked is None or finished is None:
            self._log.pass_over(submission.project_id, link, "no session answered its clicks")
            return
        last, pause = linked.last, self._context.pause
        name = session_name(self._options.scope, last.project_id, last.label, last.task_id)
        opened = self._opened(name, last.project_id)
        asked = opened.session.answer_again(finished, pause)
        with self._whole(opened):
            report = opened.session.train_on(finished, asked, pause)
            self._publish(opened, _learned(name, linked, link, report))
        opened.may_train_idle = True
        self._note_due(opened.project_id, at_rest=False)
        _log(name, report)

    def train_idle(self, should_stop: Callable[[], bool]) -> bool:
        """One stretch of idle training in the session used last; False: none can gain by it."""
        able = [opened for opened in self._open.values() if self._may_train_idle(opened)]
        if not able:
            return False
        opened = max(able, key=lambda o: self._log.adapters.used_at(o.name))
        with self._whole(opened):
            stretch = opened.session.train_idle(should_stop, self._context.pause)
            if stretch.n_begun:
                self._publish(opened, _idle_trained(opened, stretch))
        if not stretch.n_steps and not should_stop():
            opened.may_train_idle = False
            self._note_due(opened.project_id, at_rest=self._is_at_rest(opened.project_id))
        return True

    def is_at_rest(self) -> bool:
        """Whether no session may gain anything, and no start is due; any thread may ask."""
        opened = tuple(self._open.values())
        return not self._to_merge and not any(map(self._may_train_idle, opened))

    def _may_train_idle(self, opened: _OpenSession) -> bool:
        return opened.may_train_idle and opened.project_id not in self._log.paused

    def end(self, name: str, project_id: str, version: str) -> None:
        """Have a session begin anew, as if it had never learned.

        Raises:
            StoreError: The journal fails; the session stays as it was saved last.
        """
        self._open.pop(name, None)
        self._log.end(project_id, Ended(session=name, version=version))

    def rewritten(self, annotation_id: str, newest_seq: int | None) -> None:
        """Un-learn an annotation unless sessions know its newest version already.

        Args:
            annotation_id: The annotation.
            newest_seq: The entry of the version in force; None where it was deleted.
        """
        known = self._log.index.standing.get(annotation_id)
        if known is not None and known[1] != newest_seq:
            self.unlearn(annotation_id)

    def unlearn(self, annotation_id: str) -> int:
        """Un-learn an annotation in every session that knows it.

        Returns:
            Objects un-learned; 0 where no session knows it, or it is too old.

        Raises:
            StoreError: The journal fails; asked again, it goes on.
        """
        standing = self._log.index.standing
        known = standing.get(annotation_id)
        if known is None:
            return 0
        try:
            return self._unlearn(known[0], annotation_id)
        except BaseException:
            standing[annotation_id] = known
            raise

    def _unlearn(self, project_id: str, annotation_id: str) -> int:
        n_unlearned = 0
        for opened in list(self._open.values()):
            with self._whole(opened):
                n_objects = opened.session.unlearn(annotation_id, self._context.pause)
                if n_objects:
                    event = _forgot(opened.name, annotation_id, n_objects, opened.session)
                    self._publish(opened, event)
            n_unlearned += n_objects
        return n_unlearned or self._unlearn_older(project_id, annotation_id)

    def _unlearn_older(self, project_id: str, annotation_id: str) -> int:
        """Un-learn what sessions were trained on before they were opened last."""
        events = self._log.events(project_id)
        if sum(isinstance(event, Learned) for event in events) > MAX_REBUILT:
            logger.warning("annotation %s stays learned: it is too old", annotation_id)
            self._log.index.standing.pop(annotation_id)
            return 0
        n_unlearned = 0
        rebuilt = rebuild_project(self._context, project_id, events)
        for name, session in rebuilt.sessions.items():
            n_objects = session.unlearn(annotation_id, self._context.pause)
            if n_objects:
                self._open.pop(name, None)
                event = _forgot(name, annotation_id, n_objects, session)
                self._log.publish(project_id, event, session.adapter)
            n_unlearned += n_objects
        return n_unlearned

    # Open sessions -------------------------------------------------------------------------------

    def _opened(self, name: str, project_id: str) -> _OpenSession:
        known = self._open.get(name)
        if known is None or known.session.n_objects >= MAX_HISTORY:
            self._mend(name, project_id)
            origin, start = self._log.adapters.origin(name, start_of(project_id))
            session = LearningSession(self._context.sam, self._settings, self._options.seed, origin)
            known = self._open[name] = _OpenSession(name, project_id, session, start)
        self._open.move_to_end(name)
        while len(self._open) > self._options.max_learners:
            _, closed = self._open.popitem(last=False)
            logger.info("session %s is closed: others were trained after it", closed.name)
        return known

    def _mend(self, name: str, project_id: str) -> None:
        """Make a session again whose weights are not those that the journal speaks of.

        So it is when its file was damaged or removed; tried once, it may be impossible.
        """
        _, version = self._log.index.versions.get(name, (project_id, None))
        held = self._log.adapters.adapter(name)
        if version is None or name in self._mended or (held and held.version == version):
            return
        self._mended.add(name)
        events = self._log.events(project_id)
        session = rebuild_project(self._context, project_id, events).sessions.get(name)
        if session is not None:
            self._log.save(project_id, name, session.adapter)

    @contextmanager
    def _whole(self, opened: _OpenSession) -> Iterator[None]:
        """A session that failed in the middle of something goes on from what was saved last."""
        try:
            yield
        except BaseException:
            self._open.pop(opened.name, None)
            raise

    def _publish(self, opened: _OpenSession, event: Learned | IdleTrained | Forgot) -> None:
        if not opened.has_begun:
            self._log.append(opened.project_id, self._began(opened))
            opened.has_begun = True
        self._log.publish(opened.project_id, event, opened.session.adapter)

    def _began(self, opened: _OpenSession) -> Began:
        return Began(
            session=opened.name,
            start=opened.start,
            version=opened.session.origin.version,
            seed=self._options.seed,
            settings=settings_json(self._settings),
            decoder_id=self._context.sam.decoder_id,
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
        """Merge the sessions of a project that were trained last into the start of its next ones.

        It is done between two objects, before any idle training: on a busy day that is never over.

        Returns:
            False where no merge was due.
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
        self._log.append(project_id, event)
        if event.is_used:
            self._log.adapters.publish(start_of(project_id), merged)
        else:
            logger.info("project %s: its sessions' mean lost against the base", project_id)
            self._log.adapters.drop(start_of(project_id))


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


def _idle_trained(opened: _OpenSession, stretch: IdleStretch) -> IdleTrained:
    return IdleTrained(
        session=opened.name,
        n_begun=stretch.n_begun,
        n_steps=stretch.n_steps,
        version=opened.session.adapter.version,
    )


def _forgot(name: str, annotation_id: str, n_objects: int, session: LearningSession) -> Forgot:
    logger.info("session %s un-learned %d objects", name, n_objects)
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
