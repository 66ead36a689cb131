"""Tokens of Label Studio: which kind one is, and the header that it becomes.

Label Studio knows two kinds.  A *legacy* token is 40 hexadecimal digits, sent as it is.  A
*personal access token* is a JSON Web Token that opens nothing by itself: it is exchanged at
``/api/token/refresh/`` for an access token that lives 300 seconds.

No token is ever part of a ``repr``, a log line or an error message.
"""

from __future__ import annotations

import base64
import binascii
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from requests import PreparedRequest
from requests.auth import AuthBase

from adaptation.errors import SettingsError

TokenKind = Literal["legacy", "personal"]

DEFAULT_LIFETIME_S = 300.0
"""Lifetime of an access token that does not tell its own: Label Studio's default."""

RENEWAL_MARGIN_S = 60.0
"""An access token is renewed this long before it expires (or at half its life, if shorter)."""


def token_claims(token: str) -> Mapping[str, Any] | None:
    """Read the claims of a JSON Web Token without verifying it.

    Returns:
        The claims, or None where the token is not a JSON Web Token.
    """
    parts = token.split(".")
    if len(parts) != 3 or _decode_segment(parts[0]) is None:
        return None
    return _decode_segment(parts[1])


def _decode_segment(segment: str) -> Mapping[str, Any] | None:
    try:
        padded = segment + "=" * (-len(segment) % 4)
        value = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        return None
    return value if isinstance(value, dict) else None


def detect_token_kind(token: str) -> TokenKind:
    """Tell the kind of a token by its looks.

    Raises:
        SettingsError: It is no token, or an access token, which would expire within minutes.
    """
    if not token or not token.isascii() or any(c.isspace() or not c.isprintable() for c in token):
        raise SettingsError(
            "The Label Studio token is empty or holds spaces or unprintable characters: copy it "
            "again from Label Studio, Account & Settings."
        )
    claims = token_claims(token)
    if claims is None:
        return "legacy"
    if claims.get("token_type") == "access":
        raise SettingsError(
            "The Label Studio token is an access token, which expires within minutes: give the "
            "personal access token that Label Studio shows under Account & Settings."
        )
    return "personal"


def no_auth(request: PreparedRequest) -> PreparedRequest:
    """Sends no credentials; given explicitly, so that none are taken from a netrc file."""
    return request


@dataclass(frozen=True, slots=True)
class _AccessToken:
    value: str = field(repr=False)
    renew_at: float


class LegacyAuth(AuthBase):
    """Sends a legacy token with every request."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        """Add the header."""
        request.headers["Authorization"] = f"Token {self._token}"
        return request

    def __repr__(self) -> str:
        return "LegacyAuth()"


class PersonalAuth(AuthBase):
    """Exchanges a personal access token for access tokens and renews them in time.

    Threads share one access token: whoever finds it expired renews it, the others wait for that
    one exchange.

    Args:
        exchange: Takes nothing and returns a fresh access token from Label Studio; may raise.
        clock: Monotonic seconds.
    """

    def __init__(
        self, exchange: Callable[[], str], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._exchange = exchange
        self._clock = clock
        self._lock = threading.Lock()
        self._access: _AccessToken | None = None

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        """Add the header, after renewing the access token where it is due."""
        request.headers["Authorization"] = f"Bearer {self._current()}"
        return request

    def __repr__(self) -> str:
        return "PersonalAuth()"

    def reject(self, authorization: str | None) -> None:
        """Forget the access token that an ``Authorization`` header carried: it was refused.

        A token that another thread has renewed meanwhile is kept.
        """
        with self._lock:
            if self._access is not None and authorization == f"Bearer {self._access.value}":
                self._access = None

    def _current(self) -> str:
        with self._lock:
            if self._access is None or self._clock() >= self._access.renew_at:
                self._access = self._renewed()
            return self._access.value

    def _renewed(self) -> _AccessToken:
        asked_at = self._clock()
        value = self._exchange()
        lifetime = _lifetime_s(value)
        margin = min(RENEWAL_MARGIN_S, lifetime / 2)
        return _AccessToken(value=value, renew_at=asked_at + lifetime - margin)


def _lifetime_s(access_token: str) -> float:
    """Seconds from issue to expiry, by the issuer's clock alone: the two clocks may differ."""
    claims = token_claims(access_token) or {}
    issued, expires = claims.get("iat"), claims.get("exp")
    if isinstance(issued, (int, float)) and isinstance(expires, (int, float)):
        return max(0.0, float(expires) - float(issued))
    return DEFAULT_LIFETIME_S
