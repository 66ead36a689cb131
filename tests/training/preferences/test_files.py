from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptation.errors import InputError
from tests.training.preferences import making
from training.preferences import files
from training.preferences.files import TableWriter, read_examples, read_pairs, read_rankings
from training.preferences.rows import Example, PreferencePair, RankedList, split_of

KINDS: dict[str, Callable[..., list[Any]]] = {
    files.EXAMPLES: read_examples,
    files.PAIRS: read_pairs,
    files.RANKINGS: read_rankings,
}
ROWS = {
    files.EXAMPLES: making.examples,
    files.PAIRS: making.pairs,
    files.RANKINGS: making.rankings,
}


def write(folder: Path, name: str, rows: Sequence[Example | PreferencePair | RankedList]) -> Path:
    with TableWriter(folder, name) as writer:
        for row in rows:
            writer.write(row)
    return folder / name


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=20)
@given(data=st.data())
def test_rows_are_read_as_they_were_written(name: str, data: st.DataObject) -> None:
    rows = data.draw(st.lists(ROWS[name], max_size=4))
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), name, rows)
        assert KINDS[name](Path(folder)) == rows
        assert KINDS[name](Path(folder), "val") == [r for r in rows if r.split == "val"]


@pytest.mark.parametrize("n_rows", [0, 1, files.ROWS_PER_GROUP, files.ROWS_PER_GROUP + 1])
def test_groups_of_rows_keep_their_order(tmp_path: Path, n_rows: int) -> None:
    rows = [making.example(object_id=str(n)) for n in range(n_rows)]
    write(tmp_path, files.EXAMPLES, rows)
    assert read_examples(tmp_path) == rows


@pytest.mark.parametrize("name", KINDS)
def test_what_is_missing_half_written_or_foreign_is_told(name: str, tmp_path: Path) -> None:
    read = KINDS[name]
    with pytest.raises(InputError, match=f"no {name} in .*strop-train"):
        read(tmp_path)
    path = write(tmp_path, name, [])
    content = path.read_bytes()
    for n_bytes in (0, 3, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:n_bytes])
        with pytest.raises(InputError, match="half-written, damaged or no Parquet"):
            read(tmp_path)
    pq.write_table(pa.table({"object_id": ["a"], "clicks": [1]}), path)
    with pytest.raises(InputError, match="of something else: the columns .*clicks"):
        read(tmp_path)


def test_a_damaged_middle_is_noticed(tmp_path: Path) -> None:
    rows = [making.example(object_id=f"{n}" * 50) for n in range(200)]
    content = write(tmp_path, files.EXAMPLES, rows).read_bytes()
    for position in range(200, 2000, 150):
        changed = bytearray(content)
        changed[position : position + 100] = bytes(100)
        (tmp_path / files.EXAMPLES).write_bytes(changed)
        with pytest.raises(InputError, match="damaged"):
            read_examples(tmp_path)


@given(st.lists(st.text(), unique=True, max_size=20), st.integers(), st.floats(0, 1))
def test_the_split_is_a_matter_of_the_image_and_the_seed_alone(
    images: list[str], seed: int, share: float
) -> None:
    first = {image: split_of(image, seed, share) for image in images}
    assert first == {image: split_of(image, seed, share) for image in reversed(images)}
    for image, split in first.items():
        if split == "val":
            assert split_of(image, seed, min(1.0, share + 0.1)) == "val", "a larger share adds only"


def test_the_split_keeps_its_share_and_changes_with_the_seed() -> None:
    images = [f"{n:064x}" for n in range(4000)]
    val = [{i for i in images if split_of(i, seed, 0.1) == "val"} for seed in (0, 1)]
    # 4000 draws at 0.1: 400 expected, standard deviation 19; five of them are 95.
    assert all(305 < len(found) < 495 for found in val)
    assert len(val[0] & val[1]) < 100
    assert not any(split_of(i, 0, 0.0) == "val" for i in images)
    assert all(split_of(i, 0, 1.0) == "val" for i in images)
