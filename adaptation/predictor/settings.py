"""When to zoom, and how far borders may move: the settings, apart from what needs torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from adaptation.config import check_ranges


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoomSettings:
    """When to zoom, and how far.

    Args:
        is_on: False decodes everything on the whole image.
        max_object_share: Zoom when the square around the object covers less than this share of
            the image.
        margin: Side of the crop over the longest side of the object.
        min_side: Crops are never smaller than this many original pixels.
        keep_margin: The view is kept while the object stays this share of its side away from the
            view's borders.
        shrink: The view is left for a smaller one when the wanted side falls below this share of
            its own.
    """

    is_on: Annotated[bool, Field(description="Zoom in on small objects.")] = True
    max_object_share: Annotated[
        float,
        Field(ge=0, le=1, description="Zoom when the object's square covers less of the image."),
    ] = 0.2
    margin: Annotated[
        float,
        Field(
            ge=1,
            description="Side of the crop over the object's; higher: more context, less gain.",
        ),
    ] = 1.8
    min_side: Annotated[
        int, Field(ge=8, description="Crops are never smaller than this many pixels.")
    ] = 56
    keep_margin: Annotated[
        float,
        Field(
            description="Distance from the crop's border, over its side, at which it moves.",
        ),
    ] = 0.08
    shrink: Annotated[
        float,
        Field(description="The crop is left for one smaller than this share of it."),
    ] = 0.5

    def __post_init__(self) -> None:
        check_ranges(self, "The zoom")


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeSettings:
    """How far a border may move to an edge, and what counts as one.

    Args:
        is_on: False draws the decoder's logits as they are.
        radius: Half side of the windows, as a share of the logits' grid (0.026 is 5 of 192).
        epsilon: Variance of a colour channel (in [0, 1]) below which a window counts as flat.
    """

    is_on: Annotated[bool, Field(description="Move borders to the edge beside them.")] = True
    radius: Annotated[
        float,
        Field(gt=0, le=0.25, description="How far a border may move, over the side of the view."),
    ] = 0.026
    epsilon: Annotated[
        float,
        Field(
            gt=0,
            description="Variance of a colour channel (0 to 1) below which a place counts as flat.",
        ),
    ] = 1e-4

    def __post_init__(self) -> None:
        check_ranges(self, "The drawing of edges")
