"""What is trained on: objects with masks, and prompts with masks that people compared.

Both come from preferences folders (`strop-train preferences`) with an album of images; objects come
from folders of images and label maps too.  What cannot be used is left out and counted; where that
is too much of the data, the run is refused.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from adaptation.album import Album
from adaptation.digests import file_sha256
from adaptation.errors import ImageError, InputError
from adaptation.masks import Rle, decode_rle
from adaptation.types import Box, Click, Size
from training.datasets import FolderSet, ObjectRef
from training.preferences.files import (
    Example,
    PreferencePair,
    Prompted,
    RankedList,
    Split,
    read_examples,
    read_pairs,
    read_rankings,
)
from training.ranks import Rank
from training.tuning_replay import Unusable

logger = logging.getLogger(__name__)

Mask = NDArray[np.bool_]
_N_EXAMPLES = 3


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
class Exercise(Subject):
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison(Subject):
    """A prompt, and masks for it from the best to the worst.

    Args:
        object_id: The prompts of an object share one replay.
        image_size: (H, W) of the upright original.
        chain: The longest clicks on the object that begin with those of the prompt.
        source: outcome, correction, choice or ranking.
        candidates: Two or more, best first.
        ious: With the submitted mask, where one was painted.
        region: The pixels that a correction touched.
        truth: The mask that was submitted for the object, if one was.
    """

    object_id: str
    image_size: Size
    chain: tuple[Click, ...]
    source: str
    candidates: tuple[Rle, ...]
    ious: tuple[float | None, ...]
    region: Rle | None = None
    truth: Rle | None = None

    @property
    def key(self) -> str:
        """What it is, in full."""
        masks = (*self.candidates, self.region, self.truth)
        return f"{self.image_key} {masks} {self.clicks} {self.box}"

    @property
    def turn(self) -> int:
        """The place of its prompt among those of the chain."""
        return max(0, len(self.clicks) - 1)

    def has_margin(self, least: float) -> bool:
        """Whether the best is better than the worst by some IoU; True where that is not known."""
        best, worst = self.ious[0], self.ious[-1]
        return best is None or worst is None or best - worst >= least


# Objects -----------------------------------------------------------------------------------------


def exercises_of_set(dataset: FolderSet, refs: Sequence[ObjectRef], split: Split) -> list[Exercise]:
    """Objects of a data folder, image by image."""
    digest = cache(file_sha256)
    exercises = []
    for ref in sorted(refs):
        labels = dataset.root / "masks" / f"{ref.stem}.png"
        exercises.append(
            Exercise(
                name=f"{ref.dataset}/{ref.stem}/{ref.label}",
                split=split,
                image_key=digest(dataset.paths[ref.stem]),
                read=partial(dataset.image, ref.stem),
                mask_key=f"{digest(labels)} {ref.label}",
                mask=partial(dataset.mask, ref),
            )
        )
    return exercises


def exercises_of_preferences(folder: Path, album: Album) -> list[Exercise]:
    """Finished objects of a preferences folder, image by image, with the clicks of their prompt."""
    examples = read_examples(folder)
    return [
        Exercise(
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


def comparisons_of_preferences(
    folder: Path, album: Album, *, lists: bool, most_clicks: int | None = None
) -> list[Comparison]:
    """What people preferred, image by image.

    Args:
        folder: Of the preferences.
        album: The images.
        lists: Whole ranked lists, and pairs only from sources that rank nothing; else pairs.
        most_clicks: Prompts of more clicks are left out, and not replayed; None takes all.
    """
    examples, pairs, rankings = read_examples(folder), read_pairs(folder), read_rankings(folder)
    most = math.inf if most_clicks is None else most_clicks
    rows = [row for row in (*examples, *pairs, *rankings) if len(row.clicks) <= most]
    known = _Known(album, examples, rows)
    found = [_of_pair(row, known) for row in rows if isinstance(row, PreferencePair)]
    if lists:
        ranked = [_of_list(row, known) for row in rows if isinstance(row, RankedList)]
        listed = {each.source for each in ranked}
        found = ranked + [pair for pair in found if pair.source not in listed]
    return sorted(found, key=lambda item: (item.image_key, item.name))


def of_objects(items: Sequence[Comparison], count: int | None, seed: int) -> list[Comparison]:
    """The comparisons of at most so many objects, drawn by their ids and the seed."""
    drawn = drawn_names({item.object_id for item in items}, count, seed)
    return [item for item in items if item.object_id in drawn]


def drawn_names(names: Iterable[str], count: int | None, seed: int) -> set[str]:
    """At most so many of some objects; of other stages' objects the same ones are drawn."""
    return set(sorted(names, key=lambda each: _lot(each, seed))[:count])


def bounded(items: Sequence[Comparison], most: int | None, seed: int) -> list[Comparison]:
    """At most so many comparisons of each source of an object, drawn by their keys and the seed.

    What is drawn of an object depends on nothing but its own comparisons.
    """
    groups: dict[tuple[str, str, str], list[Comparison]] = defaultdict(list)
    for item in items:
        groups[item.image_key, item.object_id, item.source].append(item)
    kept = {
        id(item)
        for group in groups.values()
        for item in sorted(group, key=lambda each: _lot(each.key, seed))[:most]
    }
    return [item for item in items if id(item) in kept]


def _lot(key: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed} {key}".encode()).digest()


class _Known:
    """What a folder says of each object: its mask, and all prompts on it.

    Args:
        album: The images.
        examples: Finished objects.
        rows: All rows that have a prompt.
    """

    def __init__(self, album: Album, examples: Sequence[Example], rows: Sequence[Prompted]) -> None:
        self._album = album
        self._masks = {example.object_id: example.mask for example in examples}
        self._prompts: dict[str, dict[tuple[tuple[Click, ...], Box | None], None]] = {}
        for row in rows:
            self._prompts.setdefault(row.object_id, {})[row.clicks, row.box] = None

    def about(self, row: Prompted, name: str) -> dict[str, Any]:
        """The fields of a comparison that do not depend on what is compared."""
        return {
            **_subject(row, name, self._album),
            "object_id": row.object_id,
            "image_size": row.image_size,
            "chain": self._chain(row),
            "truth": self._masks.get(row.object_id),
        }

    def _chain(self, row: Prompted) -> tuple[Click, ...]:
        n_clicks = len(row.clicks)
        prompts = self._prompts[row.object_id]
        alike = [c for c, box in prompts if box == row.box and c[:n_clicks] == row.clicks]
        return max(alike, key=len)


def _of_pair(pair: PreferencePair, known: _Known) -> Comparison:
    return Comparison(
        **known.about(pair, pair.pair_id),
        source=pair.source,
        candidates=(pair.chosen, pair.rejected),
        ious=(pair.chosen_iou, pair.rejected_iou),
        region=pair.region,
    )


def _of_list(ranked: RankedList, known: _Known) -> Comparison:
    return Comparison(
        **known.about(ranked, ranked.ranking_id),
        source=ranked.source,
        candidates=ranked.candidates,
        ious=ranked.ious or (None,) * len(ranked.candidates),
    )


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


class Named(Protocol):
    """An item that messages can name."""

    @property
    def name(self) -> str: ...  # noqa: D102


T = TypeVar("T", bound=Named)


@dataclass(slots=True)
class LeftOut:
    """Items that cannot be trained on, for one reason.

    Args:
        n: How many.
        examples: The first few, each with what is wrong.
    """

    n: int = 0
    examples: list[str] = field(default_factory=list)


def usable(
    items: Sequence[T], replay: Callable[[T], object], rank: Rank, max_unusable: float
) -> tuple[list[T], dict[str, LeftOut]]:
    """Replay every item once, the work shared by the ranks, and drop those that fail.

    Args:
        items: Image by image.
        replay: Makes an item's replay, or finds it on the disk; raises where that is no use.
        rank: This process.
        max_unusable: Share of the items that may fail.

    Raises:
        InputError: More fail, or nothing is left; the message says why, with examples.
    """
    first, last = (len(items) * i // rank.count for i in (rank.index, rank.index + 1))
    mine = list(_failures(items, replay, range(first, last), is_shown=rank.is_first))
    failures = [failure for share in rank.gather(mine) for failure in share]
    left_out: dict[str, LeftOut] = {}
    for index, reason, detail in failures:
        group = left_out.setdefault(reason, LeftOut())
        group.n += 1
        if len(group.examples) < _N_EXAMPLES:
            group.examples.append(f"{items[index].name}: {detail}")
    failed = {index for index, _, _ in failures}
    if len(failed) == len(items) or len(failed) > max_unusable * len(items):
        raise InputError(_refusal(len(items), len(failed), left_out))
    return [item for index, item in enumerate(items) if index not in failed], left_out


def _failures(
    items: Sequence[T], replay: Callable[[T], object], indices: range, *, is_shown: bool
) -> Iterator[tuple[int, str, str]]:
    for index in tqdm(indices, desc="replay", unit="item", disable=not is_shown, leave=False):
        try:
            replay(items[index])
        except Unusable as error:
            yield index, str(error), str(error)
        except InputError as error:
            yield index, "its image or prompt cannot be used", str(error)


def _refusal(n_items: int, n_failed: int, left_out: dict[str, LeftOut]) -> str:
    if not n_items:
        return "There is nothing to train on: no object, no pair and no list was found."
    lines = [f"{n_failed} of {n_items} items cannot be trained on; max_unusable allows fewer:"]
    for reason, group in left_out.items():
        lines.append(f"  - {reason} ({group.n}), for instance {group.examples[0]}")
    return "\n".join(lines)
