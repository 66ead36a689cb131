from __future__ import annotations

from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptation.errors import SettingsError
from adaptation.storage.datasets import FolderSet, ObjectRef
from tests.training.fakes import write_discs
from training.evaluation.streams import (
    choose_objects,
    digest_of_objects,
    has_groups,
    split_sessions,
    stream_order,
)


def refs_of(sizes: list[int]) -> list[ObjectRef]:
    """Group g has two images with `sizes[g]` objects each."""
    return [
        ObjectRef("set", f"g{g}i{i}", label, f"g{g}", 200)
        for g, n in enumerate(sizes)
        for i in range(2)
        for label in range(1, n + 1)
    ]


def runs(values: list[str]) -> int:
    return len(list(groupby(values)))


group_sizes = st.lists(st.integers(1, 4), min_size=1, max_size=8)


@given(group_sizes, st.integers(0, 5), st.integers(0, 3))
def test_an_order_holds_every_object_once_and_keeps_groups_together(
    sizes: list[int], seed: int, order: int
) -> None:
    refs = refs_of(sizes)
    stream = stream_order(refs, seed, order)
    assert sorted(stream) == sorted(refs)
    assert runs([r.group for r in stream]) == len(sizes)
    assert runs([r.stem for r in stream]) == 2 * len(sizes)


def test_orders_differ_and_do_not_depend_on_how_the_objects_come() -> None:
    refs = refs_of([3, 3, 3])
    assert stream_order(refs, 0, 0) == stream_order(refs[::-1], 0, 0)
    assert stream_order(refs, 0, 0) != stream_order(refs, 0, 1)
    assert stream_order(refs, 0, 0) != stream_order(refs, 1, 0)


def test_single_objects_can_be_shuffled_instead() -> None:
    stream = stream_order(refs_of([4, 4, 4, 4]), 0, 0, keeps_groups=False)
    assert runs([r.group for r in stream]) > 4


@given(group_sizes, st.data())
def test_sessions_share_the_objects_but_no_group(sizes: list[int], data: st.DataObject) -> None:
    stream = stream_order(refs_of(sizes), 0, 0)
    n_sessions = data.draw(st.integers(1, len(sizes)))
    sessions = split_sessions(stream, n_sessions)
    assert sorted(r for s in sessions for r in s) == sorted(stream)
    owners = [{r.group for r in session} for session in sessions]
    assert sum(len(groups) for groups in owners) == len(sizes)
    assert all(sessions)
    for session in sessions:
        assert session == [r for r in stream if r in session]


def test_too_many_sessions_are_refused() -> None:
    with pytest.raises(SettingsError, match="3 sessions need as many groups"):
        split_sessions(refs_of([2, 2]), 3)


def test_choosing_is_seeded_and_leaves_small_objects_out(tmp_path: Path) -> None:
    dataset = FolderSet(write_discs(tmp_path / "discs"))
    assert len(choose_objects(dataset, None, 0)) == 8
    few = choose_objects(dataset, 3, 0)
    assert few == choose_objects(dataset, 3, 0) and len(few) == 3
    assert any(choose_objects(dataset, 3, seed) != few for seed in range(1, 5))
    assert digest_of_objects(few) == digest_of_objects(few[::-1])
    assert digest_of_objects(few) != digest_of_objects(few[:2])


def test_groups_of_single_images_are_none() -> None:
    assert has_groups(refs_of([1]))
    assert not has_groups([ObjectRef("s", "a", 1, "a", 200), ObjectRef("s", "b", 1, "b", 200)])


def test_an_image_without_a_label_map_has_no_objects(tmp_path: Path) -> None:
    root = write_discs(tmp_path / "discs")
    (root / "masks" / "im0.png").unlink()
    assert {r.stem for r in choose_objects(FolderSet(root), None, 0)} == {"im1", "im2", "im3"}
    for path in (root / "masks").iterdir():
        path.unlink()
    with pytest.raises(SettingsError, match="no object"):
        choose_objects(FolderSet(root), None, 0)
