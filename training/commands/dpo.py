"""`strop-train dpo`: tune the decoder on what people preferred."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from training.commands.options import FILE, FOLDER, as_overrides, command_of, show_report

# Heavy modules are imported where they are used, so that --help and mistakes are answered at once.


@click.command("dpo")
@click.option("--config", type=FILE, help="YAML file, see configs/dpo.yaml.")
@click.option("--album", type=FOLDER, help="The server's album, for preferences=[FOLDER,...].")
@click.option("--base", type=FILE, help="decoder.safetensors of `strop-train sft`.")
@click.option(
    "--allow-untuned", is_flag=True, default=None, help="Start from a decoder without SFT."
)
@click.option("--loss-type", help="bce, dpo, ipo or plackett-luce.")
@click.option("--out", "run", type=FOLDER, help="Run folder; the same command goes on in it.")
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
def command(config: Path | None, settings: tuple[str, ...], **options: Any) -> None:
    """Tune the decoder on what people preferred.

    Pairs and ranked lists come from preferences folders (`strop-train preferences`).  Writes
    decoder.safetensors, report.json, curves.png and log.jsonl into the run folder; the same command
    goes on with a run that was stopped.  KEY=VALUE sets any key of the config, for instance beta=2.
    """
    from training.finetune.dpo import DpoConfig, run
    from training.runtime.config import load_config

    tuning = load_config(DpoConfig, config, [*as_overrides(options), *settings])
    run(tuning, command_of("strop-train dpo", config, options, settings))
    show_report(tuning.run)
