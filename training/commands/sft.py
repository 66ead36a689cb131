"""`strop-train sft`: tune the decoder on objects whose masks are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from training.commands.options import FILE, FOLDER, as_overrides, command_of, show_report

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
    from training.finetune.sft import SftConfig, run
    from training.runtime.config import load_config

    tuning = load_config(SftConfig, config, [*as_overrides(options), *settings])
    run(tuning, command_of("strop-train sft", config, options, settings))
    show_report(tuning.run)
