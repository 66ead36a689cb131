"""What the files of a preferences folder hold, one dataclass a table.  Pure.

Coordinates are (x, y) in pixels of the original, upright image; sizes are (height, width).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

from adaptation.masks import Rle
from adaptation.types import Box, Click, Size

FORMAT = "strop-preferences-1"
"""Of the files, in their report and their metadata."""

Split = Literal["train", "val"]
Source = Literal["outcome", "correction", "choice", "ranking"]
SPLITS: tuple[Split, ...] = ("train", "val")
SOURCES: tuple[Source, ...] = ("outcome", "correction", "choice", "ranking")

Row: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompted:
    """What the rows of all three tables hold: an object, and a prompt on it.

    Args:
        object_id: ``project:annotation:region`` of a finished object, ``ranking:id`` of a ranking.
        project_id: Of the labeling project.
        label: What the object is.
        image_id: Digest of the image's file, its name in the album.
        image_size: (H, W) of the upright original.
        split: Of the image: all rows of one image are in one split.
        clicks: Known at that moment, oldest first.
        box: Known at that moment, if any.
    """

    object_id: str
    project_id: str
    label: str
    image_id: str
    image_size: Size
    split: Split
    clicks: tuple[Click, ...]
    box: Box | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Example(Prompted):
    """A finished object, with the prompt whose mask was accepted.

    Args:
        task_id: Of its task.
        mask: As submitted, at the image's size.
        was_edited: Whether the annotator changed the accepted mask by hand.
        annotator: Who submitted it.
    """

    task_id: str
    mask: Rle
    was_edited: bool
    annotator: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferencePair(Prompted):
    """Two masks for one prompt, of which one is the better.

    Args:
        pair_id: Unique in the folder, and the same in every run over the same journal.
        source: outcome, correction, choice or ranking.
        chosen: The better mask.
        rejected: The worse mask.
        chosen_iou: IoU with the submitted mask, 1 for that mask itself; None where nobody painted.
        rejected_iou: Likewise.
        chosen_predicted_iou: The model's estimate; None for a submitted mask, or without one.
        rejected_predicted_iou: Likewise.
        region: The pixels that the correction touched; None where there was none.
    """

    pair_id: str
    source: Source
    chosen: Rle
    rejected: Rle
    chosen_iou: float | None = None
    rejected_iou: float | None = None
    chosen_predicted_iou: float | None = None
    rejected_predicted_iou: float | None = None
    region: Rle | None = None

    @property
    def margin(self) -> float | None:
        """By how much IoU the chosen mask is better; None where nobody painted."""
        if self.chosen_iou is None or self.rejected_iou is None:
            return None
        return self.chosen_iou - self.rejected_iou


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedList(Prompted):
    """Different masks for one prompt, best first.

    Args:
        ranking_id: Unique in the folder.
        source: outcome or ranking.
        candidates: Two or more.
        ious: With the submitted mask, in the order of the candidates, so never rising (equal ones
            stand in the model's order); None where nobody painted.
        predicted_ious: The model's estimates in the same order; None if one is missing.
    """

    ranking_id: str
    source: Source
    candidates: tuple[Rle, ...]
    ious: tuple[float, ...] | None = None
    predicted_ious: tuple[float, ...] | None = None


def split_of(image_id: str, seed: int, val_share: float) -> Split:
    """An image's split: by nothing but its digest and the seed.

    Args:
        image_id: Of the image.
        seed: Draws other images for validation.
        val_share: Share of the images that are kept for validation, 0 to 1.
    """
    digest = hashlib.sha256(f"{seed}:{image_id}".encode()).digest()
    drawn = int.from_bytes(digest[:8], "big") / 2**64
    return "val" if drawn < val_share else "train"


# To rows of the tables and back ------------------------------------------------------------------

_SUBJECT = ("object_id", "project_id", "label", "image_id", "split")
_MEASURED = ("chosen_iou", "rejected_iou", "chosen_predicted_iou", "rejected_predicted_iou")


def example_row(example: Example) -> Row:
    """A row of ``examples.parquet``."""
    return {
        **_prompted_row(example),
        "task_id": example.task_id,
        "mask": _mask_row(example.mask),
        "was_edited": example.was_edited,
        "annotator": example.annotator,
    }


def read_example(row: Mapping[str, Any]) -> Example:
    """The inverse of `example_row`."""
    return Example(
        **_read_prompted(row),
        task_id=row["task_id"],
        mask=_read_mask(row["mask"]),
        was_edited=row["was_edited"],
        annotator=row["annotator"],
    )


def pair_row(pair: PreferencePair) -> Row:
    """A row of ``pairs.parquet``."""
    return {
        **_prompted_row(pair),
        "pair_id": pair.pair_id,
        "source": pair.source,
        "chosen": _mask_row(pair.chosen),
        "rejected": _mask_row(pair.rejected),
        **{name: getattr(pair, name) for name in _MEASURED},
        "margin": pair.margin,
        "region": None if pair.region is None else _mask_row(pair.region),
    }


def read_pair(row: Mapping[str, Any]) -> PreferencePair:
    """The inverse of `pair_row`."""
    return PreferencePair(
        **_read_prompted(row),
        pair_id=row["pair_id"],
        source=row["source"],
        chosen=_read_mask(row["chosen"]),
        rejected=_read_mask(row["rejected"]),
        region=None if row["region"] is None else _read_mask(row["region"]),
        **{name: row[name] for name in _MEASURED},
    )


def ranking_row(ranking: RankedList) -> Row:
    """A row of ``rankings.parquet``."""
    return {
        **_prompted_row(ranking),
        "ranking_id": ranking.ranking_id,
        "source": ranking.source,
        "candidates": [_mask_row(rle) for rle in ranking.candidates],
        "ious": ranking.ious,
        "predicted_ious": ranking.predicted_ious,
    }


def read_ranking(row: Mapping[str, Any]) -> RankedList:
    """The inverse of `ranking_row`."""
    return RankedList(
        **_read_prompted(row),
        ranking_id=row["ranking_id"],
        source=row["source"],
        candidates=tuple(_read_mask(mask) for mask in row["candidates"]),
        ious=None if row["ious"] is None else tuple(row["ious"]),
        predicted_ious=None if row["predicted_ious"] is None else tuple(row["predicted_ious"]),
    )


def _prompted_row(item: Prompted) -> Row:
    box = item.box
    return {
        **{name: getattr(item, name) for name in _SUBJECT},
        "image_size": list(item.image_size),
        "clicks": [{"x": c.x, "y": c.y, "is_positive": c.is_positive} for c in item.clicks],
        "box": None if box is None else {"x0": box.x0, "y0": box.y0, "x1": box.x1, "y1": box.y1},
    }


def _read_prompted(row: Mapping[str, Any]) -> Row:
    return {
        **{name: row[name] for name in _SUBJECT},
        "image_size": tuple(row["image_size"]),
        "clicks": tuple(Click(**click) for click in row["clicks"]),
        "box": None if row["box"] is None else Box(**row["box"]),
    }


def _mask_row(rle: Rle) -> Row:
    return {"size": list(rle.size), "counts": rle.counts.decode("ascii")}


def _read_mask(row: Mapping[str, Any]) -> Rle:
    return Rle(size=cast(Size, tuple(row["size"])), counts=row["counts"].encode("ascii"))
