"""The learner beside several workers: started by their parent, and started again when it ends.

The parent forks it as it forks workers, looks after it about once a second, and kills it when it
gives no sign of life: one that is stopped in the middle of a write to SQLite would hold up all
others.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn, Protocol

from adaptation.errors import StropError
from backend.metrics import forget_process
from backend.server.learner_process import LearnerProcess, holder_name
from backend.settings import Settings

logger = logging.getLogger(__name__)

HANGS_S = 30.0
"""A learner that gave no sign of life for so long is killed: above what a journal that fails takes
to say so."""

LOAD_S = 300.0
"""It has this long to load its model."""

WAITS_S = (0.0, 30.0)
"""Until a learner is started again: where it ended once, and where it ends again and again."""

STEADY_S = 60.0
"""One that lived for so long did not end because of how it was started."""


class SignOfLife(Protocol):
    """Something that a child touches and its parent looks at."""

    def notify(self) -> None:
        """The child lives."""

    def last_update(self) -> float:
        """When it said so last: monotonic seconds."""

    def close(self) -> object:
        """Nobody looks any more."""


@dataclass(slots=True)
class _Child:
    pid: int
    holder: str
    sign: SignOfLife
    started_at: float


class LearnerSupervisor:
    """Keeps one learner running.  Used by the parent's one thread.

    Args:
        settings: Handed to the learner.
        sign_of_life: Makes what a learner touches.
        in_child: Called first in a learner's process: closes what it has no use for.
    """

    def __init__(
        self,
        settings: Settings,
        sign_of_life: Callable[[], SignOfLife],
        in_child: Callable[[], object],
    ) -> None:
        self._settings, self._sign_of_life, self._in_child = settings, sign_of_life, in_child
        self._child: _Child | None = None
        self._ended: str | None = None
        self._wait_s, self._start_at = WAITS_S[0], 0.0

    def look(self) -> None:
        """Start a learner where there is none, and kill one that hangs."""
        child, now = self._child, time.monotonic()
        if child is None:
            if now >= self._start_at:
                self._start()
        elif _has_ended(child.pid):
            self._note_end(child, now)
        elif self._hangs(child, now):
            logger.error("learner %d hangs, it is killed and started again", child.pid)
            _send(child.pid, signal.SIGKILL)

    def ask_to_stop(self) -> None:
        """Have it end; returns at once."""
        self._start_at = float("inf")
        if self._child is not None:
            _send(self._child.pid, signal.SIGTERM)

    def stop(self, timeout_s: float) -> None:
        """Have it end, and see that it does."""
        self.ask_to_stop()
        end, child = time.monotonic() + timeout_s, self._child
        if child is None:
            return
        while not _has_ended(child.pid):
            if time.monotonic() > end:
                _send(child.pid, signal.SIGKILL)
            time.sleep(0.05)
        self._child = None

    def _start(self) -> None:
        holder, sign, parent = holder_name(), self._sign_of_life(), os.getpid()
        pid = os.fork()
        if pid == 0:
            _live(self._settings, holder, self._ended, sign, parent, self._in_child)
        self._child = _Child(pid, holder, sign, time.monotonic())

    def _note_end(self, child: _Child, now: float) -> None:
        """It has ended: the next one may have its lease at once."""
        is_steady = now - child.started_at > STEADY_S
        self._wait_s = WAITS_S[0] if is_steady else self._wait_s
        logger.warning("learner %d has ended, it is started again", child.pid)
        self._start_at = now + self._wait_s
        self._wait_s = min(WAITS_S[1], max(1.0, 2 * self._wait_s))
        child.sign.close()
        forget_process(child.pid)
        self._child, self._ended = None, child.holder

    def _hangs(self, child: _Child, now: float) -> bool:
        last = child.sign.last_update()
        if last < child.started_at or last > now + 1.0:  # it has not given any yet
            return now - child.started_at > LOAD_S
        return now - last > HANGS_S


def _live(
    settings: Settings,
    holder: str,
    ended: str | None,
    sign: SignOfLife,
    parent: int,
    in_child: Callable[[], object],
) -> NoReturn:
    """Be a learner, in a process that was forked for it."""
    code = 1
    try:
        in_child()
        process = LearnerProcess(
            settings,
            holder,
            ended=ended,
            beat=sign.notify,
            is_orphan=lambda: os.getppid() != parent,
        )
        signal.signal(signal.SIGTERM, lambda *_: process.stop())
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is its parent's affair
        process.run()
        code = 0
    except StropError as error:
        logger.error("the learner ends: %s", error)
    except BaseException:
        logger.exception("the learner ends")
    finally:
        logging.shutdown()
        os._exit(code)


def _has_ended(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True  # somebody else has asked for how it ended


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
