"""Clicks that edit a mask which is drawn already: what it is, and how the model is told of it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace

import cv2
import numpy as np

from adaptation.errors import ProtocolError
from adaptation.masks import Mask
from adaptation.types import Click
from backend.protocol import AnswerKind, AnswerStyle, Clicked, SubmittedRegion
from backend.service.prompt_state import CombinedPrompt

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EditedMask:
    """A region that is edited.

    Args:
        region_id: Its id in Label Studio; the answer takes its place under it.
        kind: Its kind, such as ``brush``.
        mask: ``[H, W]``.
        inside: A click in its middle, away from the first click: the model was trained on masks
            that began with one.
    """

    region_id: str
    kind: str
    mask: Mask
    inside: Click

    def prompt(self, clicks: CombinedPrompt) -> CombinedPrompt:
        """The clicks, after the one that stands for the mask."""
        return replace(clicks, clicks=((self.region_id, self.inside), *clicks.clicks))

    def style(self, style: AnswerStyle) -> AnswerStyle:
        """The same kind of region as before, where the answer may be of it."""
        kinds = {kind.value: kind for kind in style.preferred}
        own = kinds.get(self.kind)
        if own is None:
            return style
        others: Iterable[AnswerKind] = (kind for kind in style.preferred if kind is not own)
        return replace(style, preferred=(own, *others))


def find_edited(regions: Iterable[SubmittedRegion], clicked: Clicked) -> EditedMask | None:
    """The newest of the regions on whose mask the first click lies.

    Args:
        regions: Newest first, on the clicked image.
        clicked: What was clicked.
    """
    if not clicked.clicks:
        return None
    first = clicked.clicks[0].click
    at = (round(first.y), round(first.x))
    for region in regions:
        try:
            mask = region.mask()
        except ProtocolError as error:
            logger.warning("a region that may be edited cannot be read: %s", error)
            continue
        if mask[at]:
            inside = _middle(mask, at)
            return EditedMask(
                region_id=region.region_id, kind=region.kind, mask=mask, inside=inside
            )
    return None


def _middle(mask: Mask, away_from: tuple[int, int]) -> Click:
    """The pixel of a mask that is farthest from its border and from another pixel."""
    padded = np.pad(mask.astype(np.uint8), 1)
    padded[away_from[0] + 1, away_from[1] + 1] = 0
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    row, column = np.unravel_index(int(distance.argmax()), mask.shape)
    return Click(x=float(column), y=float(row), is_positive=True)
