"""The body of ``strop export``."""

from __future__ import annotations

import sys
from pathlib import Path

from tqdm import tqdm

from adaptation.journal.export import check_target, export
from adaptation.journal.store import Journal


def export_command(journal_url: str, out: str, format: str, project: str | None) -> int:
    """Export a journal, with a progress bar, and say what was written.

    Args:
        journal_url: Of the journal.
        out: The folder to make.
        format: ``jsonl`` or ``parquet``.
        project: Id of the one project to export, None for all.

    Returns:
        The exit code, 0.

    Raises:
        StropError: Nothing was written; the message says why. Exit code 2 at the caller's door.
    """
    check_target(Path(out), format)
    with Journal(journal_url, create=False) as journal:
        journal.link_pending()
        counts = journal.counts(project)
        total = counts["interactions"] + counts["submissions"] + counts["events"]
        with tqdm(total=total, unit=" entries", desc="export", disable=None) as bar:
            written = export(journal, Path(out), format, project, bar.update)
    summary = ", ".join(f"{count} {table}" for table, count in written.items())
    sys.stdout.write(f"{out}: {summary}\n")
    return 0
