"""Settings as a documented YAML text: what ``configs/serve.yaml`` and `strop settings` show."""

from __future__ import annotations

import yaml

from backend.settings.schema import Section, Settings


def as_yaml(settings: Settings) -> str:
    """The settings as a documented YAML text; secrets are masked."""
    values = settings.model_dump(mode="json")
    lines: list[str] = []
    for name, field in Settings.model_fields.items():
        if isinstance(field.default, Section):
            section = type(field.default)
            lines += ["", f"# {section.__doc__}", f"{name}:"]
            for key, inner in section.model_fields.items():
                lines += _documented(key, inner.description, values[name][key], indent="  ")
        else:
            lines += _documented(name, field.description, values[name], indent="")
    return "\n".join(lines) + "\n"


def _documented(key: str, description: str | None, value: object, *, indent: str) -> list[str]:
    shown = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()
    return [f"{indent}# {description}", f"{indent}{key}: {shown}"]
