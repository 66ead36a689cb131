"""A private PostgreSQL server, for tests that must stop it or find none running."""

from __future__ import annotations

import glob
import os
import pwd
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# PostgreSQL's own tools live outside of the path on Debian.
_BINARIES = "/usr/lib/postgresql/*/bin"


def find_binaries() -> Path | None:
    """The folder of ``initdb`` and ``pg_ctl``, if PostgreSQL is installed."""
    folders = sorted(glob.glob(_BINARIES))
    found = shutil.which("initdb", path=os.pathsep.join([*reversed(folders), os.environ["PATH"]]))
    return Path(found).resolve().parent if found else None


class PostgresServer:
    """A cluster of its own in a folder, on a free port, run by someone who is not root."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self._binaries = binaries
        self._folder = folder
        self._user = "nobody" if os.getuid() == 0 else None
        if self._user:
            account = pwd.getpwnam(self._user)
            os.chown(folder, account.pw_uid, account.pw_gid)
        self._run("initdb", "--username=strop", "--auth=trust", "--encoding=UTF8", "--no-sync")
        self.port = _free_port()

    @property
    def url(self) -> str:
        """Of the database ``postgres``."""
        return f"postgresql://strop@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        socket_folder = f"-c listen_addresses=127.0.0.1 -p {self.port} -k {self._folder}"
        log = f"--log={self._folder / 'server.log'}"
        self._run("pg_ctl", log, "--wait", f"--options={socket_folder} -c fsync=off", "start")

    def stop(self) -> None:
        self._run("pg_ctl", "--mode=immediate", "stop")

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """The server stands still: it holds its connections and answers nothing."""
        first = (self._folder / "data" / "postmaster.pid").read_text().split()[0]
        listed = subprocess.run(["pgrep", "-P", first], capture_output=True, text=True, check=True)
        numbers = [int(number) for number in (first, *listed.stdout.split())]
        for number in numbers:
            os.kill(number, signal.SIGSTOP)
        try:
            yield
        finally:
            for number in numbers:
                os.kill(number, signal.SIGCONT)

    def _run(self, program: str, *arguments: str) -> None:
        data = f"--pgdata={self._folder / 'data'}"
        command = [str(self._binaries / program), data, *arguments]
        subprocess.run(
            command,
            check=True,
            user=self._user,
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
