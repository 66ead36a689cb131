"""Hosts that send a byte now and then: they hold up nobody but those who ask them, and not long."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from adaptation.errors import ImageError
from backend.images.cutoff import SlowHosts
from backend.images.guarded_http import Fetcher, HostRules
from backend.images.loader import ImageLoader, WaitingError
from backend.images.sources import ImageSource
from tests.backend.images.test_loader import Clock, Files, png
from tests.backend.making import until
from tests.backend.sites import Site


class Trickling:
    """Answers every connection with its bytes, one at a time."""

    def __init__(self, at_once: bytes, slowly: bytes) -> None:
        self.at_once, self.slowly = at_once, slowly
        self.server = socket.create_server(("127.0.0.1", 0), backlog=50)
        self.port = self.server.getsockname()[1]
        self.n_asked = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.server.accept()
                self.n_asked += 1
                threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            client.recv(4096)
            client.sendall(self.at_once)
            for number in range(len(self.slowly)):
                client.sendall(self.slowly[number : number + 1])
                time.sleep(0.02)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n"


@pytest.fixture(params=["headers", "body", "status"])
def trickling(request: pytest.FixtureRequest) -> Iterator[Trickling]:
    parts = {
        "status": (b"", HEAD),
        "headers": (HEAD, b"X-More: " + b"x" * 60_000),
        "body": (HEAD + b"\r\n", b"x" * 100_000),
    }
    host = Trickling(*parts[request.param])
    yield host
    host.server.close()


def fetcher(port: int, deadline_s: float = 0.5) -> Fetcher:
    rules = HostRules.parse([f"127.0.0.1:{port}"], ["127.0.0.0/8"])
    return Fetcher(rules, deadline_s=deadline_s)


def test_a_trickling_host_is_given_up_in_time(trickling: Trickling) -> None:
    started = time.monotonic()
    with pytest.raises(ImageError, match=r"did not arrive from 127\.0\.0\.1 within"):
        fetcher(trickling.port).fetch(f"http://127.0.0.1:{trickling.port}/a", max_bytes=10**6)
    assert time.monotonic() - started < 5


def test_a_host_that_was_too_slow_twice_rests(trickling: Trickling) -> None:
    url, fetch = f"http://127.0.0.1:{trickling.port}/a", fetcher(trickling.port, 0.2)
    for _ in range(2):
        with pytest.raises(ImageError):
            fetch.fetch(url, max_bytes=10**6)
    started = time.monotonic()
    with pytest.raises(ImageError, match="asked again in a moment"):
        fetch.fetch(url, max_bytes=10**6)
    assert time.monotonic() - started < 0.1
    assert trickling.n_asked == 2


def test_a_pooled_connection_has_its_end_too() -> None:
    with Site().running() as site:
        fetch = fetcher(site.port, 3)
        url = site.serve("/a.png", b"pixels")
        assert fetch.fetch(url, max_bytes=100).content == b"pixels"
        quick, may_answer = site.routes["/a.png"], threading.Event()
        site.routes["/a.png"] = lambda request: (may_answer.wait(20), quick(request))[1]
        with pytest.raises(ImageError, match="did not arrive"):
            fetch.fetch(url, max_bytes=100, deadline_s=0.3)
        assert not may_answer.is_set()
        may_answer.set()


def test_a_deadline_holds_for_all_redirects_together() -> None:
    with Site().running() as site:
        answer = site.redirect("/a.png", "/a.png")
        quick = site.routes["/a.png"]
        site.routes["/a.png"] = lambda request: (time.sleep(0.3), quick(request))[1]
        source = ImageSource(None, fetcher(site.port, 5), max_bytes=100, deadline_s=0.5)
        with pytest.raises(ImageError, match="did not arrive"):
            source.read(answer, "1")


def test_a_rest_ends_and_a_success_forgets_failures() -> None:
    clock = Clock()
    slow = SlowHosts(clock, most=2, rest_s=30)
    slow.note("a", was_in_time=False)
    slow.note("a", was_in_time=True)
    slow.note("a", was_in_time=False)
    assert not slow.rests("a")
    slow.note("a", was_in_time=False)
    assert slow.rests("a") and not slow.rests("b")
    clock.now += 31
    assert not slow.rests("a")


def test_those_who_wait_for_one_host_leave_places_for_others() -> None:
    files = Files(**{"http://slow.test/a": png(1), "http://quick.test/b": png(2)})
    loader = ImageLoader(files, max_waiting=4)
    loader.load("http://quick.test/b", "1")
    files.delay_s = 1.0
    threads = [
        threading.Thread(target=loader.load, args=("http://slow.test/a", "1")) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    until(lambda: sum(loader._waiting._by_host.values()) == 2)
    with pytest.raises(WaitingError, match=r"2 clicks wait for images of slow\.test"):
        loader.load("http://slow.test/a", "1")
    assert loader.load("http://quick.test/b", "1").size == (4, 6)
    for thread in threads:
        thread.join()
    assert loader.load("http://slow.test/a", "1").size == (4, 6)


def test_a_name_server_that_does_not_answer_counts_to_the_deadline() -> None:
    is_over, asked = threading.Event(), []

    def silent(host: str, port: int) -> list[str]:
        asked.append(host)
        is_over.wait(60)
        return ["127.0.0.1"]

    rules = HostRules.parse(["images.example.com"], ["127.0.0.0/8"])
    fetcher = Fetcher(rules, deadline_s=0.2, resolver=silent)
    url = "http://images.example.com/1.png"
    began = time.monotonic()
    try:
        for _ in range(2):
            with pytest.raises(ImageError, match=r"did not arrive from images\.example\.com"):
                fetcher.fetch(url, max_bytes=1000)
        with pytest.raises(ImageError, match="asked again in a moment"):
            fetcher.fetch(url, max_bytes=1000)
    finally:
        is_over.set()
        fetcher.close()
    assert time.monotonic() - began < 30, "far less than the name server would have taken"
    assert len(asked) == 2, "and it rests for a while"


def test_an_unknown_name_is_told_as_such() -> None:
    def unknown(host: str, port: int) -> list[str]:
        raise ImageError(f"The image's host {host} is not known to the name server.")

    fetcher = Fetcher(HostRules.parse(["images.example.com"]), resolver=unknown)
    with pytest.raises(ImageError, match="not known to the name server"):
        fetcher.fetch("http://images.example.com/1.png", max_bytes=1000)
    fetcher.close()
