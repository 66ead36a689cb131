"""Options that several commands share, and how they become settings."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

FOLDER = click.Path(path_type=Path)
FILE = click.Path(path_type=Path, dir_okay=False)


def as_overrides(options: Mapping[str, Any]) -> list[str]:
    """Options that were given, as the config's key=value; JSON is YAML."""
    return [
        f"{key}={json.dumps(str(value) if isinstance(value, Path) else value)}"
        for key, value in options.items()
        if value is not None
    ]


def command_of(
    program: str, config: Path | None, options: dict[str, Any], settings: tuple[str, ...]
) -> str:
    """The command that was given, of paths the last part only."""
    from adaptation.storage.provenance import command_line

    names = {"run": "out", "allow_untuned": "allow-untuned", "loss_type": "loss-type"}
    given = {names.get(name, name): value for name, value in options.items()}
    told = [_without_folders(setting) for setting in settings]
    return shlex.join([*shlex.split(command_line(program, {"config": config, **given})), *told])


def _without_folders(setting: str) -> str:
    """Of absolute paths the last part only."""
    return re.sub(r"(?<=[=,\[\s])/[^\s,\]]*/", "", setting)


def show_report(run: Path) -> None:
    """Print what a finished run measured, before and after."""
    from training.finetune.report import DECODER, REPORT, summary
    from training.runtime.distributed import is_first_process

    if not is_first_process():
        return
    report = json.loads((run / REPORT).read_text(encoding="utf-8"))
    click.echo(summary(report))
    click.echo(f"\n{run}: {DECODER}, {REPORT}, curves.png, log.jsonl")
