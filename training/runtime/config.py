"""Configs: frozen dataclasses filled from a YAML file and `key=value` overrides.

A config is checked as a whole before anything starts: unknown keys, wrong types and impossible
values are collected and reported together, so that a run is not fixed one mistake at a time.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import yaml

from adaptation.errors import SettingsError

ConfigT = TypeVar("ConfigT")
_MISSING = object()

NO_JOURNAL = (
    "journal is not given: that of a Strop that runs here is --journal sqlite:///.strop/journal.db"
)
"""What a job says that reads a journal and was told none."""


class ConfigError(SettingsError):
    """A config is wrong; `mistakes` lists everything that is, one sentence each."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(["The config cannot be used:", *(f"  - {m}" for m in mistakes)]))


@runtime_checkable
class Checked(Protocol):
    """A config that knows which of its values make no sense together."""

    def mistakes(self) -> list[str]:
        """One sentence per mistake; empty when the config can be used."""
        ...


def load_config(
    schema: type[ConfigT], path: Path | None = None, overrides: Sequence[str] = ()
) -> ConfigT:
    """Fill a config dataclass.

    Args:
        schema: A frozen dataclass; fields may be bool, int, float, str, Path, optional ones of
            these, tuples, string-keyed dicts, or nested dataclasses.
        path: A YAML file with a mapping; None for the defaults.
        overrides: `key=value` with dots for nested keys; the value is read as YAML.

    Raises:
        ConfigError: Anything is wrong, all of it at once.
    """
    mistakes: list[str] = []
    values = _read_yaml(path, mistakes) if path is not None else {}
    for override in overrides:
        _apply_override(values, override, mistakes)
    config = _build(schema, values, "", mistakes)
    if not mistakes and isinstance(config, Checked):
        mistakes.extend(config.mistakes())
    if mistakes:
        raise ConfigError(mistakes)
    return typing.cast(ConfigT, config)


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


def _read_yaml(path: Path, mistakes: list[str]) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        mistakes.append(f"{path.name} cannot be read: {error.strerror}")
        return {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mistakes.append(f"{path.name} is not YAML: {' '.join(str(error).split())}")
        return {}
    if values is None:
        return {}
    if not isinstance(values, dict):
        mistakes.append(f"{path.name} must hold keys and values, got {type(values).__name__}")
        return {}
    return values


def _apply_override(values: dict[str, Any], override: str, mistakes: list[str]) -> None:
    name, equals, text = override.partition("=")
    if not equals or not name:
        mistakes.append(f"override {override!r} is not of the form key=value")
        return
    *parents, leaf = name.split(".")
    target = values
    for parent in parents:
        nested = target.setdefault(parent, {})
        if not isinstance(nested, dict):
            mistakes.append(f"override {override!r}: {parent} holds a value, not keys")
            return
        target = nested
    try:
        target[leaf] = yaml.safe_load(text)
    except yaml.YAMLError:
        mistakes.append(f"override {override!r}: the value is not YAML")


def _build(schema: type, values: Mapping[str, Any], prefix: str, mistakes: list[str]) -> Any:
    hints = typing.get_type_hints(schema)
    fields = {field.name: field for field in dataclasses.fields(schema)}
    for key in values:
        if key not in fields:
            mistakes.append(_unknown(f"{prefix}{key}", str(key), list(fields)))
    arguments = {}
    for name, field in fields.items():
        if name in values:
            value = _convert(hints[name], values[name], f"{prefix}{name}", mistakes)
            arguments[name] = value
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            mistakes.append(f"{prefix}{name} is required and has no default")
    return _MISSING if mistakes else schema(**arguments)


def _unknown(full_name: str, key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(sorted(known))}"
    return f"{full_name} is not a key of this config; {hint}"


def _convert(hint: Any, value: Any, name: str, mistakes: list[str]) -> Any:
    """Convert a YAML value to the type of a field, or note why it cannot be."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_optional(hint, value, name, mistakes)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, dict):
            return _build(hint, value, f"{name}.", mistakes)
    elif origin is tuple and isinstance(value, list | tuple):
        item = typing.get_args(hint)[0]
        return tuple(_convert(item, v, f"{name}[{i}]", mistakes) for i, v in enumerate(value))
    elif origin is dict and isinstance(value, dict):
        of_key, of_value = typing.get_args(hint)
        return {
            _convert(of_key, k, f"{name} key", mistakes): _convert(
                of_value, v, f"{name}.{k}", mistakes
            )
            for k, v in value.items()
        }
    elif isinstance(hint, type):
        return _convert_scalar(hint, value, name, mistakes)
    mistakes.append(f"{name} must be {_describe(hint)}, got {value!r}")
    return _MISSING


def _convert_optional(hint: Any, value: Any, name: str, mistakes: list[str]) -> Any:
    options = [option for option in typing.get_args(hint) if option is not type(None)]
    if value is None and len(options) < len(typing.get_args(hint)):
        return None
    return _convert(options[0], value, name, mistakes)


def _convert_scalar(hint: type, value: Any, name: str, mistakes: list[str]) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is float and isinstance(value, str):
        value, is_number = _float_from_text(value)
    if hint is float and is_number:
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value).expanduser()
    if hint is int and is_number and value == int(value):
        return int(value)
    if hint in (bool, str) and isinstance(value, hint):
        return value
    mistakes.append(f"{name} must be {_describe(hint)}, got {value!r}")
    return _MISSING


def _float_from_text(text: str) -> tuple[float | str, bool]:
    """YAML 1.1 reads 1e-3 (no dot) as text; a person means the number."""
    try:
        return float(text), True
    except ValueError:
        return text, False


def _describe(hint: Any) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    if hint is Path:
        return "a path"
    if typing.get_origin(hint) is tuple:
        return "a list"
    if typing.get_origin(hint) is dict or dataclasses.is_dataclass(hint):
        return "a mapping"
    return names.get(hint, str(hint))
