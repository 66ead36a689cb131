"""Clicks that edit a mask which is drawn already, as Label Studio 1.23 sends them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptation.masks import Mask, iou
from backend.protocol.brush_rle import encode_brush
from backend.service.service import SegmentationService
from tests.backend.payloads import CONFIG, Payload, keypoint, region, submission
from tests.backend.service_kit import (
    HEIGHT,
    WIDTH,
    click_on,
    data_uri,
    interactions_of,
    journal_of,
    mask_of,
    pixels_of,
    regions_of,
    running_service,
)

IMAGE = data_uri(pixels_of())
REGION_ID = "49WHOH5SOkM"


def disc(x: float = 300, y: float = 200, radius: float = 90) -> Mask:
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def brush(mask: Mask, **changes: Any) -> Payload:
    value = {"format": "rle", "rle": encode_brush(mask)}
    size = {"original_width": WIDTH, "original_height": HEIGHT}
    return region("brush", value, **{"id": REGION_ID, **size, **changes})


def click_in_task(
    *clicks: object,
    drafts: object = (),
    annotations: object = (),
    config: str = CONFIG,
) -> Payload:
    """A click while regions are on the canvas: they travel in the draft and in annotations."""
    body = click_on(IMAGE, *clicks, config=config)
    body["tasks"][0]["drafts"] = [{"id": 1, "annotation": None, "result": list(drafts)}]  # type: ignore[call-overload]
    body["tasks"][0]["annotations"] = [{"id": 2, "result": list(annotations)}]  # type: ignore[call-overload]
    return body


@pytest.fixture
def service(tmp_path: Path) -> Iterator[SegmentationService]:
    with running_service(tmp_path) as service:
        yield service


def test_a_first_click_off_the_object_edits_the_mask_that_it_lies_on(
    service: SegmentationService, tmp_path: Path
) -> None:
    negative = keypoint(60, 50, is_positive=False, id="no-1")
    answer = service.predict(click_in_task(negative, drafts=[brush(disc())]))
    (answered,) = regions_of(answer)
    assert answered["id"] == REGION_ID, "accepted under its id, it takes the region's place"
    (record,) = interactions_of(tmp_path)
    first, second = record.prompt.clicks
    assert (first.id, first.is_positive) == (REGION_ID, True)
    assert disc()[round(first.y), round(first.x)]
    assert (second.id, second.is_positive) == ("no-1", False)
    assert record.context["edited"] == REGION_ID
    assert record.candidates[0].region_id == REGION_ID


def test_the_mask_itself_is_fed_back(service: SegmentationService) -> None:
    negative = keypoint(60, 50, is_positive=False, id="no-1")
    small = service.predict(click_in_task(negative, drafts=[brush(disc())]))
    negative = keypoint(60, 50, is_positive=False, id="no-2")
    large = service.predict(click_in_task(negative, drafts=[brush(disc(radius=199))]))
    assert iou(mask_of(small), mask_of(large)) < 1


def test_the_submitted_edit_is_linked_with_its_clicks(tmp_path: Path) -> None:
    with running_service(tmp_path) as service:
        negative = keypoint(60, 50, is_positive=False)
        answer = service.predict(click_in_task(negative, annotations=[brush(disc())]))
        service.webhook(submission(brush(mask_of(answer))))
    with journal_of(tmp_path) as journal:
        (link,) = journal.links()
    assert (link.how, link.iou, link.region_id) == ("region_id", 1.0, REGION_ID)


def test_later_clicks_go_on_editing(service: SegmentationService, tmp_path: Path) -> None:
    clicks = [keypoint(60, 50, is_positive=False, id="no-1"), keypoint(70, 50, id="yes-2")]
    for n_clicks in (1, 2):
        answer = service.predict(click_in_task(*clicks[:n_clicks], drafts=[brush(disc())]))
        assert [r["id"] for r in regions_of(answer)] == [REGION_ID]
    one, two = interactions_of(tmp_path)
    assert one.object_id == two.object_id == "no-1"
    assert two.prompt.clicks[:2] == one.prompt.clicks


def test_the_draft_is_newer_than_the_annotation(service: SegmentationService) -> None:
    body = click_in_task(
        keypoint(60, 50, is_positive=False),
        annotations=[brush(disc())],
        drafts=[brush(disc(x=50, radius=10))],
    )
    assert regions_of(service.predict(body)) == []


@pytest.mark.parametrize(
    ("clicks", "existing"),
    [
        ([keypoint(60, 50)], brush(disc())),
        ([keypoint(60, 50), keypoint(55, 50, is_positive=False, id="b")], brush(disc())),
        ([keypoint(5, 5, is_positive=False)], brush(disc())),
        ([keypoint(60, 50, is_positive=False)], brush(disc(), label="Other")),
        ([keypoint(60, 50, is_positive=False)], brush(disc(), to_name="elsewhere")),
        ([keypoint(60, 50, is_positive=False)], brush(disc(), item_index=1)),
        ([keypoint(60, 50, is_positive=False)], {**brush(disc()), "value": {"rle": [1]}}),
        ([keypoint(60, 50, is_positive=False)], brush(disc()[:50, :50])),
        ([keypoint(60, 50, is_positive=False)], {"type": {}}),
        ([keypoint(60, 50, is_positive=False)], None),
    ],
)
def test_nothing_else_is_an_edit(
    service: SegmentationService, tmp_path: Path, clicks: list[Payload], existing: Payload
) -> None:
    answer = service.predict(click_in_task(*clicks, drafts=[existing]))
    (record,) = interactions_of(tmp_path)
    assert "edited" not in record.context
    assert all(region["id"].startswith(record.request_id) for region in regions_of(answer))


def test_a_polygon_stays_a_polygon_where_it_may(service: SegmentationService) -> None:
    config = CONFIG.replace(
        "</View>",
        '<PolygonLabels name="poly" toName="image" smart="false"><Label value="Object"/>'
        "</PolygonLabels></View>",
    )
    size = {"original_width": WIDTH, "original_height": HEIGHT}
    points = {"points": [[40, 30], [70, 30], [70, 70], [40, 70]], "closed": True}
    polygon = region("polygon", points, id=REGION_ID, from_name="poly", **size)
    body = click_in_task(keypoint(60, 50, is_positive=False), drafts=[polygon], config=config)
    first, *pieces = regions_of(service.predict(body))
    assert (first["id"], first["type"], first["from_name"]) == (REGION_ID, "polygonlabels", "poly")
    assert REGION_ID not in [piece["id"] for piece in pieces]
