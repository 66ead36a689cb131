"""Basic auth: wrong passwords are told, cost tries, and never lock the right one's sender out."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable

import pytest
from flask import Flask
from flask.testing import FlaskClient

from backend.server.password import MAX_ADDRESSES, TRIES, TRY_EVERY_S, GuessLimiter, PasswordCheck


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def client(clock: Clock) -> FlaskClient:
    app = Flask("guarded")
    app.before_request(PasswordCheck("ann", "right", GuessLimiter(clock)))
    app.add_url_rule("/", view_func=lambda: "in")
    return app.test_client()


@pytest.fixture
def ask(client: FlaskClient) -> Callable[..., int]:
    def status(password: str | None, address: str = "10.0.0.5") -> int:
        headers = {}
        if password is not None:
            encoded = base64.b64encode(f"ann:{password}".encode()).decode()
            headers = {"Authorization": f"Basic {encoded}"}
        reply = client.get("/", headers=headers, environ_base={"REMOTE_ADDR": address})
        return reply.status_code

    return status


def test_guesses_are_slowed_down_to_one_in_two_seconds(
    ask: Callable[..., int], clock: Clock
) -> None:
    answers = [ask(f"guess {i}") for i in range(70)]
    assert answers == [401] * TRIES + [429] * (70 - TRIES)
    assert ask("right") == 429, "a right one is not looked at either, or guessing would go on"
    clock.now += TRY_EVERY_S
    assert [ask("another"), ask("right")] == [401, 429]
    clock.now += TRY_EVERY_S
    assert [ask("right")] * 3 == [200] * 3


def test_other_addresses_go_on(ask: Callable[..., int]) -> None:
    for i in range(20):
        ask(f"guess {i}")
    assert ask("right", "10.0.0.6") == 200


def test_what_is_no_guess_costs_no_tries(ask: Callable[..., int]) -> None:
    """Webhooks of Label Studio come without a password, old backends with an old one."""
    for _ in range(50):
        assert (ask(None), ask("old")) == (401, 401)
    assert ask("right") == 200


def test_a_whole_network_of_ipv6_is_one_sender(ask: Callable[..., int]) -> None:
    answers = [ask(f"guess {i}", f"2001:db8::{i:x}") for i in range(20)]
    assert answers.count(401) == TRIES
    assert ask("right", "2001:db8:0:1::1") == 200
    assert ask("guess", "::ffff:10.0.0.7") == 401


def test_a_refusal_leaves_a_line_and_not_one_for_each(
    ask: Callable[..., int], clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for i in range(100):
        ask(f"guess {i}")
        ask(None)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3 and all("GET / from 10.0.0.5 refused: " in line for line in lines)
    assert "guess" not in caplog.text
    clock.now += 61
    ask("guess")
    assert len(caplog.records) == 4


def test_memory_is_bounded() -> None:
    limiter = GuessLimiter()
    for i in range(MAX_ADDRESSES + 500):
        limiter.failed(f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}", b"guess")
    assert len(limiter) == MAX_ADDRESSES
