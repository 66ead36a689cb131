"""What a tuning run leaves behind: checkpoint, curves, the tuned decoder, the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from adaptation.errors import StoreError
from adaptation.models.base_decoder import save_base
from adaptation.models.sam import PromptableSam
from adaptation.storage.files import write_json
from adaptation.storage.provenance import provenance
from training.runtime.checkpoints import CHECKPOINT, LOG, append_log, read_log, save_checkpoint
from training.runtime.curves import Panels, Row, plot_curves

DECODER, REPORT, CURVES = "decoder.safetensors", "report.json", "curves.png"
VALIDATION = "eval_"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
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
        plot_curves(read_log(run / LOG), _PANELS, run / CURVES, validation=VALIDATION)
    except (OSError, RuntimeError) as error:  # torch.save raises either, as the disk fills
        raise StoreError(
            f"The checkpoint of step {step} could not be written to {run} "
            f"({str(error).splitlines()[0]}). The one before it is kept: make room on the disk, "
            "and the same command goes on from there."
        ) from error


def write_result(
    run: Path, sam: PromptableSam, decoder: Mapping[str, Tensor], summary: RunSummary
) -> None:
    """Write `decoder.safetensors` and `report.json`.

    Raises:
        StoreError: The disk is full; the checkpoint holds everything.
    """
    stage = str(summary.identity["stage"])
    origin = provenance(summary.command)
    details = {"commit": origin["commit"], "steps": summary.steps, **summary.identity}
    try:
        card = save_base(run / DECODER, sam, decoder, stage, details)
        report = {
            **origin,
            **summary.identity,
            "result": {"file": DECODER, "decoder_id": card.decoder_id, "parent": card.parent},
            "steps": summary.steps,
            "minutes": round(summary.minutes, 2),
            "starts": summary.n_starts,
            **first_and_last(read_log(run / LOG)),
            **summary.notes,
        }
        write_json(run / REPORT, report)
    except OSError as error:
        raise StoreError(
            f"The result could not be written to {run} ({error.strerror}). Make room on the disk; "
            "the same command writes it from the checkpoint."
        ) from error


def first_and_last(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """What was measured on the validation items before the first step and after the last."""
    measured = [
        {
            key.removeprefix(VALIDATION): value
            for key, value in row.items()
            if key.startswith(VALIDATION)
        }
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


_PANELS: Panels = {
    "loss": lambda name: name.endswith("loss"),
    "quality, 0 to 1": lambda name: (
        "iou" in name or name.startswith(("calibration/", "rewards/acc"))
    ),
    "rewards": lambda name: name in ("rewards/chosen", "rewards/rejected", "rewards/margins"),
}
