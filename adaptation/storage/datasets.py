"""Folders of images with instance label maps, and the objects in them.

A set is a folder with `images/<stem>.<ext>` (RGB) and `masks/<stem>.png` (label map: 0 background,
1..n one instance each).  Beside them there may be `groups.json` (stem -> group: one patient, tile
or video; splits never cut a group), `split.json` (stem -> part), and `regions/<stem>_<k>.png`
(whole partitions of the image, one per human annotator).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from adaptation.errors import ImageError, SettingsError

Image = NDArray[np.uint8]
LabelMap = NDArray[np.int32]
Mask = NDArray[np.bool_]

MIN_AREA = 100
"""Pixels below which an object is left out of click evaluation."""

_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff"}


@dataclass(frozen=True, slots=True, order=True)
class ObjectRef:
    """One annotated object: where to find its image and which label is its own."""

    dataset: str
    stem: str
    label: int
    group: str
    area: int


@dataclass(frozen=True)
class FolderSet:
    """One data set on disk; nothing is read before it is asked for.

    Args:
        root: The set's folder; its name is the set's name.
        part: Keep only the stems that `split.json` puts in this part (or in one of several,
            joined with "+"); empty for all.
    """

    root: Path
    part: str = ""

    @property
    def name(self) -> str:
        """The folder's name, with the part where one was chosen."""
        return f"{self.root.name}/{self.part}" if self.part else self.root.name

    @cached_property
    def paths(self) -> dict[str, Path]:
        """Stem -> image file, in the order of the stems.

        Raises:
            SettingsError: The folder has no images, or the part is unknown.
        """
        folder = self.root / "images"
        found = {
            path.stem: path
            for path in (sorted(folder.iterdir()) if folder.is_dir() else [])
            if path.suffix.lower() in _IMAGE_SUFFIXES
        }
        if self.part:
            split, parts = self._read_json("split.json"), set(self.part.split("+"))
            found = {stem: path for stem, path in found.items() if split.get(stem) in parts}
        if not found:
            raise SettingsError(
                f"The data set {self.name!r} has no images; it needs images/<stem>.<jpg or png>."
            )
        return found

    @property
    def stems(self) -> list[str]:
        """All stems, sorted."""
        return list(self.paths)

    @cached_property
    def groups(self) -> dict[str, str]:
        """Stem -> group; each image is its own group where nothing is said."""
        known = self._read_json("groups.json")
        return {stem: str(known.get(stem, stem)) for stem in self.paths}

    def image(self, stem: str) -> Image:
        """The image, [H, W, 3] uint8 RGB, upright."""
        image = _read(self.paths[stem], cv2.IMREAD_COLOR)
        return np.ascontiguousarray(image[..., ::-1], dtype=np.uint8)

    def labels(self, stem: str) -> LabelMap:
        """The label map of the instances, [H, W] int32."""
        return _read_labels(self._label_path(stem))

    def partitions(self, stem: str) -> list[LabelMap]:
        """Every annotator's label map: the regions where the set has them, else the masks."""
        paths = self._region_paths.get(stem)
        return [_read_labels(path) for path in paths] if paths else [self.labels(stem)]

    def has_partitions(self, stem: str) -> bool:
        """Whether an image has whole partitions beside, or instead of, its masks."""
        return stem in self._region_paths

    def mask(self, ref: ObjectRef) -> Mask:
        """One object's mask, [H, W] bool."""
        return np.asarray(self.labels(ref.stem) == ref.label)

    def objects(self, min_area: int = MIN_AREA) -> Iterator[ObjectRef]:
        """All objects of at least `min_area` pixels, by stem and label.

        An image without a label map has none.
        """
        for stem in (s for s in self.stems if self._label_path(s).is_file()):
            areas = np.bincount(self.labels(stem).ravel())
            for label in np.flatnonzero(areas >= min_area):
                if label > 0:
                    group = self.groups[stem]
                    yield ObjectRef(self.name, stem, int(label), group, int(areas[label]))

    def _label_path(self, stem: str) -> Path:
        return self.root / "masks" / f"{stem}.png"

    @cached_property
    def _region_paths(self) -> dict[str, list[Path]]:
        folder = self.root / "regions"
        by_stem: dict[str, list[Path]] = {}
        for path in sorted(folder.glob("*.png")) if folder.is_dir() else []:
            by_stem.setdefault(path.stem.rpartition("_")[0], []).append(path)
        return by_stem

    def _read_json(self, name: str) -> dict[str, str]:
        path = self.root / name
        if not path.is_file():
            return {}
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise SettingsError(
                f"{name} of the data set {self.root.name!r} must map stems to names."
            )
        return content


def sample_objects(refs: Iterable[ObjectRef], count: int, seed: int) -> list[ObjectRef]:
    """Draw objects without replacement, in a random but seeded order; all of them if fewer.

    The result does not depend on the order in which the objects come.
    """
    ordered = sorted(refs)
    order = np.random.default_rng(seed).permutation(len(ordered))
    return [ordered[i] for i in order[:count]]


def split_by_group(
    refs: Iterable[ObjectRef], held_out: float, seed: int
) -> tuple[list[ObjectRef], list[ObjectRef]]:
    """Split objects in two so that no group is on both sides.

    Args:
        refs: The objects.
        held_out: Share of the groups, in (0, 1), that goes to the second part; at least one
            group stays on each side where there are two.
        seed: Of the draw.

    Returns:
        The first part and the held-out one, each sorted.
    """
    if not 0 < held_out < 1:
        raise ValueError(f"held_out is a share between 0 and 1, got {held_out}")
    ordered = sorted(refs)
    names = sorted({(ref.dataset, ref.group) for ref in ordered})
    count = min(max(1, round(held_out * len(names))), max(len(names) - 1, 0))
    drawn = np.random.default_rng(seed).permutation(len(names))[:count]
    chosen = {names[i] for i in drawn}
    first = [ref for ref in ordered if (ref.dataset, ref.group) not in chosen]
    return first, [ref for ref in ordered if (ref.dataset, ref.group) in chosen]


def held_out_stems(dataset: FolderSet, share: float) -> frozenset[str]:
    """The stems of a share of a set's groups, whichever else is drawn and in whatever order.

    A group is in or out by its name alone, so that images added to a set move no other.
    """
    limit = round(share * 2**32)
    return frozenset(
        stem
        for stem, group in dataset.groups.items()
        if zlib.crc32(f"{dataset.root.name}/{group}".encode()) < limit
    )


def open_sets(folder: Path, names: Sequence[str]) -> list[FolderSet]:
    """Open sets by name below a data folder; "bsds500/train+val" opens two parts of one.

    Raises:
        SettingsError: A set is not there; the message lists every one that is missing.
    """
    sets, missing = [], []
    for name in names:
        root, _, part = name.partition("/")
        if (folder / root / "images").is_dir():
            sets.append(FolderSet(folder / root, part))
        else:
            missing.append(root)
    if missing:
        raise SettingsError(
            f"Data sets not found in the data folder: {', '.join(missing)}. "
            "Each needs a folder with images/ and masks/."
        )
    return sets


def _read(path: Path, flags: int) -> NDArray[np.generic]:
    content = cv2.imread(str(path), flags) if path.is_file() else None
    if content is None:
        raise ImageError(f"{path.parent.name}/{path.name} cannot be read as an image.")
    return content


def _read_labels(path: Path) -> LabelMap:
    labels = _read(path, cv2.IMREAD_UNCHANGED)
    if labels.ndim != 2:
        raise ImageError(f"{path.parent.name}/{path.name} is no label map: it has colours.")
    return labels.astype(np.int32)
