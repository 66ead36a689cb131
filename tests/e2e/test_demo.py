"""`strop demo` as a person uses it: start, stop, start again.  Runs after the tests of clicks."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.demo import ROOT, Demo

pytestmark = pytest.mark.e2e


def test_it_says_where_to_go_who_to_be_and_how_to_click(demo: Demo) -> None:
    email, password = demo.login
    assert f"{demo.url}/projects/{demo.project_id}/data" in demo.output
    assert email in demo.output and password in demo.output
    assert "making its database, step" in demo.output  # minutes pass, and something is said
    assert f"@127.0.0.1:{demo.backend_url.rsplit(':', 1)[1]}" in demo.output
    for word in ("Auto-Annotation", "Auto-Accept", "Alt+click", "then R", "Ctrl-C"):
        assert word in demo.output


def test_label_studio_reaches_strop_with_its_password(demo: Demo) -> None:
    (backend,) = demo.client().ml_backends(demo.project_id)
    assert backend.is_interactive and backend.state == "CO", backend.error_message
    (webhook,) = demo.client().webhooks(demo.project_id)
    assert webhook.covers() and webhook.headers["Authorization"].startswith("Basic ")


def test_a_second_demo_on_the_same_ports_says_so(demo: Demo, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from backend.cli import main; main()", "demo"]
    ports = ["--port", demo.backend_url.rsplit(":", 1)[1], "--label-studio-port", "1"]
    done = subprocess.run(
        [*command, *ports, "--folder", str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "is taken by another program" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_stops_cleanly_and_goes_on_where_it_was(demo: Demo, number: signal.Signals) -> None:
    project_id, n_tasks = demo.project_id, demo.client().project(demo.project_id).n_tasks
    assert demo.leftovers() != []
    assert demo.stop(number) == 0
    assert "Stopped." in demo.output
    assert demo.leftovers() == []
    demo.start()
    assert demo.project_id == project_id
    assert demo.client().project(project_id).n_tasks == n_tasks
    assert len(list(demo.client().projects())) == 2
    assert len(demo.client().webhooks(project_id)) == 1
