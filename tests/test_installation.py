"""`make` finds a Python that runs, and installs a lock in steps that need not be done twice."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
LOCK = """\
# made by a tool
small==1.0 \\
    --hash=sha256:11
    # via strop
windows-only==1.0 ; sys_platform == 'win32' \\
    --hash=sha256:22
nvidia-cublas==13.0 \\
    --hash=sha256:33
cuda-toolkit[cublas, nvtx]==13.0 \\
    --hash=sha256:44
torch==99.0 ; python_full_version >= '3.10' \\
    --hash=sha256:55
torchvision==98.0 \\
    --hash=sha256:66
"""


@pytest.fixture(scope="module")
def installing() -> ModuleType:
    path = ROOT / "requirements" / "install.py"
    spec = importlib.util.spec_from_file_location("strop_install", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def names(step: tuple[list[str], list[str]]) -> list[str]:
    return [entry.split("==")[0] for entry in step[1]]


def test_torch_and_what_it_brings_come_last(installing: ModuleType) -> None:
    wanted = list(installing.steps(list(installing.missing(LOCK)), None))
    assert [names(step) for step in wanted] == [
        ["small"],
        ["nvidia-cublas", "cuda-toolkit[cublas, nvtx]"],
        ["torch", "torchvision"],
    ]
    assert all(options == ["--require-hashes"] for options, _ in wanted)
    assert all("--hash=sha256:" in entry for _, entries in wanted for entry in entries)


def test_another_index_gives_torch_only_and_nothing_brings_cuda(installing: ModuleType) -> None:
    first, second = installing.steps(list(installing.missing(LOCK)), "https://index.example.com")
    assert (first[0], names(first)) == (["--require-hashes"], ["small"])
    assert second[0] == ["--index-url", "https://index.example.com"]
    assert second[1] == ["torch==99.0 ; python_full_version >= '3.10'", "torchvision==98.0"]


def test_what_is_there_is_not_installed_again(installing: ModuleType) -> None:
    version = metadata.version("pytest")
    lock = f"pytest=={version} \\\n    --hash=sha256:11\nclick==0.1 \\\n    --hash=sha256:22\n"
    assert [entry.split("==")[0] for entry in installing.missing(lock)] == ["click"]


def test_what_was_broken_off_is_installed_again(
    installing: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "half-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: half\nVersion: 1.0\n")
    (folder / "INSTALLER").write_text("pip\n")
    installing.forget_what_was_broken_off(tmp_path, tmp_path)
    assert list(installing.missing("half==1.0\n")) == []
    (folder / "INSTALLER").unlink()
    installing.forget_what_was_broken_off(tmp_path, tmp_path)
    assert list(installing.missing("half==1.0\n")) == ["half==1.0"]


def test_a_build_of_the_locked_version_is_that_version(
    installing: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "built-2.15.0+cpu.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: built\nVersion: 2.15.0+cpu\n")
    assert list(installing.missing("built==2.15.0\n")) == []


# The Python that an environment is made of --------------------------------------------------------

SHIM = "#!/bin/sh\necho 'pyenv: python: command not found' >&2\nexit 127\n"
OLD = """#!/bin/sh
case "$2" in
*print*) echo 3.9 ;;
*exit*) exit 1 ;;
esac
"""


def make_environment(tmp_path: Path, *asked: str) -> subprocess.CompletedProcess[str]:
    """Run the script with a search path that holds only `tmp_path` and the shell's own tools."""
    command = ["sh", str(ROOT / "requirements" / "make-environment"), str(tmp_path / "made")]
    variables = {"PATH": f"{tmp_path}:/bin:/usr/bin"}
    return subprocess.run(
        [*command, *asked], capture_output=True, text=True, check=False, env=variables
    )


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def test_a_shim_without_its_python_is_no_python(tmp_path: Path) -> None:
    program(tmp_path / "python3.99", SHIM)
    done = make_environment(tmp_path, "python3.99")
    assert done.returncode == 1
    assert done.stderr.startswith("'python3.99' does not run here. Install Python 3.10 to 3.13")
    assert not (tmp_path / "made").exists()


def test_a_python_that_is_not_there_is_told(tmp_path: Path) -> None:
    done = make_environment(tmp_path, "python3.98")
    assert done.returncode == 1
    assert done.stderr.startswith("'python3.98' does not run here.")


def test_an_old_python_is_told_with_its_version(tmp_path: Path) -> None:
    program(tmp_path / "python-old", OLD)
    done = make_environment(tmp_path, "python-old")
    assert done.returncode == 1
    assert done.stderr.startswith("Strop needs Python 3.10 to 3.13, but python-old is 3.9.")


def test_without_a_name_the_first_that_fits_is_taken(tmp_path: Path) -> None:
    program(tmp_path / "python3", OLD)
    for version in ("3.13", "3.11", "3.10"):
        program(tmp_path / f"python{version}", SHIM)
    # Stands for a Python that fits and makes environments; it notes what it was called with.
    note = tmp_path / "calls"
    program(tmp_path / "python3.12", f'#!/bin/sh\necho "$*" >> {note}\n')
    make_environment(tmp_path)
    assert f"-m venv --clear {tmp_path / 'made'}" in note.read_text()


def test_an_environment_of_another_python_is_not_taken_silently(tmp_path: Path) -> None:
    (tmp_path / "made" / "bin").mkdir(parents=True)
    (tmp_path / "made" / "bin" / "python").symlink_to(sys.executable)
    other = '#!/bin/sh\ncase "$2" in *print*) echo 3.77 ;; esac\n'
    program(tmp_path / "python3.77", other)
    done = make_environment(tmp_path, "python3.77")
    ours = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert done.returncode == 1
    assert f"is of Python {ours}, not 3.77" in done.stderr
    assert os.path.exists(tmp_path / "made")
