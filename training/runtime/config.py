"""Configs of the offline jobs: frozen dataclasses, from a YAML file and `key=value` overrides.

A config is checked as a whole before anything starts (`adaptation.config`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from adaptation.config import Layer, assigned, load, nested, read_yaml

ConfigT = TypeVar("ConfigT")

NO_JOURNAL = (
    "journal is not given: that of a Strop that runs here is --journal sqlite:///.strop/journal.db"
)
"""What a job says that reads a journal and was told none."""


def load_config(
    schema: type[ConfigT], path: Path | None = None, overrides: Sequence[str] = ()
) -> ConfigT:
    """Fill a config dataclass.

    Args:
        schema: A frozen dataclass.
        path: A YAML file with a mapping; None for the defaults. Messages name it without its
            folder.
        overrides: `key=value` with dots for nested keys; the value is read as YAML.

    Raises:
        ConfigError: Anything is wrong, all of it at once.
    """
    mistakes: list[str] = []
    layers = []
    if path is not None:
        name = path.name
        values = read_yaml(path, mistakes, name)
        layers.append(Layer(values, lambda key: f"{name}: {'.'.join(key)}"))
    given = {k: _as_yaml(k, text, mistakes) for k, text in assigned(overrides, mistakes).items()}
    layers.append(Layer(nested(given, ".", mistakes), lambda key: f"command line: {'.'.join(key)}"))
    return load(schema, layers, mistakes)


def _as_yaml(key: str, text: str, mistakes: list[str]) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        mistakes.append(f"command line: the value of {key} is not YAML, got {text!r}")
        return None


def as_dict(config: Any) -> dict[str, Any]:
    """A config as plain values that YAML and JSON can hold."""
    return {key: _plain(value) for key, value in dataclasses.asdict(config).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
