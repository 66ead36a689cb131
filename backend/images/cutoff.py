"""An end for a whole HTTP exchange: connecting, TLS, headers and body together.

The time-outs of sockets hold between two bytes: a host that sends one byte a second never meets
them.  Here a timer shuts the exchange's socket, and whoever reads from it learns that it is over.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

_CURRENT = threading.local()

Found = TypeVar("Found")


class Cutoff:
    """Shuts the sockets of what this thread exchanges once the time is over.

    Args:
        seconds: From entering the block on.
    """

    def __init__(self, seconds: float) -> None:
        self.is_over = False
        self._seconds, self._ends_at = seconds, float("inf")
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._shut)
        self._timer.daemon = True

    def __enter__(self) -> Cutoff:
        _CURRENT.cutoff = self
        self._ends_at = time.monotonic() + self._seconds
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        _CURRENT.cutoff = None
        self._timer.cancel()
        with self._lock:
            for held in self._sockets:
                held.close()
            self._sockets.clear()

    @property
    def left_s(self) -> float:
        """Seconds until the time is over."""
        return max(0.0, self._ends_at - time.monotonic())

    def watch(self, sock: Any) -> None:
        """Shut this socket too; TLS hands it on to another object, so a duplicate is kept."""
        with self._lock:
            held = socket.socket(fileno=socket.dup(sock.fileno()))
            self._sockets.append(held)
        if self.is_over:
            self._shut()

    def _shut(self) -> None:
        with self._lock:
            self.is_over = True
            for held in self._sockets:
                with contextlib.suppress(OSError):
                    held.shutdown(socket.SHUT_RDWR)


def within_cutoff(work: Callable[[], Found]) -> Found:
    """Do something that cannot be broken off, such as a name's lookup, but wait no longer for it.

    Outside of a cutoff it is done as it is.  Inside, a thread does it; where the time is over, that
    thread is left to the system's own time-out.

    Raises:
        TimeoutError: The time of this thread's cutoff is over.
        Exception: What `work` raises.
    """
    cutoff: Cutoff | None = getattr(_CURRENT, "cutoff", None)
    if cutoff is None:
        return work()
    answers: queue.SimpleQueue[tuple[Found | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put((work(), None))
        except BaseException as error:
            answers.put((None, error))

    threading.Thread(target=run, name="lookup", daemon=True).start()
    try:
        found, error = answers.get(timeout=cutoff.left_s)
    except queue.Empty:
        cutoff.is_over = True
        raise TimeoutError("the time of the exchange is over") from None
    if error is not None:
        raise error
    return cast(Found, found)


def _watch(sock: Any) -> None:
    cutoff: Cutoff | None = getattr(_CURRENT, "cutoff", None)
    if cutoff is not None and sock is not None:
        cutoff.watch(sock)


class _Connection(HTTPConnection):
    """Tells the cutoff of its socket: a new one, and one of an earlier exchange."""

    def _new_conn(self) -> socket.socket:
        sock = super()._new_conn()
        _watch(sock)
        return sock

    def request(self, *args: Any, **kwargs: Any) -> None:
        _watch(self.sock)
        super().request(*args, **kwargs)


class _SecureConnection(_Connection, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


POOLS = {"http": _Pool, "https": _SecurePool}
"""For a urllib3 ``PoolManager.pool_classes_by_scheme``."""


class SlowHosts:
    """Hosts that kept somebody waiting in vain, and are not asked for a while.  Thread-safe.

    Args:
        most: Downloads in a row that may run out of time.
        rest_s: Seconds that the host then rests.
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float], most: int = 2, rest_s: float = 30.0) -> None:
        self._clock, self._most, self._rest_s = clock, most, rest_s
        self._lock = threading.Lock()
        self._failures: dict[str, tuple[int, float]] = {}

    def rests(self, host: str) -> bool:
        """Whether the host is not to be asked now."""
        with self._lock:
            n_failures, at = self._failures.get(host, (0, 0.0))
            return n_failures >= self._most and self._clock() - at < self._rest_s

    def note(self, host: str, *, was_in_time: bool) -> None:
        """A download ended, well or because its time was over."""
        with self._lock:
            n_failures, _ = self._failures.pop(host, (0, 0.0))
            if not was_in_time:
                self._failures[host] = (n_failures + 1, self._clock())
                while len(self._failures) > 1000:
                    del self._failures[next(iter(self._failures))]
