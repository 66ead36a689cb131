"""Settings as a documented YAML text: what ``configs/serve.yaml`` and `strop settings` show."""

from __future__ import annotations

import typing
from typing import Any

import yaml
from pydantic.fields import FieldInfo

from adaptation.config.fields import bare, fields_of, is_section
from backend.settings.schema import Settings


def as_yaml(settings: Settings) -> str:
    """The settings as a documented YAML text; secrets are masked."""
    values = settings.model_dump(mode="json")
    lines: list[str] = []
    for name, field in Settings.model_fields.items():
        section = bare(field.annotation)
        if is_section(section):
            lines += ["", f"# {field.description or section.__doc__}", f"{name}:"]
            for key in fields_of(section):
                lines += _documented(
                    key, description_of(section, key), values[name][key], indent="  "
                )
        else:
            lines += _documented(name, field.description, values[name], indent="")
    return "\n".join(lines) + "\n"


def description_of(section: type, key: str) -> str | None:
    """What a key does, in the words of its field; None where it has none."""
    models: Any = getattr(section, "model_fields", {})
    if key in models:
        return typing.cast("str | None", models[key].description)
    notes = typing.get_args(fields_of(section)[key])[1:]
    return next((note.description for note in notes if isinstance(note, FieldInfo)), None)


def _documented(key: str, description: str | None, value: object, *, indent: str) -> list[str]:
    shown = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()
    return [f"{indent}# {description}", f"{indent}{key}: {shown}"]
