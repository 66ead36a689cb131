"""The Parquet files of a preferences folder: written a row at a time, read into typed rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from adaptation.errors import InputError
from training.preferences.rows import (
    FORMAT,
    Example,
    PreferencePair,
    Prompted,
    RankedList,
    Row,
    Source,
    Split,
    example_row,
    pair_row,
    ranking_row,
    read_example,
    read_pair,
    read_ranking,
)

__all__ = [
    "Example",
    "PreferencePair",
    "Prompted",
    "RankedList",
    "Source",
    "Split",
    "TableWriter",
    "read_examples",
    "read_pairs",
    "read_rankings",
]

EXAMPLES, PAIRS, RANKINGS = "examples.parquet", "pairs.parquet", "rankings.parquet"

ROWS_PER_GROUP = 512
"""Rows held in memory before they are written: with masks of large images, ten megabytes."""

T = TypeVar("T")

_TEXT, _NUMBER = pa.string(), pa.float64()
_MASK = pa.struct([("size", pa.list_(pa.int64())), ("counts", _TEXT)])
_SUBJECT = [
    ("object_id", _TEXT),
    ("project_id", _TEXT),
    ("label", _TEXT),
    ("image_id", _TEXT),
    ("image_size", pa.list_(pa.int64())),
    ("split", _TEXT),
]
_ASKED = [
    ("clicks", pa.list_(pa.struct([("x", _NUMBER), ("y", _NUMBER), ("is_positive", pa.bool_())]))),
    ("box", pa.struct([(name, _NUMBER) for name in ("x0", "y0", "x1", "y1")])),
]
SCHEMAS: Mapping[str, pa.Schema] = {
    name: pa.schema(fields, metadata={"format": FORMAT})
    for name, fields in {
        EXAMPLES: [
            *_SUBJECT,
            ("task_id", _TEXT),
            *_ASKED,
            ("mask", _MASK),
            ("was_edited", pa.bool_()),
            ("annotator", _TEXT),
        ],
        PAIRS: [
            ("pair_id", _TEXT),
            *_SUBJECT,
            ("source", _TEXT),
            *_ASKED,
            ("chosen", _MASK),
            ("rejected", _MASK),
            ("chosen_iou", _NUMBER),
            ("rejected_iou", _NUMBER),
            ("margin", _NUMBER),
            ("chosen_predicted_iou", _NUMBER),
            ("rejected_predicted_iou", _NUMBER),
            ("region", _MASK),
        ],
        RANKINGS: [
            ("ranking_id", _TEXT),
            *_SUBJECT,
            ("source", _TEXT),
            *_ASKED,
            ("candidates", pa.list_(_MASK)),
            ("ious", pa.list_(_NUMBER)),
            ("predicted_ious", pa.list_(_NUMBER)),
        ],
    }.items()
}


class TableWriter:
    """Writes the rows of one table, a group at a time: memory does not grow with their number.

    Args:
        folder: Where the file is made.
        name: Of the table, one of :data:`SCHEMAS`.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._schema = SCHEMAS[name]
        self._waiting: list[Row] = []
        self._writer = pq.ParquetWriter(
            folder / name, self._schema, compression="zstd", write_page_checksum=True
        )
        self.n_rows = 0

    def __enter__(self) -> TableWriter:
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

    def write(self, item: Example | PreferencePair | RankedList) -> None:
        """Add a row."""
        self._waiting.append(_row_of(item))
        self.n_rows += 1
        if len(self._waiting) >= ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.Table.from_pylist(self._waiting, schema=self._schema))
            self._waiting.clear()


def _row_of(item: Example | PreferencePair | RankedList) -> Row:
    if isinstance(item, Example):
        return example_row(item)
    return pair_row(item) if isinstance(item, PreferencePair) else ranking_row(item)


def read_examples(folder: Path, split: Split | None = None) -> list[Example]:
    """Finished objects of a preferences folder.

    Args:
        folder: As `strop-train preferences` made it.
        split: train or val; None for both.

    Raises:
        InputError: The file is missing, half-written, or of something else.
    """
    return _read(folder / EXAMPLES, split, read_example)


def read_pairs(folder: Path, split: Split | None = None) -> list[PreferencePair]:
    """Pairs of a preferences folder; see `read_examples`."""
    return _read(folder / PAIRS, split, read_pair)


def read_rankings(folder: Path, split: Split | None = None) -> list[RankedList]:
    """Ranked lists of a preferences folder; see `read_examples`."""
    return _read(folder / RANKINGS, split, read_ranking)


def _read(path: Path, split: Split | None, make: Callable[[Mapping[str, Any]], T]) -> list[T]:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            _check_schema(path, file.schema_arrow)
            return [
                make(row)
                for batch in file.iter_batches(ROWS_PER_GROUP)
                for row in batch.to_pylist()
                if split in (None, row["split"])
            ]
    except FileNotFoundError as error:
        raise InputError(
            f"There is no {path.name} in {path.parent}: name a folder that `strop-train "
            "preferences` made."
        ) from error
    except (OSError, pa.ArrowException, TypeError, AttributeError, UnicodeError) as error:
        raise InputError(
            f"{path} cannot be read: it is half-written, damaged or no Parquet file. Remove the "
            "folder and make it anew with `strop-train preferences`; the journal has it all."
        ) from error


def _check_schema(path: Path, found: pa.Schema) -> None:
    wanted = SCHEMAS[path.name]
    missing = [
        field.name
        for field in wanted
        if found.get_field_index(field.name) < 0 or found.field(field.name).type != field.type
    ]
    if missing:
        raise InputError(
            f"{path} is a Parquet file of something else: the columns {', '.join(missing)} are "
            "missing or of another type. Make it with `strop-train preferences`."
        )
