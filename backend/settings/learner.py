"""How sessions learn: the YAML file that ``learning.config`` names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from pydantic import TypeAdapter, ValidationError

from adaptation.errors import SettingsError

if TYPE_CHECKING:
    from adaptation.learning.settings import LearnerSettings


def load_learner(path: Path | None) -> LearnerSettings:
    """Read a learner's settings, or take the defaults.

    Args:
        path: A YAML file with the keys of ``configs/learner.yaml``, or None.

    Raises:
        SettingsError: The file cannot be read, or says all its mistakes at once.
    """
    # Brings torch along, which no command needs that only reads settings.
    from adaptation.learning.settings import LearnerSettings

    if path is None:
        return LearnerSettings()
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        return TypeAdapter(LearnerSettings).validate_python(values)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"learning.config {path} cannot be read: {error}") from error
    except ValidationError as error:
        raise SettingsError(_mistakes(path, error)) from error


def _mistakes(path: Path, error: ValidationError) -> str:
    lines = [f"The learner's settings in {path} cannot be used:"]
    for mistake in error.errors(include_url=False, include_input=False):
        lines.append(f"  - {'.'.join(str(part) for part in mistake['loc'])}: {mistake['msg']}")
    return "\n".join(lines)
