"""`strop doctor` against the real Label Studio of the demo."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from PIL import Image

from tests.e2e.demo import ROOT, Demo

pytestmark = pytest.mark.e2e


def doctor(demo: Demo, *options: str, token: str | None = None) -> tuple[int, str]:
    """Exit code and output, with the settings that the demo's Strop runs with."""
    credentials = json.loads((demo.folder / "credentials.json").read_text())
    variables = {
        "STROP_SERVER__PORT": demo.backend_url.rsplit(":", 1)[1],
        "STROP_SERVER__PASSWORD": credentials["backend_password"],
        "STROP_LABEL_STUDIO__URL": demo.url,
        "STROP_LABEL_STUDIO__TOKEN": token or credentials["token"],
        "STROP_DATA_DIR": str(demo.folder / "strop"),
    }
    command = [sys.executable, "-c", "from backend.cli import main; main()", "doctor", *options]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr
    assert credentials["token"] not in done.stdout + done.stderr
    assert credentials["backend_password"] not in done.stdout + done.stderr
    return done.returncode, done.stdout


def test_the_demo_is_healthy(demo: Demo) -> None:
    code, output = doctor(demo)
    assert code == 0, output
    assert "FAIL" not in output
    assert "legacy token of demo@example.com" in output
    assert "interactively" in output and "webhook sends every annotation" in output


def test_a_personal_access_token_works_as_well(demo: Demo) -> None:
    token = demo.client().http.send_json("POST", "/api/token/", {})["token"]
    code, output = doctor(demo, token=token)
    assert code == 0, output
    assert "personal access token of demo@example.com" in output
    with Image.open(ROOT / "backend/commands/demo/samples/1-nuclei-fluorescence.jpg") as first:
        width, height = first.size
    assert f"shows {width} x {height} pixels" in output, "the image was read with it"


def test_a_wrong_token_is_named(demo: Demo) -> None:
    code, output = doctor(demo, token="0" * 40)
    assert code == 1
    assert "FAIL  Label Studio refused the legacy token" in output


def test_a_broken_connection_is_found_and_mended(demo: Demo) -> None:
    client, number = demo.client(), demo.project_id
    (hook,) = client.webhooks(number)
    body = {"url": hook.url, "headers": {}, "is_active": True, "send_payload": True}
    body |= {"send_for_all_actions": True, "actions": []}
    client.http.send_json("PATCH", f"/api/webhooks/{hook.webhook_id}/", body)
    (backend,) = client.ml_backends(number)
    wrong = {"url": backend.url, "project": int(number), "is_interactive": False}
    wrong |= {"auth_method": "BASIC_AUTH", "basic_auth_user": "strop"}
    login = json.loads((demo.folder / "credentials.json").read_text())
    wrong |= {"basic_auth_pass": login["backend_password"]}
    client.http.send_json("PATCH", f"/api/ml/{backend.backend_id}", wrong)
    code, output = doctor(demo, "--project", number)
    assert code == 1
    assert "interactive preannotations are off" in output
    assert "does not send Strop's password" in output
    code, output = doctor(demo, "--project", number, "--fix")
    assert code == 0, output
    assert len(client.webhooks(number)) == len(client.ml_backends(number)) == 1
