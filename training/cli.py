"""`strop-train`: the offline jobs.  What a user can mend is one clear message and exit code 2."""

from __future__ import annotations

import logging
from typing import Any

import click

from adaptation.errors import StropError
from training.commands import (
    calibrate,
    dpo,
    evaluate,
    evaluate_anomaly,
    evaluate_similar,
    gate,
    nightly,
    preferences,
    pretrain,
    promote,
    rollback,
    sft,
    table,
    versions,
)

USAGE_ERROR = 2
INTERRUPTED = 130


class Commands(click.Group):
    """Commands whose deliberate errors become a message and an exit code, never a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for; logging goes to standard error."""
        logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
        try:
            return super().invoke(ctx)
        except StropError as error:
            click.echo(f"strop-train: {error}", err=True)
            ctx.exit(USAGE_ERROR)
        except KeyboardInterrupt:
            click.echo("Stopped. The same command goes on from here.", err=True)
            ctx.exit(INTERRUPTED)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="strop", prog_name="strop-train")
def main() -> None:
    """Measure, pretrain and retrain Strop's models."""


# A new command is a module in training/commands, and a line here.
main.add_command(calibrate.command)
main.add_command(dpo.command)
main.add_command(evaluate.command)
main.add_command(evaluate_anomaly.command)
main.add_command(evaluate_similar.command)
main.add_command(preferences.command)
main.add_command(pretrain.command)
main.add_command(sft.command)
main.add_command(table.command)
main.add_command(gate.command)
main.add_command(promote.command)
main.add_command(rollback.command)
main.add_command(versions.command)
main.add_command(nightly.command)


if __name__ == "__main__":
    main()
