"""The end of a simulation: a table for people, a JSON for programs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adaptation.errors import StoreError
from adaptation.simulation.annotator import Rules
from adaptation.simulation.metrics import carried_forward, table_metrics
from adaptation.storage import files
from backend.commands.simulate.results import SimulatedObject

ALL = "all"
_OUTCOMES = ("accepted", "painted", "kept", "left")
_COUNTS = ("objects", *_OUTCOMES, "failed", "clicks")
_SECONDS = ("seconds/click p50", "seconds/click p95")

Row = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What the simulation took this time; earlier parts of a run that went on do not count.

    Args:
        clicks: Clicks that were answered.
        seconds: From the first click to the last submission.
    """

    clicks: int = 0
    seconds: float = 0.0

    @property
    def clicks_per_s(self) -> float:
        """Over all annotators, with all that they do between clicks."""
        return self.clicks / self.seconds if self.seconds else 0.0


def summarize(objects: Sequence[SimulatedObject], rules: Rules) -> dict[str, Row]:
    """Numbers of each set, and of all of them where there are several.

    Returns:
        Set -> name of the number -> its value: counts, metrics (clicks, or percent), seconds.
        Objects that failed count in ``objects`` and ``failed`` alone.
    """
    names = sorted({item.dataset for item in objects})
    rows: dict[str, Row] = {
        name: _row([o for o in objects if o.dataset == name], rules) for name in names
    }
    return rows if len(rows) == 1 else {**rows, ALL: _row(objects, rules)}


def _row(objects: Sequence[SimulatedObject], rules: Rules) -> dict[str, float]:
    done = [item for item in objects if item.outcome != "failed"]
    row: dict[str, float] = {"objects": len(objects)}
    for outcome in (*_OUTCOMES, "failed"):
        row[outcome] = sum(item.outcome == outcome for item in objects)
    row["clicks"] = sum(len(item.clicks) for item in done)
    if not done:
        return row
    curves = carried_forward([item.ious for item in done], rules.max_clicks)
    for metric in table_metrics(rules.max_clicks, rules.target):
        if metric.kind in ("noc", "fr", "iou"):
            row[metric.name] = metric.scale * float(metric.per_object(curves, curves).mean())
    seconds = [s for item in done for s in item.seconds]
    for name, percentile in zip(_SECONDS, (50, 95), strict=True):
        row[name] = float(np.percentile(seconds, percentile))
    return row


def render(rows: Mapping[str, Row]) -> str:
    """The table as text, one column a set; counts that are 0 everywhere are left out."""
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    optional = {*_OUTCOMES, "failed"}
    kept = [n for n in names if n not in optional or any(row.get(n) for row in rows.values())]
    cells = [[name, *(_cell(name, row.get(name)) for row in rows.values())] for name in kept]
    cells = [["", *rows], *cells]
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    return "\n".join(_line(line, widths) for line in cells)


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    if name in _COUNTS:
        return f"{value:.0f}"
    digits = 3 if name in _SECONDS else 2 if name.startswith("NoC") else 1
    return f"{value:.{digits}f}"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = (
        text.ljust(width) if i == 0 else text.rjust(width)
        for i, (text, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join([first, *rest]).rstrip()


def digest_of_answers(objects: Sequence[SimulatedObject]) -> str:
    """First 16 hex digits of the SHA-256 of all clicks and submitted masks, whatever their order.

    Two simulations that did the same have the same digest.
    """
    content = sorted(
        [item.dataset, item.stem, item.label, item.clicks, item.mask_digest] for item in objects
    )
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file whole or not at all.

    Raises:
        StoreError: It cannot be written.
    """
    try:
        files.write_json(path, content)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}.") from error


def errors_of(objects: Sequence[SimulatedObject], limit: int = 20) -> list[str]:
    """Different messages of what failed, each with how often it came; the most frequent first."""
    messages = [item.error for item in objects if item.outcome == "failed"]
    count: Callable[[str], int] = messages.count
    ordered = sorted(set(messages), key=lambda message: (-count(message), message))
    return [f"{count(message)} x {message}" for message in ordered[:limit]]
