"""From file, environment and command line to one checked object; this reads the environment."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptation.config import Layer, assigned, load, nested, read_yaml
from backend.settings.schema import Settings

if TYPE_CHECKING:
    from adaptation.learning.settings import LearnerSettings

ENV_PREFIX = "STROP_"
RESERVED_ENVIRONMENT = ("STROP_CONFIG", "STROP_TEST_")
"""Not settings: the path of the YAML file, and what the test suite is told."""


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
        assignments: More of the command line, below ``overrides``: ``server.threads=8`` each.

    Raises:
        SettingsError: Its message lists every mistake, one a line, with its origin.
    """
    mistakes: list[str] = []
    file = {} if path is None else read_yaml(path, mistakes)
    given = {k: v for k, v in (overrides or {}).items() if v is not None}
    told = {**assigned(assignments, mistakes), **given}
    layers = [
        Layer(file, lambda key: f"{path}: {'.'.join(key)}"),
        Layer(_from_environment(os.environ if environ is None else environ, mistakes), _variable),
        Layer(nested(told, ".", mistakes), lambda key: f"command line: {'.'.join(key)}"),
    ]
    return load(Settings, layers, mistakes)


def load_learner(path: Path | None) -> LearnerSettings:
    """Read how sessions learn, or take the defaults.

    Args:
        path: A YAML file with the keys of ``configs/learner.yaml``, or None.

    Raises:
        SettingsError: The file cannot be read, or says all its mistakes at once.
    """
    from adaptation.learning.settings import LearnerSettings  # needs torch: not for `--help`

    if path is None:
        return LearnerSettings()
    mistakes: list[str] = []
    layer = Layer(read_yaml(path, mistakes), lambda key: f"{path}: {'.'.join(key)}")
    return load(LearnerSettings, [layer], mistakes)


def _from_environment(environ: Mapping[str, str], mistakes: list[str]) -> Mapping[str, Any]:
    known = {
        name.removeprefix(ENV_PREFIX).lower(): value
        for name, value in environ.items()
        if name.startswith(ENV_PREFIX) and not name.startswith(RESERVED_ENVIRONMENT)
    }
    return nested(known, "__", mistakes)


def _variable(key: tuple[str, ...]) -> str:
    return ENV_PREFIX + "__".join(key).upper()
