"""The guide's configurations of nginx and Caddy, run by the real programs in front of a server."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from backend.settings import Settings
from tests.backend.making import until

GUIDE = (Path(__file__).resolve().parents[3] / "docs" / "guide" / "server.md").read_text()
NAME = "strop.example.com"
MOST_BYTES = int(Settings().server.max_request_mb) * 1_000_000


class Upstream(ThreadingHTTPServer):
    """Stands where Strop stands, and knows what reached it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[int] = []
        self.n_begun = 0


class _Handler(BaseHTTPRequestHandler):
    server: Upstream

    def do_POST(self) -> None:
        self.server.n_begun += 1
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.bodies.append(len(content))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def certificate(folder: Path) -> tuple[Path, Path]:
    key, public = folder / "key.pem", folder / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-keyout", str(key), "-out", str(public), "-subj", f"/CN={NAME}"]
    subprocess.run(command, check=True, capture_output=True)
    return key, public


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", GUIDE, re.S)
    assert found is not None
    return found.group(1)


def replaced(text: str, changes: dict[str, str]) -> str:
    """Each of the changes, which have to be there."""
    for old, new in changes.items():
        assert old in text, f"the guide's configuration has no {old!r}"
        text = text.replace(old, new)
    return text


def nginx(folder: Path, port: int, upstream_port: int) -> list[str]:
    key, public = certificate(folder)
    changes = {
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        f"/etc/letsencrypt/live/{NAME}/fullchain.pem": str(public),
        f"/etc/letsencrypt/live/{NAME}/privkey.pem": str(key),
        "127.0.0.1:9090": f"127.0.0.1:{upstream_port}",
    }
    own = "".join(
        f"{name}_temp_path {folder}/{name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = folder / "nginx.conf"
    # Its workers write to the test's folder, also where the test is root.
    user = f"user {getpass.getuser()};" if os.getuid() == 0 else ""
    config.write_text(
        f"{user} daemon off; pid {folder}/pid; error_log {folder}/log;\nevents {{}}\n"
        f"http {{ access_log off;\n{own}{replaced(block('nginx'), changes)}}}\n"
    )
    return ["nginx", "-c", str(config)]


def caddy(folder: Path, port: int, upstream_port: int) -> list[str]:
    key, public = certificate(folder)
    changes = {
        f"{NAME} {{": f"{NAME}:{port} {{\n    tls {public} {key}",
        "127.0.0.1:9090": f"127.0.0.1:{upstream_port}",
        "{\n    servers {": "{\n    admin off\n    servers {",
    }
    text = replaced(block("caddyfile"), changes)
    told = subprocess.run(["caddy", "version"], capture_output=True, text=True, check=True).stdout
    major, minor = (int(number) for number in told.lstrip("v").split(".")[:2])
    if (major, minor) < (2, 7):  # as the guide says
        of_old = {"request_buffers 64MB": "buffer_requests\n        max_buffer_size 64MB"}
        text = replaced(text, of_old)
    config = folder / "Caddyfile"
    config.write_text(text)
    return ["caddy", "run", "--config", str(config), "--adapter", "caddyfile"]


PROGRAMS = {"nginx": nginx, "caddy": caddy}


@contextmanager
def running(command: list[str], port: int, folder: Path) -> Iterator[None]:
    environment = {"HOME": str(folder), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    program = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    try:
        until(lambda: program.poll() is not None or answers(port))
        assert program.poll() is None, f"{command[0]} refuses the guide's configuration"
        yield
    finally:
        program.terminate()
        program.wait(20)


def answers(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def connected(port: int) -> ssl.SSLSocket:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    plain = socket.create_connection(("127.0.0.1", port), timeout=30)
    return context.wrap_socket(plain, server_hostname=NAME)


def head(n_bytes: int) -> bytes:
    return (
        f"POST /predict HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: {n_bytes}\r\n"
        "Connection: close\r\n\r\n"
    ).encode()


def status(connection: ssl.SSLSocket) -> int:
    return int(connection.recv(4096).split()[1])


@pytest.fixture(params=sorted(PROGRAMS))
def port(request: pytest.FixtureRequest, tmp_path: Path, upstream: Upstream) -> Iterator[int]:
    """The proxy's, with the upstream behind it.

    Strop needs neither proxy: a machine without one (Debian: nginx, caddy) leaves its tests out,
    and pytest tells so.
    """
    for program in (request.param, "openssl"):
        if shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
            pytest.skip(f"{program} is not installed")
    found = free_port()
    command = PROGRAMS[request.param](tmp_path, found, upstream.server_port)
    with running(command, found, tmp_path):
        yield found


def test_a_click_with_large_masks_passes(port: int, upstream: Upstream) -> None:
    n_bytes = 8_000_000
    with connected(port) as client:
        client.sendall(head(n_bytes) + bytes(n_bytes))
        assert status(client) == 200
    assert upstream.bodies == [n_bytes]


def test_what_is_too_large_is_refused_before_it_arrives(port: int, upstream: Upstream) -> None:
    with connected(port) as client:
        client.sendall(head(2 * MOST_BYTES) + bytes(100_000))
        client.settimeout(10)
        try:
            said = status(client)
        except TimeoutError:  # Caddy looks at what comes, not at what is announced
            said = 0
    assert said in (413, 0) and upstream.bodies == []


def test_a_body_that_trickles_holds_nobody_behind_the_proxy(port: int, upstream: Upstream) -> None:
    with connected(port) as slow:
        slow.sendall(head(200_000) + bytes(100_000))
        with connected(port) as quick:
            quick.sendall(head(10) + bytes(10))
            assert status(quick) == 200
        assert upstream.n_begun == 1, "the half body waits in the proxy"
        slow.sendall(bytes(100_000))
        assert status(slow) == 200
    assert upstream.bodies == [10, 200_000]
