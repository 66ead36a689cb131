"""gunicorn around the application: worker processes with threads, the model loaded inside each.

torch's threads do not survive a fork, so the parent process only imports, listens and watches; a
worker loads the model, and the port answers from then on.  A worker that dies is started anew.
With several workers one more process stands behind them, which learns (`server.supervisor`).
"""

from __future__ import annotations

import logging
import os
import signal
from typing import Any, NoReturn, Protocol, cast

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import AppImportError
from gunicorn.glogging import Logger
from gunicorn.workers.workertmp import WorkerTmp

from adaptation.errors import StropError
from backend.metrics import forget_process, share_between_processes
from backend.server.allocator import share_arenas, start_trimming
from backend.server.app import create_app
from backend.server.buffering import worker_for
from backend.server.folder_lock import lock_folder, lock_learning
from backend.server.ports import address, check_port
from backend.server.supervisor import LearnerSupervisor
from backend.settings import Settings, check_together

logger = logging.getLogger(__name__)

LOAD_TIMEOUT_S = 300
"""A worker that has not loaded its model by then is started anew."""

CLOSE_TIMEOUT_S = 10
"""After the requests in flight, this long for what happens behind them."""

FAILED_TO_LOAD = (3, 4)
"""gunicorn's exit codes for a worker that cannot start."""


class _Worker(Protocol):
    pid: int
    cfg: Any
    app: GunicornApplication


class _PropagatingLogger(Logger):
    """Hands gunicorn's events to the root logger instead of writing its own format."""

    def setup(self, cfg: Any) -> None:
        self.cfg, self.error_log.propagate = cfg, True
        self.error_log.setLevel(logging.WARNING)


class SupervisingArbiter(Arbiter):
    """gunicorn's parent process, with a learner beside its workers.

    Args:
        app: The application.
        settings: Handed to the learner.
    """

    def __init__(self, app: GunicornApplication, settings: Settings) -> None:
        super().__init__(app)
        self._learner = LearnerSupervisor(
            settings, lambda: WorkerTmp(self.cfg), self._leave_in_child
        )

    def murder_workers(self) -> None:
        """Called once a second: look after the workers, and after the learner."""
        super().murder_workers()
        self._learner.look()

    def stop(self, graceful: bool = True) -> None:
        """Stop the workers and the learner, all at once."""
        self._learner.ask_to_stop()
        super().stop(graceful)
        self._learner.stop(CLOSE_TIMEOUT_S)

    def _leave_in_child(self) -> None:
        """A learner neither listens, nor looks after workers."""
        for number in self.SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for listener in self.LISTENERS:
            listener.close()
        for worker in self.WORKERS.values():
            worker.tmp.close()


class GunicornApplication(BaseApplication):
    """gunicorn, set up by Strop's settings alone: it reads no file and no environment.

    Args:
        settings: Of the server, and of everything that the worker builds.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        super().__init__()

    def load_config(self) -> None:
        """Translate the settings."""
        server = self._settings.server
        options: dict[str, object] = {
            "bind": address(server.host, server.port),
            "worker_class": worker_for(int(server.max_request_mb * 1e6)),
            "workers": server.workers,
            "threads": server.threads,
            "timeout": LOAD_TIMEOUT_S,
            "graceful_timeout": server.graceful_timeout_s + CLOSE_TIMEOUT_S,
            "post_fork": _shorten_grace,
            "worker_exit": _close_service,
            "child_exit": _forget_worker,
            "logger_class": _PropagatingLogger,
            "proc_name": "strop",
            "control_socket_disable": True,
        }
        for name, value in options.items():
            if name in self.cfg.settings:  # the control socket is new in gunicorn 25
                self.cfg.set(name, value)

    def run(self) -> None:
        """Serve, with a learner beside the workers where one is wanted."""
        if not _supervises(self._settings):
            super().run()
            return
        SupervisingArbiter(self, self._settings).run()

    def load(self) -> Any:
        """Build the WSGI application, in the worker.

        Raises:
            AppImportError: With the message of the deliberate error behind it.
        """
        share_arenas()
        try:
            app = create_app(self._settings)
        except StropError as error:
            raise AppImportError(f"strop: {error}") from error
        host, port = self._settings.server.host, self._settings.server.port
        start_trimming()
        logger.info("ready on http://%s", address(host, port))
        return app


def serve(settings: Settings) -> NoReturn:
    """Serve until a signal stops it, and end the process with an exit code.

    Raises:
        SettingsError: The port is taken, the data folder belongs to another server, or settings
            do not go together.
    """
    check_together(settings)
    lock_folder(settings.data_dir)  # held until this process and its workers have ended
    if settings.learns_inside or _supervises(settings):
        lock_learning(settings.data_dir, inside=settings.learns_inside)
    check_port(settings.server.host, settings.server.port)
    share_between_processes(settings.metrics_dir)
    parent = os.getpid()
    try:
        GunicornApplication(settings).run()
    except SystemExit as stop:
        if os.getpid() != parent:  # the worker ends here too, and gunicorn reads its exit code
            raise
        code = stop.code if isinstance(stop.code, int) else 1
        _end_at_once(2 if code in FAILED_TO_LOAD else code)
    _end_at_once(0)


def _supervises(settings: Settings) -> bool:
    """Whether this server runs a learner in a process of its own."""
    return not settings.learns_inside and settings.learning.process == "auto"


def _shorten_grace(server: Any, worker: _Worker) -> None:
    """The worker stops waiting for requests before the parent stops waiting for the worker."""
    worker.cfg.set("graceful_timeout", server.cfg.graceful_timeout - CLOSE_TIMEOUT_S)


def _forget_worker(server: Any, worker: _Worker) -> None:
    """What a worker that has ended still had in its queues counts no more."""
    forget_process(worker.pid)


def _close_service(server: Any, worker: _Worker) -> None:
    """Close what the worker holds, and end it there and then."""
    app = cast(Flask | None, worker.app.callable)
    if app is None:  # it did not load: gunicorn's exit code tells so
        return
    app.extensions["strop"].close(CLOSE_TIMEOUT_S / 2)
    logger.info("stopped")
    _end_at_once(0)


def _end_at_once(code: int) -> NoReturn:
    """End the process.

    The interpreter's own way out would take torch apart for seconds, and wait for the threads of
    requests that were given up.
    """
    logging.shutdown()
    os._exit(code)
