"""Basic auth on every route: in constant time, told in the log, and slow to guess.

A wrong password costs its sender's address one of a few tries, which come back one at a time;
without a try left a request is refused unread (429).  What is no guess costs none: no password at
all, as Label Studio's own webhooks come, and the same wrong one again, as a backend sends whose
password was changed.  Behind a proxy all senders have the proxy's address: let it limit as well.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from flask import Response, jsonify, request

logger = logging.getLogger(__name__)

TRIES = 10
"""Wrong passwords of one address in a row."""

TRY_EVERY_S = 2.0
"""After these, one try comes back in this time."""

TELL_EVERY_S = 60.0
"""The same refusal of the same address is logged again after this time."""

MAX_ADDRESSES = 4096
"""Addresses remembered; of more, those that were refused longest ago are forgotten."""


@dataclass(slots=True)
class _Sender:
    tries: float
    counted_at: float
    told_at: dict[str, float] = field(default_factory=dict)
    guesses: OrderedDict[bytes, None] = field(default_factory=OrderedDict)


class GuessLimiter:
    """Counts wrong passwords by address, in bounded memory.  Safe to share between threads.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._key = secrets.token_bytes(16)
        self._senders: OrderedDict[str, _Sender] = OrderedDict()
        self._lock = threading.Lock()

    def may_try(self, address: str) -> bool:
        """Whether a password of this address is looked at."""
        with self._lock:
            sender = self._senders.get(_network(address))
            return sender is None or self._tries(sender) >= 1

    def failed(self, address: str, password: bytes) -> None:
        """A password was wrong: it costs a try, unless the address has sent it before."""
        digest = hmac.digest(self._key, password, "sha256")
        with self._lock:
            sender = self._sender(address)
            if digest in sender.guesses:
                return
            sender.guesses[digest] = None
            if len(sender.guesses) > TRIES:
                sender.guesses.popitem(last=False)
            sender.tries = self._tries(sender) - 1
            sender.counted_at = self._clock()

    def is_news(self, address: str, what: str) -> bool:
        """Whether this refusal is to be logged: not the same one all the time."""
        with self._lock:
            sender, now = self._sender(address), self._clock()
            if now - sender.told_at.get(what, -TELL_EVERY_S) < TELL_EVERY_S:
                return False
            sender.told_at[what] = now
            return True

    def __len__(self) -> int:
        with self._lock:
            return len(self._senders)

    def _sender(self, address: str) -> _Sender:
        network = _network(address)
        sender = self._senders.setdefault(network, _Sender(TRIES, self._clock()))
        self._senders.move_to_end(network)
        while len(self._senders) > MAX_ADDRESSES:
            self._senders.popitem(last=False)
        return sender

    def _tries(self, sender: _Sender) -> float:
        return min(TRIES, sender.tries + (self._clock() - sender.counted_at) / TRY_EVERY_S)


def _network(address: str) -> str:
    """An address as one sender: of IPv6, one has a whole network of them."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if isinstance(parsed, ipaddress.IPv6Address):
        mapped = parsed.ipv4_mapped
        return str(mapped or ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))
    return str(parsed)


class PasswordCheck:
    """Demands basic auth of every request.

    Args:
        username: The name.
        password: The password.
        limiter: Of guesses.
    """

    def __init__(self, username: str, password: str, limiter: GuessLimiter | None = None) -> None:
        self._expected = f"{username}:{password}".encode()
        self._limiter = GuessLimiter() if limiter is None else limiter

    def __call__(self) -> Response | None:
        """The refusal of the request at hand; None to let it in."""
        address = request.remote_addr or "an unknown address"
        header = request.headers.get("Authorization", "")
        if not header:
            self._tell(address, "no password; `strop doctor --fix` gives webhooks theirs")
            return _refusal(401, "This backend wants a user name and a password (basic auth).")
        if not self._limiter.may_try(address):
            self._tell(address, "too many wrong passwords; further ones are not looked at")
            refusal = _refusal(429, "Too many wrong passwords: try again in a few seconds.")
            refusal.headers["Retry-After"] = str(round(TRY_EVERY_S))
            return refusal
        given = _basic_credentials(header)
        if hmac.compare_digest(given, self._expected):
            return None
        self._limiter.failed(address, given)
        self._tell(address, "a wrong user name or password")
        return _refusal(401, "The user name or the password (basic auth) is wrong.")

    def _tell(self, address: str, what: str) -> None:
        if self._limiter.is_news(address, what):
            logger.warning("%s %s from %s refused: %s", request.method, request.path, address, what)


def _refusal(status: int, message: str) -> Response:
    refusal = jsonify(error=message)
    refusal.status_code = status
    if status == 401:
        refusal.headers["WWW-Authenticate"] = 'Basic realm="strop", charset="UTF-8"'
    return refusal


def _basic_credentials(header: str) -> bytes:
    """``name:password`` of an Authorization header; empty where there is none."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return b""
    try:
        return base64.b64decode(encoded.strip(), validate=True)
    except (binascii.Error, ValueError):
        return b""
