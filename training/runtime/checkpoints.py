"""What a run leaves on disk: a resumable checkpoint, the averaged weights, the log, the curves."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from adaptation.errors import StoreError
from adaptation.storage.files import write_text, write_whole

CHECKPOINT = "checkpoint.pt"
BEST = "best.pt"
LOG = "log.jsonl"


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write atomically: a reader sees the old file or the new one, never half of one."""
    write_whole(path, lambda draft: torch.save(dict(content), draft))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        StoreError: There is none, or it cannot be read.
    """
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else "it is cut off"
        raise StoreError(f"The checkpoint {path.name} cannot be read: {reason}") from error
    return content


def append_log(path: Path, row: Mapping[str, object]) -> None:
    """Add one JSON line to a run's log."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(dict(row)) + "\n")


def read_log(path: Path) -> list[dict[str, Any]]:
    """All rows of a run's log; none where there is no log."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def cut_log(path: Path, step: int) -> None:
    """Drop the rows after a step: those of work that was lost, and is now done again."""
    rows = [row for row in read_log(path) if row["step"] <= step]
    if rows:
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
