"""`strop serve` as a process of its own: it starts, answers, and stops without losing a click."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adaptation.errors import SettingsError
from backend.server.ports import address, check_port
from tests.backend.payloads import keypoint, recorded
from tests.backend.server_process import START_TIMEOUT_S, Server, save_small_checkpoint
from tests.backend.service_kit import click_on, data_uri, interactions_of, pixels_of, regions_of


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save_small_checkpoint(tmp_path / "small.safetensors")


@pytest.fixture
def server(tmp_path: Path, checkpoint: Path) -> Iterator[Server]:
    server = Server(tmp_path, checkpoint)
    try:
        yield server
    finally:
        server.kill()


def test_it_serves_and_a_click_in_flight_is_answered_when_it_stops(server: Server) -> None:
    server.wait_until_up()
    assert server.ask("/health")["status"] == "UP"
    assert "model_version" in server.ask("/setup", recorded("setup"))

    # Twelve megapixels are decoded, encoded and drawn for a while.
    height, width = 3000, 4000
    image = data_uri(pixels_of(size=(height, width)))
    click = keypoint(30, 60, original_width=width, original_height=height)
    answers: list[dict[str, Any]] = []
    body = click_on(image, click)
    clicking = threading.Thread(target=lambda: answers.append(server.ask("/predict", body)))
    clicking.start()
    time.sleep(0.3)
    started = time.monotonic()
    assert server.ask("/health")["status"] == "UP"
    assert time.monotonic() - started < 1.0, "Label Studio waits no longer"
    assert server.stop() == 0
    clicking.join(30)

    assert len(regions_of(answers[0])) == 1
    (record,) = interactions_of(server.folder / "data")
    assert record.image_size == (height, width)
    assert "stopped" in server.log.read_text()


def test_slow_connections_stop_nobody(server: Server) -> None:
    server.wait_until_up()
    head = b"POST /predict HTTP/1.1\r\nHost: strop\r\nContent-Length: 1000\r\n"
    with contextlib.ExitStack() as stack:
        slow = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            for _ in range(80)
        ]
        for number, connection in enumerate(slow):
            connection.sendall([b"", b"POST /pre", head, head + b"\r\n{"][number % 4])
        time.sleep(0.5)
        started = time.monotonic()
        assert server.ask("/health")["status"] == "UP"
        assert time.monotonic() - started < 1.0, "Label Studio waits no longer"
        image = data_uri(pixels_of())
        assert len(regions_of(server.ask("/predict", click_on(image, keypoint(50, 50))))) == 1


def test_requests_that_arrive_in_pieces_or_close_together_are_served(server: Server) -> None:
    server.wait_until_up()
    body = json.dumps(recorded("setup")).encode()
    head = f"POST /setup HTTP/1.1\r\nHost: strop\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        for piece in (head[:10], head[10:], body[:100], body[100:]):
            connection.sendall(piece)
            time.sleep(0.05)
        assert b"model_version" in _answer(connection)
        connection.sendall(2 * (head + body))
        assert b"model_version" in _answer(connection)
        assert b"model_version" in _answer(connection)
        chunked = head.replace(
            f"Content-Length: {len(body)}".encode(), b"Transfer-Encoding: chunked"
        )
        connection.sendall(chunked + f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n")
        assert b"model_version" in _answer(connection)


def test_a_body_over_the_limit_is_refused_before_it_arrives(server: Server) -> None:
    server.wait_until_up()
    head = b"POST /predict HTTP/1.1\r\nHost: strop\r\nContent-Length: 900000000000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(head + b"{")
        assert b"413" in connection.recv(100)


def _answer(connection: socket.socket) -> bytes:
    """One answer, read to its last byte."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(1)
        assert more, "the connection was closed"
        data += more
    n_bytes = int(data.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    while n_bytes:
        more = connection.recv(n_bytes)
        assert more, "the connection was closed"
        data, n_bytes = data + more, n_bytes - len(more)
    return data


def test_a_second_server_on_the_same_folder_is_refused(server: Server, checkpoint: Path) -> None:
    server.wait_until_up()
    second = Server(server.folder, checkpoint, log="second.txt")
    try:
        assert second.process.wait(START_TIMEOUT_S) == 2
    finally:
        second.kill()
    told = second.log.read_text()
    assert f"Another Strop (process {server.process.pid}) serves with the data folder" in told
    assert "Traceback" not in told
    assert server.ask("/health")["status"] == "UP"


def test_a_model_that_does_not_load_is_one_message_and_exit_code_2(
    tmp_path: Path, checkpoint: Path
) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    server = Server(tmp_path, checkpoint)
    try:
        assert server.process.wait(START_TIMEOUT_S) == 2
    finally:
        server.kill()
    log = server.log.read_text()
    assert "strop: " in log
    assert "Traceback" not in log


def test_a_port_that_cannot_be_listened_on_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        with pytest.raises(SettingsError, match="another program listens there"):
            check_port("127.0.0.1", other.getsockname()[1])
    with pytest.raises(SettingsError, match="Cannot listen on 192.0.2.1:9090"):
        check_port("192.0.2.1", 9090)


def test_addresses_of_both_kinds_are_written() -> None:
    assert address("localhost", 1) == "localhost:1"
    assert address("::1", 1) == "[::1]:1"
