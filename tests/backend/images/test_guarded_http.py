from __future__ import annotations

import ipaddress
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptation.errors import ImageError, SettingsError
from backend.images.guarded_http import Fetcher, HostRules, resolve
from tests.backend.sites import Reply, Site

LOOPBACK = ("127.0.0.0/8",)


@pytest.fixture
def site() -> Iterator[Site]:
    with Site().running() as running:
        yield running


def fetcher(
    site: Site, *, hosts: Sequence[str] | None = None, networks: Sequence[str] = LOOPBACK
) -> Fetcher:
    listed = [f"127.0.0.1:{site.port}"] if hosts is None else hosts
    return Fetcher(HostRules.parse(listed, networks), deadline_s=5)


def named(site: Site, addresses: Sequence[str], **options: object) -> tuple[Fetcher, str]:
    """A fetcher for which the allowed name images.test has these addresses, and a URL there."""
    rules = HostRules.parse([f"images.test:{site.port}"], options.pop("networks", ()))  # type: ignore[arg-type]
    fetch = Fetcher(rules, resolver=lambda host, port: list(addresses), **options)  # type: ignore[arg-type]
    return fetch, f"http://images.test:{site.port}/a.png"


# -- the list of hosts ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "scheme", "host", "port", "fits"),
    [
        ("images.example.com", "https", "images.example.com", 443, True),
        ("images.example.com", "http", "images.example.com", 80, True),
        ("images.example.com", "http", "images.example.com", 8080, False),
        ("images.example.com:8080", "http", "images.example.com", 8080, True),
        ("images.example.com:8080", "http", "images.example.com", 80, False),
        ("IMAGES.example.com.", "https", "images.example.com", 443, True),
        ("example.com", "https", "images.example.com", 443, False),
        ("*.example.com", "https", "images.example.com", 443, True),
        ("*.example.com", "https", "a.b.example.com", 443, True),
        ("*.example.com", "https", "example.com", 443, False),
        ("*.example.com", "https", "badexample.com", 443, False),
        ("images.example.com", "https", "images.example.com.evil.org", 443, False),
        ("[::1]:9000", "http", "::1", 9000, True),
        ("[0:0::1]:9000", "http", "::1", 9000, True),
        ("bücher.example", "https", "xn--bcher-kva.example", 443, True),
    ],
)
def test_which_hosts_a_list_entry_means(
    entry: str, scheme: str, host: str, port: int, fits: bool
) -> None:
    rules = HostRules.parse([entry])
    if fits:
        rules.check_host(scheme, host, port)
    else:
        with pytest.raises(ImageError, match="images.allowed_hosts"):
            rules.check_host(scheme, host, port)


def test_every_mistake_in_the_lists_is_reported_at_once() -> None:
    hosts = ["", "*", "*.com", "a*b.org", "http://x.org", "u@x.org", "x.org:99999", "x.org/path"]
    with pytest.raises(SettingsError) as caught:
        HostRules.parse([*hosts, "fine.org"], ["10.0.0.0/33", "192.168.0.0/16"])
    lines = str(caught.value).splitlines()
    assert len(lines) == len(hosts) + 1
    assert all(repr(host) in line for host, line in zip(hosts, lines, strict=False))


# -- addresses ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fc00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
    ],
)
def test_private_addresses_are_refused_in_all_their_spellings(address: str) -> None:
    told = refusal(HostRules(), address)
    assert told is not None and "private address" in told and address not in told


def refusal(rules: HostRules, address: str) -> str | None:
    """What is said of an address that may not be read; None of one that may."""
    try:
        rules.check_address("images.test", ipaddress.ip_address(address))
    except ImageError as error:
        return str(error)
    return None


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "64:ff9b::5db8:d822"])
def test_public_addresses_are_read(address: str) -> None:
    assert refusal(HostRules(), address) is None


def test_networks_of_the_settings_open_private_addresses() -> None:
    rules = HostRules.parse([], ["172.16.0.0/12", "fd00::/8"])
    for address in ("172.18.0.5", "fd12::1", "::ffff:172.18.0.5"):
        rules.check_address("minio", ipaddress.ip_address(address))
    with pytest.raises(ImageError):
        rules.check_address("minio", ipaddress.ip_address("10.0.0.1"))


def test_an_address_that_the_operator_wrote_down_is_meant() -> None:
    rules = HostRules.parse(["10.0.0.5"])
    rules.check_address("10.0.0.5", ipaddress.ip_address("10.0.0.5"))
    with pytest.raises(ImageError):
        rules.check_address("10.0.0.5", ipaddress.ip_address("10.0.0.6"))


@given(st.ip_addresses())
def test_what_is_not_global_never_passes_without_a_setting(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    if address.is_global:
        return
    with pytest.raises(ImageError):
        HostRules().check_address("images.test", address)


# -- downloads -----------------------------------------------------------------------------------


def test_a_file_is_read_from_an_allowed_host_without_credentials(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a netrc file nor a proxy of the environment comes into play."""
    (tmp_path / ".netrc").write_text("default login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    url = site.serve("/a.png", b"content")
    assert fetcher(site).fetch(url, max_bytes=100).content == b"content"
    assert not {"Authorization", "Cookie"} & set(site.requests[0].headers)


def test_a_host_that_is_not_listed_is_never_contacted(site: Site) -> None:
    url = site.serve("/a.png", b"content")
    with pytest.raises(ImageError, match="127.0.0.1:.* images.allowed_hosts"):
        fetcher(site, hosts=["images.example.com"]).fetch(url, max_bytes=100)
    assert site.requests == []


def test_a_listed_name_with_a_private_address_is_never_contacted(site: Site) -> None:
    fetch, url = named(site, ["127.0.0.1"])
    with pytest.raises(ImageError, match="images.test: it has a private address"):
        fetch.fetch(url, max_bytes=100)
    assert site.requests == []


def test_one_private_address_among_public_ones_is_enough_to_refuse(site: Site) -> None:
    fetch, url = named(site, ["93.184.216.34", "127.0.0.1"])
    with pytest.raises(ImageError, match="private address"):
        fetch.fetch(url, max_bytes=100)


def test_the_connection_goes_to_the_address_that_was_checked(site: Site) -> None:
    """DNS rebinding: the second answer of the name server would be another machine."""
    answers = [["127.0.0.1"], ["127.0.0.2"]]
    rules = HostRules.parse([f"images.test:{site.port}"], ["127.0.0.1/32"])
    fetch = Fetcher(rules, resolver=lambda host, port: answers.pop(0))
    site.serve("/a.png", b"content")
    url = f"http://images.test:{site.port}/a.png"
    assert fetch.fetch(url, max_bytes=100).content == b"content"
    assert site.requests[0].headers["Host"] == f"images.test:{site.port}"
    assert len(answers) == 1
    with pytest.raises(ImageError, match="private address"):
        fetch.fetch(url, max_bytes=100)


def test_a_redirect_is_returned_not_followed(site: Site) -> None:
    url = site.redirect("/a.png", "http://169.254.169.254/latest/meta-data/")
    download = fetcher(site).fetch(url, max_bytes=100)
    assert download.location == "http://169.254.169.254/latest/meta-data/"
    assert download.content == b""


@pytest.mark.parametrize("announced", [True, False])
def test_the_byte_limit_holds_announced_or_not(site: Site, announced: bool) -> None:
    def answer(_: object) -> Reply:
        headers = {} if announced else {"Content-Length": "", "Connection": "close"}
        return Reply(200, b"x" * 1001, headers)

    site.routes["/a.png"] = answer
    url = f"{site.url}/a.png"
    if announced:
        assert len(fetcher(site).fetch(url, max_bytes=1001).content) == 1001
    with pytest.raises(ImageError, match="larger than the 1000 bytes"):
        fetcher(site).fetch(url, max_bytes=1000)


def test_a_download_that_breaks_off_is_an_error() -> None:
    with _raw_server(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this") as port:
        rules = HostRules.parse([f"127.0.0.1:{port}"])
        with pytest.raises(ImageError, match="connection broke"):
            Fetcher(rules).fetch(f"http://127.0.0.1:{port}/a.png", max_bytes=1000)


def test_a_refusal_of_the_host_is_passed_on(site: Site) -> None:
    with pytest.raises(ImageError, match="127.0.0.1 answered 404"):
        fetcher(site).fetch(f"{site.url}/none.png", max_bytes=100)


def test_a_host_that_is_down_is_named() -> None:
    with pytest.raises(ImageError, match="127.0.0.1 cannot be reached"):
        Fetcher(HostRules.parse(["127.0.0.1:9"])).fetch("http://127.0.0.1:9/a", max_bytes=100)


@pytest.mark.parametrize(
    "url",
    [
        "http://user:pass@127.0.0.1/a",
        "http://127.0.0.1\\@images.test/a",
        "http://127.0.0.1 /a",
        "http://127.0.0.1\t/a",
        "http:///a",
        "http://127.0.0.1:0/a",
        "http://127.0.0.1:99999/a",
        "http://[::1/a",
    ],
)
def test_addresses_that_parsers_read_differently_are_refused(site: Site, url: str) -> None:
    with pytest.raises(ImageError):
        fetcher(site, hosts=["127.0.0.1", "images.test"]).fetch(url, max_bytes=100)


def test_an_unknown_name_is_named() -> None:
    with pytest.raises(ImageError, match="nowhere.invalid is not known"):
        resolve("nowhere.invalid", 80)


def test_the_certificate_is_checked_against_the_name(tmp_path: Path) -> None:
    """The connection goes to an address, and yet the certificate has to be the host's."""
    context, certificate = _certificate(tmp_path, "images.test")
    with Site(tls=context).running() as site:
        site.serve("/a.png", b"content")
        hosts = [f"images.test:{site.port}", f"other.test:{site.port}"]
        rules = HostRules.parse(hosts, LOOPBACK)
        fetch = Fetcher(rules, resolver=lambda host, port: ["127.0.0.1"], verify=str(certificate))
        good = fetch.fetch(f"https://images.test:{site.port}/a.png", max_bytes=100)
        assert good.content == b"content"
        with pytest.raises(ImageError, match="other.test has a certificate"):
            fetch.fetch(f"https://other.test:{site.port}/a.png", max_bytes=100)


class _raw_server:
    """Answers one connection with fixed bytes and closes it."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        connection, _ = self._socket.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(self._answer)

    def __enter__(self) -> int:
        self._thread.start()
        return int(self._socket.getsockname()[1])

    def __exit__(self, *_: object) -> None:
        self._thread.join(timeout=5)
        self._socket.close()


def _certificate(folder: Path, name: str) -> tuple[ssl.SSLContext, Path]:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl command to make a certificate")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context, certificate
