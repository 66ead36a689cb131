"""Which objects are labelled, on which images, in which order."""

from __future__ import annotations

import base64
import hashlib
import json
import mimetypes
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np

from adaptation.errors import ImageError, SettingsError
from adaptation.storage.datasets import MIN_AREA, FolderSet, ObjectRef, sample_objects

_ORDER_SEED = 4_409
"""Keeps the draw of the order apart from the draw of the objects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One task: an image and the objects that are labelled on it.

    Args:
        dataset: The set.
        stem: The image in it.
        project_id: One project a set.
        task_id: The image's number in the whole set, from 1: the same in every simulation.
        refs: The objects, by their numbers.
    """

    dataset: FolderSet
    stem: str
    project_id: int
    task_id: int
    refs: tuple[ObjectRef, ...]

    @property
    def key(self) -> str:
        """Names it among all sets."""
        return f"{self.dataset.name}/{self.stem}"

    @property
    def label(self) -> str:
        """The label of all of its objects: a data set has no classes."""
        return self.dataset.root.name

    def local_reference(self) -> str:
        """As a task refers to a file in one of the `served_folders`."""
        path = self.dataset.paths[self.stem].relative_to(self.dataset.root.parent)
        return f"/data/local-files/?d={quote(path.as_posix())}"

    def data_uri(self) -> str:
        """The file itself, as a reference.

        Raises:
            ImageError: It cannot be read.
        """
        path = self.dataset.paths[self.stem]
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ImageError(f"The image {self.key} cannot be read: {error.strerror}.") from error
        return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


# Data sets ---------------------------------------------------------------------------------------


def open_data(paths: Iterable[Path]) -> list[FolderSet]:
    """Find data sets.

    Args:
        paths: Each a set (a folder with images/ and masks/), a folder that holds sets, or a set
            with a part of its split.json behind it ("bsds500/test").

    Raises:
        SettingsError: A path is none of these, or two sets have the same name.
    """
    sets: list[FolderSet] = []
    for path in paths:
        sets += _open(path)
    names = [dataset.root.name for dataset in sets]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SettingsError(
            f"Two data sets of one name would share a project: {', '.join(twice)}. "
            "Give each folder once, or simulate them one after the other."
        )
    return sets


def _open(path: Path) -> list[FolderSet]:
    folder = path.resolve()
    if _is_set(folder):
        return [FolderSet(folder)]
    if not folder.exists() and _is_set(folder.parent):
        return [FolderSet(folder.parent, folder.name)]
    inside = _sets_in(folder)
    if inside:
        return [FolderSet(found) for found in inside]
    raise SettingsError(_no_set(path, folder))


def _is_set(folder: Path) -> bool:
    return (folder / "images").is_dir() and (folder / "masks").is_dir()


def _sets_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if _is_set(p)) if folder.is_dir() else []


def _no_set(path: Path, folder: Path) -> str:
    """Why a path is no data set, with what is there instead."""
    if folder.exists():
        return f"{path} holds no data set: one is a folder with images/ and masks/ in it."
    beside = [found.name for found in _sets_in(folder.parent)]
    if beside:
        return f"{path.parent} has no data set {path.name!r}; it has: {', '.join(beside)}."
    return f"There is no folder {path}."


def served_folders(sets: Sequence[FolderSet]) -> tuple[Path, ...]:
    """The folders that `Picture.local_reference` is relative to."""
    return tuple(dict.fromkeys(dataset.root.parent for dataset in sets))


# Objects -----------------------------------------------------------------------------------------


def choose_pictures(
    sets: Sequence[FolderSet], n_objects: int | None, seed: int, first_project: int
) -> list[Picture]:
    """Draw objects, and put their images into an order; both depend on the seed alone.

    Args:
        sets: The data sets.
        n_objects: In all; shared evenly, what a small set lacks goes to the others. None: all.
        seed: Of both draws.
        first_project: Number of the first set's project.

    Raises:
        SettingsError: A set has no object that is large enough.
    """
    found = [_objects_of(dataset) for dataset in sets]
    counts = [len(refs) for refs in found]
    shares = counts if n_objects is None else fair_shares(counts, n_objects)
    pictures: list[Picture] = []
    for number, (dataset, refs, share) in enumerate(zip(sets, found, shares, strict=True)):
        chosen = sorted(sample_objects(refs, share, seed))
        pictures += _by_image(dataset, chosen, first_project + number)
    order = np.random.default_rng([seed, _ORDER_SEED]).permutation(len(pictures))
    return [pictures[i] for i in order]


def _objects_of(dataset: FolderSet) -> list[ObjectRef]:
    refs = list(dataset.objects())
    if not refs:
        raise SettingsError(
            f"The data set {dataset.name!r} has no object of {MIN_AREA} pixels or more."
        )
    return refs


def fair_shares(counts: Sequence[int], total: int) -> list[int]:
    """Share a number out evenly among those that can take no more than their count."""
    shares = [0] * len(counts)
    by_size = sorted(range(len(counts)), key=lambda i: counts[i])
    for n_left, i in zip(range(len(counts), 0, -1), by_size, strict=True):
        shares[i] = min(counts[i], -(-total // n_left))
        total -= shares[i]
    return shares


def _by_image(dataset: FolderSet, refs: Sequence[ObjectRef], project_id: int) -> list[Picture]:
    numbers = {stem: number for number, stem in enumerate(dataset.stems, 1)}
    stems = dict.fromkeys(ref.stem for ref in refs)
    return [
        Picture(
            dataset=dataset,
            stem=stem,
            project_id=project_id,
            task_id=numbers[stem],
            refs=tuple(ref for ref in refs if ref.stem == stem),
        )
        for stem in stems
    ]


def digest_of_plan(pictures: Iterable[Picture]) -> str:
    """First 16 hex digits of the SHA-256 of all objects, whatever their order."""
    refs = sorted(ref for picture in pictures for ref in picture.refs)
    content = json.dumps([astuple(ref) for ref in refs])
    return hashlib.sha256(content.encode()).hexdigest()[:16]
