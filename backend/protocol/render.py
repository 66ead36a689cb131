"""Answers for Label Studio: masks as the regions that a project's labeling config can hold."""

from __future__ import annotations

import base64
import io
import math
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from adaptation.errors import ProtocolError
from adaptation.masks import Mask, Polygon, bounding_box, mask_to_polygons
from adaptation.types import Size
from backend.protocol.brush_rle import encode_brush
from backend.protocol.clicks import Clicked
from backend.protocol.labeling import AnswerKind, Control, LabelConfig
from backend.protocol.predict import PredictRequest
from backend.protocol.region_ids import RegionId

Response = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerStyle:
    """How masks become regions.

    Args:
        preferred: The kinds of region to use, best first; the first that the labeling config has
            a control for is taken.
        polygon_tolerance: How far a polygon may leave the mask's outline, in pixels; small
            pieces are followed more closely.
        min_part_share: Pieces of a mask smaller than this share of its largest piece get no
            polygon of their own.  Holes cannot be told in a polygon and are filled.
    """

    preferred: tuple[AnswerKind, ...] = tuple(AnswerKind)
    polygon_tolerance: float = 1.0
    min_part_share: float = 0.05


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OfferedMask:
    """A mask to offer, ``[H, W]`` bool at the image's size, and its predicted IoU."""

    mask: Mask
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionTarget:
    """Where a region is drawn and what it is.

    Args:
        to_name: The image's name in the labeling config.
        label: The region's.
        image_size: (H, W) of the image.
        item_index: Which image, where the task's data holds a list of them.
    """

    to_name: str
    label: str
    image_size: Size
    item_index: int | None = None


def render_nothing(request: PredictRequest, model_version: str) -> Response:
    """The answer without a mask.

    To an opened task it has no results: Label Studio would store them as a prediction and start
    the annotation from it.  To a click it has one empty result: the editor takes no results for
    an error.
    """
    if not request.is_interactive:
        return {"results": []}
    return _response([], 0.0, model_version)


def render_answer(
    request: PredictRequest,
    candidates: Sequence[OfferedMask],
    *,
    request_id: str,
    model_version: str,
    style: AnswerStyle = AnswerStyle(),
    replaces: str | None = None,
) -> Response:
    """The answer to a click: every candidate becomes a suggestion of its own.

    Args:
        request: The request, with what was clicked.
        candidates: Best first; empty masks are left out but keep their number.
        request_id: From `new_request_id`; region ids carry it and the candidate's number.
        model_version: Of the model and its adapter; Label Studio shows it with predictions.
        style: How masks become regions.
        replaces: Id of the region that the best mask is to replace: accepted under that region's
            id, a suggestion takes its place.

    Raises:
        ProtocolError: Nothing was clicked, the labeling config has no control for the label, or a
            mask has not the size of the image that was clicked on.
    """
    clicked = request.clicked
    if clicked is None:
        raise ProtocolError("A request without clicks or a box has no answer.")
    config = request.label_config
    control = config.answer_control(clicked.label, clicked.to_name, style.preferred)
    clicked = replace(clicked, label=config.label_in(control, clicked.label, clicked.to_name))
    regions: list[Response] = []
    for number, candidate in enumerate(candidates):
        _check_size(candidate.mask, clicked.image_size)
        region_id = RegionId(request_id=request_id, candidate=number)
        found = _regions(_target(clicked), control, candidate, region_id, style)
        if number == 0 and replaces is not None:
            found = _under_id(found, replaces)
        regions += found
    score = _score(candidates[0].score) if candidates else 0.0
    return _response(regions, score, model_version)


def render_proposals(
    label_config: LabelConfig,
    proposed: Sequence[tuple[RegionTarget, OfferedMask]],
    *,
    request_id: str,
    style: AnswerStyle = AnswerStyle(),
) -> list[Response]:
    """Proposals as the regions of one prediction, in the order in which they are given.

    Args:
        label_config: Has the controls; regions of labels without one are left out.
        proposed: Where each lies, and its mask.
        request_id: From `new_request_id`; region ids carry it and the proposal's number.
        style: How masks become regions.
    """
    regions: list[Response] = []
    for number, (target, offered) in enumerate(proposed):
        control = label_config.find_answer_control(target.label, target.to_name, style.preferred)
        if control is not None:
            _check_size(offered.mask, target.image_size)
            region_id = RegionId(request_id=request_id, candidate=number)
            label = label_config.label_in(control, target.label, target.to_name)
            target = replace(target, label=label)
            regions += _regions(target, control, offered, region_id, style)
    return regions


def render_prediction(regions: list[Response], score: float, model_version: str) -> Response:
    """The answer to an opened task: Label Studio keeps it, and the annotation starts from it."""
    return _response(regions, _score(score), model_version)


def _target(clicked: Clicked) -> RegionTarget:
    return RegionTarget(
        to_name=clicked.to_name,
        label=clicked.label,
        image_size=clicked.image_size,
        item_index=clicked.item_index,
    )


def _response(regions: list[Response], score: float, model_version: str) -> Response:
    return {"results": [{"result": regions, "score": score, "model_version": model_version}]}


def _check_size(mask: Mask, size: Size) -> None:
    if mask.shape != size:
        raise ProtocolError(
            f"The image was clicked on at {size[1]}x{size[0]} pixels, a mask of shape {mask.shape} "
            "does not fit it: check the image's size before answering."
        )


def _score(score: float) -> float:
    return round(min(max(score, 0.0), 1.0), 4) if math.isfinite(score) else 0.0


def _regions(
    target: RegionTarget,
    control: Control,
    candidate: OfferedMask,
    region_id: RegionId,
    style: AnswerStyle,
) -> list[Response]:
    """One candidate's regions: one, or for outlines one for each piece of the mask."""
    if not candidate.mask.any():
        return []
    values = _VALUES[control.shape](candidate.mask, style)
    ids = [
        RegionId(request_id=region_id.request_id, candidate=region_id.candidate, part=part)
        for part in range(len(values))
    ]
    if len(values) == 1:
        ids = [region_id]
    envelope = {
        "to_name": target.to_name,
        "original_width": target.image_size[1],
        "original_height": target.image_size[0],
        "image_rotation": 0,
        "score": _score(candidate.score),
    }
    if target.item_index is not None:
        envelope["item_index"] = target.item_index
    return [
        {**envelope, **result, "id": str(one)}
        for one, value in zip(ids, values, strict=True)
        for result in _results(control, target.label, value)
    ]


def _under_id(regions: Sequence[Response], region_id: str) -> list[Response]:
    """The first region under another id; pieces beside it keep their own."""
    first = {region["id"] for region in regions[:1]}
    return [{**r, "id": region_id if r["id"] in first else r["id"]} for r in regions]


def _results(control: Control, label: str, value: Response) -> list[Response]:
    """What the editor itself writes: a shape with its label, or the shape and then its label."""
    if control.kind != control.shape:
        labeled = {**value, control.kind: [label]}
        return [{"from_name": control.name, "type": control.kind, "value": labeled}]
    results: list[Response] = [{"from_name": control.name, "type": control.kind, "value": value}]
    if control.label_control is not None:
        labeled = {**value, "labels": [label]}
        results.append({"from_name": control.label_control, "type": "labels", "value": labeled})
    return results


def _brush(mask: Mask, style: AnswerStyle) -> list[Response]:
    return [{"format": "rle", "rle": encode_brush(mask)}]


def _bitmask(mask: Mask, style: AnswerStyle) -> list[Response]:
    """A PNG of one bit a pixel whose first colour is transparent: browsers expand it to RGBA."""
    image = Image.fromarray(mask.astype(np.uint8), "P")
    image.putpalette([0, 0, 0, 255, 255, 255])
    stream = io.BytesIO()
    image.save(stream, "PNG", bits=1, transparency=0, compress_level=1)
    encoded = base64.b64encode(stream.getvalue()).decode("ascii")
    return [{"imageDataURL": f"data:image/png;base64,{encoded}"}]


def _outlines(mask: Mask, style: AnswerStyle) -> list[list[tuple[float, float]]]:
    """Corners in percent of each piece's outline, the largest piece first."""
    polygons = mask_to_polygons(mask, style.polygon_tolerance, style.min_part_share)
    return [_in_percent(polygon, (mask.shape[0], mask.shape[1])) for polygon in polygons]


def _in_percent(polygon: Polygon, size: Size) -> list[tuple[float, float]]:
    percent = (polygon + 0.5) * (100 / size[1], 100 / size[0])
    return [(float(x), float(y)) for x, y in percent.clip(0, 100)]


def _polygon(mask: Mask, style: AnswerStyle) -> list[Response]:
    return [
        {"points": [list(corner) for corner in outline], "closed": True}
        for outline in _outlines(mask, style)
    ]


def _vector(mask: Mask, style: AnswerStyle) -> list[Response]:
    return [{"vertices": _vertices(outline), "closed": True} for outline in _outlines(mask, style)]


def _vertices(outline: Sequence[tuple[float, float]]) -> list[Response]:
    """Corners that each know the one before; a fresh id each, since they live beside others'."""
    ids = [uuid.uuid4().hex[:12] for _ in outline]
    return [
        {"id": own, "prevPointId": before, "x": x, "y": y, "isBezier": False}
        for own, before, (x, y) in zip(ids, [None, *ids[:-1]], outline, strict=True)
    ]


def _rectangle(mask: Mask, style: AnswerStyle) -> list[Response]:
    """The tight box; without pixels there is none."""
    across, down = 100 / mask.shape[1], 100 / mask.shape[0]
    return [
        {
            "x": box.x0 * across,
            "y": box.y0 * down,
            "width": box.width * across,
            "height": box.height * down,
            "rotation": 0,
        }
        for box in (bounding_box(mask),)
        if box is not None
    ]


_VALUES: dict[str, Callable[[Mask, AnswerStyle], list[Response]]] = {
    AnswerKind.BRUSH.value: _brush,
    AnswerKind.BITMASK.value: _bitmask,
    AnswerKind.POLYGON.value: _polygon,
    AnswerKind.VECTOR.value: _vector,
    AnswerKind.RECTANGLE.value: _rectangle,
}
