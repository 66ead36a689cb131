"""From a candidate to the base decoder in use: gate, version, switch, under one lock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adaptation.models.base_decoder import BaseCard, Registry, read_card
from adaptation.models.registry import RegistryWriter, default_name
from adaptation.storage.digests import file_sha256
from adaptation.storage.provenance import provenance
from training.promotion.config import GateConfig
from training.promotion.gate import Gate, Progress
from training.promotion.report import read_report, report_to_json, write_report


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """What came of a candidate.

    Args:
        name: The version that it is in use as; None where it was not promoted.
        before: The version in use until now; None for the model's own decoder.
        is_new: False where it was in use already: nothing was done.
        report: The gate's, as plain values; empty where the gate was not asked.
        folder: Where the report lies; None likewise.
    """

    name: str | None
    before: str | None
    is_new: bool = True
    report: Mapping[str, Any]
    folder: Path | None = None


def measure(gate: Gate, command: str, progress: Progress) -> dict[str, Any]:
    """Run the gate and write its report; returns it as plain values."""
    content = report_to_json(gate.run(progress), provenance(command))
    write_report(content, gate.folder)
    return content


def promote(
    config: GateConfig,
    candidate: Path,
    *,
    command: str,
    progress: Progress,
    name: str | None = None,
    report: Path | None = None,
) -> Promotion:
    """Bring a candidate into use if it passes the gate.

    Safe to run again after it was killed anywhere: what was measured is kept, a version that is
    there already is used, and a candidate that is in use already is no error.

    Args:
        config: What the gate asks, and where the registry is.
        candidate: The base file.
        command: As it was asked for, for the report.
        progress: See `Gate.run`.
        name: Of the version; None makes one from date, stage and digest.
        report: Go by this report of the gate instead of running it.

    Raises:
        StropError: The registry is being written, something does not load, or the report is about
            something else; nothing was changed then.
    """
    card = read_card(candidate)
    writer = RegistryWriter(config.registry)
    with writer.locked(f"promote {candidate.name}"):
        before = writer.reader.current()
        if before is not None and _decoder_of(writer.reader, before) == card.decoder_id:
            return Promotion(name=before, before=before, is_new=False, report={})
        gate = Gate(config, candidate)
        if report is None:
            content = measure(gate, command, progress)
        else:
            content = read_report(report, gate.identity(), config.max_report_age_h)
        if not content["is_passed"]:
            return Promotion(name=None, before=before, report=content, folder=gate.folder)
        wanted = name or _known_name(writer.reader, card) or default_name(card)
        writer.add(wanted, candidate, version_card(wanted, before, candidate, content))
        writer.promote(wanted, "passed the gate")
    return Promotion(name=wanted, before=before, report=content, folder=gate.folder)


def version_card(
    name: str, before: str | None, candidate: Path, report: Mapping[str, Any]
) -> dict[str, Any]:
    """What is kept beside a version: where it comes from, and how it was measured."""
    identity = report["identity"]
    return {
        "name": name,
        "replaces": before,
        **asdict(read_card(candidate)),
        "sha256": file_sha256(candidate),
        "data": identity["data"],
        "metrics": {
            found["name"]: {"role": found["role"], **_numbers(found)} for found in report["sets"]
        },
        "gate": {k: report[k] for k in ("command", "commit", "created_at", "versions")}
        | {"current": identity["current"], "rules": identity["rules"]},
    }


def _numbers(found: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("current", "candidate", "gain", "interval", "p_value")
    return {c["metric"]: {key: c[key] for key in keys} for c in found["comparisons"]}


def _decoder_of(registry: Registry, name: str) -> str:
    return read_card(registry.path(name)).decoder_id


def _known_name(registry: Registry, card: BaseCard) -> str | None:
    """The version that this base is already, in use or not."""
    names = [n for n in registry.versions() if _decoder_of(registry, n) == card.decoder_id]
    return names[0] if names else None
