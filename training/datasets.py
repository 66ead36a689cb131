"""Data sets as the recipes use them: read by `adaptation.folders`, split here."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from adaptation.folders import (
    MIN_AREA,
    FolderSet,
    Image,
    LabelMap,
    Mask,
    ObjectRef,
    open_sets,
    sample_objects,
)

__all__ = [
    "MIN_AREA",
    "FolderSet",
    "Image",
    "LabelMap",
    "Mask",
    "ObjectRef",
    "open_sets",
    "sample_objects",
    "split_by_group",
]


def split_by_group(
    refs: Iterable[ObjectRef], held_out: float, seed: int
) -> tuple[list[ObjectRef], list[ObjectRef]]:
    """Split objects in two so that no group is on both sides.

    Args:
        refs: The objects.
        held_out: Share of the groups, in (0, 1), that goes to the second part; at least one
            group stays on each side where there are two.
        seed: Of the draw.

    Returns:
        The first part and the held-out one, each sorted.
    """
    if not 0 < held_out < 1:
        raise ValueError(f"held_out is a share between 0 and 1, got {held_out}")
    ordered = sorted(refs)
    names = sorted({(ref.dataset, ref.group) for ref in ordered})
    count = min(max(1, round(held_out * len(names))), max(len(names) - 1, 0))
    drawn = np.random.default_rng(seed).permutation(len(names))[:count]
    chosen = {names[i] for i in drawn}
    first = [ref for ref in ordered if (ref.dataset, ref.group) not in chosen]
    return first, [ref for ref in ordered if (ref.dataset, ref.group) in chosen]
