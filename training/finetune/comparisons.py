"""Prompts with masks that people compared, out of preferences folders."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptation.masks import Rle
from adaptation.storage.album import Album
from adaptation.types import Box, Click, Size
from training.finetune.objects import Subject, _lot, _subject, drawn_names
from training.preferences.files import (
    Example,
    PreferencePair,
    Prompted,
    RankedList,
    read_examples,
    read_pairs,
    read_rankings,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedMasks(Subject):
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


def comparisons_of_preferences(
    folder: Path, album: Album, *, lists: bool, most_clicks: int | None = None
) -> list[RankedMasks]:
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


def of_objects(items: Sequence[RankedMasks], count: int | None, seed: int) -> list[RankedMasks]:
    """The comparisons of at most so many objects, drawn by their ids and the seed."""
    drawn = drawn_names({item.object_id for item in items}, count, seed)
    return [item for item in items if item.object_id in drawn]


def bounded(items: Sequence[RankedMasks], most: int | None, seed: int) -> list[RankedMasks]:
    """At most so many comparisons of each source of an object, drawn by their keys and the seed.

    What is drawn of an object depends on nothing but its own comparisons.
    """
    groups: dict[tuple[str, str, str], list[RankedMasks]] = defaultdict(list)
    for item in items:
        groups[item.image_key, item.object_id, item.source].append(item)
    kept = {
        id(item)
        for group in groups.values()
        for item in sorted(group, key=lambda each: _lot(each.key, seed))[:most]
    }
    return [item for item in items if id(item) in kept]


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


def _of_pair(pair: PreferencePair, known: _Known) -> RankedMasks:
    return RankedMasks(
        **known.about(pair, pair.pair_id),
        source=pair.source,
        candidates=(pair.chosen, pair.rejected),
        ious=(pair.chosen_iou, pair.rejected_iou),
        region=pair.region,
    )


def _of_list(ranked: RankedList, known: _Known) -> RankedMasks:
    return RankedMasks(
        **known.about(ranked, ranked.ranking_id),
        source=ranked.source,
        candidates=ranked.candidates,
        ious=ranked.ious or (None,) * len(ranked.candidates),
    )
