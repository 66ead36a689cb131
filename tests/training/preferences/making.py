"""Rows of preferences folders, made for tests."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from adaptation.types import Box, Click
from tests.adaptation.journal.samples import reals, rles, sizes, square, texts
from training.preferences.rows import SOURCES, SPLITS, Example, PreferencePair, RankedList

clicks = st.builds(Click, x=reals, y=reals, is_positive=st.booleans())
boxes = st.builds(
    Box, x0=st.floats(-9, 0), y0=st.floats(-9, 0), x1=st.floats(1, 9), y1=st.floats(1, 9)
)
shares = st.floats(0, 1)
maybe_shares = st.none() | shares


def _prompted(size: tuple[int, int]) -> dict[str, st.SearchStrategy[object]]:
    return {
        **dict.fromkeys(("object_id", "project_id", "label", "image_id"), texts),
        "image_size": st.just(size),
        "split": st.sampled_from(SPLITS),
        "clicks": st.lists(clicks, max_size=3).map(tuple),
        "box": st.none() | boxes,
    }


examples = sizes.flatmap(
    lambda size: st.builds(
        Example,
        **_prompted(size),
        task_id=texts,
        mask=rles(size),
        was_edited=st.booleans(),
        annotator=st.none() | texts,
    )
)
pairs = sizes.flatmap(
    lambda size: st.builds(
        PreferencePair,
        **_prompted(size),
        pair_id=texts,
        source=st.sampled_from(SOURCES),
        chosen=rles(size),
        rejected=rles(size),
        chosen_iou=maybe_shares,
        rejected_iou=maybe_shares,
        chosen_predicted_iou=maybe_shares,
        rejected_predicted_iou=maybe_shares,
        region=st.none() | rles(size),
    )
)
rankings = sizes.flatmap(
    lambda size: st.builds(
        RankedList,
        **_prompted(size),
        ranking_id=texts,
        source=st.sampled_from(SOURCES),
        candidates=st.lists(rles(size), max_size=3).map(tuple),
        ious=st.none() | st.lists(shares, max_size=3).map(tuple),
        predicted_ious=st.none() | st.lists(shares, max_size=3).map(tuple),
    )
)


def example(**changes: Any) -> Example:
    """One plain row."""
    values: dict[str, Any] = {
        "object_id": "1:40:r",
        "project_id": "1",
        "label": "Scratch",
        "image_id": "5f0e",
        "image_size": (24, 32),
        "split": "train",
        "clicks": (Click(x=8, y=8, is_positive=True),),
        "task_id": "7",
        "mask": square(4, 4, 8),
        "was_edited": False,
    }
    return Example(**(values | changes))
