"""`strop-train rollback`: the decoder that was in use before."""

from __future__ import annotations

from pathlib import Path

import click

from training.commands.options import FOLDER


@click.command("rollback")
@click.option("--registry", type=FOLDER, help="Folder of the versions.  [default: .strop/registry]")
@click.option("--to", help="A version that was in use earlier, or: embedded.")
@click.option("--reason", default="", help="Kept in the history.")
def command(registry: Path | None, to: str | None, reason: str) -> None:
    """Bring back the version that was in use before.

    Once more goes back one further.  Running servers take it within seconds.  At the end of the way
    is the model as it came ("embedded").  No version is deleted.
    """
    from adaptation.models.registry import DEFAULT_FOLDER, RegistryWriter

    writer = RegistryWriter(registry or DEFAULT_FOLDER)
    with writer.locked("rollback"):
        before = writer.in_use()[-1]
        now = writer.roll_back(to, reason)
    click.echo(f"{now} is in use now, before it {before}.")
