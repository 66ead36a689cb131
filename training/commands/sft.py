"""`strop-train sft`: tune the decoder on objects whose masks are known."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import click

from training.commands.evaluate import FILE, FOLDER, as_overrides

# Heavy modules are imported where they are used, so that --help and mistakes are answered at once.


@click.command("sft")
@click.option("--config", type=FILE, help="YAML file, see configs/sft.yaml.")
@click.option("--data", type=FOLDER, help="Folder of data sets; name them with sets=[mtd,...].")
@click.option("--album", type=FOLDER, help="The server's album, for preferences=[FOLDER,...].")
@click.option("--base", type=FILE, help="Start from this decoder.safetensors of an earlier run.")
@click.option("--out", "run", type=FOLDER, help="Run folder; the same command goes on in it.")
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
def command(config: Path | None, settings: tuple[str, ...], **options: Any) -> None:
    """Tune the decoder on objects whose masks are known.

    Objects come from data sets and from preferences folders.  Writes decoder.safetensors,
    report.json, curves.png and log.jsonl into the run folder; the same command goes on with a run
    that was stopped.  KEY=VALUE sets any key of the config, for instance steps=400.

    On several machines: torchrun ... -m training.cli sft ..., with the run folder and the cache
    where all of them can reach them.
    """
    from training.config import load_config
    from training.sft import SftConfig, run

    tuning = load_config(SftConfig, config, [*as_overrides(options), *settings])
    run(tuning, command_of("strop-train sft", config, options, settings))
    show_report(tuning.run)


def command_of(
    program: str, config: Path | None, options: dict[str, Any], settings: tuple[str, ...]
) -> str:
    """The command that was given, of paths the last part only."""
    from training.provenance import command_line

    names = {"run": "out", "allow_untuned": "allow-untuned", "loss_type": "loss-type"}
    given = {names.get(name, name): value for name, value in options.items()}
    told = [_without_folders(setting) for setting in settings]
    return shlex.join([*shlex.split(command_line(program, {"config": config, **given})), *told])


def _without_folders(setting: str) -> str:
    """Of absolute paths the last part only."""
    return re.sub(r"(?<=[=,\[\s])/[^\s,\]]*/", "", setting)


def show_report(run: Path) -> None:
    """Print what a finished run measured, before and after."""
    from training.ranks import is_first_process
    from training.tuning_report import DECODER, REPORT, summary

    if not is_first_process():
        return
    report = json.loads((run / REPORT).read_text(encoding="utf-8"))
    click.echo(summary(report))
    click.echo(f"\n{run}: {DECODER}, {REPORT}, curves.png, log.jsonl")
