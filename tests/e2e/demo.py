"""`strop demo` as a child process: what a person gets who types `make demo`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from adaptation.journal import Journal
from backend.label_studio.client import LabelStudioClient, Task, Transport

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 600
Value = TypeVar("Value")


class Demo:
    """A running demo.

    Args:
        folder: Its work.
        environment: Of Label Studio.
        port: Of Strop.
        label_studio_port: Of Label Studio.
        variables: More environment variables, such as settings of Strop.
    """

    def __init__(
        self,
        folder: Path,
        environment: Path,
        *,
        port: int,
        label_studio_port: int,
        variables: Mapping[str, str],
    ) -> None:
        self.folder = folder
        self._variables = dict(variables)
        self.backend_url = f"http://127.0.0.1:{port}"
        self.url = f"http://127.0.0.1:{label_studio_port}"
        self._arguments = ["--folder", str(folder), "--environment", str(environment)]
        self._arguments += ["--port", str(port), "--label-studio-port", str(label_studio_port)]
        self._process: subprocess.Popen[str] | None = None
        self.output = ""

    def start(self) -> float:
        """Start it and wait until it says that it is ready; returns the seconds that took."""
        command = [sys.executable, "-c", "from backend.cli import main; main()", "demo"]
        started = time.monotonic()
        # Its own session: the test is the terminal, and nobody else sends it signals.
        self._process = subprocess.Popen(
            command + self._arguments,
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **self._variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            self.output = self._read_until("Ctrl-C stops both")
        except AssertionError:
            self.stop(signal.SIGTERM)
            raise
        return time.monotonic() - started

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send it a signal; returns its exit code."""
        process = self._process
        assert process is not None and process.stdout is not None
        if process.poll() is None:
            process.send_signal(number)
        code = process.wait(timeout=60)
        self.output += process.stdout.read()
        process.stdout.close()
        self._process = None
        return code

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def leftovers(self) -> list[str]:
        """Processes that still work for this demo, told by its folder in their environment."""
        mark = str(self.folder).encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (entry / "environ").read_bytes():
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
        return found

    @property
    def login(self) -> tuple[str, str]:
        credentials = self._note("credentials.json")
        return str(credentials["email"]), str(credentials["password"])

    @property
    def backend_login(self) -> tuple[str, str]:
        credentials = self._note("credentials.json")
        return str(credentials["backend_user"]), str(credentials["backend_password"])

    @property
    def project_id(self) -> str:
        return self._number("kinds")

    def _number(self, key: str) -> str:
        numbers = self._note("project.json")["projects"]
        assert isinstance(numbers, dict)
        return str(numbers[key])

    @property
    def token(self) -> str:
        return str(self._note("credentials.json")["token"])

    def client(self) -> LabelStudioClient:
        return LabelStudioClient(Transport(self.url, self.token))

    def task(self, name: str) -> Task:
        """The task of a sample, by a part of its file's name."""
        tasks = self.client().tasks(self.project_id)
        return next(task for task in tasks if name in str(task.data["image"]))

    def journal(self) -> Journal:
        return Journal(f"sqlite:///{self.folder / 'strop' / 'journal.db'}", create=False)

    def log(self) -> str:
        return (self.folder / "strop.log").read_text()

    def _note(self, name: str) -> dict[str, object]:
        return dict(json.loads((self.folder / name).read_text()))

    def _read_until(self, mark: str) -> str:
        assert self._process is not None and self._process.stdout is not None
        give_up_at = time.monotonic() + START_TIMEOUT_S
        text = ""
        while mark not in text:
            line = self._process.stdout.readline()
            text += line
            if not line or time.monotonic() > give_up_at:
                raise AssertionError(f"the demo did not start; it said:\n{text}")
        return text


def eventually(probe: Callable[[], Value | None], *, timeout_s: float = 30) -> Value:
    """What a probe finds, once it finds something: Strop journals behind its reply."""
    give_up_at = time.monotonic() + timeout_s
    while True:
        value = probe()
        if value:
            return value
        assert time.monotonic() < give_up_at, "it did not happen in time"
        time.sleep(0.1)
