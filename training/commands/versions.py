"""`strop-train versions`: what is in the registry."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from training.commands.options import FOLDER

if TYPE_CHECKING:
    from adaptation.models.registry import Version


@click.command("versions")
@click.option("--registry", type=FOLDER, help="Folder of the versions.  [default: .strop/registry]")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def command(registry: Path | None, as_json: bool) -> None:
    """List the versions of the base decoder."""
    from adaptation.models.registry import DEFAULT_FOLDER, RegistryWriter

    writer = RegistryWriter(registry or DEFAULT_FOLDER)
    versions, history = writer.versions(), writer.history()
    if as_json:
        content = {
            "versions": [asdict(v) for v in versions],
            "history": [asdict(entry) for entry in history],
        }
        click.echo(json.dumps(content, indent=2))
        return
    for line in _table(versions):
        click.echo(line)
    click.echo(f"in use: {writer.in_use()[-1]}")
    for entry in history:
        reason = f" ({entry.reason})" if entry.reason else ""
        click.echo(f"{entry.at}  {entry.action}: {entry.before} -> {entry.now}{reason}")


def _table(versions: list[Version]) -> list[str]:
    if not versions:
        return ["no versions: the model's own decoder is all there is"]
    rows = [("", "version", "stage", "decoder", "tuned from", "gain on the gate sets")]
    rows += [
        (
            "*" if v.is_current else "",
            v.name,
            v.base.stage,
            v.base.decoder_id,
            v.base.parent,
            _gains(v.card),
        )
        for v in versions
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _gains(card: Any) -> str:
    found = []
    for name, metrics in card.get("metrics", {}).items():
        if metrics.get("role") == "gate":
            gains = [f"{k} {v['gain']:+.2f}" for k, v in metrics.items() if k != "role"]
            found.append(f"{name}: {', '.join(gains)}")
    return "; ".join(found)
