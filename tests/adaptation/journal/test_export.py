from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptation.errors import InputError, StoreError
from adaptation.journal import BoxRecord, Journal, PromptRecord
from adaptation.journal.columns import TABLES, Column
from adaptation.journal.export import FORMATS, export
from adaptation.masks import Rle, decode_rle
from backend.commands.export import export_command
from tests.adaptation.journal.samples import (
    at,
    candidate,
    deletion,
    interaction,
    region,
    square,
    submission,
)

GUIDE = Path(__file__).resolve().parents[3] / "docs" / "guide" / "journal.md"
MASK = square(3, 5, 7)


@pytest.fixture
def filled(journal: Journal) -> Journal:
    box = BoxRecord(id="box", x0=0.5, y0=1, x1=20, y1=22)
    journal.append_interaction(
        interaction(
            "r1",
            masks=[MASK, square(0, 0, 2)],
            prompt=PromptRecord(box=box),
            view=(0, 1, 20, 21),
            timings_ms={"decode": 12.5},
            context={"nested": [{"a": None}]},
            label="Kratzer ü",
        )
    )
    journal.append_interaction(
        interaction("r2", candidates=(candidate("x", predicted_iou=np.nan),))
    )
    journal.append_submission(submission(region("r1-0", MASK, label="Kratzer ü")))
    journal.append_submission(deletion(annotation_id="99"))
    journal.append_event("adapter_saved", "1", {"bytes": 3})
    journal.append_interaction(interaction("foreign", project_id="2"))
    journal.link_pending()
    return journal


def read_table(folder: Path, table: str, format: str) -> list[dict[str, Any]]:
    path = folder / f"{table}.{format}"
    if format == "jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


@pytest.fixture(params=FORMATS)
def format(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_every_record_is_in_its_table(filled: Journal, tmp_path: Path, format: str) -> None:
    out = tmp_path / "deep" / "out"
    written = export(filled, out, format)
    assert written == {"interactions": 3, "submissions": 2, "events": 1, "links": 1}
    for table, columns in TABLES.items():
        rows = read_table(out, table, format)
        assert len(rows) == written[table]
        assert all(list(row) == [column.name for column in columns] for row in rows)
    assert sorted(path.name for path in out.parent.iterdir()) == ["out"]


def test_an_interaction_is_told_whole(filled: Journal, tmp_path: Path, format: str) -> None:
    export(filled, tmp_path / "out", format)
    row = read_table(tmp_path / "out", "interactions", format)[0]
    assert row["box"] == {"id": "box", "x0": 0.5, "y0": 1.0, "x1": 20.0, "y1": 22.0}
    assert row["clicks"] == []
    assert (row["label"], row["view"], row["image_size"]) == ("Kratzer ü", [0, 1, 20, 21], [24, 32])
    assert dict(row["timings_ms"]) == {"decode": 12.5}
    context = row["context"] if format == "jsonl" else json.loads(row["context"])
    assert context == {"nested": [{"a": None}]}
    assert [offer["region_id"] for offer in row["candidates"]] == ["r1-0", "r1-1"]
    moment = row["created_at"]
    assert (datetime.fromisoformat(moment) if format == "jsonl" else moment) == at(0)


def test_masks_can_be_read_back(filled: Journal, tmp_path: Path, format: str) -> None:
    export(filled, tmp_path / "out", format)
    [row] = [r for r in read_table(tmp_path / "out", "submissions", format) if r["regions"]]
    mask = row["regions"][0]["mask"]
    rle = Rle(size=tuple(mask["size"]), counts=mask["counts"].encode())
    assert np.array_equal(decode_rle(rle), decode_rle(MASK))


def test_a_score_that_is_no_number_is_null(filled: Journal, tmp_path: Path, format: str) -> None:
    export(filled, tmp_path / "out", format)
    row = read_table(tmp_path / "out", "interactions", format)[1]
    assert row["candidates"][0]["predicted_iou"] is None


def test_links_join_the_tables(filled: Journal, tmp_path: Path, format: str) -> None:
    export(filled, tmp_path / "out", format)
    [link] = read_table(tmp_path / "out", "links", format)
    submissions = read_table(tmp_path / "out", "submissions", format)
    assert link["request_id"] == "r1"
    assert link["submission_seq"] in {row["seq"] for row in submissions}
    assert (link["how"], link["iou"], link["standing"]) == ("region_id", 1.0, "current")


def test_one_project(filled: Journal, tmp_path: Path) -> None:
    written = export(filled, tmp_path / "out", "jsonl", project_id="2")
    assert written == {"interactions": 1, "submissions": 0, "events": 0, "links": 0}
    assert read_table(tmp_path / "out", "submissions", "jsonl") == []


def test_an_empty_journal_has_empty_tables(journal: Journal, tmp_path: Path, format: str) -> None:
    export(journal, tmp_path / "out", format)
    assert all(read_table(tmp_path / "out", table, format) == [] for table in TABLES)


def test_row_groups_are_written_as_they_fill(
    filled: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow.parquet as pq

    monkeypatch.setattr("adaptation.journal.export.ROWS_PER_GROUP", 2)
    export(filled, tmp_path / "out", "parquet")
    opened = pq.ParquetFile(tmp_path / "out" / "interactions.parquet")
    assert opened.metadata.num_row_groups == 2
    assert opened.schema_arrow.field("step").metadata == {
        b"about": b"0 for the object's first prompt"
    }


def test_progress_counts_every_entry(filled: Journal, tmp_path: Path) -> None:
    steps: list[int] = []
    export(filled, tmp_path / "out", "jsonl", progress=steps.append)
    assert sum(steps) == 6


def test_what_is_there_is_never_replaced(filled: Journal, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious.txt").write_text("mine")
    with pytest.raises(InputError, match="exists already, and an export replaces nothing"):
        export(filled, out, "jsonl")
    assert [path.name for path in tmp_path.rglob("*.txt")] == ["precious.txt"]
    assert len(list(out.iterdir())) == 1


def test_an_export_cut_off_leaves_nothing(filled: Journal, tmp_path: Path, format: str) -> None:
    def stop(_: int) -> None:
        raise KeyboardInterrupt

    folder = tmp_path / "exports"
    with pytest.raises(KeyboardInterrupt):
        export(filled, folder / "out", format, progress=stop)
    assert list(folder.iterdir()) == []


def test_a_place_that_cannot_be_written(filled: Journal, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="The export to .* failed"):
        export(filled, tmp_path / "file" / "out", "jsonl")


def test_an_unknown_format_is_refused_before_anything_is_made(
    filled: Journal, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="one of jsonl, parquet, got 'csv'"):
        export(filled, tmp_path / "exports" / "out", "csv")
    assert not (tmp_path / "exports").exists()


def test_the_command_links_exports_and_says_so(
    journal: Journal, journal_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal.append_interaction(interaction("r1"))
    journal.append_submission(submission(region("r1-0")))
    out = tmp_path / "out"
    assert export_command(journal_url, str(out), "jsonl", None) == 0
    assert capsys.readouterr().out == (f"{out}: 1 interactions, 1 submissions, 0 events, 1 links\n")
    assert read_table(out, "links", "jsonl")[0]["how"] == "region_id"


def test_the_command_makes_no_journal_of_a_mistyped_name(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="There is no journal at"):
        export_command(f"sqlite:///{tmp_path}/journl.db", str(tmp_path / "out"), "jsonl", None)
    assert list(tmp_path.iterdir()) == []


def names(columns: object) -> list[str]:
    """The names of columns and of all that is nested in them."""
    if not isinstance(columns, (list, tuple)):
        return []
    found = [column for column in columns if isinstance(column, Column)]
    return [name for column in found for name in (column.name, *names(column.type))]


@pytest.mark.parametrize("table", TABLES)
def test_the_guide_explains_every_column(table: str) -> None:
    text = GUIDE.read_text(encoding="utf-8")
    assert f"### `{table}`" in text
    missing = [name for name in names(TABLES[table]) if f"`{name}`" not in text]
    assert missing == []
