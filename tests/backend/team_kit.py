"""A server with several workers, for tests: asking one of them, and killing any of them."""

from __future__ import annotations

import http.client
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from safetensors import safe_open

from backend.commands.replay import replay
from tests.backend.learning_kit import FAST, IMAGES, disk, painted
from tests.backend.payloads import Payload, keypoint
from tests.backend.server_process import Server, save_small_checkpoint
from tests.backend.service_kit import click_on, journal_of, regions_of, settings_for

WAIT_S = 300.0
SPOTS = [(50, 50, 1), (20, 80, 0), (60, 55, 1)]


class Team(Server):
    """A running `strop serve --workers 2`, with a quick learner.

    Args:
        folder: Of everything; `data` in it is the data folder.
        more: Further arguments.
    """

    def __init__(self, folder: Path, more: tuple[str, ...] = ()) -> None:
        self.data = folder / "data"
        self.checkpoint = save_small_checkpoint(folder / "small.safetensors")
        config = folder / "learner.yaml"
        config.write_text(yaml.safe_dump({**FAST, "think_steps": 0}))
        self.settings = {
            "model.checkpoint": self.checkpoint,
            "inference.torch_threads": 1,
            "learning.config": config,
        }
        given = [
            part for key, value in self.settings.items() for part in ("--set", f"{key}={value}")
        ]
        super().__init__(folder, self.checkpoint, more=("--workers", "2", *given, *more))

    def wait_until_all_are_up(self) -> None:
        """Wait until two workers answer, and a learner works."""
        self.wait_until_up()
        until(lambda: len(self.workers()) == 2)
        until(lambda: self.learner() is not None)
        self.wait_until_it_says("learning, lease")

    def workers(self) -> list[int]:
        """Processes that listen, oldest first."""
        listening = _socket(self.port, 0)
        return [pid for pid in _children(self.process.pid) if listening in _sockets(pid)]

    def learner(self) -> int | None:
        """The process that learns; None while there is none."""
        workers = self.workers()
        others = [pid for pid in _children(self.process.pid) if pid not in workers]
        return others[0] if len(others) == 1 else None

    def ask_worker(self, pid: int, path: str, body: object) -> dict[str, Any]:
        """The answer of one worker."""
        with self._connected_to(pid) as connection:
            connection.request("POST", path, json.dumps(body))
            reply = connection.getresponse()
            assert reply.status == 200, reply.read()
            answer: dict[str, Any] = json.load(reply)
            return answer

    def insist(self, path: str, body: object) -> dict[str, Any]:
        """The answer of any worker, asked again until one gives it."""
        end = time.monotonic() + WAIT_S
        while True:
            try:
                return self.ask(path, body)
            except (OSError, http.client.HTTPException):
                assert time.monotonic() < end and self.process.poll() is None, self.log.read_text()
                time.sleep(0.05)

    @contextmanager
    def _connected_to(self, pid: int) -> Iterator[http.client.HTTPConnection]:
        """A connection that one worker has accepted; others that came first stay open meanwhile."""
        opened: list[http.client.HTTPConnection] = []
        try:
            while len(opened) < 200:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
                connection.connect()
                opened.append(connection)
                if self._accepted_by(connection.sock.getsockname()[1]) == pid:
                    yield connection
                    return
            raise AssertionError(f"worker {pid} accepts nothing")
        finally:
            for connection in opened:
                connection.close()

    def _accepted_by(self, client_port: int) -> int:
        found: list[int] = []

        def is_accepted() -> bool:
            inode = _socket(self.port, client_port)
            found[:] = [pid for pid in self.workers() if inode and inode in _sockets(pid)]
            return bool(found)

        until(is_accepted)
        return found[0]


def clicks_of(number: int, n_clicks: int = 2) -> list[Payload]:
    """The first clicks on an object."""
    spots = SPOTS[:n_clicks]
    return [keypoint(x, y, bool(s), id=f"kp-{number}-{i}") for i, (x, y, s) in enumerate(spots)]


def request_of(number: int, n_clicks: int) -> Payload:
    """The request of an object's newest click: task 10 + number."""
    image = IMAGES[number % len(IMAGES)]
    return click_on(image, *clicks_of(number, n_clicks), task=10 + number)


def submission_of(number: int, answer: dict[str, Any]) -> Payload:
    """The submission of an object: annotation 100 + number."""
    mask = disk(250 + 20 * (number % 10))
    return painted(answer, mask, id=100 + number, task=10 + number)


def until(is_so: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def learned(data: Path) -> list[str]:
    """Annotations that sessions were trained on, in order."""
    with journal_of(data) as journal:
        return [event.payload["annotation_id"] for event in journal.events(kind="learned")]


def n_saved(data: Path) -> int:
    """Objects that the file of project 1's session says it has learned from.

    It follows the event in the journal within a moment.
    """
    path = data / "sessions" / "project-1.safetensors"
    if not path.exists():
        return 0
    with safe_open(path, framework="pt") as file:
        return int((file.metadata() or {})["n_learned"])


def check_whole(team: Team, shown: list[str], submitted: list[str]) -> None:
    """The journal of a server that was stopped holds everything once.

    Args:
        team: The server.
        shown: Ids of the regions that clicks were answered with.
        submitted: Annotations, in the order in which they were acknowledged.
    """
    assert not list((team.data / "spool").rglob("spool.db")), "something waits in a spool"
    with journal_of(team.data) as journal:
        regions = [
            candidate.region_id
            for record in journal.interactions()
            for candidate in record.candidates
            if candidate.was_shown
        ]
        assert len(set(regions)) == len(regions), "a click is there twice"
        assert set(shown) <= set(regions), "a click is lost"
        found = [record.annotation_id for record in journal.submissions()]
        assert found == submitted, "a submission is lost, doubled, or out of order"
        counts = journal.counts()
        assert (counts["deliveries"], counts["unlinked"]) == (0, 0)
        links = {link.annotation_id: link.how for link in journal.links()}
        assert set(links) == set(submitted) and "none" not in links.values()
    assert learned(team.data) == submitted, "not learned once each, in the order of submission"
    check_sessions(team)


def check_sessions(team: Team) -> None:
    """What was learned is, bit for bit, what the journal makes again."""
    given = {key.replace(".", "__"): value for key, value in team.settings.items()}
    settings = settings_for(team.data, learning__is_on=True, **given)
    for session in replay(settings, None, check=True):
        assert session.is_as_saved, str(session)


def shown_in(answer: dict[str, Any]) -> list[str]:
    """Ids of an answer's regions."""
    return [region["id"] for region in regions_of(answer)]


def stop_process(pid: int) -> None:
    """Have a process do nothing until it is woken."""
    os.kill(pid, signal.SIGSTOP)


def wake(pid: int) -> None:
    """Have it go on."""
    os.kill(pid, signal.SIGCONT)


def _children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            state, ppid = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(ppid) == parent and state != "Z":
            found.append(int(entry.name))
    return sorted(found)


def _sockets(pid: int) -> set[str]:
    """Inodes of a process's sockets."""
    found = set()
    try:
        for path in Path(f"/proc/{pid}/fd").iterdir():
            target = os.readlink(path)
            if target.startswith("socket:["):
                found.add(target[8:-1])
    except OSError:
        return set()
    return found


def _socket(local_port: int, remote_port: int) -> str:
    """Inode of a socket of IPv4; "" where there is none, and until it is accepted."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        ports = tuple(int(address.rpartition(":")[2], 16) for address in fields[1:3])
        if ports == (local_port, remote_port) and fields[9] != "0":
            return fields[9]
    return ""
