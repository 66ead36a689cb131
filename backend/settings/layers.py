"""From files, environment and command line to one checked object; this reads the environment."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from adaptation.errors import SettingsError
from backend.settings.schema import Settings, section_names, settings_keys

ENV_PREFIX = "STROP_"
RESERVED_ENVIRONMENT = ("STROP_CONFIG", "STROP_TEST_")
"""Not settings: the path of the YAML file, and what the test suite is told."""

Tree = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Layer:
    """One source of settings, and how it calls a key: ("server", "port") -> "STROP_SERVER__PORT".

    ``values`` may be anything that YAML can hold; only mappings are merged.
    """

    values: Tree
    name_of: Callable[[tuple[str, ...]], str]


def load_settings(
    path: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    assignments: Iterable[str] = (),
) -> Settings:
    """Merge the layers and check them.

    Args:
        path: A YAML file, or None for the defaults.
        overrides: Values of the command line by dotted key ("server.port"); None is "not given".
        environ: The process's environment unless given.
        assignments: Of the command line too, ``server.threads=8`` each; overrides win over them.

    Raises:
        SettingsError: Its message lists every mistake, one a line, with its origin.
    """
    assigned, mistakes = _parse_assignments(assignments)
    given = assigned | {k: v for k, v in (overrides or {}).items() if v is not None}
    layers = [
        _Layer({} if path is None else _read_yaml(path), lambda key: f"{path}: {'.'.join(key)}"),
        _Layer(_from_environment(os.environ if environ is None else environ), _variable),
        _Layer(_nested(given, "."), lambda key: f"command line: {'.'.join(key)}"),
    ]
    merged: Tree = {}
    for layer in layers:
        merged = _merge(merged, layer.values)
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as error:
        mistakes += [_mistake(detail, layers) for detail in error.errors(include_url=False)]
    if mistakes:
        raise SettingsError("\n".join(["The settings are wrong:", *mistakes]))
    return settings


def _parse_assignments(assignments: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
    """What is set, by dotted key, and a line for each that has no equals sign or no key."""
    parsed: dict[str, Any] = {}
    mistakes = []
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if equals and key.strip():
            parsed[key.strip()] = value
        else:
            mistakes.append(f"  command line: --set wants KEY=VALUE, got {assignment!r}")
    return parsed, mistakes


def _read_yaml(path: Path) -> Tree:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise SettingsError(f"Cannot read the settings file {path}: {reason}.") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"The settings file {path} is not YAML: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise SettingsError(f"The settings file {path} must hold `key: value` lines.")
    # A section whose keys are all commented out is an empty one.
    return {k: {} if v is None and k in section_names() else v for k, v in content.items()}


def _from_environment(environ: Mapping[str, str]) -> Tree:
    known = {
        name.removeprefix(ENV_PREFIX).lower(): value
        for name, value in environ.items()
        if name.startswith(ENV_PREFIX) and not name.startswith(RESERVED_ENVIRONMENT)
    }
    return _nested(known, "__")


def _nested(flat: Mapping[str, Any], separator: str) -> Tree:
    tree: dict[str, Any] = {}
    for name, value in sorted(flat.items()):
        *sections, key = name.split(separator)
        branch = tree
        for section in sections:
            below = branch.setdefault(section, {})
            if not isinstance(below, dict):
                below = branch[section] = {}
            branch = below
        branch[key] = value
    return tree


def _merge(below: Tree, above: Tree) -> Tree:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = _merge(old, value) if both and isinstance(old, Mapping) else value
    return merged


def _variable(key: tuple[str, ...]) -> str:
    return ENV_PREFIX + "__".join(key).upper()


def _mistake(detail: ErrorDetails, layers: list[_Layer]) -> str:
    """One line: where it was set, what is wrong, what to do."""
    key = tuple(str(part) for part in detail["loc"] if not isinstance(part, int))
    origin = next(
        (la.name_of(key) for la in reversed(layers) if _holds(la.values, key)), ".".join(key)
    )
    if detail["type"] == "extra_forbidden":
        return f"  {origin}: no such setting{_suggestion(key)}"
    problem = detail["msg"].removeprefix("Value error, ")
    return f"  {origin}: {problem[:1].lower()}{problem[1:]}{_got(key, layers)}"


def _holds(tree: object, key: tuple[str, ...]) -> bool:
    for part in key:
        if not isinstance(tree, Mapping) or part not in tree:
            return False
        tree = tree[part]
    return True


def _got(key: tuple[str, ...], layers: list[_Layer]) -> str:
    """What was given, unless it may be a secret."""
    if key in {name for name, field in settings_keys() if "SecretStr" in str(field.annotation)}:
        return ""
    for layer in reversed(layers):
        if _holds(layer.values, key):
            value: Any = layer.values
            for part in key:
                value = value[part]
            return f", got {str(value)[:80]!r}"
    return ""


def _suggestion(key: tuple[str, ...]) -> str:
    """The setting, or the section, that was probably meant."""
    names = {".".join(name[: len(key)]) for name, _ in settings_keys()}
    close = difflib.get_close_matches(".".join(key), sorted(names), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""
