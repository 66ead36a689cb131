"""Parquet files of an export; the only module that imports pyarrow (extra ``strop[export]``)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from adaptation.journal.columns import Column

_PLAIN = {
    "int": pa.int64(),
    "float": pa.float64(),
    "bool": pa.bool_(),
    "text": pa.string(),
    "time": pa.timestamp("us", tz="UTC"),
    "json": pa.string(),
}


def arrow_type(kind: str | tuple[Column, ...] | list[Column]) -> pa.DataType:
    """The Arrow type of a column; see `columns.Column`. A list of columns is a list of structs."""
    if isinstance(kind, list):
        return pa.list_(arrow_type(tuple(kind)))
    if isinstance(kind, tuple):
        return pa.struct([_field(column) for column in kind])
    if kind.startswith("["):
        return pa.list_(_PLAIN[kind[1:-1]])
    if kind.startswith("{"):
        return pa.map_(pa.string(), _PLAIN[kind[1:-1]])
    return _PLAIN[kind]


def _field(column: Column) -> pa.Field:
    return pa.field(column.name, arrow_type(column.type), metadata={"about": column.about})


class ParquetFile:
    """Rows into one file, a row group at a time; each column carries its meaning as metadata."""

    def __init__(self, path: Path, columns: Sequence[Column], rows_per_group: int) -> None:
        self._schema = pa.schema([_field(column) for column in columns])
        self._as_text = [column.name for column in columns if column.type == "json"]
        self._as_pairs = [column.name for column in columns if column.type == "{float}"]
        self._rows_per_group = rows_per_group
        self._waiting: list[dict[str, Any]] = []
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")

    def __enter__(self) -> ParquetFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._flush()
        finally:
            self._writer.close()

    def write(self, row: Mapping[str, Any]) -> None:
        """Add a row."""
        values = dict(row)
        for name in self._as_text:
            values[name] = json.dumps(values[name], allow_nan=False)
        for name in self._as_pairs:
            values[name] = list(values[name].items())
        self._waiting.append(values)
        if len(self._waiting) >= self._rows_per_group:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.Table.from_pylist(self._waiting, schema=self._schema))
            self._waiting.clear()
