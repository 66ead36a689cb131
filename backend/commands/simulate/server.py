"""A Strop of the simulation's own: started on a free port, stopped with it, whatever happens."""

from __future__ import annotations

import base64
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from adaptation.errors import SettingsError, StoreError, StropError
from backend.commands.simulate.client import Client
from backend.server.logs import configure_logging
from backend.settings import Settings

HOST = "127.0.0.1"
LOG_NAME = "server.log"
START_TIMEOUT_S, STOP_TIMEOUT_S = 300.0, 60.0
_POLL_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A server that answers.

    Args:
        url: Its address.
        headers: What it wants to be sent.
        log: What it writes.
    """

    url: str
    headers: Mapping[str, str]
    log: Path


def own_settings(settings: Settings, folders: Sequence[Path]) -> Settings:
    """Settings of the simulation's server.

    It listens on this machine only, reads the data sets' images, and asks no Label Studio.

    Args:
        settings: What was asked for.
        folders: Where the data sets lie.
    """
    with socket.create_server((HOST, 0)) as probe:
        port = probe.getsockname()[1]
    allowed = tuple(dict.fromkeys([*folders, *settings.images.allowed_folders]))
    return settings.model_copy(
        update={
            "server": settings.server.model_copy(update={"host": HOST, "port": port}),
            "images": settings.images.model_copy(update={"allowed_folders": allowed}),
            "label_studio": settings.label_studio.model_copy(update={"url": None, "token": None}),
        }
    )


@contextmanager
def running_server(settings: Settings) -> Iterator[Running]:
    """A server with these settings while the block lasts.

    Raises:
        StropError: It does not start; the message holds the end of its log.
    """
    log = settings.data_dir / LOG_NAME
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        log.touch()
    except OSError as error:
        raise StoreError(f"{settings.data_dir} cannot be written: {error.strerror}.") from error
    running = Running(
        url=f"http://{HOST}:{settings.server.port}", headers=_headers(settings), log=log
    )
    # Not forked: torch's threads do not survive that.
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(settings, log))
    process.start()
    try:
        _wait_until_up(process, running)
        yield running
    finally:
        process.terminate()
        process.join(STOP_TIMEOUT_S)
        if process.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid or 0, signal.SIGKILL)
        process.join()


def _wait_until_up(process: multiprocessing.process.BaseProcess, running: Running) -> None:
    client = Client(running.url, running.headers, 0.0, threading.Event())
    give_up_at = time.monotonic() + START_TIMEOUT_S
    try:
        while True:
            with contextlib.suppress(SettingsError):
                client.greet()
                return
            if not process.is_alive() or time.monotonic() > give_up_at:
                lines = running.log.read_text(encoding="utf-8", errors="replace").splitlines()
                reason = "\n".join(lines[-5:]) or "it wrote nothing"
                raise StropError(f"The server did not start; the end of its log:\n{reason}")
            time.sleep(_POLL_S)
    finally:
        client.close()


def _headers(settings: Settings) -> dict[str, str]:
    if settings.basic_auth is None:
        return {}
    credentials = ":".join(settings.basic_auth).encode()
    return {"Authorization": f"Basic {base64.b64encode(credentials).decode('ascii')}"}


# In the server's process -------------------------------------------------------------------------


def _serve(settings: Settings, log: Path) -> None:
    """Serve until the end, away from the terminal's Ctrl-C."""
    os.setsid()
    with log.open("wb") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    from backend.server.gunicorn_app import serve

    configure_logging(settings.log_level)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        serve(settings)
    except StropError as error:
        sys.stderr.write(f"strop: {error}\n")
        sys.exit(2)


def _end_with_parent() -> None:
    """Stop when the simulation was killed and could not stop this process itself."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
