"""Programs that the demo starts, watches, and takes down with it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from backend.commands.demo.errors import DemoError

POLL_S = 0.2
STOP_GRACE_S = 5.0
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """A signal asked the demo to stop; like KeyboardInterrupt, no error."""


class Program:
    """A child process with a log file, in a process group of its own.

    The terminal's Ctrl-C thus reaches the demo alone, which then stops its programs in order.

    Args:
        name: What the user calls it.
        command: Program and arguments.
        environment: Its whole environment.
        log: File that gets its output; overwritten.
    """

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> None:
        self.name = name
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                list(command),
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def check(self) -> None:
        """Raise DemoError, with the end of the log, where the program has ended by itself."""
        code = self._process.poll()
        if code is not None:
            raise DemoError(
                f"{self.name} has ended with exit code {code}.  The end of {self.log}:\n"
                f"{_last_lines(self.log, 12)}"
            )

    def terminate(self) -> None:
        """Ask the program to end."""
        if self._process.poll() is None:
            self._process.terminate()

    def wait(self, timeout_s: float) -> None:
        """Wait for its end; when the time is over, end whatever is left of its group."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        self.kill()
        self._process.wait()

    def kill(self) -> None:
        """End the program and its children at once, without waiting: safe in a signal handler."""
        with contextlib.suppress(ProcessLookupError):  # nobody may be left of the group
            os.killpg(self._process.pid, signal.SIGKILL)


class Programs:
    """The demo's programs, which live and end together."""

    def __init__(self) -> None:
        self._programs: list[Program] = []

    def start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> None:
        """Start one; DemoError where its command cannot be run."""
        try:
            self._programs.append(Program(name, command, environment, log))
        except OSError as error:
            raise DemoError(f"Cannot start {name}: {error.strerror}: {command[0]}.") from None

    def check(self) -> None:
        """Raise DemoError where one of them has ended by itself."""
        for program in self._programs:
            program.check()

    def wait_until(
        self, is_ready: Callable[[], bool], what: str, *, timeout_s: float, poll_s: float = POLL_S
    ) -> None:
        """Wait until something is so, as long as all programs live.

        Raises:
            DemoError: A program ended, or the time is over.
        """
        give_up_at = time.monotonic() + timeout_s
        while not is_ready():
            self.check()
            if time.monotonic() > give_up_at:
                logs = ", ".join(str(program.log) for program in self._programs)
                raise DemoError(f"{what} took longer than {timeout_s:.0f} s; see {logs}.")
            time.sleep(poll_s)

    def watch(self) -> None:
        """Return never, but raise DemoError when one of the programs ends."""
        while True:
            self.check()
            time.sleep(POLL_S)

    def stop(self, grace_s: float = STOP_GRACE_S) -> None:
        """Ask all of them to end, and end those that have not after the grace time.

        Nothing is lost then: Strop's journal is on the disk before an answer leaves, and what
        sessions learned can be made from it again.
        """
        for program in self._programs:
            program.terminate()
        give_up_at = time.monotonic() + grace_s
        for program in self._programs:
            program.wait(max(0.0, give_up_at - time.monotonic()))

    def kill(self) -> None:
        """End all of them at once; `stop` has nothing to wait for then."""
        for program in self._programs:
            program.kill()


@contextmanager
def running_programs() -> Iterator[Programs]:
    """Programs that end with the block: on return, on errors, and on Ctrl-C or SIGTERM.

    The first signal raises Stopped in the block.  A second one, while the programs are being
    stopped, ends them at once.
    """
    programs = Programs()

    def interrupt(number: int, frame: FrameType | None) -> None:
        _on_stop_signals(hurry)
        raise Stopped

    def hurry(number: int, frame: FrameType | None) -> None:
        programs.kill()

    before = _on_stop_signals(interrupt)
    try:
        yield programs
    finally:
        _on_stop_signals(hurry)
        try:
            programs.stop()
        finally:
            for number, handler in zip(STOP_SIGNALS, before, strict=True):
                signal.signal(number, handler)


def _on_stop_signals(handler: Callable[[int, FrameType | None], None]) -> list[signal._HANDLER]:
    return [signal.signal(number, handler) for number in STOP_SIGNALS]


def _last_lines(path: Path, n_lines: int) -> str:
    text = path.read_text(encoding="utf-8", errors="replace").strip()
    return "\n".join(f"  {line}" for line in text.splitlines()[-n_lines:])
