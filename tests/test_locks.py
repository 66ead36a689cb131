"""Any pip can install the locks, also after newer versions of everything have been released."""

from __future__ import annotations

import contextlib
import ensurepip
import hashlib
import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
LOCKS = sorted((ROOT / "requirements").glob("*.lock"))
# What our environments hold: only of these the metadata is at hand without a network.
OURS = ["build.lock", "dev.lock", "serve.lock"]
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]


def locked(path: Path) -> list[Requirement]:
    """What a lock file pins on this machine, without the hashes."""
    lines = re.findall(r"^([A-Za-z0-9].*?) *\\?$", path.read_text(), flags=re.MULTILINE)
    found = [Requirement(line) for line in lines]
    return [r for r in found if r.marker is None or r.marker.evaluate()]


def asked_for(requirement: Requirement) -> list[Requirement]:
    """What an installed package asks for on this machine, with the extras of the requirement."""
    try:
        lines = metadata.requires(requirement.name) or []
    except metadata.PackageNotFoundError:  # not part of this environment
        return []
    extras = requirement.extras or {""}
    wanted = [Requirement(line) for line in lines]
    return [
        r
        for r in wanted
        if r.marker is None or any(r.marker.evaluate({"extra": extra}) for extra in extras)
    ]


@pytest.mark.parametrize("name", OURS)
def test_extras_that_are_asked_for_are_locked(name: str) -> None:
    requirements = locked(ROOT / "requirements" / name)
    extras = {canonicalize_name(r.name): r.extras for r in requirements}
    missing = [
        f"{package.name} asks for {wanted}"
        for package in requirements
        for wanted in asked_for(package)
        if wanted.extras - extras.get(canonicalize_name(wanted.name), set())
    ]
    assert requirements
    assert not missing


@pytest.mark.parametrize("name", OURS)
def test_what_is_asked_for_is_locked(name: str) -> None:
    # `make` installs without looking at dependencies: a lock has to be complete.
    requirements = locked(ROOT / "requirements" / name)
    names = {canonicalize_name(r.name) for r in requirements}
    wanted = {canonicalize_name(w.name) for r in requirements for w in asked_for(r)}
    assert not wanted - names


@pytest.mark.parametrize(
    ("name", "extras"),
    [
        ("serve.lock", ("export", "hub", "mobile-sam", "onnx", "postgres")),
        ("dev.lock", ("export", "hub", "mobile-sam", "onnx", "postgres", "train", "dev")),
    ],
)
def test_what_strop_itself_declares_is_locked(name: str, extras: tuple[str, ...]) -> None:
    # From the file: what an editable installation knows may be older.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = list(project["dependencies"])
    lines += [line for extra in extras for line in project["optional-dependencies"][extra]]
    wanted = [Requirement(line) for line in lines]
    pins = {canonicalize_name(r.name): r for r in locked(ROOT / "requirements" / name)}
    for requirement in wanted:
        if requirement.name == "strop":
            continue
        pinned = pins[canonicalize_name(requirement.name)]
        (pin,) = pinned.specifier
        assert pin.version in requirement.specifier
        assert requirement.extras <= pinned.extras


def test_what_is_installed_to_serve_is_a_part_of_what_is_installed_to_develop() -> None:
    pins = {
        name: {r.name: str(r.specifier) for r in locked(ROOT / "requirements" / name)}
        for name in OURS
    }
    assert pins["serve.lock"].items() <= pins["dev.lock"].items()
    assert pins["build.lock"].items() <= pins["dev.lock"].items()


# A registry of empty packages with the names, versions and demands of the true ones ---------------


def stub_wheel(folder: Path, requirement: Requirement, version: str) -> str:
    """Write a package that holds nothing but its metadata; returns its hash as pip wants it."""
    stem = f"{canonicalize_name(requirement.name).replace('-', '_')}-{version}"
    path = folder / f"{stem}-py3-none-any.whl"
    lines = ["Metadata-Version: 2.1", f"Name: {requirement.name}", f"Version: {version}"]
    lines += [f"Provides-Extra: {extra}" for extra in sorted(requirement.extras)]
    lines += [f"Requires-Dist: {wanted}" for wanted in requires_with_extras(requirement)]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{stem}.dist-info/METADATA", "\n".join(lines) + "\n")
        tags = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{stem}.dist-info/WHEEL", tags)
        archive.writestr(f"{stem}.dist-info/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def requires_with_extras(requirement: Requirement) -> list[str]:
    try:
        return metadata.requires(requirement.name) or []
    except metadata.PackageNotFoundError:
        return []


def a_newer(version: str) -> str:
    """A version of the same series that nobody had when the lock was made."""
    return f"{version}.1" if re.fullmatch(r"[0-9.]+", version) else f"{version}1"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder of packages, each also in a newer version, and the hashes of the locked ones."""
    folder = tmp_path_factory.mktemp("registry")
    hashes = {}
    for requirement in locked(ROOT / "requirements" / "dev.lock"):
        (pin,) = requirement.specifier
        hashes[requirement.name] = stub_wheel(folder, requirement, pin.version)
        stub_wheel(folder, requirement, a_newer(pin.version))
    return folder, hashes


def stock_pip() -> Path:
    """The pip that this Python brings along for new environments."""
    folders = [Path(ensurepip.__file__).parent / "_bundled"]
    folders += [Path(p) for p in [sysconfig.get_config_var("WHEEL_PKG_DIR")] if p]
    return next(path for folder in folders for path in sorted(folder.glob("pip-*.whl")))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["build.lock", "dev.lock"])
def test_the_pip_that_python_brings_along_resolves_the_lock(
    name: str, registry: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    folder, hashes = registry
    lines = [
        f"{r.name}{'[' + ','.join(sorted(r.extras)) + ']' if r.extras else ''}{r.specifier}"
        f" --hash=sha256:{hashes[r.name]}"
        for r in locked(ROOT / "requirements" / name)
    ]
    lock = tmp_path / "lock.txt"
    lock.write_text("\n".join(lines))
    command = [sys.executable, str(stock_pip() / "pip"), "--isolated", "install", "--dry-run"]
    command += ["--ignore-installed", "--no-index", "--no-cache-dir", "--require-hashes"]
    command += ["--disable-pip-version-check", "--find-links", str(folder), "-r", str(lock)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    assert "Would install" in done.stdout


# The true registry --------------------------------------------------------------------------------


def stock_python(version: str) -> str:
    """A Python of this version from the search path or from pyenv, which may hide it."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [f"python{version}", *pyenv.glob(f"{version}.*/bin/python")]
    for python in map(str, candidates):
        with contextlib.suppress(OSError):
            if subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0:
                return python
    pytest.skip(f"no Python {version} here")


@pytest.mark.registry
@pytest.mark.parametrize("version", PYTHONS)
def test_the_stock_pip_resolves_the_locks_with_what_has_been_released(
    version: str, tmp_path: Path
) -> None:
    environment = tmp_path / "environment"
    subprocess.run([stock_python(version), "-m", "venv", str(environment)], check=True)
    for lock in LOCKS:
        command = [str(environment / "bin" / "pip"), "install", "--dry-run", "--quiet"]
        command += ["--disable-pip-version-check", "--require-hashes", "-r", str(lock)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{lock.name}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
