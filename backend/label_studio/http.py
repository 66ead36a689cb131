"""HTTP to one Label Studio: authentication, limits and errors, and no meaning of its own.

Every call goes to the one address that the operator set, never follows a redirect, keeps no
cookies, and holds its token where no log line and no error can show it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from http.cookiejar import DefaultCookiePolicy
from typing import Any, BinaryIO, Literal
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from adaptation.errors import SettingsError, StropError
from backend.label_studio.auth import (
    LegacyAuth,
    PersonalAuth,
    TokenKind,
    detect_token_kind,
    no_auth,
)

_REFUSED = {
    "legacy": (
        "Label Studio refused the legacy token. Either it is wrong, or legacy tokens are disabled "
        "for the organization (the default since 1.20): use a personal access token, or enable "
        "legacy tokens under Organization > API Tokens Settings."
    ),
    "personal": (
        "Label Studio refused the personal access token. It was revoked or has expired, belongs "
        "to another Label Studio, or personal access tokens are disabled for the organization: "
        "create one under Account & Settings > Personal Access Token."
    ),
    None: "Label Studio asks for a token and none is set: set label_studio.token.",
}


class LabelStudioError(StropError):
    """Label Studio could not be reached, or it refused or did not understand a request.

    Args:
        message: What was wrong and what to do; shown to users.
        status: The HTTP status that Label Studio answered, or None where it did not answer.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class LabelStudioAuthError(LabelStudioError):
    """The token is missing, refused, or may not do what was asked."""


class Transport:
    """Sends requests to one Label Studio.  Safe to share between threads.

    Args:
        url: Address of Label Studio, with the path it is served under, if any.
        token: A legacy token or a personal access token; None for what needs no login.
        token_kind: "auto" tells the kind by the token's looks.
        timeout_s: Seconds to wait for a connection, and between two bytes of an answer.

    Raises:
        SettingsError: The address or the token cannot be one.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        token_kind: Literal["auto"] | TokenKind = "auto",
        timeout_s: tuple[float, float] = (5.0, 60.0),
    ) -> None:
        self.url = _base_url(url)
        self.token_kind = _token_kind(token, token_kind)
        self._timeout_s = timeout_s
        self._session = _new_session(self.url)
        self._auth = self._new_auth(token)

    def __repr__(self) -> str:
        return f"Transport(url={self.url!r}, token_kind={self.token_kind!r})"

    def __enter__(self) -> Transport:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the pooled connections."""
        self._session.close()

    def get_json(self, path: str, *, params: Mapping[str, Any] | None = None) -> Any:
        """GET a path of the API and parse the answer."""
        return _parsed(self._checked(self._request("GET", path, params=params)))

    def send_json(self, method: str, path: str, body: Mapping[str, Any] | Sequence[Any]) -> Any:
        """POST, PATCH, PUT or DELETE with a JSON body; None for an empty answer."""
        return _parsed(self._checked(self._request(method, path, json=body)))

    def send_file(
        self, path: str, name: str, content: BinaryIO, *, params: Mapping[str, Any] | None = None
    ) -> Any:
        """POST one file as a form and parse the answer."""
        options: dict[str, Any] = {"params": params, "files": {"file": (name, content)}}
        return _parsed(self._checked(self._request("POST", path, **options)))

    def open(self, path: str, *, headers: Mapping[str, str] | None = None) -> requests.Response:
        """GET a file as an unread stream, whatever its status; redirects are left to the caller.

        Args:
            path: Path and query below this Label Studio's address.
            headers: More request headers.

        Returns:
            The response; the caller closes it.
        """
        return self._request("GET", path, headers=headers, stream=True)

    def _request(self, method: str, path: str, **options: Any) -> requests.Response:
        options = {"timeout": self._timeout_s, "allow_redirects": False, **options}
        url = self.url + path
        try:
            reply = self._session.request(method, url, auth=self._auth, **options)
            if reply.status_code == 401 and isinstance(self._auth, PersonalAuth):
                reply = self._again(reply, method, url, options)
        except requests.RequestException as error:
            raise LabelStudioError(_unreachable(self.url, error)) from None
        return reply

    def _again(
        self, refused: requests.Response, method: str, url: str, options: dict[str, Any]
    ) -> requests.Response:
        """Try once more with a fresh access token: clocks may jump, and servers restart."""
        if "files" in options:
            return refused
        refused.close()
        assert isinstance(self._auth, PersonalAuth)
        self._auth.reject(refused.request.headers.get("Authorization"))
        return self._session.request(method, url, auth=self._auth, **options)

    def _checked(self, reply: requests.Response) -> requests.Response:
        if reply.ok and not reply.is_redirect:
            return reply
        with reply:
            raise self._failure(reply)

    def _failure(self, reply: requests.Response) -> LabelStudioError:
        status, path = reply.status_code, urlsplit(reply.url).path
        if status == 401:
            return LabelStudioAuthError(_REFUSED[self.token_kind], status=status)
        if reply.is_redirect:
            target = _origin(reply.headers.get("Location", "")) or "another page"
            message = f"Label Studio at {self.url} redirects {path} to {target}: "
            message += "set label_studio.url to the address that it redirects to."
            return LabelStudioError(message, status=status)
        message = f"Label Studio answered {status} to {reply.request.method} {path}"
        kind = LabelStudioAuthError if status == 403 else LabelStudioError
        return kind(f"{message}: {_detail(reply)}", status=status)

    # -- tokens -----------------------------------------------------------------------------------

    def _new_auth(self, token: str | None) -> Any:
        if token is None:
            return no_auth
        if self.token_kind == "legacy":
            return LegacyAuth(token)
        return PersonalAuth(lambda: self._exchange(token))

    def _exchange(self, token: str) -> str:
        """A fresh access token for a personal access token."""
        url = self.url + "/api/token/refresh/"
        options: dict[str, Any] = {"timeout": self._timeout_s, "allow_redirects": False}
        reply = self._session.post(url, json={"refresh": token}, auth=no_auth, **options)
        access = _parsed(self._checked(reply)).get("access")
        if not isinstance(access, str) or not access:
            raise LabelStudioError("Label Studio answered without an access token: is it 1.20+?")
        return access


def _base_url(url: str) -> str:
    try:
        parts = urlsplit(url.strip())
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname)
        is_address = is_address and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address:
        raise SettingsError("label_studio.url must look like https://host or http://host:8080.")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise SettingsError(
            "label_studio.url must hold no user, password, query or fragment: the token goes into "
            "label_studio.token."
        )
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


def _token_kind(token: str | None, kind: Literal["auto"] | TokenKind) -> TokenKind | None:
    if token is None:
        return None
    detected = detect_token_kind(token)
    return detected if kind == "auto" else kind


def _new_session(url: str) -> requests.Session:
    session = requests.Session()
    # No proxy of the environment leads back to this machine.
    session.trust_env = not is_this_machine(urlsplit(url).hostname or "")
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    # A pooled connection that the server has closed meanwhile fails once, and only reads repeat.
    retry = Retry(connect=1, read=1, redirect=0, status=0, other=0, allowed_methods=["GET"])
    adapter = HTTPAdapter(pool_maxsize=16, max_retries=retry)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


def is_this_machine(host: str) -> bool:
    """Whether a host's name is that of the machine itself; no proxy leads there."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _parsed(reply: requests.Response) -> Any:
    with reply:
        if not reply.content:
            return None
        try:
            return reply.json()
        except ValueError:
            path = urlsplit(reply.url).path
            raise LabelStudioError(
                f"The answer to {path} is not JSON: is label_studio.url really a Label Studio?",
                status=reply.status_code,
            ) from None


def _unreachable(url: str, error: requests.RequestException) -> str:
    if isinstance(error, requests.exceptions.SSLError):
        return f"Label Studio at {url} has a certificate that cannot be verified."
    if isinstance(error, requests.Timeout):
        return f"Label Studio at {url} did not answer in time."
    return f"Label Studio at {url} cannot be reached: is it running, and is the address right?"


def _detail(reply: requests.Response) -> str:
    """The reason that Label Studio gives, in one line and cut to a readable length."""
    try:
        body = reply.json()
    except ValueError:
        return reply.reason or "no reason given"
    if not isinstance(body, dict):
        return str(body)[:300]
    reasons = body.get("validation_errors") or body.get("detail") or body
    return " ".join(str(reasons).split())[:300]


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}" if parts.netloc else ""
