"""Folders of images and label maps: what is in them, and which objects are drawn."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from adaptation.errors import ImageError, SettingsError
from adaptation.storage.datasets import (
    FolderSet,
    ObjectRef,
    open_sets,
    sample_objects,
    split_by_group,
)
from tests.training.folders import label_map, paint, write_set


@pytest.fixture
def folder(tmp_path: Path) -> FolderSet:
    return FolderSet(write_set(tmp_path / "toy"))


def refs(n_groups: int, per_group: int = 2) -> list[ObjectRef]:
    return [
        ObjectRef("toy", f"im{g}", label, f"g{g}", 200)
        for g in range(n_groups)
        for label in range(1, per_group + 1)
    ]


def test_images_come_as_rgb_and_labels_as_numbers(folder: FolderSet) -> None:
    assert folder.stems == ["im0", "im1", "im2", "im3"]
    image, labels = folder.image("im1"), folder.labels("im1")
    assert image.dtype == np.uint8 and labels.dtype == np.int32
    assert np.array_equal(image, paint(label_map(), 1))
    assert np.array_equal(labels, label_map())


def test_objects_are_those_of_a_hundred_pixels_or_more(folder: FolderSet) -> None:
    found = list(folder.objects())
    assert [(ref.stem, ref.label, ref.area) for ref in found[:3]] == [
        ("im0", 1, 320),
        ("im0", 2, 144),
        ("im1", 1, 320),
    ]
    assert len(found) == 8
    assert len(list(folder.objects(min_area=16))) == 12


def test_a_mask_is_one_object_s(folder: FolderSet) -> None:
    ref = next(iter(folder.objects()))
    assert np.array_equal(folder.mask(ref), label_map() == 1)


def test_groups_come_from_their_file_or_are_the_images(folder: FolderSet, tmp_path: Path) -> None:
    assert folder.groups == {"im0": "group0", "im1": "group0", "im2": "group1", "im3": "group1"}
    (folder.root / "groups.json").unlink()
    assert FolderSet(folder.root).groups["im3"] == "im3"


def test_a_part_keeps_its_stems_only(folder: FolderSet) -> None:
    assert FolderSet(folder.root, "test").stems == ["im0"]
    assert FolderSet(folder.root, "train+test").stems == folder.stems
    with pytest.raises(SettingsError, match="toy/nothing"):
        _ = FolderSet(folder.root, "nothing").stems


def test_partitions_are_the_regions_where_there_are_some(folder: FolderSet, tmp_path: Path) -> None:
    assert [p.max() for p in folder.partitions("im0")] == [3]
    with_regions = FolderSet(write_set(tmp_path / "whole", regions=True))
    parts = with_regions.partitions("im0")
    assert len(parts) == 2 and all(part.min() == 1 for part in parts)


def test_broken_files_are_named(folder: FolderSet) -> None:
    (folder.root / "images" / "im0.png").write_bytes(b"no image")
    cv2.imwrite(str(folder.root / "masks" / "im1.png"), paint(label_map(), 0))
    with pytest.raises(ImageError, match="images/im0.png cannot be read"):
        folder.image("im0")
    with pytest.raises(ImageError, match="masks/im1.png is no label map"):
        folder.labels("im1")
    (folder.root / "groups.json").write_text("[]")
    with pytest.raises(SettingsError, match=r"groups\.json"):
        _ = folder.groups


def test_sets_open_by_name_and_all_missing_ones_are_named(tmp_path: Path) -> None:
    write_set(tmp_path / "toy")
    first, second = open_sets(tmp_path, ["toy", "toy/train"])
    assert (first.name, second.name) == ("toy", "toy/train")
    with pytest.raises(SettingsError, match="gone, lost"):
        open_sets(tmp_path, ["toy", "gone", "lost/train"])


def test_a_sample_is_seeded_and_does_not_depend_on_the_order() -> None:
    everything = refs(10)
    drawn = sample_objects(everything, 6, seed=3)
    assert drawn == sample_objects(reversed(everything), 6, seed=3)
    assert drawn != sample_objects(everything, 6, seed=4)
    assert len(set(drawn)) == 6
    assert sorted(sample_objects(everything, 99, seed=0)) == sorted(everything)


def test_a_larger_sample_starts_with_the_smaller_one() -> None:
    everything = refs(10)
    assert sample_objects(everything, 12, seed=1)[:5] == sample_objects(everything, 5, seed=1)


def test_no_group_is_on_both_sides_of_a_split() -> None:
    first, held_out = split_by_group(refs(10, per_group=3), 0.3, seed=0)
    assert not {ref.group for ref in first} & {ref.group for ref in held_out}
    assert len({ref.group for ref in held_out}) == 3
    assert len(first) + len(held_out) == 30


@pytest.mark.parametrize("held_out", [0.001, 0.999])
def test_both_sides_of_a_split_have_a_group(held_out: float) -> None:
    first, second = split_by_group(refs(4), held_out, seed=0)
    assert first and second


def test_a_share_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        split_by_group(refs(2), 1.0, seed=0)
