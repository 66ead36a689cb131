"""`strop-train nightly`: the day's work into a better decoder, for cron."""

from __future__ import annotations

from pathlib import Path

import click

from training.commands.options import FILE, as_overrides


@click.command("nightly")
@click.option("--config", type=FILE, help="YAML file, see configs/nightly.yaml.")
@click.option(
    "--journal",
    envvar="STROP_JOURNAL__URL",
    show_envvar=True,
    help="The journal, as sqlite:///.strop/journal.db or postgresql://...  [required]",
)
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
def command(config: Path | None, journal: str | None, settings: tuple[str, ...]) -> None:
    """Preferences, sft, dpo, gate and promotion in one go.

    Prints the report and keeps it in a dated folder.  Too little new work, or a candidate that does
    not pass, is no error: exit code 0.  The same command goes on with a night that was stopped.
    """
    from adaptation.storage.provenance import command_line
    from training.commands.gate import show_progress
    from training.nightly.config import NightlyConfig
    from training.nightly.nightly import run
    from training.nightly.state import as_text
    from training.runtime.config import load_config

    overrides = [*as_overrides({"journal": journal}), *settings]
    told = command_line("strop-train nightly", {"config": config})
    report = run(load_config(NightlyConfig, config, overrides), told, show_progress)
    click.echo(as_text(report))
