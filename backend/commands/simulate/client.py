"""HTTP to the Strop that is labelled with: timed, and patient with a server that comes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import requests

from adaptation.errors import SettingsError, StropError
from backend.commands.simulate.wire import Body
from backend.label_studio.http import is_this_machine

TIMEOUT_S = (5.0, 100.0)
"""To connect and to answer: Label Studio, too, hangs up on a click after 100 seconds."""

FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 5.0
"""Between two attempts; doubled each time."""

_GONE = (502, 503, 504)
"""A proxy without its server behind it, or a server that is busy: worth another attempt."""


class ServerLost(StropError):
    """The server does not answer any more."""


class Refused(StropError):
    """The server answered one request with an error; the next one may go well."""


class Stopped(Exception):
    """The simulation is to stop; no error."""


class Client:
    """Sends one annotator's requests, one after the other.

    Args:
        url: Strop's address; a name and a password in it become basic auth.
        headers: Sent along.
        patience_s: How long a server that does not answer is tried again.
        stop: Set to end all waiting.

    Raises:
        SettingsError: The address is none.

    Attributes:
        model_version: Of the model that answered last; empty before the first answer.
    """

    def __init__(
        self, url: str, headers: Mapping[str, str], patience_s: float, stop: threading.Event
    ) -> None:
        self._url, self._patience_s, self.stop = _checked(url), patience_s, stop
        self._session = requests.Session()
        self._session.trust_env = not is_this_machine(urlsplit(url).hostname or "")
        self._session.headers.update(headers)
        self.model_version = ""

    def close(self) -> None:
        """Close its connection."""
        self._session.close()

    def greet(self) -> str:
        """Ask which model answers, once, without patience.

        Raises:
            SettingsError: There is no Strop at that address, or it wants a password.
        """
        try:
            reply = self._session.get(f"{self._url}/health", timeout=TIMEOUT_S)
            health = reply.json() if reply.ok else {}
        except requests.JSONDecodeError:
            health = {}
        except requests.RequestException as error:
            raise SettingsError(
                f"No Strop answers at {shown(self._url)} ({_reason(error)}): start one with "
                "`strop serve`, give its address with --url, or let --serve start one."
            ) from None
        if reply.status_code == 401:
            raise _wants_password(self._url)
        version = health.get("model_version") if isinstance(health, dict) else None
        if not isinstance(version, str):
            raise SettingsError(
                f"What answers at {shown(self._url)} is no Strop: its /health names no model."
            )
        self.model_version = version
        return version

    def predict(self, body: Body) -> tuple[dict[str, Any], float]:
        """Ask for masks; the answer, and the seconds that the request took.

        Raises:
            Refused: It answered an error.
            ServerLost: It has not answered for too long.
            Stopped: The simulation is to stop.
        """
        answer, elapsed_s = self._post("/predict", body)
        for result in answer.get("results") or ():
            self.model_version = result["model_version"]
        return answer, elapsed_s

    def post(self, path: str, body: Body) -> None:
        """Send a message whose answer says nothing; errors as in `predict`."""
        self._post(path, body)

    def pause(self, seconds: float) -> None:
        """Wait; Stopped where the simulation is to stop."""
        if self.stop.wait(seconds) if seconds > 0 else self.stop.is_set():
            raise Stopped

    def _post(self, path: str, body: Body) -> tuple[dict[str, Any], float]:
        give_up_at, wait_s = float("inf"), FIRST_WAIT_S
        while True:
            self.pause(0)
            started = time.perf_counter()
            try:
                reply = self._session.post(self._url + path, json=body, timeout=TIMEOUT_S)
                elapsed_s = time.perf_counter() - started
                if reply.status_code not in _GONE:
                    return _parsed(self._url, path, reply), elapsed_s
                problem = f"it answers {reply.status_code}"
            except requests.RequestException as error:
                problem = _reason(error)
            now = time.monotonic()
            give_up_at = min(give_up_at, now + self._patience_s)
            if now + wait_s > give_up_at:
                raise ServerLost(f"The Strop at {shown(self._url)} is gone: {problem}.")
            self.pause(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)


def shown(url: str) -> str:
    """An address that may be told: without name and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address:
        raise SettingsError(f"--url must look like http://localhost:9090, got {url!r}.")
    return url.rstrip("/")


def _parsed(url: str, path: str, reply: requests.Response) -> dict[str, Any]:
    if reply.status_code == 401:
        raise _wants_password(url)
    try:
        content = reply.json()
    except requests.JSONDecodeError:
        content = None
    if not isinstance(content, dict):
        raise Refused(f"{path} was answered with {reply.status_code}, and not in JSON.")
    if not reply.ok:
        raise Refused(f"{path} was answered with {reply.status_code}: {content.get('error')}")
    return content


def _wants_password(url: str) -> SettingsError:
    return SettingsError(
        f"The Strop at {shown(url)} wants a password: write it into the address, as "
        "http://strop:PASSWORD@localhost:9090, or give --header 'Authorization: Basic ...'."
    )


def _reason(error: requests.RequestException) -> str:
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    return "no connection" if isinstance(error, requests.ConnectionError) else type(error).__name__
