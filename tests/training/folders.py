"""Tiny data sets on disk: rectangles of their own colour on a grey ground."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray


def label_map(size: tuple[int, int] = (48, 64)) -> NDArray[np.uint8]:
    """Three rectangles: 20 x 16, 12 x 12 and (too small to be clicked) 4 x 4 pixels."""
    labels = np.zeros(size, np.uint8)
    labels[4:24, 4:20] = 1
    labels[30:42, 40:52] = 2
    labels[2:6, 56:60] = 3
    return labels


def paint(labels: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """An image [H, W, 3] in which each label has a colour, with some noise."""
    rng = np.random.default_rng(seed)
    colours = rng.uniform(0, 255, (int(labels.max()) + 1, 3))
    noisy = colours[labels] + rng.normal(0, 4, (*labels.shape, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def write_set(root: Path, n_images: int = 4, *, regions: bool = False) -> Path:
    """Write a data set with groups of two images, a split, and perhaps whole partitions."""
    for name in ("images", "masks", *(["regions"] if regions else [])):
        (root / name).mkdir(parents=True)
    stems = [f"im{i}" for i in range(n_images)]
    for index, stem in enumerate(stems):
        labels = label_map()
        cv2.imwrite(str(root / "images" / f"{stem}.png"), paint(labels, index)[..., ::-1])
        cv2.imwrite(str(root / "masks" / f"{stem}.png"), labels)
        if regions:
            for annotator in (1, 2):
                part = np.where(labels == annotator, 1, 2).astype(np.uint8)
                cv2.imwrite(str(root / "regions" / f"{stem}_{annotator}.png"), part)
    groups = {stem: f"group{index // 2}" for index, stem in enumerate(stems)}
    (root / "groups.json").write_text(json.dumps(groups))
    split = {stem: "test" if index == 0 else "train" for index, stem in enumerate(stems)}
    (root / "split.json").write_text(json.dumps(split))
    return root
