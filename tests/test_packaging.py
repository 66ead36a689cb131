"""What an installed Strop brings along."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("adaptation", "backend", "training")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
    subprocess.run([*command, "--directory", str(folder)], cwd=ROOT, check=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        yield archive


@pytest.mark.slow
def test_the_wheel_holds_all_of_the_packages(wheel: zipfile.ZipFile) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", *PACKAGES], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    assert tracked
    assert not set(tracked) - set(wheel.namelist())
    assert all(f"{name}/py.typed" in wheel.namelist() for name in PACKAGES)


@pytest.mark.slow
def test_the_wheel_holds_the_documented_settings(wheel: zipfile.ZipFile) -> None:
    shared = [name for name in wheel.namelist() if "/share/strop/configs/" in name]
    configs = (ROOT / "configs").rglob("*.yaml")
    assert {Path(name).name for name in shared} >= {path.name for path in configs}


@pytest.mark.slow
def test_the_wheel_holds_what_the_demo_is_made_of(wheel: zipfile.ZipFile) -> None:
    lock = (ROOT / "requirements" / "label-studio.lock").read_bytes()
    assert wheel.read("backend/commands/demo/label-studio.lock") == lock
    samples = "backend/commands/demo/samples"
    assert f"{samples}/SOURCES.md" in wheel.namelist()
    assert f"{samples}/powder/01-powder.jpg" in wheel.namelist()


@pytest.mark.slow
@pytest.mark.weights
def test_the_wheel_holds_the_embedded_model(wheel: zipfile.ZipFile) -> None:
    weights = [name for name in wheel.namelist() if name.startswith("adaptation/weights/")]
    assert "adaptation/weights/README.md" in weights
    assert any(name.endswith(".safetensors") for name in weights)


@pytest.mark.slow
def test_the_wheel_holds_nothing_else(wheel: zipfile.ZipFile) -> None:
    top_level = {name.split("/")[0] for name in wheel.namelist()}
    assert {name for name in top_level if not name.startswith("strop-")} == set(PACKAGES)


@pytest.mark.parametrize("command", ["strop", "strop-train"])
def test_the_commands_exist(command: str) -> None:
    (entry,) = metadata.entry_points(group="console_scripts", name=command)
    assert callable(entry.load())
