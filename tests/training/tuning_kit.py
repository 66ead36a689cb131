"""A tiny model, data and preferences, real ones, for the tests of SFT and DPO."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from adaptation.masks import Rle, encode_rle
from adaptation.models.compact.model import build_compact
from adaptation.storage.album import Album, image_id_of
from adaptation.types import STRIDE, Click
from tests.training.fakes import disc, write_discs
from training.preferences.files import (
    EXAMPLES,
    PAIRS,
    RANKINGS,
    Example,
    PreferencePair,
    RankedList,
    Split,
    TableWriter,
)
from training.pretrain.export import export_weights

__all__ = ["SIZE", "write_discs", "write_model", "write_preferences", "write_world"]

SIZE = (64, 64)
Mask = NDArray[np.bool_]


def write_model(folder: Path) -> Path:
    """The compact architecture at 64 pixels with random weights, as a checkpoint."""
    torch.manual_seed(0)
    sam = build_compact(input_size=64, dim=16)
    about = {"model": "strop-compact", "input_size": "64", "dim": "16", "stride": str(STRIDE)}
    path = folder / "tiny.safetensors"
    export_weights(sam.state_dict(), path, about)
    return path


def write_world(folder: Path) -> Path:
    """A model, a data set of six images in groups of their own, and preferences; the folder."""
    write_model(folder)
    write_discs(folder / "sets" / "discs", 6, n_groups=6)
    write_preferences(folder)
    return folder


def write_image(album: Album, seed: int) -> str:
    """A bright disc on noise, in the album; returns its id."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 60, (*SIZE, 3)) + 150 * disc(30, 30, 14)[..., None]
    content = cv2.imencode(".png", image.astype(np.uint8))[1].tobytes()
    image_id = image_id_of(content)
    album.keep(image_id, content)
    return image_id


def rle(radius: int, x: int = 30) -> Rle:
    """A disc as the submitted, or as another mask."""
    return encode_rle(disc(x, 30, radius))


def write_preferences(root: Path, n_images: int = 6, n_val: int = 2) -> tuple[Path, Path]:
    """One object, two pairs and one ranked list for each image; the folder and the album."""
    folder, album = root / "preferences", Album(root / "album")
    folder.mkdir(parents=True)
    with (
        TableWriter(folder, EXAMPLES) as examples,
        TableWriter(folder, PAIRS) as pairs,
        TableWriter(folder, RANKINGS) as rankings,
    ):
        for index in range(n_images):
            split: Split = "val" if index < n_val else "train"
            image_id = write_image(album, index)
            examples.write(example(f"o{index}", image_id, split))
            for pair in pairs_of(f"o{index}", image_id, split):
                pairs.write(pair)
            rankings.write(ranking(f"o{index}", image_id, split))
    return folder, album.folder


def about(object_id: str, image_id: str, split: Split) -> dict[str, object]:
    return {
        "object_id": object_id,
        "project_id": "1",
        "label": "disc",
        "image_id": image_id,
        "image_size": SIZE,
        "split": split,
        "clicks": (Click(x=30, y=30, is_positive=True), Click(x=4, y=4, is_positive=False)),
    }


def example(object_id: str, image_id: str, split: Split, mask: Rle | None = None) -> Example:
    return Example(
        **about(object_id, image_id, split),  # type: ignore[arg-type]
        task_id="1",
        mask=mask or rle(14),
        was_edited=False,
    )


def pairs_of(object_id: str, image_id: str, split: Split) -> list[PreferencePair]:
    """The submitted disc against a smaller one, and, without a submission, one against another."""
    lone = {**about(object_id, image_id, split), "clicks": (Click(x=30, y=30, is_positive=True),)}
    return [
        PreferencePair(
            **about(object_id, image_id, split),  # type: ignore[arg-type]
            pair_id=f"{object_id}-correction",
            source="correction",
            chosen=rle(14),
            rejected=rle(9),
            chosen_iou=1.0,
            rejected_iou=0.4,
            region=encode_rle(disc(30, 30, 14) & ~disc(30, 30, 9) & (np.arange(64) > 30)),
        ),
        PreferencePair(
            **{**lone, "object_id": f"choice:{object_id}"},  # type: ignore[arg-type]
            pair_id=f"{object_id}-choice",
            source="choice",
            chosen=rle(13),
            rejected=rle(13, x=40),
        ),
    ]


def ranking(object_id: str, image_id: str, split: Split) -> RankedList:
    return RankedList(
        **about(object_id, image_id, split),  # type: ignore[arg-type]
        ranking_id=f"{object_id}-ranking",
        source="outcome",
        candidates=(rle(14), rle(11), rle(6)),
        ious=(1.0, 0.6, 0.2),
    )
