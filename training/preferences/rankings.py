"""Rankings that people made -> ranked lists and pairs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from adaptation.errors import InputError
from adaptation.journal import EventRecord
from adaptation.masks import Rle
from adaptation.types import Box, Click
from training.preferences.evidence import CheckImage, LeftOutCounts, has_pixels
from training.preferences.rows import PreferencePair, RankedList, split_of
from training.preferences.settings import PreferencesConfig, RankingSettings
from training.preferences.sources import distinct

EVENT = "ranking"
"""Kind of the journal's events that hold one ranking each."""


def ranking_of_answer(
    event: EventRecord, config: PreferencesConfig, check_image: CheckImage, tally: LeftOutCounts
) -> RankedList | None:
    """The ranked list of an event; None, and counted, where it is left out.

    Args:
        event: Of the kind "ranking".
        config: Gives seed and share of the split.
        check_image: Looks into the album.
        tally: Of what is left out.
    """
    try:
        ranking = _parsed(event, config)
    except (InputError, LookupError, TypeError, ValueError, AttributeError):
        tally.add("rankings", "the event is not of the form of a ranking")
        return None
    reason = check_image(ranking.image_id)
    if reason is None and len(ranking.candidates) < 2:
        reason = "fewer than two different masks with pixels"
    if reason is not None:
        tally.add("rankings", reason)
        return None
    return ranking


def ranking_pairs(ranking: RankedList, settings: RankingSettings) -> Iterator[PreferencePair]:
    """The best of a list against the others, the worst first."""
    scores: Sequence[float | None] = ranking.predicted_ious or [None] * len(ranking.candidates)
    others = range(len(ranking.candidates) - 1, 0, -1)
    for place in others[: settings.most_per_prompt]:
        yield PreferencePair(
            object_id=ranking.object_id,
            project_id=ranking.project_id,
            label=ranking.label,
            image_id=ranking.image_id,
            image_size=ranking.image_size,
            split=ranking.split,
            clicks=ranking.clicks,
            box=ranking.box,
            pair_id=f"{ranking.ranking_id}/ranking/0-{place}",
            source="ranking",
            chosen=ranking.candidates[0],
            rejected=ranking.candidates[place],
            chosen_predicted_iou=scores[0],
            rejected_predicted_iou=scores[place],
        )


def _parsed(event: EventRecord, config: PreferencesConfig) -> RankedList:
    payload = event.payload
    size = (int(payload["image_size"][0]), int(payload["image_size"][1]))
    masks = [_mask(value, size) for value in payload["candidates"]]
    kept = [place for place in distinct(masks) if has_pixels(masks[place])]
    image_id = _text(payload["image_id"])
    return RankedList(
        object_id=f"ranking:{_text(payload['ranking_id'])}",
        project_id=event.project_id or "",
        label=_text(payload["label"]),
        image_id=image_id,
        image_size=size,
        split=split_of(image_id, config.seed, config.val_share),
        clicks=tuple(Click(**click) for click in payload["clicks"]),
        box=_box(payload.get("box")),
        ranking_id=payload["ranking_id"],
        source="ranking",
        candidates=tuple(masks[place] for place in kept),
        predicted_ious=_scores(payload.get("predicted_ious"), len(masks), kept),
    )


def _mask(value: Mapping[str, Any], size: tuple[int, int]) -> Rle:
    if tuple(value["size"]) != size:
        raise InputError(f"A ranked mask must have its image's size {size}, got {value['size']}.")
    return Rle(size=size, counts=_text(value["counts"]).encode("ascii"))


def _box(value: Mapping[str, Any] | None) -> Box | None:
    return (
        None if value is None else Box(**{name: value[name] for name in ("x0", "y0", "x1", "y1")})
    )


def _scores(values: Any, n_masks: int, kept: Sequence[int]) -> tuple[float, ...] | None:
    """The estimates of the masks that are kept; None unless there is a number for each."""
    if not isinstance(values, list) or len(values) != n_masks:
        return None
    numbers = [values[place] for place in kept]
    is_whole = all(isinstance(n, int | float) and math.isfinite(n) for n in numbers)
    return tuple(float(n) for n in numbers) if is_whole else None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"A text is needed, got {value!r}.")
    return value
