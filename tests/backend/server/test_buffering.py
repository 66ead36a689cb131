"""A client's socket with what has arrived in front, without a server."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from backend.server.buffering import MAX_HEAD, BufferedSocket

HEAD = b"POST / HTTP/1.1\r\nHost: strop\r\n"


@pytest.fixture
def pair() -> Iterator[tuple[BufferedSocket, socket.socket]]:
    own, client = socket.socketpair()
    with own, client:
        yield BufferedSocket(own, 1000), client


def gathered(pair: tuple[BufferedSocket, socket.socket], *pieces: bytes) -> list[bool]:
    """Whether the request counts as whole after each piece."""
    buffered, client = pair
    buffered.begin()
    buffered.setblocking(False)
    found = []
    for piece in pieces:
        client.sendall(piece)
        found.append(buffered.gather())
    return found


def test_a_client_that_waits_is_there_and_the_look_takes_no_time(
    pair: tuple[BufferedSocket, socket.socket],
) -> None:
    buffered, client = pair
    buffered.setblocking(True)
    started = time.monotonic()
    assert not buffered.is_gone()
    assert time.monotonic() - started < 1
    client.sendall(b"the next request")
    assert not buffered.is_gone()
    assert buffered.recv(100) == b"the next request", "a look takes nothing away"
    client.close()
    assert buffered.is_gone()


def test_a_request_is_whole_with_its_last_byte(pair: tuple[BufferedSocket, socket.socket]) -> None:
    pieces = (HEAD[:5], HEAD[5:], b"content-LENGTH: 3\r\n\r\n", b"ab", b"c")
    assert gathered(pair, *pieces) == [False, False, False, False, True]
    assert pair[0].recv(4) == b"POST"
    assert pair[0].recv(1000).endswith(b"abc")


def test_a_request_without_a_body_is_whole_with_its_head(
    pair: tuple[BufferedSocket, socket.socket],
) -> None:
    assert gathered(pair, HEAD, b"\r\n") == [False, True]


def test_pieces_of_unknown_length_end_with_an_empty_one(
    pair: tuple[BufferedSocket, socket.socket],
) -> None:
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    assert gathered(pair, chunked, b"2\r\nab\r\n", b"0\r\n\r\n") == [False, False, True]


@pytest.mark.parametrize(
    "request_", [HEAD + b"Content-Length: 2000\r\n\r\n", HEAD + b"x" * MAX_HEAD, b""]
)
def test_what_will_be_refused_is_handed_on_at_once(
    pair: tuple[BufferedSocket, socket.socket], request_: bytes
) -> None:
    if not request_:
        pair[1].close()
        pair[0].setblocking(False)
        assert pair[0].gather()
    else:
        assert gathered(pair, request_) == [True]


def test_a_client_is_asked_for_the_body_that_it_holds_back(
    pair: tuple[BufferedSocket, socket.socket],
) -> None:
    head = HEAD + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n"
    assert gathered(pair, head) == [False]
    assert pair[1].recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert gathered(pair, b"abc") == [True]
