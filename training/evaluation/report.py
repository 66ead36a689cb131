"""A run's result as a table for the terminal, a JSON for machines, and plots for people."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptation.simulation.metrics import Metric
from adaptation.storage import files
from adaptation.storage.provenance import rounded
from training.evaluation.along import (
    THINK_S,
    Along,
    Progress,
    progress,
    progress_lines,
    quantities,
    ranges,
)
from training.evaluation.harness import Mode
from training.evaluation.statistics import Interval
from training.evaluation.summary import Change, Estimate, Pace, ResultTable, Row, pace_of, rows_of

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that is printed and written about one run.

    Args:
        identity: What the results depend on (`Evaluation.identity`).
        provenance: Command, commit, versions, date.
        rows: The table.
        pace: Times and obedience, by mode.
        curves: mIoU after 1..n clicks, by mode.
        streams: Failure rate over the stream so far (mean over the orders), by its name and mode.
        along: What objects cost by their place in the stream, by quantity and mode.
        progress: Objects 1 to 5 against 11 to 20, by quantity.
    """

    identity: Mapping[str, Any]
    provenance: Mapping[str, Any]
    rows: Sequence[Row]
    pace: Mapping[Mode, Pace]
    curves: Mapping[Mode, Sequence[float]]
    streams: Mapping[str, Mapping[Mode, Sequence[float]]]
    along: Mapping[str, Mapping[Mode, Along]]
    progress: Mapping[str, Progress | None]


def make_report(
    table: ResultTable,
    metrics: Sequence[Metric],
    identity: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> Report:
    """Sum a run up."""
    seed, has_groups = identity["streams"]["seed"], identity["data"]["has_groups"]
    followed = quantities(table, identity["rules"]["target"])
    return Report(
        identity=identity,
        provenance=provenance,
        rows=rows_of(table, metrics, seed, has_groups),
        pace={mode: pace_of(table.all(mode)) for mode in table.modes},
        curves={mode: mean_curve(table, mode) for mode in table.modes},
        streams={m.name: learning_curves(table, m) for m in metrics if m.kind == "fr"},
        along={name: ranges(of_modes) for name, of_modes in followed.items()},
        progress={name: progress(of_modes) for name, of_modes in followed.items()},
    )


def mean_curve(table: ResultTable, mode: Mode) -> list[float]:
    """The mean IoU in percent after each number of clicks, over objects and orders."""
    per_click = [Metric("iou", n) for n in range(1, table.n_clicks + 1)]
    return [float(table.values(mode, metric).mean()) for metric in per_click]


def learning_curves(table: ResultTable, metric: Metric) -> dict[Mode, list[float]]:
    """A metric over the objects so far, along the streams, for every mode."""
    curves = {mode: table.stream_curves(mode, metric).mean(axis=0) for mode in table.modes}
    return {mode: [float(value) for value in curve] for mode, curve in curves.items()}


# JSON -----------------------------------------------------------------------------------------


def report_to_json(report: Report) -> dict[str, Any]:
    """The report as plain values."""
    return {
        "schema_version": SCHEMA_VERSION,
        **report.provenance,
        **report.identity,
        "metrics": {row.metric.name: _row_to_json(row) for row in report.rows},
        "pace": {mode: dataclasses.asdict(pace) for mode, pace in report.pace.items()},
        "curves": dict(report.curves),
        "streams": {name: dict(curves) for name, curves in report.streams.items()},
        "along": {
            name: {mode: dataclasses.asdict(each) for mode, each in of_modes.items()}
            for name, of_modes in report.along.items()
        },
        "progress": {
            name: None if each is None else dataclasses.asdict(each)
            for name, each in report.progress.items()
        },
        "think_s": THINK_S,
    }


def write_json(report: Report, path: Path) -> None:
    """Write the report as JSON, numbers rounded to six digits."""
    files.write_json(path, rounded(report_to_json(report)))


def _row_to_json(row: Row) -> dict[str, Any]:
    parts = {"frozen": row.frozen, "adapted": row.adapted, "change": row.change}
    return {name: dataclasses.asdict(part) for name, part in parts.items() if part is not None}


# Table ----------------------------------------------------------------------------------------


def render(report: Report) -> str:
    """The report as text: what was measured, the table, what clicks cost."""
    along = progress_lines(report.progress) if "adapted" in report.pace else []
    parts = (_head(report), _table(report), _pace_lines(report), along)
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _head(report: Report) -> list[str]:
    data, rules = report.identity["data"], report.identity["rules"]
    streams, model = report.identity["streams"], report.identity["model"]
    groups = f" in {data['n_groups']} groups" if data["has_groups"] else ""
    lines = [
        f"{data['name']}: {data['n_objects']} objects in {data['n_images']} images{groups} "
        f"(seed {streams['seed']}, digest {data['digest']})",
        f"model {model['model_id']}, encoder {model['encoder_id']}, decoder {model['decoder_id']}, "
        f"zoom {'on' if report.identity['zoom']['is_on'] else 'off'}, "
        f"edges {'on' if report.identity['edges']['is_on'] else 'off'}"
        f"{', frozen masks made to obey the clicks' if report.identity['correct'] else ''}",
        _rule_line(rules),
    ]
    if "adapted" in report.pace:
        kept = "groups kept together" if streams["keep_groups"] else "single objects shuffled"
        lines += [
            f"learner: sees clicks and submitted masks only; seeded orders: {streams['orders']}, "
            f"{kept}, sessions in each: {streams['sessions']}",
            f"submitted mask: the prediction when its IoU >= {rules['target']:.2f}, "
            "else, after the last click, the ground truth",
        ]
    return lines


def _rule_line(rules: Mapping[str, Any]) -> str:
    if rules["prompts"] != "clicks":
        return f"prompt: {rules['prompts']}, one mask an object"
    return (
        f"annotator: {rules['clicker']} clicks, at most {rules['max_clicks']}, "
        f"stops at IoU >= {rules['target']:.2f}"
    )


def _table(report: Report) -> list[str]:
    has_both = len(report.pace) == 2
    has_groups = report.identity["data"]["has_groups"]
    head = ["", *(f"{mode} [95 %]" for mode in report.pace)]
    if has_both:
        head += ["change [95 %]", *(["by group"] if has_groups else []), "relative", "p"]
    body = [_cells(row, has_both, has_groups) for row in report.rows]
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [head, *body]
    ]
    return [lines[0], "-" * max(len(line) for line in lines), *lines[1:], *_notes(report)]


def _notes(report: Report) -> list[str]:
    """What the table's signs mean, as far as they occur."""
    notes = []
    if any(row.metric.kind == "fr_strict" for row in report.rows):
        notes.append("(>=): RITM's older count, success on the very last click is a failure too")
    if len(report.pace) == 2:
        notes.append("p: exact sign test for FR, paired bootstrap for the rest, two-sided")
    if any(len(row.adapted.per_order) > 1 for row in report.rows if row.adapted is not None):
        notes.append("adapted: mean over the orders, in round brackets the least and the greatest")
    return notes


def _cells(row: Row, has_both: bool, has_groups: bool) -> list[str]:
    cells = [row.metric.name]
    cells += [_estimate_cell(e) for e in (row.frozen, row.adapted) if e is not None]
    if not has_both or row.change is None:
        return cells
    change = row.change
    cells.append(f"{change.mean:+.2f} {_brackets(change.interval)}")
    if has_groups:
        cells.append("" if change.group_interval is None else _brackets(change.group_interval))
    relative = "" if change.relative is None else f"{100 * change.relative:+.0f} %"
    return [*cells, relative, _p_cell(change)]


def _estimate_cell(estimate: Estimate) -> str:
    cell = f"{estimate.mean:.2f} {_brackets(estimate.interval)}"
    if len(estimate.per_order) > 1:
        cell += f" ({min(estimate.per_order):.2f} to {max(estimate.per_order):.2f})"
    return cell


def _p_cell(change: Change) -> str:
    return f"{change.p_value:.2g}" if change.p_value >= 0.001 else "<0.001"


def _brackets(interval: Interval) -> str:
    return f"[{interval.low:.2f}, {interval.high:.2f}]"


def _pace_lines(report: Report) -> list[str]:
    lines = []
    for mode, pace in report.pace.items():
        mean, median, p95 = pace.click_ms
        encode = "" if pace.encode_ms is None else f" of {pace.encode_ms:.0f} ms"
        lines.append(
            f"{mode}: {mean / 1e3:.3f} s per click (p50 {median:.0f} ms, p95 {p95:.0f} ms) without "
            f"encoding; {pace.views_per_object:.1f} encodings{encode} per object; clicks "
            f"contradicted by their own answer {pace.disobeyed:.1f} %, masks that contradict "
            f"any click {pace.contradicted:.1f} %"
        )
        if mode == "adapted":
            lines.append(
                f"learning: {pace.learn_click_ms:.0f} ms per click, "
                f"{pace.learn_mask_ms:.0f} ms per finished object"
            )
    return lines
