"""The objects of an annotation: which of its results enclose pixels, and what each one is."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from adaptation.errors import ProtocolError
from adaptation.masks import Mask
from adaptation.types import Size
from backend.protocol import fields
from backend.protocol.labeling import NO_LABEL, AnswerKind, LabelConfig
from backend.protocol.region_ids import RegionId
from backend.protocol.regions import decode_region, is_closed, mask_shape

logger = logging.getLogger(__name__)

_NOT_RECTANGLE = tuple(kind for kind in AnswerKind if kind is not AnswerKind.RECTANGLE)

MAX_MASK_PIXELS = 1 << 27
"""Pixels of a mask that is decoded, where nobody sets another limit."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SubmittedRegion:
    """One object of a submitted annotation; its mask is decoded only when asked for.

    Args:
        region_id: For an object that Strop suggested, the candidate's id (pieces of one candidate
            are one object); otherwise Label Studio's own.
        label: Its first label.
        kind: ``brush``, ``bitmask``, ``polygon``, ``vector``, ``rectangle`` or ``ellipse``.
        to_name: Its image's name in the labeling config.
        image_size: (H, W) of its image.
        item_index: Which image of a list of images, or None.
        values: The value of each piece as submitted.
    """

    region_id: str
    label: str
    kind: str
    to_name: str
    image_size: Size
    item_index: int | None
    values: tuple[Mapping[str, Any], ...]

    def mask(self, max_pixels: int = MAX_MASK_PIXELS) -> Mask:
        """The pixels of all pieces, ``[H, W]`` bool.

        Args:
            max_pixels: Of an image whose masks are decoded.

        Raises:
            ProtocolError: A value is broken, or the image is larger.
        """
        height, width = self.image_size
        if height * width > max_pixels:
            raise ProtocolError(
                f"Region '{self.region_id}' is on an image of {width}x{height} pixels, more than "
                "images.max_megapixels allows."
            )
        pieces = (
            decode_region(self.kind, value, self.image_size, self.region_id)
            for value in self.values
        )
        return reduce(np.logical_or, pieces)


def parse_regions(
    result: Sequence[Any], name: str, config: LabelConfig | None
) -> tuple[SubmittedRegion, ...]:
    """The objects with masks; a broken region is left out with a warning, the others stay.

    Args:
        result: Of an annotation or a draft.
        name: Where it stands in the payload.
        config: The project's labeling config, where it can be read.
    """
    labels = _labels_beside(result)
    regions: dict[str, SubmittedRegion] = {}
    for index, raw in enumerate(result):
        try:
            region = _parse_region(raw, f"{name}[{index}]", config, labels)
        except ProtocolError as error:
            logger.warning("Submitted region left out: %s", error)
            continue
        if region is not None:
            earlier = regions.get(region.region_id)
            regions[region.region_id] = region if earlier is None else _join(earlier, region)
    return tuple(regions.values())


def _labels_beside(result: Sequence[Any]) -> Mapping[str, str]:
    """The labels of regions whose label is a result of its own, by the region's id."""
    labels: dict[str, str] = {}
    for raw in result:
        value = raw.get("value") if isinstance(raw, Mapping) and raw.get("type") == "labels" else {}
        given = value.get("labels") if isinstance(value, Mapping) else None
        if isinstance(given, list) and given and isinstance(given[0], str):
            labels.setdefault(str(raw.get("id"))[: fields.MAX_ID_LENGTH], given[0])
    return labels


def _join(first: SubmittedRegion, second: SubmittedRegion) -> SubmittedRegion:
    """Two pieces of one object; of pieces that cannot be joined the first stays alone."""
    if (first.kind, first.image_size) != (second.kind, second.image_size):
        logger.warning("Pieces of region %s do not fit together; one is left out", first.region_id)
        return first
    return SubmittedRegion(
        region_id=first.region_id,
        label=first.label,
        kind=first.kind,
        to_name=first.to_name,
        image_size=first.image_size,
        item_index=first.item_index,
        values=first.values + second.values,
    )


def _parse_region(
    raw: object, name: str, config: LabelConfig | None, labels: Mapping[str, str]
) -> SubmittedRegion | None:
    """An object, or None for results that are none: choices, points, prompts, open lines.

    With "keep label selected" the editor repeats a brush region as one of type
    ``keypointlabels``, with the same id and run lengths; it is one of those that are none.
    """
    result = fields.mapping(raw, name)
    shape = mask_shape(result.get("type"))
    if shape is None:
        return None
    value = fields.mapping(result.get("value"), f"{name}.value")
    text_id = fields.identifier(result.get("id"), f"{name}.id")
    own_id = RegionId.parse(text_id)
    label = _label(result["type"], value, name, labels.get(text_id, NO_LABEL))
    to_name = fields.text(result.get("to_name"), f"{name}.to_name")
    if not is_closed(shape, value):
        return None
    if own_id is None and _is_prompt(result, shape, label, to_name, config):
        return None
    item_index = result.get("item_index")
    return SubmittedRegion(
        region_id=text_id if own_id is None else own_id.candidate_id,
        label=label,
        kind=shape,
        to_name=to_name,
        image_size=fields.image_size(result, name),
        item_index=item_index if isinstance(item_index, int) else None,
        values=(value,),
    )


def _label(region_type: str, value: Mapping[str, Any], name: str, beside: str) -> str:
    """A region's first label, which for plain shapes is the one beside it."""
    if not region_type.endswith("labels"):
        return fields.storable(beside)
    labels = fields.sequence(value.get(region_type), f"{name}.value.{region_type}")
    return fields.text(labels[0] if labels else None, f"{name}.value.{region_type}[0]")


def _is_prompt(
    result: Mapping[str, Any],
    shape: str,
    label: str,
    to_name: str,
    config: LabelConfig | None,
) -> bool:
    """Whether a rectangle was drawn to ask for a mask and only stayed behind in the annotation.

    So it is when it comes from a smart tool while masks of its label have a control of their own.
    """
    if shape != AnswerKind.RECTANGLE.value or config is None:
        return False
    control = config.control(result.get("from_name"))
    is_smart = control is not None and control.is_smart
    return is_smart and config.find_answer_control(label, to_name, _NOT_RECTANGLE) is not None
