"""The simulated annotator on one object: what is asked first, and in reply to each mask.

`clicks` is the whole protocol; the other kinds of prompt are asked once, as one decode, the way
promptable models without correction are compared (Wang et al. 2025: a point, a point and a
negative point, a box).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adaptation.masks import bounding_box
from adaptation.simulation.clicker import interior_distance, next_click, noisy_click
from adaptation.types import Box, Click

Mask = NDArray[np.bool_]

PROMPTS = ("clicks", "point", "point+negative", "box")
CLICKERS = ("central", "noisy")

_NEIGHBOURHOOD = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How the annotator behaves.

    Args:
        prompts: One of `PROMPTS`.
        clicker: One of `CLICKERS`.
        max_clicks: Clicks on one object at most; 1 prompt where `prompts` is not "clicks".
        target: IoU at which the annotator stops and keeps the mask.
        seed: Of the noisy clicks; every object has its own draws, whatever was clicked before.
    """

    prompts: str = "clicks"
    clicker: str = "central"
    max_clicks: int = 30
    target: float = 0.90
    seed: int = 0

    @property
    def n_rounds(self) -> int:
        """Masks that are shown at most."""
        return self.max_clicks if self.prompts == "clicks" else 1


class Annotator:
    """Clicks on one object; `clicks` and `box` are what was said so far.

    Args:
        truth: `[H, W]`, the object; not empty.
        rules: How to behave.
        name: Of the object; with the seed it decides the noisy clicks.
    """

    def __init__(self, truth: Mask, rules: Rules, name: str) -> None:
        self._truth = truth
        self._rules = rules
        digest = hashlib.sha256(name.encode()).digest()
        self._rng = np.random.default_rng([rules.seed, int.from_bytes(digest[:8], "big")])
        self.clicks: tuple[Click, ...] = ()
        self.box: Box | None = None
        self.n_rounds = 0

    def begin(self) -> None:
        """Give the first prompt."""
        self.n_rounds = 1
        if self._rules.prompts == "box":
            self.box = bounding_box(self._truth)
            return
        self._click(np.zeros_like(self._truth))
        if self._rules.prompts == "point+negative":
            beside = click_beside(self._truth)
            self.clicks += () if beside is None else (beside,)

    def reply(self, mask: Mask) -> bool:
        """Correct a mask `[H, W]` by one more click; False when there is nothing more to say."""
        if self.n_rounds >= self._rules.n_rounds:
            return False
        self.n_rounds += 1
        return self._click(mask)

    def _click(self, mask: Mask) -> bool:
        if self._rules.clicker == "noisy":
            click = noisy_click(self._truth, mask, self._rng, clicked=self.clicks)
        else:
            click = next_click(self._truth, mask, clicked=self.clicks)
        if click is None:
            return False
        self.clicks += (click,)
        return True


def click_beside(truth: Mask) -> Click | None:
    """A negative click near the object that does not depend on any model.

    The point of the object's surroundings (its box grown by half of its sides all around, cut at
    the image's border) that lies deepest in the background, the surroundings' edge counted as its
    end; the first in row-major order of several.  None where the object covers everything.
    """
    box = bounding_box(truth)
    if box is None:
        return None
    dx, dy = _NEIGHBOURHOOD * box.width, _NEIGHBOURHOOD * box.height
    x0, y0 = int(max(0, box.x0 - dx)), int(max(0, box.y0 - dy))
    x1, y1 = int(box.x1 + dx) + 1, int(box.y1 + dy) + 1
    depth = interior_distance(~truth[y0:y1, x0:x1])
    if not depth.any():
        return None
    row, column = divmod(int(depth.argmax()), depth.shape[1])
    return Click(x=float(x0 + column), y=float(y0 + row), is_positive=False)
