"""What a check found: one line, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Level(str, Enum):
    """How bad it is; only FAIL makes the command fail."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Finding:
    """One result.

    Args:
        level: How bad it is.
        what: What was found; no secrets.
        to_do: What to do about it; empty where nothing is to be done.
    """

    level: Level
    what: str
    to_do: str = ""

    def __str__(self) -> str:
        text = f"{self.what} — {self.to_do}" if self.to_do else self.what
        return f"{self.level.value:<5} {text}"


def ok(what: str) -> Finding:
    """All is well."""
    return Finding(Level.OK, what)


def warn(what: str, to_do: str) -> Finding:
    """It works, but not as well or as safely as it could."""
    return Finding(Level.WARN, what, to_do)


def fail(what: str, to_do: str = "") -> Finding:
    """Labeling with Strop does not work until this is mended."""
    return Finding(Level.FAIL, what, to_do)
