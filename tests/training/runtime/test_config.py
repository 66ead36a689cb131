"""Configs: what is wrong is said, all of it, before anything starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from adaptation.config import ConfigError
from adaptation.errors import SettingsError
from training.runtime.config import as_dict, load_config


@dataclass(frozen=True, kw_only=True)
class Inner:
    width: int = 3
    rate: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Outer:
    data: Path
    name: str = "run"
    is_fast: bool = False
    limit: int | None = None
    inner: Inner = Inner()
    parts: tuple[Inner, ...] = ()
    names: tuple[str, ...] = ()
    shares: dict[str, float] = field(default_factory=dict)

    def mistakes(self) -> list[str]:
        return ["limit must not be negative"] if (self.limit or 0) < 0 else []


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_values_of_every_kind_are_read(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "data: sets\nis_fast: true\nlimit: 7\ninner: {width: 4}\n"
        "parts: [{rate: 1}, {width: 9}]\nnames: [a, b]\nshares: {x: 1, y: 0.5}\n",
    )
    config = load_config(Outer, path)
    assert config == Outer(
        data=Path("sets"),
        is_fast=True,
        limit=7,
        inner=Inner(width=4),
        parts=(Inner(rate=1.0), Inner(width=9)),
        names=("a", "b"),
        shares={"x": 1.0, "y": 0.5},
    )
    assert isinstance(config.parts[0].rate, float)


def test_overrides_win_and_reach_nested_keys(tmp_path: Path) -> None:
    path = write(tmp_path, "data: sets\nlimit: 7\ninner: {width: 4}\n")
    config = load_config(Outer, path, ["limit=null", "inner.rate=1e-3", "name=other=one"])
    assert config.limit is None
    assert config.inner == Inner(width=4, rate=0.001)
    assert config.name == "other=one"


def test_without_a_file_there_are_the_defaults() -> None:
    assert load_config(Outer, overrides=["data=here"]) == Outer(data=Path("here"))


def test_a_config_survives_the_way_through_yaml(tmp_path: Path) -> None:
    config = Outer(data=Path("sets"), parts=(Inner(width=1),), shares={"x": 0.5})
    path = write(tmp_path, yaml.safe_dump(as_dict(config)))
    assert load_config(Outer, path) == config


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "nme: x\nis_fast: perhaps\nlimit: 1.5\ninner: {widht: 4, rate: fast}\n"
        "parts: 3\nnames: [1]\nshares: [1]\n",
    )
    with pytest.raises(ConfigError) as caught:
        load_config(Outer, path, ["no-equals-sign"])
    assert set(caught.value.mistakes) == {
        "command line: 'no-equals-sign' is not of the form KEY=VALUE",
        "config.yaml: nme: no such setting; did you mean name?",
        "data is required and has no default",
        "config.yaml: is_fast must be true or false, got 'perhaps'",
        "config.yaml: limit must be a whole number, got 1.5",
        "config.yaml: inner.widht: no such setting; did you mean inner.width?",
        "config.yaml: inner.rate must be a number, got 'fast'",
        "config.yaml: parts must be a list, got 3",
        "config.yaml: names[0] must be text, got 1",
        "config.yaml: shares must be a mapping, got [1]",
    }
    assert isinstance(caught.value, SettingsError)
    assert all(f"  {mistake}" in str(caught.value) for mistake in caught.value.mistakes)


def test_values_that_make_no_sense_together_are_mistakes() -> None:
    with pytest.raises(ConfigError, match="limit must not be negative"):
        load_config(Outer, overrides=["data=x", "limit=-1"])


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "is not YAML"), ("- 1\n- 2\n", "must hold `key: value` lines")],
)
def test_files_that_hold_no_config(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(Outer, write(tmp_path, text), ["data=x"])


def test_a_missing_file_is_named_without_its_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gone.yaml cannot be read") as caught:
        load_config(Outer, tmp_path / "gone.yaml", ["data=x"])
    assert str(tmp_path) not in str(caught.value)


def test_an_override_cannot_nest_in_a_value() -> None:
    with pytest.raises(ConfigError, match="name holds a value"):
        load_config(Outer, overrides=["data=x", "name=a", "name.part=1"])
