"""What is trained on: objects with masks, and prompts with masks that people compared.

Both come from preferences folders (`strop-train preferences`) with an album of images; objects come
from folders of images and label maps too.  What cannot be used is left out and counted; where that
is too much of the data, the run is refused.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptation.errors import ImageError, SettingsError
from adaptation.masks import decode_rle
from adaptation.storage.album import Album
from adaptation.storage.datasets import (
    FolderSet,
    ObjectRef,
    open_sets,
    sample_objects,
    split_by_group,
)
from adaptation.storage.digests import file_sha256
from adaptation.types import Box, Click, Size
from training.finetune.config import ObjectsConfig
from training.finetune.prompt_cache import Unusable
from training.preferences.files import (
    Prompted,
    Split,
    read_examples,
)

logger = logging.getLogger(__name__)

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """An object in an image; nothing is read before it is asked for.

    Args:
        name: What messages call it.
        split: train or val.
        image_key: SHA-256 of the image's file.
        read: Gives its pixels, `[H, W, 3]` uint8, RGB.
        clicks: What an annotator clicked, oldest first; none where that is to be simulated.
        box: What an annotator drew.
    """

    name: str
    split: Split
    image_key: str
    read: Callable[[], NDArray[np.uint8]]
    clicks: tuple[Click, ...] = ()
    box: Box | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LabeledObject(Subject):
    """An object whose mask is known.

    Args:
        mask_key: Tells its mask from others.
        mask: Gives it, `[H, W]`.
    """

    mask_key: str
    mask: Callable[[], Mask]

    @property
    def key(self) -> str:
        """What it is, in full."""
        return f"{self.image_key} {self.mask_key} {self.clicks} {self.box}"


# Objects -----------------------------------------------------------------------------------------


def objects_of_set(
    dataset: FolderSet, refs: Sequence[ObjectRef], split: Split
) -> list[LabeledObject]:
    """Objects of a data folder, image by image."""
    digest = cache(file_sha256)
    exercises = []
    for ref in sorted(refs):
        labels = dataset.root / "masks" / f"{ref.stem}.png"
        exercises.append(
            LabeledObject(
                name=f"{ref.dataset}/{ref.stem}/{ref.label}",
                split=split,
                image_key=digest(dataset.paths[ref.stem]),
                read=partial(dataset.image, ref.stem),
                mask_key=f"{digest(labels)} {ref.label}",
                mask=partial(dataset.mask, ref),
            )
        )
    return exercises


def objects_of_preferences(folder: Path, album: Album) -> list[LabeledObject]:
    """Finished objects of a preferences folder, image by image, with the clicks of their prompt."""
    examples = read_examples(folder)
    return [
        LabeledObject(
            **_subject(example, example.object_id, album),
            mask_key=str(example.mask),
            mask=partial(decode_rle, example.mask),
        )
        for example in sorted(examples, key=lambda e: (e.image_id, e.object_id))
    ]


def check_mask(truth: Mask, size: Size) -> None:
    """Refuse a mask, `[H, W]`, that says nothing of an image of a size (H, W).

    Raises:
        Unusable: It is empty, or of another size.
    """
    if truth.shape != size:
        raise Unusable("its mask and its image differ in size")
    if not truth.any():
        raise Unusable("its mask is empty")


# Comparisons -------------------------------------------------------------------------------------


def drawn_names(names: Iterable[str], count: int | None, seed: int) -> set[str]:
    """At most so many of some objects; of other stages' objects the same ones are drawn."""
    return set(sorted(names, key=lambda each: _lot(each, seed))[:count])


def _lot(key: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed} {key}".encode()).digest()


def _subject(row: Prompted, name: str, album: Album) -> dict[str, Any]:
    return {
        "name": name,
        "split": row.split,
        "image_key": row.image_id,
        "read": partial(_read_sized, album, row.image_id, row.image_size),
        "clicks": row.clicks,
        "box": row.box,
    }


def _read_sized(album: Album, image_id: str, size: Size) -> NDArray[np.uint8]:
    image = album.read(image_id)
    if image.shape[:2] != size:
        raise ImageError(
            f"Image {image_id[:16]} has {image.shape[1]}x{image.shape[0]} pixels, its clicks were "
            f"made on {size[1]}x{size[0]}; make the preferences anew."
        )
    return image


# What can be used --------------------------------------------------------------------------------


def find_objects(config: ObjectsConfig) -> list[LabeledObject]:
    """All objects, image by image; held out are groups of folders, and images of preferences.

    Raises:
        SettingsError: A set is not there.
        InputError: A preferences folder is damaged.
    """
    found: list[LabeledObject] = []
    for dataset in open_sets(config.data, config.sets) if config.data is not None else []:
        train, held_out = _drawn(dataset, config)
        found += objects_of_set(dataset, train, "train")
        found += objects_of_set(dataset, held_out, "val")
    if config.album is not None:
        album = Album(config.album)
        for folder in config.preferences:
            examples = objects_of_preferences(folder, album)
            drawn = drawn_names({each.name for each in examples}, config.objects, config.seed)
            found += [each for each in examples if each.name in drawn]
    return found


def _drawn(dataset: FolderSet, config: ObjectsConfig) -> tuple[list[ObjectRef], list[ObjectRef]]:
    refs = list(dataset.objects())
    if not refs:
        raise SettingsError(f"The data set {dataset.name!r} has no objects to train on.")
    chosen = sample_objects(refs, config.objects or len(refs), config.seed)
    return split_by_group(chosen, config.held_out, config.seed)
