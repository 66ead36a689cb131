"""`strop serve` and `strop learn` as processes of their own, around a tiny model."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from adaptation.models.compact.model import build_compact

START_TIMEOUT_S = 180
ROOT = Path(__file__).resolve().parents[2]


def save_small_checkpoint(path: Path) -> Path:
    """A compact model that computes in milliseconds."""
    model = build_compact(input_size=64, dim=16)
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, path, metadata={"input_size": "64", "dim": "16"})
    return path


class Command:
    """A running command of `strop`, with what it says in a file.

    Args:
        arguments: Of `strop`.
        log: The file.
    """

    def __init__(self, arguments: list[str], log: Path) -> None:
        environ = {k: v for k, v in os.environ.items() if not k.startswith("STROP_")}
        self.log = log
        with log.open("a") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-c", "from backend.cli import main; main()", *arguments],
                stderr=stream,
                start_new_session=True,
                env={**environ, "OMP_NUM_THREADS": "1"},
                cwd=ROOT,
            )

    def kill(self) -> None:
        """End it and its children, whatever they do."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """End it as a service manager does; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(START_TIMEOUT_S)

    def wait_until_it_says(self, text: str, count: int = 1) -> None:
        """Wait until its log holds a text so often."""
        end = time.monotonic() + START_TIMEOUT_S
        while self.log.read_text().count(text) < count:
            assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()
            time.sleep(0.02)


class Server(Command):
    """A running `strop serve`.

    Args:
        folder: Its data goes to the folder `data` in it.
        checkpoint: Of its model.
        log: Name of the file in the folder that holds what it says.
        more: Further arguments.
    """

    def __init__(
        self, folder: Path, checkpoint: Path, log: str = "log.txt", more: tuple[str, ...] = ()
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.folder = folder
        arguments = ["serve", "--port", str(self.port), "--data-dir", str(folder / "data")]
        super().__init__(
            [*arguments, "--set", f"model.checkpoint={checkpoint}", *more], folder / log
        )

    def ask(self, path: str, body: object = None) -> dict[str, Any]:
        """The JSON of an answer; OSError where there is none."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data)
        with urllib.request.urlopen(request, timeout=60) as reply:
            answer: dict[str, Any] = json.load(reply)
            return answer

    def wait_until_up(self) -> None:
        """Wait until it answers."""
        end = time.monotonic() + START_TIMEOUT_S
        while True:
            assert self.process.poll() is None, self.log.read_text()
            try:
                self.ask("/health")
                return
            except OSError:
                assert time.monotonic() < end, self.log.read_text()
                time.sleep(0.05)
