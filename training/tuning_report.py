"""What a tuning run leaves behind: checkpoint, curves, the tuned decoder, the report."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from adaptation.bases import save_base
from adaptation.errors import StoreError
from adaptation.sam import PromptableSam
from training.checkpoints import CHECKPOINT, LOG, append_log, read_log, save_checkpoint
from training.provenance import provenance

DECODER, REPORT, CURVES = "decoder.safetensors", "report.json", "curves.png"

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """How a result came about.

    Args:
        command: That does it again.
        identity: What it depends on: stage, base, data, config.
        notes: What else the recipe has to say, as plain values.
        steps: Optimiser steps.
        minutes: Spent, over all starts.
        n_starts: 1 where nothing interrupted the run.
    """

    command: str
    identity: Mapping[str, Any]
    notes: Mapping[str, Any]
    steps: int
    minutes: float
    n_starts: int


def write_row(run: Path, row: Row) -> None:
    """Add a row to the log.

    Raises:
        StoreError: The disk is full; the last checkpoint is still there.
    """
    try:
        append_log(run / LOG, row)
    except OSError as error:
        raise StoreError(
            f"The log in {run} cannot be written ({error.strerror}). Make room on the disk; the "
            "same command goes on from the last checkpoint."
        ) from error


def write_checkpoint(run: Path, content: Mapping[str, Any], step: int) -> None:
    """Write the checkpoint atomically, then the curves.

    Raises:
        StoreError: It cannot be written, a full disk for instance; the old one is still there.
    """
    path = run / CHECKPOINT
    try:
        save_checkpoint(path, content)
        plot_curves(read_log(run / LOG), run / CURVES)
    except (OSError, RuntimeError) as error:  # torch.save raises either, as the disk fills
        with contextlib.suppress(OSError):
            path.with_suffix(".tmp").unlink()
        raise StoreError(
            f"The checkpoint of step {step} could not be written to {run} "
            f"({str(error).splitlines()[0]}). The one before it is kept: make room on the disk, "
            "and the same command goes on from there."
        ) from error


def write_result(
    run: Path, sam: PromptableSam, decoder: Mapping[str, Tensor], story: Story
) -> None:
    """Write `decoder.safetensors` and `report.json`.

    Raises:
        StoreError: The disk is full; the checkpoint holds everything.
    """
    stage = str(story.identity["stage"])
    origin = provenance(story.command)
    details = {"commit": origin["commit"], "steps": story.steps, **story.identity}
    try:
        card = save_base(run / DECODER, sam, decoder, stage, details)
        report = {
            **origin,
            **story.identity,
            "result": {"file": DECODER, "decoder_id": card.decoder_id, "parent": card.parent},
            "steps": story.steps,
            "minutes": round(story.minutes, 2),
            "starts": story.n_starts,
            **first_and_last(read_log(run / LOG)),
            **story.notes,
        }
        draft = run / f"{REPORT}.draft"
        draft.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        draft.replace(run / REPORT)
    except OSError as error:
        raise StoreError(
            f"The result could not be written to {run} ({error.strerror}). Make room on the disk; "
            "the same command writes it from the checkpoint."
        ) from error


def first_and_last(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """What was measured on the validation items before the first step and after the last."""
    measured = [
        {key.removeprefix("eval_"): value for key, value in row.items() if key.startswith("eval_")}
        for row in rows
    ]
    found = [values for values in measured if values]
    return {"before": found[0], "after": found[-1]} if found else {"before": {}, "after": {}}


def summary(report: Row) -> str:
    """A table of the report's measures, before and after, for the terminal."""
    before, after = report["before"], report["after"]
    lines = [f"{report['stage']}: {report['steps']} steps, {report['minutes']} minutes"]
    if after:
        lines.append(f"  {'validation':<24} {'before':>9} {'after':>9}")
    lines += [
        f"  {name:<24} {before.get(name, float('nan')):>9.4f} {value:>9.4f}"
        for name, value in after.items()
    ]
    return "\n".join(lines)


def plot_curves(rows: Sequence[Row], path: Path) -> None:
    """Every logged value over the steps, training and validation in one panel, as PNG."""
    names = sorted({_plain(key) for row in rows for key in row} - {"step", "epoch", "minutes"})
    if not names:
        return
    n_columns = min(3, len(names))
    n_rows = -(-len(names) // n_columns)
    figure = Figure(figsize=(4.2 * n_columns, 2.6 * n_rows), layout="constrained")
    for number, name in enumerate(names, start=1):
        _plot(figure.add_subplot(n_rows, n_columns, number), rows, name)
    figure.savefig(path, dpi=110)


def _plot(axes: Axes, rows: Sequence[Row], name: str) -> None:
    for key, colour in ((name, "#8a8f98"), (f"eval_{name}", "#d1495b")):
        points = [(row["step"], row[key]) for row in rows if key in row]
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, label=key, linewidth=1.2)
    axes.set_title(name, fontsize=9)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=7)


def _plain(key: str) -> str:
    return key.removeprefix("eval_")
