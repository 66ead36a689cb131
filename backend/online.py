"""Sessions that learn behind the replies: one background thread, many sessions, clicks first.

A click is answered with its session's weights as they stand; nothing slow happens on its way.
Finished masks are taught on a thread of their own, which stands still while any click is at work
and, when nothing is left to teach, uses the annotators' thinking time.  A session with nothing to
gain costs nothing.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from adaptation.adapter import Adapter, load_adapter, save_adapter
from adaptation.errors import ModelError, StropError
from adaptation.journal import Journal, Link, SubmissionRecord
from adaptation.learner import LearnerSettings, ObjectReport
from adaptation.lessons import AskedPrompt
from adaptation.sam import PromptableSam, Weights
from adaptation.types import Embedding
from adaptation.zoom import View
from backend.encoding import Encoder
from backend.records import ClickJob, ClickResult
from backend.sessions import ObjectKey
from backend.teaching import Taught, TaughtSession

logger = logging.getLogger(__name__)

Scope = Literal["project", "label", "task"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineOptions:
    """How sessions are kept.

    Args:
        scope: What shares a session: a click carries no user, so the default is the project.
        folder: Where adapters are kept between runs.
        max_sessions: Sessions in memory; the least recently used is saved and dropped.
        max_objects: Objects whose clicks are remembered until they are submitted.
        seed: Of all draws.
    """

    scope: Scope
    folder: Path
    max_sessions: int = 200
    max_objects: int = 1024
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Clicked:
    """An object's latest answered request and all that was asked before it."""

    job: ClickJob
    asked: tuple[AskedPrompt, ...]


@dataclass(slots=True, eq=False)
class _Session:
    name: str
    taught: TaughtSession
    weights: Weights | None = None
    version: str = "base"
    may_think: bool = False


class OnlineLearning:
    """A :class:`~backend.learning.Learning` with one learner for each session.  Thread-safe.

    Args:
        sam: The shared model.
        encoder: Gives embeddings of the objects that are replayed.
        journal: Where the outcome of every finished object goes.
        settings: How sessions learn.
        options: How sessions are kept.
    """

    def __init__(
        self,
        sam: PromptableSam,
        encoder: Encoder,
        journal: Journal,
        settings: LearnerSettings,
        options: OnlineOptions,
    ) -> None:
        self._sam, self._encoder, self._journal = sam, encoder, journal
        self._settings, self._options = settings, options
        self._lock = threading.Lock()
        self._sessions: OrderedDict[str, _Session] = OrderedDict()
        self._clicked: OrderedDict[str, _Clicked] = OrderedDict()
        self._of_object: dict[ObjectKey, str] = {}
        self._at_work = 0
        self._quiet = threading.Condition(self._lock)
        self._lessons: queue.SimpleQueue[tuple[SubmissionRecord, Sequence[Link]] | None]
        self._lessons = queue.SimpleQueue()
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="learning", daemon=True)
        self._thread.start()

    # On the way of a click ---------------------------------------------------------------------

    @contextmanager
    def click(self) -> Iterator[None]:
        """Learning stands still inside."""
        with self._quiet:
            self._at_work += 1
        try:
            yield
        finally:
            with self._quiet:
                self._at_work -= 1
                self._quiet.notify_all()

    def weights(self, key: ObjectKey) -> tuple[Weights | None, str]:
        """The session's weights as they stand, and their version."""
        session = self._session(
            self._name(key.place.project_id, key.place.label, key.place.task_id)
        )
        with self._lock:
            return session.weights, session.version

    def clicked(self, job: ClickJob, result: ClickResult) -> None:
        """Remember what was asked until the object is submitted; returns at once."""
        asked = AskedPrompt.of(result.answer)
        with self._lock:
            before = self._clicked.get(self._of_object.get(job.key, ""))
            earlier = before.asked if before is not None and _goes_on(before.job, job) else ()
            self._clicked[job.request_id] = _Clicked(job=job, asked=(*earlier, asked))
            self._of_object[job.key] = job.request_id
            while len(self._clicked) > self._options.max_objects:
                _, oldest = self._clicked.popitem(last=False)
                if self._of_object.get(oldest.job.key) == oldest.job.request_id:
                    del self._of_object[oldest.job.key]

    # Behind the reply --------------------------------------------------------------------------

    def finished(self, submission: SubmissionRecord, links: Sequence[Link]) -> None:
        """Teach the session, or make it forget; returns at once."""
        self._lessons.put((submission, links))

    def stop(self, timeout_s: float) -> None:
        """End learning; what was not taught yet stays in the journal."""
        self._is_stopping.set()
        self._lessons.put(None)
        self._thread.join(timeout_s)

    def idle(self) -> bool:
        """Whether nothing is left to teach (thinking may still go on)."""
        return self._lessons.empty()

    def _run(self) -> None:
        while not self._is_stopping.is_set():
            try:
                lesson = self._lessons.get(block=not self._think())
            except queue.Empty:
                continue
            if lesson is not None:
                self._guarded(*lesson)

    def _guarded(self, submission: SubmissionRecord, links: Sequence[Link]) -> None:
        """One submission that cannot be learned from must not end learning."""
        try:
            self._learn(submission, links)
        except StropError as error:
            logger.warning("nothing learned from %s: %s", submission.annotation_id, error)
        except Exception:
            logger.exception("nothing learned from annotation %s", submission.annotation_id)

    def _learn(self, submission: SubmissionRecord, links: Sequence[Link]) -> None:
        if submission.event != "created":
            self._forget(submission)
        if submission.event == "deleted" or submission.was_cancelled:
            return
        regions = {region.region_id: region for region in submission.regions}
        for link in links:
            with self._lock:
                clicked = self._clicked.get(link.request_id or "")
            region = regions.get(link.region_id)
            if clicked is None or region is None or region.rle is None:
                continue
            taught = Taught(
                annotation_id=submission.annotation_id,
                region_id=link.region_id,
                asked=clicked.asked,
                clicks=clicked.job.prompt.points,
                mask=region.rle,
                encode=self._encode(clicked.job),
            )
            self._teach(clicked.job, taught)

    def _teach(self, job: ClickJob, taught: Taught) -> None:
        place = job.key.place
        session = self._session(self._name(place.project_id, place.label, place.task_id))
        report = session.taught.teach(taught, self._wait_for_quiet)
        self._publish(session)
        session.may_think = True
        self._keep(session, place.project_id, taught, report)

    def _forget(self, submission: SubmissionRecord) -> None:
        """Un-learn an annotation in every session that it taught."""
        with self._lock:
            sessions = list(self._sessions.values())
        for session in sessions:
            n_forgotten = session.taught.forget(submission.annotation_id, self._wait_for_quiet)
            if n_forgotten:
                logger.info("session %s forgot %d objects", session.name, n_forgotten)
                self._publish(session)
                self._save(session)

    def _think(self) -> bool:
        """One stretch of thinking in the session used last; False when none can gain anything."""
        with self._lock:
            thinkers = [s for s in reversed(self._sessions.values()) if s.may_think]
        if not thinkers or self._is_stopping.is_set():
            return False
        session = thinkers[0]
        self._wait_for_quiet()
        n_steps = session.taught.think(self._is_wanted_elsewhere)
        session.may_think = n_steps > 0 or self._is_wanted_elsewhere()
        if n_steps:
            self._publish(session)
        elif not session.may_think:
            self._save(session)
        return True

    def _is_wanted_elsewhere(self) -> bool:
        with self._lock:
            return self._at_work > 0 or not self._lessons.empty() or self._is_stopping.is_set()

    def _wait_for_quiet(self) -> None:
        with self._quiet:
            self._quiet.wait_for(lambda: self._at_work == 0 or self._is_stopping.is_set())

    # Sessions ----------------------------------------------------------------------------------

    def _name(self, project_id: str, label: str, task_id: str) -> str:
        if self._options.scope == "label":
            return f"project-{project_id}-label-{label}"
        if self._options.scope == "task":
            return f"project-{project_id}-task-{task_id}"
        return f"project-{project_id}"

    def _session(self, name: str) -> _Session:
        with self._lock:
            session = self._sessions.get(name)
            if session is not None:
                self._sessions.move_to_end(name)
                return session
        fresh = self._opened(name)
        with self._lock:
            session = self._sessions.setdefault(name, fresh)
            self._sessions.move_to_end(name)
            while len(self._sessions) > self._options.max_sessions:
                self._sessions.popitem(last=False)
        return session

    def _opened(self, name: str) -> _Session:
        start = Adapter(decoder_id=self._sam.decoder_id)
        path = self._path(name)
        if path.exists():
            try:
                start = load_adapter(path, self._sam)
            except ModelError as error:
                logger.warning("session %s starts from the base decoder: %s", name, error)
        taught = TaughtSession(self._sam, self._settings, self._options.seed, start)
        session = _Session(name, taught)
        session.weights, session.version = start.weights(self._sam), start.version
        return session

    def _publish(self, session: _Session) -> None:
        """Let the next click be answered with what was learned."""
        adapter = session.taught.adapter
        weights = adapter.weights(self._sam)
        with self._lock:
            session.weights, session.version = weights, adapter.version

    def _path(self, name: str) -> Path:
        safe = "".join(c if c.isalnum() or c in "-_" else f"%{ord(c):x}" for c in name)
        return self._options.folder / f"{safe}.safetensors"

    def _save(self, session: _Session) -> None:
        adapter = session.taught.adapter
        try:
            save_adapter(adapter, self._path(session.name), {"session": session.name})
        except OSError as error:
            logger.error("session %s is not saved: %s", session.name, error.strerror)

    def _keep(
        self, session: _Session, project_id: str, taught: Taught, report: ObjectReport
    ) -> None:
        """Write the outcome down: what adaptation gained on the team's own work."""
        self._save(session)
        payload = {
            "session": session.name,
            "annotation_id": taught.annotation_id,
            "region_id": taught.region_id,
            **asdict(report),
        }
        self._journal.append_event("learned", project_id, payload)
        logger.info(
            "session %s: adapted IoU %.3f, frozen %.3f, %d steps%s",
            session.name,
            report.adapted_iou,
            report.frozen_iou,
            report.n_steps,
            ", turned back" if report.turned_back else "",
        )

    def _encode(self, job: ClickJob) -> _Encode:
        return _Encode(self._encoder, job)


@dataclass(frozen=True, slots=True, eq=False)
class _Encode:
    """Embeddings of a job's image, through the cache."""

    encoder: Encoder
    job: ClickJob

    def __call__(self, view: View) -> Embedding:
        return self.encoder.embed(self.job.image, self.job.identity, view)


def _goes_on(before: ClickJob, now: ClickJob) -> bool:
    """Whether a request adds to what was asked before, rather than starting the object again."""
    return set(before.prompt.ids) <= set(now.prompt.ids)
