"""`strop-train calibrate`: let the scores say which of several masks is meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from training.commands.options import FILE, FOLDER, as_overrides, command_of, show_report

# Heavy modules are imported where they are used, so that --help and mistakes are answered at once.


@click.command("calibrate")
@click.option("--config", type=FILE, help="YAML file, see configs/calibrate.yaml.")
@click.option("--data", type=FOLDER, help="Folder of data sets; name them with sets=[mtd,...].")
@click.option("--album", type=FOLDER, help="The server's album, for preferences=[FOLDER,...].")
@click.option("--base", type=FILE, help="decoder.safetensors of sft or dpo; else the model's own.")
@click.option("--out", "run", type=FOLDER, help="Run folder.")
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
def command(config: Path | None, settings: tuple[str, ...], **options: Any) -> None:
    """Let the scores say which of several masks is meant.

    For a lone click the mask with the highest predicted IoU is shown.  This fits the last layer of
    these predictions, in closed form, to objects whose masks are known, and changes nothing else:
    every mask stays as it is.  It takes a minute or two, and may follow sft or dpo or stand alone.

    Writes decoder.safetensors and report.json into the run folder.  KEY=VALUE sets any key of the
    config, for instance l2=0.1.
    """
    from training.finetune.calibration import CalibrationConfig, run
    from training.runtime.config import load_config

    asked = load_config(CalibrationConfig, config, [*as_overrides(options), *settings])
    run(asked, command_of("strop-train calibrate", config, options, settings))
    show_report(asked.run)
