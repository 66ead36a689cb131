"""`strop doctor`: looks at the whole set-up as a user would, and says what to do."""

from __future__ import annotations

from backend.commands.doctor.examine import examine, run
from backend.commands.doctor.findings import Finding, Level

__all__ = ["Finding", "Level", "examine", "run"]
