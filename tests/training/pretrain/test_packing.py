"""Everything a run reads in one archive: the same sets, smaller."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from adaptation.errors import SettingsError, StoreError
from adaptation.storage.datasets import FolderSet, open_sets
from tests.training.folders import write_set
from training.pretrain.packing import LONGEST_SIDE, pack, unpack


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    write_set(folder / "toy", 4, regions=True)
    large = write_set(folder / "large", 2)
    for path in [*(large / "images").iterdir(), *(large / "masks").iterdir()]:
        content = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert content is not None
        cv2.imwrite(str(path), cv2.resize(content, (768, 576), interpolation=cv2.INTER_NEAREST))
    (large / "card.json").write_text(json.dumps({"licence": "CC0"}))
    return folder


def test_packed_sets_are_the_same_sets_no_larger_than_the_frame(data: Path, tmp_path: Path) -> None:
    archive = tmp_path / "data.zip"
    quality = pack(data, ["toy/train", "large"], archive)
    folder = unpack(archive, tmp_path / "unpacked")
    large, toy = open_sets(folder, ["large", "toy/train"])
    source = FolderSet(data / "toy", "train")
    assert quality == 90 and toy.stems == source.stems and toy.groups == source.groups
    for stem in toy.stems:
        assert all(map(np.array_equal, toy.partitions(stem), source.partitions(stem)))
        difference = toy.image(stem).astype(int) - source.image(stem)
        assert abs(difference).mean() < 12  # JPEG of noise
    assert large.image("im0").shape == (288, LONGEST_SIDE, 3)
    labels = large.labels("im0")
    assert labels.shape == (288, LONGEST_SIDE) and set(np.unique(labels)) == {0, 1, 2, 3}
    assert (folder / "large" / "card.json").is_file()


def test_images_are_compressed_until_they_fit_and_not_beyond_use(
    data: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "data.zip"
    pack(data, ["large"], archive)
    size_mb = archive.stat().st_size / 1e6
    assert pack(data, ["large"], archive, max_mb=0.75 * size_mb) < 90
    assert archive.stat().st_size <= 0.75e6 * size_mb
    with pytest.raises(SettingsError, match="fewer sets"):
        pack(data, ["large"], archive, max_mb=0.001)
    assert not archive.exists()


def test_an_archive_is_unpacked_once_and_again_when_it_changes(data: Path, tmp_path: Path) -> None:
    archive, folder = tmp_path / "data.zip", tmp_path / "unpacked"
    pack(data, ["large"], archive)
    unpack(archive, folder)
    gone = folder / "large" / "images" / "im0.jpg"
    gone.unlink()
    unpack(archive, folder)
    assert not gone.exists()
    pack(data, ["large", "toy"], archive)
    unpack(archive, folder)
    assert gone.exists() and (folder / "toy").is_dir()


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "data.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a", b"b" * 1000)
    archive.write_bytes(archive.read_bytes()[:400])
    with pytest.raises(StoreError, match=r"data\.zip cannot be unpacked"):
        unpack(archive, tmp_path / "unpacked")
