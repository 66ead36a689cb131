"""A real HTTP server of one file, which can be told to misbehave."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class ServedFile:
    """What the server does; tests change it while it runs.

    Args:
        content: The file.
        sends_tag: Whether it is known by an entity tag, or only by a date.
        has_ranges: Whether a part can be asked for.
        breaks: Bytes after which each next connection breaks; whole answers once used up.
        statuses: Answers without content to give first.
        pause_s: Silence before each answer.
        claimed_bytes: The size that it announces, where that is not the truth.
        shift: Bytes by which a resumed answer starts too late.
    """

    content: bytes
    sends_tag: bool = True
    has_ranges: bool = True
    breaks: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    pause_s: float = 0.0
    claimed_bytes: int | None = None
    shift: int = 0
    requests: list[dict[str, str]] = field(default_factory=list)
    url: str = ""
    stopped: threading.Event = field(default_factory=threading.Event)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def validator(self) -> str:
        return f'"{self.sha256[:12]}"' if self.sends_tag else formatdate(len(self.content))


class _Handler(BaseHTTPRequestHandler):
    file: ServedFile

    def do_GET(self) -> None:
        file = self.file
        file.requests.append(dict(self.headers.items()))
        file.stopped.wait(file.pause_s)
        if file.statuses:
            self._head(file.statuses.pop(0), 0)
            return
        start = self._start()
        if start is None:
            self._head(200, file.claimed_bytes or len(file.content))
            self._body(file.content)
        elif start >= len(file.content):
            self._head(416, 0, {"Content-Range": f"bytes */{len(file.content)}"})
        else:
            start += file.shift
            rest = file.content[start:]
            span = f"bytes {start}-{len(file.content) - 1}/{len(file.content)}"
            self._head(206, len(rest), {"Content-Range": span})
            self._body(rest)

    def _start(self) -> int | None:
        wanted = self.headers.get("Range")
        if wanted is None or not self.file.has_ranges:
            return None
        if self.headers.get("If-Range", self.file.validator) != self.file.validator:
            return None
        return int(wanted.removeprefix("bytes=").rstrip("-"))

    def _head(self, status: int, length: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.send_header("ETag" if self.file.sends_tag else "Last-Modified", self.file.validator)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()

    def _body(self, content: bytes) -> None:
        limit = self.file.breaks.pop(0) if self.file.breaks else len(content)
        self.wfile.write(content[:limit])
        if limit < len(content):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: object) -> None:
        """Stay quiet."""


@contextmanager
def serving(file: ServedFile) -> Iterator[ServedFile]:
    """Serve a file on a free port of this machine."""
    handler = type("Handler", (_Handler,), {"file": file})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        file.url = f"http://127.0.0.1:{server.server_port}/weights.pth"
        try:
            yield file
        finally:
            file.stopped.set()
            server.shutdown()
            thread.join()
