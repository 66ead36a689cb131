"""The doctor notices distributions that install packages of Strop's names."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.commands.doctor.findings import Level
from backend.commands.doctor.packages import check_packages


def install(folder: Path, distribution: str, *packages: str) -> None:
    """What a package manager leaves of a distribution: its metadata."""
    info = folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "top_level.txt").write_text("".join(f"{name}\n" for name in packages))


def test_a_package_of_the_same_name_beside_strop_s_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = list(check_packages())
    install(tmp_path, "SAM-2", "sam2", "training")
    monkeypatch.syspath_prepend(tmp_path)
    (finding,) = [found for found in check_packages() if found not in before]
    assert finding.level is Level.WARN
    assert "SAM-2 installs a package named training too" in finding.what
    assert "environments of their own" in finding.to_do


def test_strop_itself_and_other_packages_are_no_news(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = list(check_packages())
    install(tmp_path, "Strop", "adaptation", "backend", "training")
    install(tmp_path, "another", "sam2")
    monkeypatch.syspath_prepend(tmp_path)
    assert list(check_packages()) == before
