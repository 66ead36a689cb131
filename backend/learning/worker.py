"""Sessions that learn behind the replies: one background thread, many sessions, clicks first.

A click is answered with its session's weights as they stand; nothing slow happens on its way.
Sessions are trained on finished masks on a thread of their own, which pauses while any click is
being answered.  When no object waits, it trains on in the idle time (Schön et al. 2024, arXiv
2404.08421, call it the annotator's thinking time).  A session with nothing to gain costs nothing.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from cachetools import LRUCache

from adaptation.errors import ImageError, InputError, StoreError, StropError
from adaptation.journal import Journal, Lease, Link, SubmissionRecord
from adaptation.learning.settings import LearnerSettings
from adaptation.models.sam import PromptableSam
from adaptation.predictor.interactive import WeightsAt
from adaptation.predictor.zoom import View
from adaptation.storage.album import Album
from adaptation.types import Embedding
from backend.embeddings.encoder import Encoder
from backend.images.loader import ImageIdentity, TaskImage
from backend.learning.adapter_store import AdapterStore
from backend.learning.carry_out import SessionCommands
from backend.learning.catch_up import CatchUp
from backend.learning.fence import FolderFence
from backend.learning.manager import OnlineOptions, SessionManager
from backend.learning.objects import ObjectReader, ReplayContext
from backend.learning.session_log import SessionLog
from backend.metrics import Metrics
from backend.threads import lower_priority

logger = logging.getLogger(__name__)

LEARNING_NICENESS = 19
"""Of the thread that learns: a click that comes in the middle of a computation takes its core."""

WAITS_S = (0.5, 30.0)
"""Between two looks whether a journal that failed answers again: at first, and at most."""

MOST_TRIES = 3
"""Tries of one object while the journal answers; then it is left to the next look around."""

MISSED_WAITS_S = (60.0, 3600.0)
"""Until objects that failed are looked for again: at first, and at most."""

MAX_IMAGES = 256
"""Images of the last clicks of which it is known where they are read from."""


_Due = tuple[SubmissionRecord, Sequence[Link]] | Literal["asked", "linked late"]
"""A submission with its links; or what else has to be looked for in the journal."""


class OnlineLearning:
    """A :class:`~backend.learning.interface.Learning`, one learner a session.  Thread-safe.

    Args:
        sam: The shared model.
        images: Give embeddings of the objects that are replayed.
        journal: Where everything that changes a session goes.
        settings: How sessions learn.
        options: How sessions are kept.
        metrics: Told of what is learned; None: nobody is.
        lease: Under which adapters are written; None: no other process writes them.
    """

    def __init__(
        self,
        sam: PromptableSam,
        images: KnownImages,
        journal: Journal,
        settings: LearnerSettings,
        options: OnlineOptions,
        metrics: Metrics | None = None,
        lease: Lease | None = None,
    ) -> None:
        self._images = images
        self._metrics = Metrics() if metrics is None else metrics
        self._at_work, self._n_due = 0, 1  # the first thing due is what was missed
        self._quiet = threading.Condition()
        self._due: queue.SimpleQueue[_Due | None]
        self._due = queue.SimpleQueue()
        self._is_stopping = threading.Event()
        self._journal, self._missed = journal, _Again(*MISSED_WAITS_S)
        reader = ObjectReader(journal, images.embed)
        context = ReplayContext(sam=sam, reader=reader, pause=self._wait_for_quiet)
        self.adapters = AdapterStore(
            sam,
            options.folder,
            max_sessions=options.max_sessions,
            ttl_s=options.ttl_s,
            writing=None if lease is None else FolderFence(options.folder, lease).held,
        )
        """What sessions answer with."""
        log = SessionLog(journal, self.adapters, sam.decoder_id, self._metrics)
        self._manager = SessionManager(context, log, settings, options)
        self._catch_up = CatchUp(context, log, self._manager)
        self._commands = SessionCommands(log, self._manager)
        self._n_threads = torch.get_num_threads()
        self._thread = threading.Thread(target=self._run, name="learning", daemon=True)
        self._thread.start()

    # On the way of a click ---------------------------------------------------------------------

    @contextmanager
    def click(self) -> Iterator[None]:
        """Training pauses inside."""
        with self._quiet:
            self._at_work += 1
        try:
            yield
        finally:
            with self._quiet:
                self._at_work -= 1
                self._quiet.notify_all()

    def weights(self, project_id: str, label: str, task_id: str) -> tuple[WeightsAt, str]:
        """The session's weights as they stand, and their version."""
        return self._manager.weights(project_id, label, task_id)

    def n_learned(self, project_id: str, label: str, task_id: str) -> int:
        """Objects that the session has learned from and not un-learned."""
        return self._manager.n_learned(project_id, label, task_id)

    def clicked(self, image: TaskImage, identity: ImageIdentity) -> None:
        """Remember where the image came from; returns at once."""
        self._images.seen(image, identity)

    # Behind the reply --------------------------------------------------------------------------

    def finished(self, submission: SubmissionRecord, links: Sequence[Link]) -> None:
        """Have the session trained on it, or un-learn it; returns at once."""
        self._put((submission, links))

    def _put(self, due: _Due) -> None:
        with self._quiet:
            self._n_due += 1
            self._metrics.learning_queue.set(self._n_due)
        self._due.put(due)

    def asked(self) -> None:
        """Have done what people asked, behind what was submitted before; returns at once."""
        self._put("asked")

    def linked_late(self) -> None:
        """Have trained on what was linked only now: a click came after its submission."""
        self._put("linked late")

    def stop(self, timeout_s: float) -> None:
        """End learning; what was not trained on yet is caught up with at the next start."""
        self._is_stopping.set()
        self._due.put(None)
        with self._quiet:
            self._quiet.notify_all()
        self._thread.join(timeout_s)

    def idle(self) -> bool:
        """Whether no object waits, and no session can gain by idle training."""
        with self._quiet:
            return self._n_due == 0 and self._manager.is_at_rest()

    def _run(self) -> None:
        torch.set_num_threads(self._n_threads)
        lower_priority(LEARNING_NICENESS)
        self._lasting("make sessions again", self._catch_up.rebuild_missing)
        self._carry_out()
        self._look_for_missed()
        self._done()
        while not self._is_stopping.is_set():
            if self._missed.is_due():
                self._carry_out()
                self._look_for_missed()
            try:
                is_over = not self._merge_or_train_idle()
                due = self._due.get(block=is_over, timeout=self._missed.left_s())
            except queue.Empty:
                continue
            if due is None:
                continue
            if due == "asked":
                self._carry_out()
            elif due == "linked late":
                self._look_for_missed()
            else:
                self._learn(*due)
            self._done()

    def _done(self) -> None:
        with self._quiet:
            self._n_due -= 1
            self._metrics.learning_queue.set(self._n_due)

    def _carry_out(self) -> None:
        """Do what people asked, all of it; what fails is asked again with what was missed."""
        self._lasting("do what was asked of sessions", self._commands.carry_out)

    def _look_for_missed(self) -> None:
        """Train on what the journal holds and was never learned: missed, or failed since."""
        self._missed.begin()
        self._lasting("catch up with the journal", self._catch_up_on_all)
        if not self._missed.is_wanted:
            self._missed.rest()

    def _catch_up_on_all(self) -> None:
        for work in self._catch_up.missed():
            if self._is_stopping.is_set():
                return
            self._lasting("learn what was missed", work)

    def _learn(self, submission: SubmissionRecord, links: Sequence[Link]) -> None:
        what = f"learn from annotation {submission.annotation_id}"
        if any(link.standing != "current" for link in links):
            return  # a later version came before it
        is_gone = submission.event == "deleted" or submission.was_cancelled or not links
        newest = None if is_gone else links[0].submission_seq
        if submission.event != "created":
            annotation_id = submission.annotation_id
            self._lasting(what, lambda: self._manager.rewritten(annotation_id, newest))
        if is_gone:
            return
        for link in links:
            self._lasting(what, lambda link=link: self._manager.train_on(submission, link))  # type: ignore[misc]

    def _lasting(self, what: str, work: Callable[[], object]) -> None:
        """Do what must be done, waiting out a journal that fails; what fails else is missed.

        The order of objects is kept meanwhile: a session depends on it.
        """
        for _ in range(MOST_TRIES):
            try:
                work()
                return
            except StoreError as error:
                logger.warning("could not %s, it is tried again: %s", what, error)
                if not self._outlast():
                    return
            except InputError as error:
                logger.warning("could not %s: %s", what, error)
                if isinstance(error, ImageError):
                    break  # its host may come back
                return
            except StropError as error:
                logger.warning("could not %s: %s", what, error)
                break
            except Exception:
                logger.exception("could not %s", what)
                break
        self._missed.want()

    def _outlast(self) -> bool:
        """Wait until the journal answers, then see what it holds; False when learning ends."""
        wait_s, most_s = WAITS_S
        while not self._is_stopping.wait(wait_s):
            try:
                self._journal.check_writable()
                self._catch_up.rebuild_missing()
                return True
            except StropError as error:
                logger.debug("the journal does not answer yet: %s", error)
            wait_s = min(2 * wait_s, most_s)
        return False

    def _merge_or_train_idle(self) -> bool:
        """Merge what is due, or train in idle time; False when nothing is left to gain."""
        if self._is_stopping.is_set():
            return False
        self._wait_for_quiet()
        if self._guarded("make a new start of what sessions learned", self._manager.merge):
            return True
        return self._guarded(
            "train in idle time", lambda: self._manager.train_idle(self._is_wanted_elsewhere)
        )

    def _guarded(self, what: str, work: Callable[[], object]) -> bool:
        """Nothing that goes wrong with one object may end learning; the log says so."""
        try:
            return bool(work())
        except StropError as error:
            logger.warning("could not %s: %s", what, error)
        except Exception:
            logger.exception("could not %s", what)
        return False

    def _is_wanted_elsewhere(self) -> bool:
        with self._quiet:
            return self._at_work > 0 or not self._due.empty() or self._is_stopping.is_set()

    def _wait_for_quiet(self) -> None:
        with self._quiet:
            self._quiet.wait_for(lambda: self._at_work == 0 or self._is_stopping.is_set())


class _Again:
    """When to look again for what failed: the longer in vain, the rarer.  For one thread.

    Args:
        first_s: Seconds until the first look.
        most_s: Seconds between two looks at most.
    """

    def __init__(self, first_s: float, most_s: float) -> None:
        self._first_s = self._wait_s = first_s
        self._most_s, self._at = most_s, float("inf")

    @property
    def is_wanted(self) -> bool:
        """Whether anything failed since the last look began."""
        return self._at < float("inf")

    def want(self) -> None:
        """Something failed."""
        if not self.is_wanted:
            self._at = time.monotonic() + self._wait_s

    def begin(self) -> None:
        """A look begins; should something fail in it, the next one is further away."""
        self._at, self._wait_s = float("inf"), min(2 * self._wait_s, self._most_s)

    def rest(self) -> None:
        """Nothing failed: the next failure is looked after soon."""
        self._wait_s = self._first_s

    def is_due(self) -> bool:
        """Whether it is time."""
        return time.monotonic() >= self._at

    def left_s(self) -> float | None:
        """Seconds until then; None where nothing failed."""
        return max(0.0, self._at - time.monotonic()) if self.is_wanted else None


class KnownImages:
    """Embeddings of images by their digest: from the cache, the album, or where a click found them.

    Args:
        encoder: Makes them.
        album: Looked into first.
    """

    def __init__(self, encoder: Encoder, album: Album) -> None:
        self._encoder, self._album = encoder, album
        self._lock = threading.Lock()
        self._seen: LRUCache[str, tuple[TaskImage, ImageIdentity]] = LRUCache(MAX_IMAGES)

    def seen(self, image: TaskImage, identity: ImageIdentity) -> None:
        """Remember where an image is read from."""
        with self._lock:
            self._seen[identity.digest] = (image, identity)

    def embed(self, image_id: str, view: View) -> Embedding:
        """The embedding of a view; ImageError where nobody has the image any more."""
        with self._lock:
            seen = self._seen.get(image_id)
        if seen is None or self._album.path(image_id) is not None:
            return self._encoder.embed_from(self._album, image_id, view)
        return self._encoder.embed(*seen, view)
