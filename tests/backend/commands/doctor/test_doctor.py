from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import save_file

from adaptation.journal import Journal, SubmissionRecord
from adaptation.models.compact.model import build_compact
from adaptation.models.costs import Cost
from backend.commands.demo.project import LABEL_CONFIG
from backend.commands.doctor import Finding, Level, examine, machine, run
from backend.settings import Settings, load_settings
from tests.backend.sites import (
    LEGACY_TOKEN,
    PERSONAL_TOKEN,
    LabelStudioSite,
    Reply,
    Request,
    Site,
    json_reply,
    make_token,
)

PASSWORD = "a long password"


class Studio(LabelStudioSite):
    """A Label Studio with one project, number 7, with one task that shows one image."""

    def __init__(self) -> None:
        super().__init__()
        self.project: dict[str, Any] = {"id": 7, "title": "Cells", "label_config": LABEL_CONFIG}
        self.project |= {"task_number": 1, "total_annotations_number": 0}
        self.tasks = [{"id": 1, "data": {"image": "/data/upload/7/a.png"}, "total_annotations": 0}]
        file = io.BytesIO()
        Image.new("RGB", (40, 30)).save(file, "PNG")
        self.serve("/data/upload/7/a.png", file.getvalue())
        self.routes["/api/projects/"] = lambda _: json_reply(
            {"results": [self.project], "next": None}
        )
        self.routes["/api/projects/7/"] = lambda _: json_reply(self.project)

    def connect(self, url: str, **changes: Any) -> None:
        self.backends.append(
            {"id": 1, "url": url, "is_interactive": True, "state": "CO", **changes}
        )

    def hook(self, url: str, **changes: Any) -> None:
        hook = {"id": 1, "url": f"{url}/webhook", "headers": {}, "is_active": True, "actions": []}
        self.hooks.append({**hook, "send_payload": True, "send_for_all_actions": True, **changes})


@pytest.fixture
def studio() -> Iterator[Studio]:
    with Studio().running() as site:
        assert isinstance(site, Studio)
        yield site


@pytest.fixture
def strop() -> Iterator[Site]:
    """What runs where Strop should: it answers /health."""
    with Site().running() as site:
        site.routes["/health"] = lambda _: json_reply({"status": "UP"})
        yield site


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    tensors = build_compact(input_size=64, dim=32).state_dict()
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, path, metadata={"input_size": "64", "dim": "32"})
    return path


@pytest.fixture
def settings(tmp_path: Path, weights: Path, studio: Studio, strop: Site) -> Settings:
    """A set-up in which nothing is wrong."""
    studio.connect(strop.url)
    studio.hook(strop.url)
    return settings_of(
        tmp_path,
        **{
            "model.checkpoint": str(weights),
            "server.port": strop.port,
            "label_studio.url": studio.url,
            "label_studio.token": LEGACY_TOKEN,
        },
    )


def settings_of(folder: Path, **values: Any) -> Settings:
    return load_settings(None, {"data_dir": str(folder / "data"), **values}, environ={})


def changed(settings: Settings, **sections: dict[str, Any]) -> Settings:
    """A copy with some values of some sections changed."""
    updates = {
        name: getattr(settings, name).model_copy(update=values) for name, values in sections.items()
    }
    return settings.model_copy(update=updates)


def findings(settings: Settings, **options: Any) -> list[Finding]:
    url = f"http://127.0.0.1:{settings.server.port}"
    options = {"project_id": None, "fix": False, "backend_url": url, **options}
    return list(examine(settings, **options))


def worst(settings: Settings, **options: Any) -> list[str]:
    """What is not well."""
    return [str(f) for f in findings(settings, **options) if f.level is not Level.OK]


def assert_only(lines: list[str], *parts: str) -> None:
    """Exactly one line, with all these parts."""
    assert len(lines) == 1, lines
    assert all(part in lines[0] for part in parts), lines[0]


def test_a_healthy_set_up_is_all_ok(settings: Settings) -> None:
    lines: list[str] = []
    assert run(settings, echo=lines.append) == 0
    # What the machine is fast enough for depends on what else it does.
    lines = [line for line in lines if "fast enough" not in line and "is slow" not in line]
    assert len(lines) == 11
    assert all(line.startswith("ok ") for line in lines)
    text = "\n".join(lines)
    for word in ("digest", "journal", "embeddings", "answers in", "1.23.2", "legacy token of ann"):
        assert word in text
    assert "s to encode, a click" in text
    for word in ("interactively", "webhook", "clicked in", "40 x 30 pixels, image/png"):
        assert word in text


def test_models_that_suit_the_machine_are_named(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_measured", lambda sam: Cost(encode=0.06, decode=0.03))
    lines = [str(finding) for finding in machine.check_model(settings)]
    assert "0.06 s to encode, a click 0.030 s to decode (cpu)" in lines[1]
    assert "edgetam (about 0.6 s an image" in lines[2] and "compact" not in lines[2]
    monkeypatch.setattr(machine, "_measured", lambda sam: Cost(encode=3.0, decode=2.0))
    lines = [str(finding) for finding in machine.check_model(settings)]
    assert lines[2].startswith("warn  a click of compact is slow") and len(lines) == 3


def test_a_failure_makes_the_exit_code_and_a_warning_does_not(settings: Settings) -> None:
    lines: list[str] = []
    quiet = changed(settings, embeddings={"disk_mb": 0.0})
    assert run(quiet, echo=lines.append) == 0
    assert any(line.startswith("warn  embeddings") for line in lines)
    broken = changed(settings, model={"checkpoint": Path("none.safetensors")})
    assert run(broken, echo=lines.append) == 1
    assert any(line.startswith("FAIL  model") for line in lines)


def test_nothing_secret_is_printed(settings: Settings) -> None:
    lines: list[str] = []
    secret = settings_of(
        settings.data_dir,
        **{
            "server.port": settings.server.port,
            "server.password": PASSWORD,
            "label_studio.url": settings.label_studio.url,
            "label_studio.token": LEGACY_TOKEN,
            "journal.url": f"sqlite:///{settings.data_dir}/j.db",
        },
    )
    run(secret, repair="fix", echo=lines.append)
    text = "\n".join(lines)
    assert lines and LEGACY_TOKEN not in text and PASSWORD not in text


# -- this machine ------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(exist_ok=True)
    (tmp_path / "data").chmod(0o500)
    lines = worst(settings)
    assert any("journal" in line for line in lines) and any("embeddings" in line for line in lines)


def test_a_data_folder_that_cannot_be_made(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    lines = worst(settings.model_copy(update={"data_dir": tmp_path / "file" / "data"}))
    assert [line.split(":")[0] for line in lines] == ["FAIL  journal", "FAIL  embeddings"]


def test_strop_that_does_not_run_is_a_warning(settings: Settings) -> None:
    url = f"http://127.0.0.1:{settings.server.port}"
    assert_only(
        worst(changed(settings, server={"port": 9}), backend_url=url), "warn", "strop serve"
    )


def test_strop_that_wants_another_password(settings: Settings, strop: Site) -> None:
    strop.routes["/health"] = lambda _: Reply(401)
    assert_only(worst(settings), "FAIL", "wants another password")


def test_an_open_door_is_a_warning(settings: Settings) -> None:
    assert_only(worst(changed(settings, server={"host": "0.0.0.0"})), "warn", "server.password")


# -- Label Studio ------------------------------------------------------------------------------


def test_without_a_label_studio_the_rest_is_not_checked(settings: Settings) -> None:
    assert_only(worst(changed(settings, label_studio={"url": None})), "warn", "label_studio.url")


def test_a_label_studio_that_is_down(settings: Settings) -> None:
    down = changed(settings, label_studio={"url": "http://127.0.0.1:9"})
    assert_only(worst(down), "FAIL", "cannot be reached", "label_studio.url")


def test_no_token(settings: Settings) -> None:
    assert_only(
        worst(changed(settings, label_studio={"token": None})), "FAIL", "no token", "Account"
    )


def test_a_token_of_a_kind_that_is_disabled(settings: Settings, studio: Studio) -> None:
    studio.accepts = ("personal",)
    assert_only(worst(settings), "FAIL", "legacy tokens are disabled")


def test_a_personal_access_token_is_named(settings: Settings, tmp_path: Path) -> None:
    values = {"label_studio.url": settings.label_studio.url, "label_studio.token": PERSONAL_TOKEN}
    personal = settings_of(tmp_path, **values)
    lines = [str(finding) for finding in findings(personal)]
    assert "ok    the token is a personal access token of ann@example.com, and accepted" in lines


def test_an_access_token_is_refused_with_a_reason(settings: Settings, tmp_path: Path) -> None:
    token = make_token("access", issued=0, expires=300)
    values = {"label_studio.url": settings.label_studio.url, "label_studio.token": token}
    lines = worst(settings_of(tmp_path, **values))
    assert any("expires within minutes" in line and token not in line for line in lines)


def test_a_host_list_that_cannot_be_read_is_reported(settings: Settings) -> None:
    assert_only(worst(changed(settings, images={"allowed_hosts": ("*",)})), "FAIL", "allowed_hosts")


# -- the project ---------------------------------------------------------------------------------


def test_no_project_is_connected(settings: Settings, studio: Studio) -> None:
    studio.backends.clear()
    assert_only(worst(settings), "warn", "no project is connected", "--fix --project NUMBER")


def test_a_project_that_is_asked_for_and_not_connected(settings: Settings, studio: Studio) -> None:
    studio.backends.clear()
    studio.hooks.clear()
    lines = worst(settings, project_id="7")
    assert len(lines) == 2
    assert "not connected to Strop" in lines[0] and "--fix --project 7" in lines[0]
    assert "no webhook" in lines[1]


def test_a_project_that_does_not_exist(settings: Settings) -> None:
    assert_only(worst(settings, project_id="8"), "FAIL", "404")


def test_a_backend_that_label_studio_cannot_reach(settings: Settings, studio: Studio) -> None:
    studio.backends[0] |= {"state": "DI", "error_message": "Connection refused"}
    assert_only(worst(settings), "FAIL", "Connection refused", "ML_BLOCK_LOCAL_IP=false")


def test_a_backend_that_gets_no_clicks(settings: Settings, studio: Studio) -> None:
    studio.backends[0]["is_interactive"] = False
    assert_only(worst(settings), "FAIL", "interactive preannotations are off")


def test_another_backend_that_gets_the_clicks(settings: Settings, studio: Studio) -> None:
    other = {"id": 2, "url": "http://other:8000", "is_interactive": True, "state": "CO"}
    studio.backends.insert(0, other)
    assert_only(worst(settings), "FAIL", "http://other:8000")


def test_strop_known_by_another_name(settings: Settings, studio: Studio) -> None:
    """In a compose file, Label Studio reaches Strop as http://strop:9090."""
    studio.backends[0]["url"] = f"http://strop:{settings.server.port}"
    studio.hooks[0]["url"] = f"http://strop:{settings.server.port}/webhook"
    assert worst(settings) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"url": "http://elsewhere/webhook"}, "no webhook"),
        ({"is_active": False}, "does not send all"),
        ({"send_payload": False}, "does not send all"),
        ({"send_for_all_actions": False, "actions": ["TASKS_CREATED"]}, "does not send all"),
    ],
)
def test_a_webhook_that_does_not_do(
    settings: Settings, studio: Studio, changes: dict[str, Any], message: str
) -> None:
    studio.hooks[0] |= changes
    assert_only(worst(settings), "FAIL", message, "--fix")


def with_password(settings: Settings, tmp_path: Path) -> Settings:
    secret = settings_of(tmp_path, **{"server.password": PASSWORD}).server.password
    return changed(settings, server={"password": secret})


def test_a_webhook_without_the_password(settings: Settings, tmp_path: Path) -> None:
    assert_only(worst(with_password(settings, tmp_path)), "FAIL", "does not send Strop's password")


def test_fix_connects_and_registers(settings: Settings, studio: Studio, tmp_path: Path) -> None:
    studio.backends.clear()
    studio.hooks.clear()
    locked = with_password(settings, tmp_path)
    assert worst(locked, project_id="7", fix=True) == []
    assert studio.backends[0]["basic_auth_pass"] == PASSWORD
    assert studio.hooks[0]["headers"]["Authorization"].startswith("Basic ")
    assert worst(locked) == []


def test_unfix_removes_the_backend_and_the_webhook_and_nobody_elses(
    settings: Settings, studio: Studio, strop: Site
) -> None:
    port = strop.port
    studio.connect(f"http://other.example.com:{port}", id=2)
    studio.hook(f"http://other.example.com:{port}", id=2)
    lines: list[str] = []
    assert run(settings, repair="unfix", echo=lines.append) == 0
    assert_only(lines, "ok", "removed", strop.url, "annotations stay")
    assert [backend["id"] for backend in studio.backends] == [2]
    assert [hook["id"] for hook in studio.hooks] == [2]


def test_unfix_tells_the_addresses_that_are_connected(settings: Settings, studio: Studio) -> None:
    url = f"http://strop.example.com:{settings.server.port}"
    lines: list[str] = []
    assert run(settings, repair="unfix", backend_url=url, echo=lines.append) == 0
    assert_only(lines, "warn", f"not connected to {url}", studio.backends[0]["url"], "--url")
    assert len(studio.backends) == len(studio.hooks) == 1


def test_quick_findings_come_before_the_model(settings: Settings) -> None:
    said = [str(finding) for finding in findings(settings)]
    assert "journal" in said[0]
    (loads,) = (i for i, line in enumerate(said) if "digest" in line)
    # Behind it only what the model costs here.
    assert all("a click" in line for line in said[loads + 1 :])


def test_fix_says_what_to_do_where_label_studio_blocks_private_addresses(
    settings: Settings, studio: Studio
) -> None:
    studio.backends.clear()

    def refuse(request: Request) -> Reply:
        if request.method == "GET":
            return json_reply([])
        return json_reply({"detail": "URL resolves to a reserved network address"}, 403)

    studio.routes["/api/ml"] = refuse
    lines = worst(settings, project_id="7", fix=True)
    assert "ML_BLOCK_LOCAL_IP=false" in lines[0]
    assert "reserved network address" in lines[0]


def test_a_labeling_config_without_a_tool_to_click_with(settings: Settings, studio: Studio) -> None:
    studio.project["label_config"] = '<View><Image name="image" value="$image"/></View>'
    lines = worst(settings)
    assert lines and all("FAIL" in line for line in lines)
    assert "no smart tool to click with" in lines[0]


def test_an_image_that_cannot_be_read(settings: Settings, studio: Studio) -> None:
    del studio.routes["/data/upload/7/a.png"]
    assert_only(worst(settings), "FAIL", "image of task 1 cannot be read", "no such file")


def test_a_project_without_tasks(settings: Settings, studio: Studio) -> None:
    studio.tasks.clear()
    assert_only(worst(settings), "warn", "no tasks")


def test_annotations_that_never_arrived(settings: Settings, studio: Studio) -> None:
    """Label Studio drops webhooks to private addresses without a word."""
    studio.project["total_annotations_number"] = 3
    assert_only(worst(settings), "warn", "none has arrived", "SSRF_PROTECTION_ENABLED=false")
    record = SubmissionRecord(event="created", annotation_id="1", project_id="7", task_id="1")
    with Journal(settings.journal_url) as journal:
        journal.append_submission(record)
    assert worst(settings) == []
