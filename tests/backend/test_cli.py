"""The command `strop`: exit codes, messages, and the short commands for real."""

from __future__ import annotations

import ast
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file

from adaptation.models.compact.model import build_compact
from backend.cli import main
from backend.settings import Settings, as_yaml
from tests.backend.payloads import keypoint
from tests.backend.service_kit import click_on, data_uri, pixels_of, running_service
from tests.backend.sites import LEGACY_TOKEN, LabelStudioSite, json_reply

IMAGE = data_uri(pixels_of())
ROOT = Path(__file__).resolve().parents[2]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run `strop` with arguments; returns its exit code."""
    monkeypatch.setattr("sys.argv", ["strop", *map(str, arguments)])
    # What a command sets up for its own process must not leak into the next test.
    monkeypatch.setattr("backend.options.configure_logging", lambda level: None)
    try:
        main()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    return 0


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A small compact model with random weights."""
    path = tmp_path / "small.safetensors"
    tensors = {
        k: v.contiguous() for k, v in build_compact(input_size=64, dim=16).state_dict().items()
    }
    save_file(tensors, path, metadata={"input_size": "64", "dim": "16"})
    return path


# Usage


def test_the_version_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.startswith("strop, version ")


@pytest.mark.parametrize(
    "command", [[], ["serve"], ["prefetch"], ["export"], ["doctor"], ["demo"], ["settings"]]
)
def test_every_command_explains_itself(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *command, "--help") == 0
    assert "Usage: " in capsys.readouterr().out


HEAVY = """
import contextlib, io, sys
from {cli} import {group} as group
import click
def leaves(command, path):
    yield path
    for name, below in getattr(command, "commands", {{}}).items():
        yield from leaves(below, [*path, name])
for path in leaves(group, []):
    with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
        group.main([*path, "--help"], standalone_mode=False)
    assert "sage: " in shown.getvalue(), path
    for line in shown.getvalue().splitlines():
        assert "sage: " in line or "]..." in line or not line.endswith("..."), (path, line)
print(sorted(sys.modules))
"""
"""Asks every command for its help, which must not be cut, and prints what was imported."""


@pytest.mark.parametrize(
    ("cli", "group"), [("backend.cli", "strop"), ("training.cli", "main")], ids=str
)
def test_help_is_whole_and_imports_nothing_heavy(cli: str, group: str) -> None:
    code = HEAVY.format(cli=cli, group=group)
    environment = {**os.environ, "COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    imported = set(ast.literal_eval(done.stdout))
    assert not imported & {
        "torch",
        "torchvision",
        "numpy",
        "cv2",
        "scipy",
        "sqlalchemy",
        "pydantic",
    }


IMPORTED = """
import contextlib, io, sys
from {cli} import {group} as group
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception, SystemExit):
    group.main({arguments!r}, standalone_mode=False)
print(sorted(sys.modules))
"""
"""Runs a command, whatever comes of it, and prints what was imported."""

STROP, TRAIN = ("backend.cli", "strop"), ("training.cli", "main")
HEAVIEST = frozenset({"torch", "torchvision", "transformers", "timm"})
"""Seconds of processor time; a command that computes with no model needs none of them."""

COMPUTING = HEAVIEST | {"numpy", "cv2", "scipy", "matplotlib", "sqlalchemy", "PIL", "requests"}
"""Tenths of a second each; a command that only tells something needs none of them."""

CHECKING = frozenset({"pydantic", "yaml"})
"""What settings are checked with."""


@pytest.mark.parametrize(
    ("cli", "arguments", "unwanted"),
    [
        (STROP, ["--version"], COMPUTING | CHECKING),
        (TRAIN, ["--version"], COMPUTING | CHECKING),
        (TRAIN, ["versions", "--registry", "{folder}"], COMPUTING | CHECKING),
        (TRAIN, ["rollback", "--registry", "{folder}"], COMPUTING | CHECKING),
        (STROP, ["models"], COMPUTING),
        (STROP, ["settings"], COMPUTING),
        (STROP, ["restore", "{folder}/none.tar", "--data-dir", "{folder}"], COMPUTING),
        (STROP, ["serve", "--port", "x"], COMPUTING),
        (STROP, ["export", "--out", "{folder}/new", "--data-dir", "{folder}"], HEAVIEST),
        (STROP, ["backup", "--out", "{folder}/new.tar", "--data-dir", "{folder}"], HEAVIEST),
        (STROP, ["report", "--project", "1", "--data-dir", "{folder}"], HEAVIEST),
        (STROP, ["ranking", "create", "--project", "1", "--data-dir", "{folder}"], HEAVIEST),
        (STROP, ["ranking", "collect", "--data-dir", "{folder}"], HEAVIEST),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_a_command_imports_what_it_needs_and_no_more(
    cli: tuple[str, str], arguments: list[str], unwanted: frozenset[str], tmp_path: Path
) -> None:
    given = [argument.format(folder=tmp_path) for argument in arguments]
    code = IMPORTED.format(cli=cli[0], group=cli[1], arguments=given)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    imported = set(ast.literal_eval(done.stdout))
    assert "click" in imported and not imported & unwanted


def test_the_journals_commands_and_the_doctor_need_no_torch_to_begin() -> None:
    code = "import backend.settings, backend.commands.export, backend.commands.doctor, sys\n"
    code += "import backend.commands.backup, backend.commands.demo, backend.commands.report\n"
    code += "import backend.commands.ranking, backend.commands.models\n"
    code += "sys.exit(int('torch' in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("command", ["export", "ranking create", "ranking collect", "backup"])
def test_options_that_mean_nothing_to_a_command_are_not_listed(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *command.split(), "--help") == 0
    shown = capsys.readouterr().out
    assert "--data-dir" in shown
    assert "--device" not in shown and "--model" not in shown and "--port" not in shown


def test_an_export_into_an_existing_folder_is_refused_before_the_journal_is_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    # There is no journal either: the folder is looked at first.
    assert run(monkeypatch, "export", "--out", tmp_path, "--data-dir", tmp_path / "none") == 2
    assert "an export replaces nothing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["nonsense"], ["No such command"]),
        (["serve", "--prot", "1"], ["No such option"]),
        (["serve", "--set", "server.port"], ["KEY=VALUE"]),
        (["serve", "--set", "server.prot=1", "--port", "x"], ["server.prot", "server.port"]),
        (["serve", "--config", "absent.yaml"], ["absent.yaml"]),
        (["serve", "--model", "vit_x"], ["vit_x", "compact"]),
        (["prefetch", "--project", "1"], ["label_studio.url"]),
        (["prefetch"], ["--project"]),
        (["demo", "--port", "0"], ["--port"]),
        (["settings", "--set", "server.prot=1", "--set", "foo"], ["server.port?", "'foo'"]),
        (["settings", "--set", "lerning.seed=1"], ["mean learning?"]),
        (["settings", "--set", "lerning=1"], ["mean learning?"]),
        (["settings", "--set", "server.port=x", "--model", "vit_x"], ["server.port", "'vit_x'"]),
        (["settings", "--label-studio", "host:8080"], ["begin with http:// or https://"]),
        (["settings", "--set", "label_studio.public_urls=a.b"], ["begin with http:// or https:"]),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(
    arguments: list[str],
    fragments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *arguments) == 2
    message = capsys.readouterr().err
    for fragment in fragments:
        assert fragment in message
    assert "Traceback" not in message


def test_bad_environment_variables_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STROP_SERVER__PORT", "0")
    monkeypatch.setenv("STROP_TYPO", "1")
    assert run(monkeypatch, "settings") == 2
    message = capsys.readouterr().err
    assert "STROP_SERVER__PORT" in message
    assert "STROP_TYPO" in message


def test_the_settings_in_force_are_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(monkeypatch, "settings") == 0
    assert capsys.readouterr().out == as_yaml(Settings())
    path = tmp_path / "a.yaml"
    path.write_text("server: {port: 1}\n")
    monkeypatch.setenv("STROP_CONFIG", str(path))
    assert run(monkeypatch, "settings", "--set", "server.threads=7") == 0
    shown = capsys.readouterr().out
    assert "  port: 1\n" in shown
    assert "  threads: 7\n" in shown


# serve


def test_serve_says_that_its_port_is_taken(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    checkpoint: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code = run(
            monkeypatch,
            "serve",
            *("--port", port, "--data-dir", tmp_path, "--set", f"model.checkpoint={checkpoint}"),
        )
    assert code == 2
    assert f"Cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err


# prefetch


def test_prefetch_encodes_a_project_once(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    checkpoint: Path,
) -> None:
    with LabelStudioSite().running() as site:
        site.tasks = [
            {"id": 1, "data": {"image": IMAGE}, "total_annotations": 0},
            {"id": 2, "data": {"image": data_uri(pixels_of(1))}, "total_annotations": 1},
            {"id": 3, "data": {"image": "data:image/png;base64,AAAA"}, "total_annotations": 0},
        ]
        config = (
            '<View><Image name="i" value="$image"/><BrushLabels name="b" toName="i">'
            '<Label value="Object"/></BrushLabels></View>'
        )
        project = {"id": 7, "title": "t", "label_config": config, "task_number": 3}
        site.routes["/api/projects/7/"] = lambda _: json_reply(project)
        arguments = ["prefetch", "--project", 7, "--data-dir", tmp_path]
        arguments += ["--label-studio", site.url, "--set", f"label_studio.token={LEGACY_TOKEN}"]
        arguments += ["--set", f"model.checkpoint={checkpoint}"]

        assert run(monkeypatch, *arguments, "--unlabeled") == 1
        first = capsys.readouterr().out
        assert run(monkeypatch, *arguments) == 1
        second = capsys.readouterr().out

    assert first.startswith("1 images encoded, 0 were encoded already, 1 could not be read.")
    assert second.startswith("1 images encoded, 1 were encoded already, 1 could not be read.")


# export


def test_export_writes_what_was_clicked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with running_service(tmp_path) as service:
        service.predict(click_on(IMAGE, keypoint(30, 60, id="abc")))
    out = tmp_path / "out"
    assert run(monkeypatch, "export", "--data-dir", tmp_path, "--out", out) == 0
    (line,) = (out / "interactions.jsonl").read_text().splitlines()
    assert json.loads(line)["object_id"] == "abc"
    assert run(monkeypatch, "export", "--data-dir", tmp_path, "--out", out) == 2
