"""A real Strop behind real HTTP in this process, and a tiny data set to label through it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from adaptation.journal import FinishedObject
from backend.commands.simulate.options import Options
from backend.server.app import create_app
from tests.backend.service_kit import WatchedSam, journal_of, running_service, settings_for

Wsgi = Callable[[dict[str, Any], Any], Iterable[bytes]]


class _Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        """A request is no news."""


@dataclass
class Strop:
    """A Strop that can be ended in the middle.

    Args:
        url: Its address.
        last: Answered /predict requests after which it is gone for good; None for never.
    """

    url: str
    app: Wsgi
    server: BaseWSGIServer | None = None
    last: int | None = None
    n_predicts: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/predict":
            with self.lock:
                self.n_predicts += 1
                is_last = self.last is not None and self.n_predicts > self.last
            if is_last:
                # Listen no more, and hang up without an answer.
                assert self.server is not None
                self.server.server_close()
                environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
                raise ConnectionAbortedError
        return self.app(environ, start_response)


@contextmanager
def running_strop(
    folder: Path, sam: WatchedSam | None = None, *, last: int | None = None, **overrides: object
) -> Iterator[Strop]:
    """A Strop with its data in a folder and a tiny model with random weights."""
    settings = settings_for(folder, **overrides)
    with running_service(folder, sam, **overrides) as service:
        strop = Strop("", create_app(settings, service), last=last)
        server = make_server("127.0.0.1", 0, strop, threaded=True, request_handler=_Quiet)
        server.daemon_threads = True  # type: ignore[attr-defined]
        strop.server, strop.url = server, f"http://127.0.0.1:{server.server_port}"
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield strop
        finally:
            server.shutdown()
            serving.join()
            server.server_close()


def options_for(data: Path, url: str, **changes: Any) -> Options:
    """Three clicks an object, and no long waits."""
    given: dict[str, Any] = {"data": (data,), "url": url, "clicks": 3, "patience_s": 0.5}
    return Options(**{**given, **changes})


def finished_objects(folder: Path) -> list[FinishedObject]:
    """What the journal in a folder holds."""
    with journal_of(folder) as journal:
        return list(journal.objects())
