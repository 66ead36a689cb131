"""Which region a click edits: one that is drawn already, and that the click takes something from.

Label Studio sends with a click neither which region is selected nor that one is meant.  But a
first click that says "not here" can mean nothing else than the mask it lies on, and that mask
travels along: in the annotator's draft, or in the submitted annotation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from backend.protocol.clicks import Clicked
from backend.protocol.labeling import LabelConfig
from backend.protocol.submitted_regions import SubmittedRegion, parse_regions

MAX_REGIONS = 50
"""Regions whose masks are looked at, the newest first."""


def editable_regions(
    raw_task: object, clicked: Clicked, config: LabelConfig
) -> tuple[SubmittedRegion, ...]:
    """The regions that a click may edit, the newest first; none where it begins an object.

    Args:
        raw_task: The task as /predict carries it.
        clicked: What was clicked.
        config: The labeling config with what the task brings.
    """
    if not clicked.begins_negative or not isinstance(raw_task, Mapping):
        return ()
    newest = {region.region_id: region for region in _regions(raw_task, config)}
    fitting = (r for r in reversed(newest.values()) if _fits(r, clicked, config))
    return tuple(islice(fitting, MAX_REGIONS))


def _regions(task: Mapping[str, Any], config: LabelConfig) -> Iterator[SubmittedRegion]:
    """What is submitted, and then what is drafted, which is newer."""
    for key in ("annotations", "drafts"):
        entries = task.get(key)
        for entry in entries if isinstance(entries, list) else ():
            result = entry.get("result") if isinstance(entry, Mapping) else None
            if isinstance(result, list):
                yield from parse_regions(result, f"{key}.result", config)


def _fits(region: SubmittedRegion, clicked: Clicked, config: LabelConfig) -> bool:
    """Whether a region is one mask on the clicked image, of the clicked label."""
    own = (region.to_name, region.image_size, region.item_index or 0)
    there = (clicked.to_name, clicked.image_size, clicked.item_index or 0)
    is_one = len(region.values) == 1
    return is_one and own == there and config.is_same(region.label, clicked.label, clicked.to_name)
