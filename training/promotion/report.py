"""What the gate found: as a table for the terminal, and as a file that a promotion can go by."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from adaptation.errors import InputError
from adaptation.storage.files import write_json
from adaptation.storage.provenance import rounded
from training.promotion.gate import GateResult

REPORT = "report.json"


def report_to_json(result: GateResult, origin: Mapping[str, Any]) -> dict[str, Any]:
    """The report as plain values.

    Args:
        result: What the gate found.
        origin: Command, commit, versions, date (`provenance`).
    """
    content = {
        **origin,
        "is_passed": result.is_passed,
        "reasons": list(result.reasons),
        "identity": dict(result.identity),
        "pooled": dataclasses.asdict(result.pooled),
        "sets": [dataclasses.asdict(found) for found in result.sets],
    }
    found: dict[str, Any] = rounded(content)
    return found


def write_report(content: Mapping[str, Any], folder: Path) -> Path:
    """Write a report, whole or not at all; returns its file."""
    write_json(folder / REPORT, content)
    return folder / REPORT


def read_report(path: Path, identity: Mapping[str, Any], max_age_h: float) -> dict[str, Any]:
    """A report that a promotion may go by.

    Args:
        path: report.json, or the folder that it lies in.
        identity: What the gate would depend on now; the report's must be the same.
        max_age_h: Hours after which the gate has to run again.

    Raises:
        InputError: It cannot be read, is too old, or is about something else.
    """
    file = path / REPORT if path.is_dir() else path
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        asked, made_at = content["identity"], datetime.fromisoformat(content["created_at"])
        age_h = (datetime.now(timezone.utc) - made_at).total_seconds() / 3600
        _ = content["is_passed"], content["reasons"], content["sets"], content["pooled"]
    except OSError as error:
        raise InputError(f"There is no report {file.name} in {file.parent.name}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file.name} is no report of strop-train gate.") from error
    now = json.loads(json.dumps(rounded(dict(identity))))
    changed = sorted(k for k in asked.keys() | now.keys() if asked.get(k) != now.get(k))
    if changed:
        raise InputError(
            f"The report is about something else: {', '.join(changed)} changed since. "
            "Leave --report out to run the gate again."
        )
    if age_h > max_age_h:
        raise InputError(
            f"The report is {age_h:.1f} hours old, at most {max_age_h:g} are allowed "
            "(max_report_age_h). Leave --report out to run the gate again."
        )
    return content


def render_gate(content: Mapping[str, Any]) -> str:
    """A report as text: what was compared, a table, the verdict."""
    return "\n".join([*_head(content), "", *_table(content), "", *_verdict(content)])


def _head(content: Mapping[str, Any]) -> Iterator[str]:
    identity, rules = content["identity"], content["identity"]["rules"]
    yield (
        f"candidate {identity['candidate']} beside {identity['current']} (in use), "
        f"encoder {identity['encoder']}"
    )
    yield (
        f"the same objects, {rules['clicker']} clicks, at most {rules['max_clicks']}, stops at IoU "
        f">= {rules['target']:.2f}, seed {rules['seed']}, "
        f"{100 * identity['confidence']:.0f} % intervals"
    )
    for data in identity["data"]:
        groups = f" in {data['n_groups']} groups" if data["has_groups"] else ""
        yield (
            f"{data['role']} {data['name']}: {data['n_objects']} objects in {data['n_images']} "
            f"images{groups} (digest {data['digest']}, contents {data['contents']})"
        )


def _table(content: Mapping[str, Any]) -> list[str]:
    rows: list[tuple[str, ...]] = [
        ("set", "metric", "in use", "candidate", "gain [interval]", "p", "+/-", "")
    ]
    for found in (content["pooled"], *content["sets"]):
        is_pooled = found is content["pooled"]
        if is_pooled and sum(s["role"] == "gate" for s in content["sets"]) == 1:
            continue
        rows += [_cells(found, c, is_pooled) for c in found["comparisons"]]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return [lines[0], "-" * max(len(line) for line in lines), *lines[1:]]


def _cells(
    found: Mapping[str, Any], comparison: Mapping[str, Any], is_pooled: bool
) -> tuple[str, ...]:
    interval, p_value = comparison["interval"], comparison["p_value"]
    return (
        f"{'all gate sets' if is_pooled else found['name']} ({found['role']})",
        comparison["metric"],
        f"{comparison['current']:.2f}",
        f"{comparison['candidate']:.2f}",
        f"{comparison['gain']:+.2f} [{interval['low']:+.2f}, {interval['high']:+.2f}]",
        "<0.001" if p_value < 0.001 else f"{p_value:.2g}",
        f"{comparison['n_better']}/{comparison['n_worse']}",
        _word(comparison),
    )


def _word(comparison: Mapping[str, Any]) -> str:
    if not comparison["is_not_worse"]:
        return f"may be worse by more than {comparison['tolerance']:g}"
    return "better" if comparison["is_better"] else "not worse"


def _verdict(content: Mapping[str, Any]) -> Iterator[str]:
    yield "gain: positive is better; +/-: objects on which the candidate is better and worse"
    if content["is_passed"]:
        yield "PASSED: better on the gate sets, not worse on any set."
        return
    yield "NOT PASSED:"
    for reason in content["reasons"]:
        yield f"  - {reason}"
