"""The journal as files that other tools read: JSON lines, or Parquet.

An export is a folder of four tables, each in the journal's order; `columns.py` says what they
hold.  It appears whole under its name or not at all, and never replaces anything.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, get_args

from adaptation.errors import InputError, SettingsError, StoreError
from adaptation.journal.columns import TABLES, Column, entry_row, link_values
from adaptation.journal.store import Journal
from adaptation.storage.files import whole_folder

ExportFormat = Literal["jsonl", "parquet"]
FORMATS: Sequence[str] = get_args(ExportFormat)

ROWS_PER_GROUP = 1024
"""Rows of one Parquet row group: some tens of megabytes with the masks of large images."""

Row = Mapping[str, Any]
Progress = Callable[[int], object]


class _TableWriter(Protocol):
    """Writes the rows of one table into one file."""

    def __enter__(self) -> _TableWriter: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
    def write(self, row: Row) -> None: ...


def export(
    journal: Journal,
    out: Path,
    format: str,
    project_id: str | None = None,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Write the journal, or one project's part of it, into a new folder.

    Args:
        journal: What to export; links that are not made yet are missing.
        out: The folder to make; its parent is made too.
        format: ``jsonl`` or ``parquet``.
        project_id: Of the project, None for all.
        progress: Called with the number of entries written since the last call.

    Returns:
        Rows by table.

    Raises:
        InputError: The folder exists, or the format is unknown.
        SettingsError: Parquet is asked for and pyarrow is not installed.
        StoreError: The journal cannot be read, or the files cannot be written.
    """
    make_writer = _writer_of(format)
    try:
        with whole_folder(out, may_replace=_refuse, durable=True) as folder, ExitStack() as stack:
            writers = {
                table: stack.enter_context(make_writer(folder / f"{table}.{format}", columns))
                for table, columns in TABLES.items()
            }
            return _fill(journal, writers, project_id, progress or (lambda _: None))
    except OSError as error:
        raise StoreError(
            f"The export to {out} failed ({error.strerror or error}); nothing was left behind."
        ) from error


def check_target(out: Path, format: str) -> None:
    """Find out in no time whether an export could begin.

    Raises:
        InputError: The folder exists, or the format is unknown.
        SettingsError: Parquet is asked for and pyarrow is not installed.
    """
    _writer_of(format)
    if out.exists() or out.is_symlink():
        _refuse(out)


def _fill(
    journal: Journal,
    writers: Mapping[str, _TableWriter],
    project_id: str | None,
    progress: Progress,
) -> dict[str, int]:
    counts = dict.fromkeys(writers, 0)
    for entry in journal.entries(project_id):
        table, row = entry_row(entry)
        writers[table].write(row)
        counts[table] += 1
        progress(1)
    for link in journal.links(project_id, current_only=False):
        writers["links"].write(link_values(link))
        counts["links"] += 1
    return counts


def _writer_of(format: str) -> Callable[[Path, Sequence[Column]], _TableWriter]:
    if format == "jsonl":
        return _JsonLines
    if format != "parquet":
        raise InputError(f"The export format must be one of {', '.join(FORMATS)}, got {format!r}.")
    try:
        from adaptation.journal.parquet import ParquetFile
    except ImportError as error:
        raise SettingsError(
            "Parquet needs pyarrow, which is not installed: pip install 'strop[export]', or "
            "export to jsonl."
        ) from error
    return lambda path, columns: ParquetFile(path, columns, ROWS_PER_GROUP)


def _refuse(out: Path) -> bool:
    raise InputError(f"{out} exists already, and an export replaces nothing: name a new one.")


class _JsonLines:
    """One JSON object a line; times in ISO 8601."""

    def __init__(self, path: Path, columns: Sequence[Column]) -> None:
        self._file = path.open("w", encoding="utf-8", newline="\n")
        self._names = [column.name for column in columns]

    def __enter__(self) -> _JsonLines:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def write(self, row: Row) -> None:
        values = {name: row[name] for name in self._names}
        text = json.dumps(values, allow_nan=False, default=lambda moment: moment.isoformat())
        self._file.write(text + "\n")
