"""What a generator of proposals is: an image and its context in, places that deserve a look out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from adaptation.masks import Mask
from adaptation.types import Box, Click, Embedding, Size

ScoreMap = NDArray[np.float32]
"""``[h, w]`` float32 over the whole image on any grid, higher where something deserves a look."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ProposalImage:
    """One image as generators see it.

    Args:
        image_id: Its name; the same image always has the same.
        group: Images of one group (the same tile, patient, road or video) say nothing about what
            is normal in one another; its own ``image_id`` where nothing is known.
        embedding: Of the whole image.
        read: Gives its pixels, ``[H, W, 3]`` uint8 RGB, to generators that look at them.
    """

    image_id: str
    group: str
    embedding: Embedding
    read: Callable[[], NDArray[np.uint8]]

    @property
    def size(self) -> Size:
        """(H, W) of the image."""
        return self.embedding.original_size


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Context:
    """What is known beside the image.

    Args:
        labelled: Masks ``[H, W]`` of what is labelled in it already, or was rejected: they are
            never proposed again.
        words: Texts that describe what is looked for, for generators that read them.
    """

    labelled: tuple[Mask, ...] = ()
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Place:
    """One place that deserves a look: a point or a box for the refiner.

    Args:
        score: Higher is more likely; comparable within one generator only.
        click: A positive click in original pixels, or None.
        box: A box in original pixels, or None; a place has one of the two at least.
    """

    score: float
    click: Click | None = None
    box: Box | None = None

    def __post_init__(self) -> None:
        if self.click is None and self.box is None:
            raise ValueError("a place needs a click or a box")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Generated:
    """What a generator found in one image.

    Args:
        score_map: Its map over the image, or None where it gives places only.
        places: Best first; where they are empty, the peaks of the map are taken.
    """

    score_map: ScoreMap | None = None
    places: tuple[Place, ...] = field(default=())


class Generator(Protocol):
    """Finds places in one image.  Implementations keep no state of the image between calls."""

    @property
    def name(self) -> str:
        """What users call it."""
        ...

    def generate(self, image: ProposalImage, context: Context) -> Generated:
        """Look at one image."""
        ...
