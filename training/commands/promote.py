"""`strop-train promote`: bring a candidate into use, if it passes the gate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from training.commands.gate import (
    NOT_PASSED,
    as_command,
    gate_options,
    read_config,
    show_progress,
)
from training.commands.options import FOLDER


@click.command("promote")
@gate_options
@click.option("--name", help="Of the version; made from date, stage and digest without it.")
@click.option(
    "--report", type=FOLDER, help="Go by this report of `gate`; it must be about the same data."
)
def command(candidate: Path, name: str | None, report: Path | None, **options: Any) -> None:
    """Bring CANDIDATE into use, if it passes the gate.

    CANDIDATE is a base file of sft or dpo.  It becomes a version of the registry; running servers
    take it within seconds.  Exit code 1: it did not pass, and nothing was changed.
    """
    config = read_config(options)

    from training.promotion.promote import promote
    from training.promotion.report import render_gate

    done = promote(
        config,
        candidate,
        command=as_command("promote", candidate, config),
        progress=show_progress,
        name=name,
        report=report,
    )
    if not done.is_new:
        click.echo(f"{candidate.name} is in use already, as {done.name}: nothing to do.")
        return
    click.echo(render_gate(done.report))
    click.echo(f"\n{done.folder}: report.json")
    if done.name is None:
        click.echo("Nothing was changed.")
        click.get_current_context().exit(NOT_PASSED)
    click.echo(
        f"{done.name} is in use now, before it {done.before or 'the model as it came'}. "
        "Back again: strop-train rollback."
    )
