"""The validation part of a preferences folder as a data set that can be clicked on.

What people submitted on images that no tuning run trains on (`split_of` keeps them apart for as
long as the seed stays) is the set on which a candidate has to be better.  Masks that were accepted
as the decoder in use drew them speak for that decoder: so the gate is rather too strict.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from adaptation.errors import ImageError, StoreError
from adaptation.masks import decode_rle
from adaptation.storage.album import Album
from adaptation.storage.files import whole_folder
from training.preferences.files import read_examples
from training.preferences.rows import Example

LabelMap = NDArray[np.uint16]

_MOST_LABELS = 65_535


def write_held_out(preferences: Path, album: Album, out: Path) -> dict[str, Any]:
    """Write the data set; it appears whole or not at all.

    Objects that overlap come on a copy of their image, in the same group.

    Args:
        preferences: Made by `strop-train preferences`.
        album: The images.
        out: The data set's folder; an older one is replaced.

    Returns:
        Objects, images, and how many objects were left out because their image cannot be read.
    """
    by_image: dict[str, list[Example]] = defaultdict(list)
    for example in read_examples(preferences, "val"):
        by_image[example.image_id].append(example)
    with whole_folder(out, may_replace=lambda _: True) as draft:
        return _fill(draft, by_image, album)


def _fill(draft: Path, by_image: Mapping[str, list[Example]], album: Album) -> dict[str, Any]:
    counts = {"objects": 0, "images": 0, "left_out": 0}
    for name in ("images", "masks"):
        (draft / name).mkdir()
    groups: dict[str, str] = {}
    for image_id, examples in sorted(by_image.items()):
        try:
            image = album.read(image_id)
        except ImageError:
            counts["left_out"] += len(examples)
            continue
        counts["objects"] += len(examples)
        counts["images"] += 1
        for number, labels in enumerate(label_maps(examples)):
            stem = f"{image_id[:24]}-{number}"
            groups[stem] = image_id
            _write(draft / "images" / f"{stem}.png", image[..., ::-1])
            _write(draft / "masks" / f"{stem}.png", labels)
    (draft / "groups.json").write_text(json.dumps(groups), encoding="utf-8")
    return counts


def _write(path: Path, picture: NDArray[np.uint8] | LabelMap) -> None:
    if not cv2.imwrite(str(path), picture):
        raise StoreError(f"{path.name} cannot be written to {path.parent}: is the disk full?")


def label_maps(examples: Sequence[Example]) -> Iterator[LabelMap]:
    """The objects of one image as label maps `[H, W]`, as many as their overlaps need."""
    waiting = [decode_rle(e.mask) for e in sorted(examples, key=lambda e: e.object_id)]
    while waiting:
        labels = np.zeros(waiting[0].shape, np.uint16)
        overlapping, n_labels = [], 0
        for mask in waiting:
            if n_labels == _MOST_LABELS or (labels[mask] > 0).any():
                overlapping.append(mask)
                continue
            n_labels += 1
            labels[mask] = n_labels
        yield labels
        waiting = overlapping
