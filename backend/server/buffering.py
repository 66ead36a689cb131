"""gunicorn's threads, but a request takes one only when all of it has arrived.

Each of gunicorn's threads reads the request that it serves, so as many slow connections as there
are threads stop everything.  Here the worker's own loop gathers the bytes of all connections at
once; one that has not sent its request in time is closed.  So no proxy is needed in front.
"""

from __future__ import annotations

import re
import select
import selectors
import socket
import time
from functools import partial
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

ARRIVAL_TIMEOUT_S = 20.0
"""From the first look at a connection until its request has arrived."""

SEND_TIMEOUT_S = 30.0
"""For a client to take a piece of the answer."""

MAX_HEAD = 65_536
"""Bytes of a request's line and headers; more are handed on, and refused there."""

MAX_GATHERED = 512_000_000
"""Bytes of all requests that are arriving; a connection that goes beyond is closed."""

_HEAD_END = b"\r\n\r\n"
_CHUNK = 1 << 18
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,15})[ \t]*\r\n", re.IGNORECASE)
_EXPECT = re.compile(rb"\r\nexpect:[ \t]*100-continue", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)


class BufferedSocket:
    """A client's socket, with what has arrived already in front; else the socket itself."""

    def __init__(self, sock: socket.socket, max_body: int) -> None:
        self._sock, self._max_body = sock, max_body
        self._data = bytearray()
        self._wanted: int | None = None
        self.give_up_at = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    @property
    def n_gathered(self) -> int:
        """Bytes that nobody has read yet."""
        return len(self._data)

    def begin(self) -> None:
        """The next request may arrive now."""
        self._wanted = None
        self.give_up_at = time.monotonic() + ARRIVAL_TIMEOUT_S

    def gather(self) -> bool:
        """Take what is there; whether nothing more is to wait for.

        That is so when the request is whole, and when it never will be: its reader then finds out.
        """
        try:
            more = self._sock.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            return True
        self._data += more
        return not more or self.is_whole()

    def is_whole(self) -> bool:
        """Whether a request is there, or what its reader will refuse at once."""
        if self._wanted is None:
            self._wanted = self._length()
        return self._wanted is not None and len(self._data) >= self._wanted

    def _length(self) -> int | None:
        """Bytes of the request; None where its head is not whole, 0 for what cannot be told."""
        end = self._data.find(_HEAD_END)
        if end < 0:
            return 0 if len(self._data) > MAX_HEAD else None
        head = bytes(self._data[: end + 2])
        if _CHUNKED.search(head):
            return None if not self._data.endswith(b"0\r\n\r\n") else 0
        if _EXPECT.search(head):
            self._sock.setblocking(True)
            self._sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._sock.setblocking(False)
        found = _LENGTH.search(head)
        n_body = int(found.group(1)) if found else 0
        if n_body > self._max_body:
            return 0
        return end + len(_HEAD_END) + n_body

    def recv(self, size: int, *flags: int) -> bytes:
        """What has arrived first, then the socket."""
        if not self._data:
            return self._sock.recv(size, *flags)
        piece = bytes(self._data[:size])
        if not flags:
            del self._data[:size]
        return piece

    def unread(self, data: bytes) -> None:
        """Give back what was read too far; it is read first again."""
        self._data[:0] = data

    def setblocking(self, is_blocking: bool) -> None:
        """Wait for the client, but not for ever."""
        self._sock.settimeout(SEND_TIMEOUT_S if is_blocking else 0.0)

    def is_gone(self) -> bool:
        """Whether the client has hung up: nobody waits for the answer.  Never waits itself."""
        looked = select.poll()
        try:
            looked.register(self._sock, select.POLLIN)
            if not looked.poll(0):  # a socket with a time-out waits, whatever recv is told
                return False
            return self._sock.recv(1, socket.MSG_PEEK) == b""
        except (BlockingIOError, InterruptedError, TimeoutError):
            return False
        except (OSError, ValueError):
            return True


class BufferingWorker(ThreadWorker):
    """Hands a connection to a thread when its request has arrived.

    A request that announces a larger body than ``max_body`` is handed on at once, and refused by
    the application.
    """

    max_body = 64_000_000

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._arriving: list[Any] = []

    def enqueue_req(self, conn: Any) -> None:
        """Gather the request first."""
        if not isinstance(conn.sock, BufferedSocket):
            conn.sock = BufferedSocket(conn.sock, self.max_body)
        if conn.parser is not None:  # what its reader read of the next request already
            conn.sock.unread(conn.parser.unreader.take_buffered())
        conn.sock.begin()
        if conn.sock.n_gathered and conn.sock.is_whole():
            self._hand_on(conn)
            return
        conn.sock.setblocking(False)
        self._arriving.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._gather, conn))

    def finish_request(self, conn: Any, fs: Any) -> None:
        """A request that arrived together with the one before makes no socket readable."""
        super().finish_request(conn, fs)
        if conn in self.keepalived_conns and conn.sock.n_gathered:
            self.on_client_socket_readable(conn, conn.sock)

    def murder_keepalived(self, *args: Any, **kwargs: Any) -> None:
        """Called once a second: close what arrives too slowly, too."""
        super().murder_keepalived(*args, **kwargs)
        now = time.monotonic()
        for conn in list(self._arriving):
            is_silent = not self.alive and not conn.sock.n_gathered
            if is_silent or now > conn.sock.give_up_at:
                self._drop(conn)

    def _gather(self, conn: Any, _sock: object) -> None:
        if conn.sock.gather():
            self._forget(conn)
            self._hand_on(conn)
        elif sum(c.sock.n_gathered for c in self._arriving) > MAX_GATHERED:
            self._drop(conn)

    def _hand_on(self, conn: Any) -> None:
        conn.data_ready = True
        super().enqueue_req(conn)

    def _drop(self, conn: Any) -> None:
        self._forget(conn)
        self.nr_conns -= 1
        conn.close()

    def _forget(self, conn: Any) -> None:
        self._arriving.remove(conn)
        self.poller.unregister(conn.sock)


def worker_for(max_body: int) -> type[BufferingWorker]:
    """The kind of worker that waits for bodies of so many bytes at most."""
    return type("Worker", (BufferingWorker,), {"max_body": max_body})
