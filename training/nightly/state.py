"""One night's folder: its steps, each done once, and what is told of them."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from adaptation.storage.files import write_json, write_text
from adaptation.storage.provenance import provenance
from training.preferences.files import EXAMPLES, read_examples

logger = logging.getLogger(__name__)

REPORT, TEXT = "report.json", "report.txt"
PREFERENCES = "preferences"

Outcome = dict[str, Any]

_NAME = re.compile(r"(\d{4}-\d{2}-\d{2})(?:-(\d+))?")


@dataclass(frozen=True, kw_only=True)
class StepDone:
    """One step of a night, as the report tells it.

    Args:
        name: Of the step.
        state: "done", "done before" or "left out".
        says: What came of it, or why it was left out; may have several lines.
        seconds: That it took in this start.
    """

    name: str
    state: str
    says: str
    seconds: float = 0.0


class NightlyState:
    """One night's folder and what was done in it.

    Args:
        folder: Made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.steps: list[StepDone] = []
        self.promoted: str | None = None
        """The version that this night brought into use."""
        self.has_trained = False
        """Whether there was enough to train on; later nights count new objects from here."""
        folder.mkdir(parents=True, exist_ok=True)

    def step(
        self, name: str, depends_on: Mapping[str, Any], work: Callable[[], Outcome]
    ) -> Outcome:
        """Do a step, or take what came of it when it was done before with the same settings.

        Args:
            name: Of the step, and of its file.
            depends_on: Plain values; when they change the step is done again.
            work: Does it; gives plain values, with the text of the report under "says".
        """
        digest = digest_of(depends_on)
        marker = self.folder / f"{name}.done.json"
        known = read_json(marker)
        if known.get("digest") == digest:
            outcome: Outcome = known["outcome"]
            self.steps.append(StepDone(name=name, state="done before", says=outcome["says"]))
            return outcome
        logger.info("%s begins", name)
        started = time.monotonic()
        outcome = work()
        seconds = round(time.monotonic() - started, 1)
        write_json(marker, {"digest": digest, "outcome": outcome})
        done = StepDone(name=name, state="done", says=outcome["says"], seconds=seconds)
        self.steps.append(done)
        return outcome

    def leave_out(self, name: str, why: str) -> None:
        """Say of a step that it was not done, and why."""
        self.steps.append(StepDone(name=name, state="left out", says=why))

    def report(self, command: str, error: str | None = None) -> Outcome:
        """Write the report, as JSON and as text; returns it.

        Args:
            command: That was given.
            error: What ended the night early.
        """
        content = {
            **provenance(command),
            "night": self.folder.name,
            "is_finished": error is None,
            "has_trained": self.has_trained,
            "promoted": self.promoted,
            "error": error,
            "steps": [asdict(step) for step in self.steps],
        }
        write_json(self.folder / REPORT, content)
        write_text(self.folder / TEXT, as_text(content) + "\n")
        return content


def digest_of(values: Mapping[str, Any]) -> str:
    """First 16 hex digits of the SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def as_text(report: Mapping[str, Any]) -> str:
    """A report for people: the outcome first, then every step."""
    lines = [f"Night {report['night']}: {_outcome(report)}", ""]
    for step in report["steps"]:
        first, *rest = step["says"].splitlines() or [""]
        took = f" ({step['seconds']:.0f} s)" if step["state"] == "done" else ""
        lines.append(f"{step['name']}: {step['state']}{took}: {first}")
        lines += [f"    {line}" for line in rest]
    return "\n".join([*lines, "", f"{report['command']}, commit {report['commit'][:12]}"])


def _outcome(report: Mapping[str, Any]) -> str:
    if report["error"] is not None:
        return f"FAILED: {report['error']}"
    if report["promoted"] is not None:
        return f"{report['promoted']} is in use now. Back again: strop-train rollback."
    if report["has_trained"]:
        return "nothing was promoted; what was in use still is."
    return "nothing to do."


# Folders ---------------------------------------------------------------------------------------


def night_folder(work: Path, today: date) -> Path:
    """The folder to go on in: yesterday's or today's where it is not finished, else a new one."""
    nights = list(nights_in(work))
    if nights:
        last, day = nights[-1]
        if not read_json(last / REPORT).get("is_finished") and day >= today - timedelta(days=1):
            return last
    n_today = sum(day == today for _, day in nights)
    return work / (f"{today}-{n_today + 1}" if n_today else f"{today}")


def nights_in(work: Path) -> Iterator[tuple[Path, date]]:
    """All nights of a work folder with their days, oldest first."""
    found = []
    for path in work.iterdir() if work.is_dir() else ():
        name = _NAME.fullmatch(path.name)
        if name is not None and path.is_dir():
            found.append((date.fromisoformat(name[1]), int(name[2] or 1), path))
    for day, _, path in sorted(found):
        yield path, day


def count_new(folder: Path, work: Path) -> int:
    """Objects of a night that the last night that trained did not have."""
    now = _object_ids(folder)
    for path, _ in reversed(list(nights_in(work))):
        report = read_json(path / REPORT)
        if path != folder and report.get("is_finished") and report.get("has_trained"):
            return len(now - _object_ids(path))
    return len(now)


def _object_ids(night: Path) -> set[str]:
    folder = night / PREFERENCES
    if not (folder / EXAMPLES).is_file():
        return set()
    return {example.object_id for example in read_examples(folder)}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file's mapping; empty where there is none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
