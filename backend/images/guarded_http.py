"""Downloads from hosts that the operator allowed, and from nowhere else.

A labeling task may name any address, and whoever imports tasks must not thereby reach into the
network that Strop stands in (server-side request forgery).  So before every request, and again
after every redirect,

1. the host has to be on the list of allowed hosts;
2. its name is resolved, and *every* address has to be a public one or inside an allowed network;
3. the connection goes to the very address that was checked: a name that resolves differently a
   moment later (DNS rebinding) changes nothing.

No credentials, cookies or proxies are used: a token of Label Studio never reaches another host.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError

from adaptation.errors import ImageError, SettingsError
from backend.images.cutoff import POOLS, Cutoff, SlowHosts, within_cutoff
from backend.label_studio.auth import no_auth

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolver = Callable[[str, int], Sequence[str]]

DEFAULT_PORTS = {"http": 80, "https": 443}
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_CHUNK_BYTES = 1 << 16


class HostNotAllowedError(ImageError):
    """The host is not on the list of allowed ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpBody:
    """What came back from one address.

    Args:
        content: The body; empty for a redirect.
        location: Where a redirect points, as the server wrote it, or None.
    """

    content: bytes = b""
    location: str | None = None


@dataclass(frozen=True, slots=True)
class _HostPattern:
    """One entry of the list: "host", "*.domain" (its subdomains), either with ":port"."""

    host: str
    port: int | None

    def matches(self, host: str, port: int, scheme: str) -> bool:
        if port != (self.port or DEFAULT_PORTS[scheme]):
            return False
        if self.host.startswith("*."):
            return host.endswith(self.host[1:])
        return host == self.host


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRules:
    """Which hosts may be read, and which private networks they may stand in."""

    patterns: tuple[_HostPattern, ...] = ()
    networks: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, hosts: Sequence[str] = (), networks: Sequence[str] = ()) -> HostRules:
        """Read the rules from the settings.

        Args:
            hosts: "images.example.com", "*.s3.amazonaws.com", "minio:9000", "10.0.0.5"; without a
                port only the standard port of http or https is meant.
            networks: Networks in CIDR notation whose private addresses hosts of the list may have.

        Raises:
            SettingsError: With every entry that cannot be understood, one a line.
        """
        patterns, nets, mistakes = [], [], []
        for entry in hosts:
            try:
                patterns.append(_parse_pattern(entry))
            except ValueError:
                mistakes.append(
                    f"images.allowed_hosts: {entry!r} is not a host, *.domain or host:port."
                )
        for entry in networks:
            try:
                nets.append(ipaddress.ip_network(entry))
            except ValueError:
                mistakes.append(
                    f"images.allowed_networks: {entry!r} is not a network such as 10.0.0.0/8."
                )
        if mistakes:
            raise SettingsError("\n".join(mistakes))
        return cls(patterns=tuple(patterns), networks=tuple(nets))

    def check_host(self, scheme: str, host: str, port: int) -> None:
        """Refuse a host that is not on the list.

        Raises:
            HostNotAllowedError: Names the host and the setting.
        """
        if not any(pattern.matches(host, port, scheme) for pattern in self.patterns):
            shown = host if port == DEFAULT_PORTS[scheme] else f"{host}:{port}"
            raise HostNotAllowedError(
                f"Images are not read from {shown}: if they should be, add it to "
                "images.allowed_hosts."
            )

    def check_address(self, host: str, address: Address) -> None:
        """Refuse an address that is not public, unless the operator named it or its network.

        Raises:
            ImageError: Names the host and the setting, but not the address.
        """
        real = _embedded(address)
        named = any(pattern.host == str(real) for pattern in self.patterns)
        inside = any(real in net for net in self.networks if net.version == real.version)
        if not (real.is_global and not real.is_multicast) and not named and not inside:
            raise ImageError(
                f"Images are not read from {host}: it has a private address; if that is meant to "
                "be, add its network to images.allowed_networks."
            )


def resolve(host: str, port: int) -> list[str]:
    """Addresses of a host, by the system's resolver, IPv4 first."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        raise ImageError(f"The image's host {host} is not known to the name server.") from None
    ordered = sorted(found, key=lambda entry: entry[0] != socket.AF_INET)
    return [str(entry[4][0]) for entry in ordered]


class Fetcher:
    """Downloads single files under the rules.  Safe to share between threads.

    Args:
        rules: Hosts and networks.
        timeout_s: Seconds to wait for a connection, and between two bytes.
        deadline_s: Seconds after which an exchange is given up, the name's lookup and the headers
            included, however it trickles.
        resolver: Host and port to addresses.
        verify: False, True, or a file with certificates, as in requests.
    """

    def __init__(
        self,
        rules: HostRules,
        *,
        timeout_s: tuple[float, float] = (5.0, 30.0),
        deadline_s: float = 60.0,
        resolver: Resolver = resolve,
        verify: bool | str = True,
    ) -> None:
        self._timeout_s = timeout_s
        self._deadline_s = deadline_s
        self._verify = verify
        self._slow = SlowHosts(time.monotonic)
        self._session = requests.Session()
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        adapter = _GuardedAdapter(rules, resolver)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)

    def close(self) -> None:
        """Close the pooled connections."""
        self._session.close()

    def fetch(self, url: str, *, max_bytes: int, deadline_s: float | None = None) -> HttpBody:
        """GET one address; a redirect is returned, not followed.

        Args:
            url: The address.
            max_bytes: Larger files are refused.
            deadline_s: Less time than usual, behind a redirect.

        Raises:
            ImageError: The rules forbid it, it cannot be reached, the server refuses, or the file
                has more than ``max_bytes`` bytes.
        """
        check_url(url)
        host = urlsplit(url).hostname or ""
        limit_s = self._deadline_s if deadline_s is None else min(deadline_s, self._deadline_s)
        if self._slow.rests(host):
            raise ImageError(_too_slow(host, limit_s) + " It is asked again in a moment.")
        with Cutoff(limit_s) as cutoff:
            try:
                body = self._fetch(url, host, max_bytes, limit_s)
                if cutoff.is_over:  # headers that were cut off look whole to the HTTP client
                    raise ImageError(_too_slow(host, limit_s))
            except (requests.RequestException, ImageError, TimeoutError) as error:
                is_late = cutoff.is_over or isinstance(error, requests.Timeout)
                self._slow.note(host, was_in_time=not is_late)
                if cutoff.is_over:
                    raise ImageError(_too_slow(host, limit_s)) from None
                if isinstance(error, ImageError):
                    raise
                assert isinstance(error, requests.RequestException)
                raise ImageError(_failed(host, error)) from None
        self._slow.note(host, was_in_time=True)
        return body

    def _fetch(self, url: str, host: str, max_bytes: int, limit_s: float) -> HttpBody:
        # Compressed transfers could grow without limit, and images do not shrink by them.
        options: dict[str, Any] = {"headers": {"Accept-Encoding": "identity"}, "stream": True}
        options |= {"timeout": self._timeout_s, "verify": self._verify}
        reply = self._session.get(url, auth=no_auth, allow_redirects=False, **options)
        with reply:
            if reply.is_redirect:
                return HttpBody(location=reply.headers["Location"])
            if not reply.ok:
                message = f"The image's host {host} answered {reply.status_code}"
                raise ImageError(f"{message}: is the address right, and may anyone read it?")
            return HttpBody(content=read_limited(reply, max_bytes, limit_s))


def read_limited(reply: requests.Response, max_bytes: int, deadline_s: float) -> bytes:
    """Read a body of at most ``max_bytes`` bytes within ``deadline_s`` seconds.

    It looks at the clock whenever anything arrives, be it a single byte.

    Raises:
        ImageError: It is larger, slower, or shorter than the server announced.
    """
    announced = reply.headers.get("Content-Length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise too_many_bytes(max_bytes)
    give_up_at = time.monotonic() + deadline_s
    chunks, n_bytes = [], 0
    try:
        while chunk := reply.raw.read1(_CHUNK_BYTES, decode_content=True):
            n_bytes += len(chunk)
            if n_bytes > max_bytes:
                raise too_many_bytes(max_bytes)
            if time.monotonic() > give_up_at:
                raise ImageError(f"The image did not arrive within {deadline_s:.0f} seconds.")
            chunks.append(chunk)
    except (requests.RequestException, HTTPError, OSError):
        raise ImageError("The connection broke while the image was on its way.") from None
    return b"".join(chunks)


def too_many_bytes(max_bytes: int) -> ImageError:
    """The error for a file over the limit."""
    return ImageError(
        f"The image file is larger than the {max_bytes} bytes that are allowed: shrink it, or "
        "raise images.max_file_mb."
    )


def check_url(url: str) -> None:
    """Refuse what two URL parsers might read in two ways, and credentials inside an address.

    Raises:
        ImageError: With the reason, without the address.
    """
    if not url.isprintable() or any(c in url for c in " \\"):
        raise ImageError("The image's address holds spaces, backslashes or control characters.")
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ImageError("The image's address has no valid host and port.")
    if "@" in parts.netloc:
        raise ImageError("The image's address holds a user name or password: remove it.")


class _GuardedAdapter(HTTPAdapter):
    """Applies the rules at the last moment, to the address that the connection really takes."""

    def __init__(self, rules: HostRules, resolver: Resolver) -> None:
        super().__init__()
        self._rules = rules
        self._resolver = resolver
        self.poolmanager.pool_classes_by_scheme = dict(POOLS)

    def send(
        self, request: requests.PreparedRequest, *args: Any, **kwargs: Any
    ) -> requests.Response:
        """Send without a proxy: behind one, nobody here could tell the address."""
        request.headers["Host"] = urlsplit(request.url or "").netloc
        kwargs["proxies"] = None
        return super().send(request, *args, **kwargs)

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, verify: Any, cert: Any = None
    ) -> tuple[Any, Any]:
        """Put the checked address in the host's place; certificates are still the host's."""
        attributes = super().build_connection_pool_key_attributes(request, verify, cert)
        where, how = dict(attributes[0]), dict(attributes[1])
        scheme, host = str(where["scheme"]), str(where["host"]).rstrip(".")
        port = urlsplit(request.url or "").port or DEFAULT_PORTS[scheme]
        self._rules.check_host(scheme, host, port)
        addresses = within_cutoff(partial(self._resolver, host, port))
        for address in addresses:
            self._rules.check_address(host, ipaddress.ip_address(address.split("%")[0]))
        how |= {"server_hostname": host, "assert_hostname": host}
        return {**where, "host": addresses[0]}, how


def _parse_pattern(entry: str) -> _HostPattern:
    parts = urlsplit(f"//{entry.strip().lower()}")
    host = (parts.hostname or "").rstrip(".")
    name = host.removeprefix("*.")
    if not name or "*" in name or parts.path or parts.query or "@" in parts.netloc:
        raise ValueError(entry)
    if host != name and "." not in name:
        raise ValueError(entry)  # "*.com" would open the internet
    return _HostPattern(host=_canonical(host), port=parts.port)


def _canonical(host: str) -> str:
    """Addresses in their one spelling, international names in the one that is sent."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host if host.isascii() else host.encode("idna").decode("ascii")


def _embedded(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for, or the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo[1] if address.teredo else None
    return address.ipv4_mapped or address.sixtofour or teredo or address


def _too_slow(host: str, deadline_s: float) -> str:
    return f"The image did not arrive from {host} within {deadline_s:.0f} seconds."


def _failed(host: str, error: requests.RequestException) -> str:
    if isinstance(error, requests.exceptions.SSLError):
        return f"The image's host {host} has a certificate that cannot be verified."
    if isinstance(error, requests.Timeout):
        return (
            f"The image's host {host} did not answer in time: if it is that slow, raise "
            "images.timeout_s."
        )
    return f"The image's host {host} cannot be reached."
