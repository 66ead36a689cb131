"""What an annotator said with smart tools: keypoints and rectangles as clicks and a box."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from adaptation.errors import ProtocolError
from adaptation.types import Box, Click, Size
from backend.protocol import fields
from backend.protocol.labeling import NO_LABEL, LabelConfig
from backend.protocol.tasks import TaskRef

_OUTSIDE_TOLERANCE = 1.0
"""Pixels that a prompt may lie outside of the image, from rounding; it is moved inside."""

_PIXEL_DIGITS = 6
"""Digits of a click's column and row that are meant."""

_KEYPOINT = "keypoint"
_AROUND = ("rectangle", "polygon", "ellipse", "vector")
"""What is drawn around an object: its bounding box counts."""
_LABELS = "labels"
"""Type of the result that gives a label to what was drawn under the same id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtocolClick:
    """A click and the id of the keypoint that it is in Label Studio."""

    region_id: str
    click: Click


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtocolBox:
    """A box and the id of the rectangle that it is in Label Studio."""

    region_id: str
    box: Box


@dataclass(frozen=True, slots=True, kw_only=True)
class Clicked:
    """What an annotator said about one object.

    Label Studio sends all keypoints since the last accept or all rectangles, never both: whoever
    wants a box and clicks for one object keeps the box until its clicks come.

    Args:
        task: The open task.
        image_ref: Where the clicked image is.
        label: The label picked.
        to_name: The image's name in the labeling config.
        kind: What was drawn last.
        object_id: The first keypoint's id; the newest rectangle's where there are only those.
        clicks: Oldest first.
        box: The newest rectangle, or None.
        image_size: (H, W) of the upright image, as Label Studio's browser saw it.
        item_index: Which image of a list of images, or None.
    """

    task: TaskRef
    image_ref: str
    label: str
    to_name: str
    kind: Literal["keypoint", "rectangle"]
    object_id: str
    clicks: tuple[ProtocolClick, ...]
    box: ProtocolBox | None
    image_size: Size
    item_index: int | None = None

    @property
    def points(self) -> tuple[Click, ...]:
        """The clicks without their ids."""
        return tuple(click.click for click in self.clicks)

    @property
    def begins_negative(self) -> bool:
        """Whether the first thing said is where the object is not: it is about a mask that is."""
        return self.box is None and bool(self.clicks) and not self.clicks[0].click.is_positive

    @property
    def has_positive(self) -> bool:
        """Whether any click lies on the object; without one or a box, nothing is meant."""
        return any(click.click.is_positive for click in self.clicks)


@dataclass(frozen=True, slots=True)
class _Drawn:
    """One region of ``context.result``, with its place in the payload."""

    region: Mapping[str, Any]
    name: str
    region_id: str
    shape: str
    label: str
    to_name: str

    @property
    def value(self) -> Mapping[str, Any]:
        return fields.mapping(self.region.get("value"), f"{self.name}.value")


def parse_context(
    raw_context: object, tasks: Sequence[TaskRef], config: LabelConfig
) -> Clicked | None:
    """What is to be answered, or None where nothing is.

    Args:
        raw_context: ``params.context`` of a /predict request.
        tasks: The request's tasks; a click comes with one.
        config: The project's labeling config.
    """
    context = fields.mapping(raw_context, "context")
    drawn = _drawn_by_smart_tools(fields.sequence(context.get("result"), "context.result"))
    if not drawn:
        return None
    if len(tasks) != 1:
        raise ProtocolError(f"A click belongs to exactly one task, got {len(tasks)} tasks.")
    newest = drawn[-1]
    # Label Studio sends one label's regions; should it ever send more, they stay apart.
    own = [d for d in drawn if (d.label, d.to_name) == (newest.label, newest.to_name)]
    size = _agreed_size(own)
    clicks = tuple(_parse_click(d, size) for d in own if d.shape == _KEYPOINT)
    drawn_around = [d for d in own if d.shape in _AROUND]
    box = _parse_box(drawn_around[-1], size) if drawn_around else None
    item_index = _parse_item_index(newest)
    return Clicked(
        task=tasks[0],
        image_ref=tasks[0].image_ref(config, newest.to_name, item_index),
        label=newest.label,
        to_name=newest.to_name,
        kind="keypoint" if newest.shape == _KEYPOINT else "rectangle",
        object_id=clicks[0].region_id if clicks else newest.region_id,
        clicks=clicks,
        box=box,
        image_size=size,
        item_index=item_index,
    )


def _drawn_by_smart_tools(result: Sequence[Any]) -> list[_Drawn]:
    """The keypoints and rectangles of smart tools; of regions with one id, the last version.

    A keypoint without ``is_positive`` was restored from an earlier session as a plain point, which
    Label Studio sends along by mistake; it is neither a positive nor a negative click.
    """
    regions = [
        (f"context.result[{i}]", fields.mapping(r, f"context.result[{i}]"))
        for i, r in enumerate(result)
    ]
    labels = _labels_beside(regions)
    drawn: dict[str, _Drawn] = {}
    unknown: set[str] = set()
    for name, region in regions:
        kind = fields.text(region.get("type"), f"{name}.type")
        shape = kind.removesuffix(_LABELS)
        if shape not in (_KEYPOINT, *_AROUND):
            unknown |= {kind} - {_LABELS}
        elif shape in _AROUND or region.get("is_positive") is not None:
            one = _parse_drawn(region, name, shape, labels)
            drawn[one.region_id] = one
    if unknown and not drawn:
        raise ProtocolError(
            f"Smart tools of type {', '.join(sorted(unknown))} cannot be answered: click with "
            '<KeyPointLabels smart="true"> or <RectangleLabels smart="true">, and write '
            'smart="false" on every other control.'
        )
    return list(drawn.values())


def _labels_beside(regions: Sequence[tuple[str, Mapping[str, Any]]]) -> Mapping[str, str]:
    """The label of each region's id, where labels are results of their own."""
    labels: dict[str, str] = {}
    for name, region in regions:
        if region.get("type") == _LABELS:
            value = fields.mapping(region.get("value"), f"{name}.value")
            given = fields.sequence(value.get(_LABELS), f"{name}.value.{_LABELS}")
            if given:
                region_id = fields.identifier(region.get("id"), f"{name}.id")
                labels[region_id] = fields.text(given[0], f"{name}.value.{_LABELS}[0]")
    return labels


def _parse_drawn(
    region: Mapping[str, Any], name: str, shape: str, labels: Mapping[str, str]
) -> _Drawn:
    region_id = fields.identifier(region.get("id"), f"{name}.id")
    return _Drawn(
        region=region,
        name=name,
        region_id=region_id,
        shape=shape,
        label=_label_of(region, name, labels.get(region_id)),
        to_name=fields.text(region.get("to_name"), f"{name}.to_name"),
    )


def _label_of(region: Mapping[str, Any], name: str, beside: str | None) -> str:
    """The region's own label, or the one beside it; no label only where there is no control."""
    kind = region["type"]
    value = fields.mapping(region.get("value"), f"{name}.value")
    if not kind.endswith(_LABELS):
        return NO_LABEL if beside is None else beside
    labels = fields.sequence(value.get(kind), f"{name}.value.{kind}")
    if not labels:
        raise ProtocolError(f"'{name}' has no label: pick a label before clicking.")
    return fields.text(labels[0], f"{name}.value.{kind}[0]")


def _agreed_size(drawn: Sequence[_Drawn]) -> Size:
    sizes = {fields.image_size(d.region, d.name) for d in drawn}
    if len(sizes) > 1:
        raise ProtocolError(f"Clicks on one image must agree on its size, got {sorted(sizes)}.")
    return sizes.pop()


def _parse_item_index(drawn: _Drawn) -> int | None:
    index = drawn.region.get("item_index")
    if index is None:
        return None
    return int(fields.number(index, f"{drawn.name}.item_index"))


def _parse_click(drawn: _Drawn, size: Size) -> ProtocolClick:
    """A keypoint; its x and y are its centre in percent of the image."""
    click = Click(
        x=_pixel(drawn, "x", size[1]),
        y=_pixel(drawn, "y", size[0]),
        is_positive=fields.boolean(drawn.region["is_positive"], f"{drawn.name}.is_positive"),
    )
    return ProtocolClick(region_id=drawn.region_id, click=click)


def _pixel(drawn: _Drawn, axis: str, side: int) -> float:
    """A keypoint's column or row: the image's edge is half a pixel before the first centre."""
    percent = fields.number(drawn.value.get(axis), f"{drawn.name}.value.{axis}")
    from_edge = percent / 100 * side
    if not -_OUTSIDE_TOLERANCE <= from_edge <= side + _OUTSIDE_TOLERANCE:
        raise ProtocolError(
            f"'{drawn.name}' lies outside of the image: {axis} is {from_edge:.1f} of {side} pixels."
        )
    # Percent carry noise far below a pixel, which must not decide how a half is rounded later.
    return min(max(round(from_edge - 0.5, _PIXEL_DIGITS), 0.0), side - 1.0)


def _parse_box(drawn: _Drawn, size: Size) -> ProtocolBox:
    """The bounding box of what was drawn around an object, cut at the image's border."""
    corners = _CORNERS[drawn.shape](drawn.value, size, f"{drawn.name}.value")
    xs, ys = [x for x, _ in corners], [y for _, y in corners]
    is_level = drawn.shape == "rectangle" and not drawn.value.get("rotation")
    (x0, x1), (y0, y1) = (
        _cut(edges, side, drawn.name, is_level) for edges, side in ((xs, size[1]), (ys, size[0]))
    )
    if x1 <= x0 or y1 <= y0:
        raise ProtocolError(
            f"'{drawn.name}' has no area on the image of {size[1]}x{size[0]} pixels: "
            "drag a rectangle around the object."
        )
    return ProtocolBox(region_id=drawn.region_id, box=Box(x0=x0, y0=y0, x1=x1, y1=y1))


def _cut(edges: Sequence[float], side: int, name: str, is_level: bool) -> tuple[float, float]:
    """A box's extent along one axis inside the image; only turned boxes may reach far out."""
    low, high = min(edges), max(edges)
    if is_level and not (-_OUTSIDE_TOLERANCE <= low and high <= side + _OUTSIDE_TOLERANCE):
        raise ProtocolError(
            f"'{name}' reaches outside of the image: {low:.1f} to {high:.1f} of {side} pixels."
        )
    return max(low, 0.0), min(high, float(side))


def rectangle_corners(
    value: Mapping[str, Any], size: Size, name: str
) -> tuple[tuple[float, float], ...]:
    """The four corners of a rectangle, clockwise from its own top-left one.

    Label Studio turns a rectangle clockwise about that corner, in pixels and not in percent.

    Returns:
        (x, y) in pixels from the image's top-left edge, so that a whole image is 0..W and 0..H.
    """
    height, width = size
    x = fields.percent(value.get("x"), f"{name}.x") / 100 * width
    y = fields.percent(value.get("y"), f"{name}.y") / 100 * height
    along = fields.percent(value.get("width"), f"{name}.width") / 100 * width
    down = fields.percent(value.get("height"), f"{name}.height") / 100 * height
    turn = math.radians(fields.number(value.get("rotation") or 0, f"{name}.rotation"))
    right = (along * math.cos(turn), along * math.sin(turn))
    below = (-down * math.sin(turn), down * math.cos(turn))
    return (
        (x, y),
        (x + right[0], y + right[1]),
        (x + right[0] + below[0], y + right[1] + below[1]),
        (x + below[0], y + below[1]),
    )


def ellipse_corners(
    value: Mapping[str, Any], size: Size, name: str
) -> tuple[tuple[float, float], ...]:
    """Two corners of the box around an ellipse, in pixels from the image's top-left edge."""
    height, width = size
    x, y, radius_x, radius_y = (
        fields.percent(value.get(key), f"{name}.{key}") / 100 * side
        for key, side in (("x", width), ("y", height), ("radiusX", width), ("radiusY", height))
    )
    turn = math.radians(fields.number(value.get("rotation") or 0, f"{name}.rotation"))
    across = math.hypot(radius_x * math.cos(turn), radius_y * math.sin(turn))
    down = math.hypot(radius_x * math.sin(turn), radius_y * math.cos(turn))
    return ((x - across, y - down), (x + across, y + down))


def outline_corners(
    value: Mapping[str, Any], size: Size, name: str
) -> tuple[tuple[float, float], ...]:
    """The corners of a polygon or a vector line, in pixels from the image's top-left edge."""
    is_vector = "vertices" in value
    key = "vertices" if is_vector else "points"
    corners = []
    for i, raw in enumerate(fields.sequence(value.get(key), f"{name}.{key}")):
        where = f"{name}.{key}[{i}]"
        if is_vector:
            vertex = fields.mapping(raw, where)
            raw = [vertex.get("x"), vertex.get("y")]
        pair = fields.sequence(raw, where)
        if len(pair) != 2:
            raise ProtocolError(f"'{where}' must be two numbers, got {len(pair)}.")
        x, y = (fields.percent(part, where) for part in pair)
        corners.append((x / 100 * size[1], y / 100 * size[0]))
    if not corners:
        raise ProtocolError(f"'{name}.{key}' has no corners.")
    return tuple(corners)


_CORNERS: dict[str, Callable[[Mapping[str, Any], Size, str], tuple[tuple[float, float], ...]]] = {
    "rectangle": rectangle_corners,
    "ellipse": ellipse_corners,
    "polygon": outline_corners,
    "vector": outline_corners,
}


def check_image_size(clicked: Clicked, size: Size) -> None:
    """Refuse to answer when the image loaded is not the one that was clicked on.

    Args:
        clicked: The click, with the size that Label Studio's browser saw.
        size: (H, W) of the loaded image, upright.

    Raises:
        ProtocolError: The sizes differ; a mask would land in the wrong place.
    """
    if size == clicked.image_size:
        return
    seen = f"{clicked.image_size[1]}x{clicked.image_size[0]}"
    loaded = f"{size[1]}x{size[0]}"
    if size == clicked.image_size[::-1]:
        raise ProtocolError(
            f"The image was clicked on at {seen} pixels and is {loaded} when loaded: its EXIF "
            "orientation was applied on one side only, so store the image upright."
        )
    raise ProtocolError(
        f"The image was clicked on at {seen} pixels and is {loaded} when loaded: "
        "the file has changed or another one is served, so reload the task."
    )
