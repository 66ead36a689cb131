"""One demo and one browser for all end-to-end tests: real Label Studio, Strop and Chromium.

``STROP_TEST_LABEL_STUDIO`` names the environment of Label Studio (default: the one that `make`
makes); with ``STROP_TEST_SCREENSHOTS=1`` the pictures in ``docs/images`` are taken anew.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backend.sites import Reply, Site
from tests.e2e.browser import Browser
from tests.e2e.demo import ROOT, Demo


@pytest.fixture(scope="session")
def bucket() -> Iterator[Site]:
    """Answers like an S3 store to the little that Label Studio and Strop ask; it is allowed."""
    with Site().running() as site:
        site.routes["/scans"] = lambda _: Reply(200)
        yield site


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory, bucket: Site) -> Iterator[Demo]:
    environment = Path(os.environ.get("STROP_TEST_LABEL_STUDIO", ROOT / ".venv-label-studio"))
    port, label_studio_port = _free_ports(2)
    running = Demo(
        tmp_path_factory.mktemp("demo"),
        environment,
        port=port,
        label_studio_port=label_studio_port,
        variables={"STROP_IMAGES__ALLOWED_HOSTS": f"127.0.0.1:{bucket.port}"},
    )
    running.start()
    yield running
    if running.is_running:
        running.stop()


@pytest.fixture
def browser(demo: Demo) -> Iterator[Browser]:
    """A fresh browser, logged in."""
    opened = Browser(demo.url, *demo.login)
    yield opened
    opened.close()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where screenshots go: into the documentation when it is asked for."""
    wanted = os.environ.get("STROP_TEST_SCREENSHOTS") == "1"
    return ROOT / "docs" / "images" if wanted else tmp_path


def _free_ports(n_ports: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n_ports)]
    ports = [int(server.getsockname()[1]) for server in sockets]
    for server in sockets:
        server.close()
    return ports
