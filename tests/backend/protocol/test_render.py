"""Answers: every kind of region, its id, its size, and what label-studio-sdk says of it."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from label_studio_sdk.label_interface.interface import LabelInterface
from PIL import Image

from adaptation.errors import ProtocolError
from adaptation.masks import Mask, iou
from backend.protocol import (
    AnswerKind,
    AnswerStyle,
    OfferedMask,
    PredictRequest,
    RegionId,
    new_request_id,
    parse_predict,
    parse_webhook,
    render_answer,
    render_nothing,
)
from backend.protocol.brush_rle import decode_brush
from tests.backend.payloads import Payload, click_request, keypoint, recorded, rectangle, submission

REQUEST_ID = "0123456789abcdef"


def disc(size: tuple[int, int] = (400, 600), x: float = 300, y: float = 200, r: float = 90) -> Mask:
    rows, columns = np.ogrid[: size[0], : size[1]]
    return (columns - x) ** 2 + (rows - y) ** 2 <= r**2


def click() -> PredictRequest:
    return parse_predict(click_request(keypoint()))


def every_control() -> PredictRequest:
    """A click in the recorded project, which has a control of every kind."""
    return parse_predict(recorded("predict_click_after_submit"))


def render(request: PredictRequest, *masks: Mask, kind: AnswerKind | None = None) -> Payload:
    candidates = [OfferedMask(mask=mask, score=0.9 - 0.1 * i) for i, mask in enumerate(masks)]
    style = AnswerStyle() if kind is None else AnswerStyle(preferred=(kind,))
    return render_answer(
        request, candidates, request_id=REQUEST_ID, model_version="compact-1", style=style
    )


def regions(response: Payload) -> list[Payload]:
    (only,) = response["results"]
    found: list[Payload] = only["result"]
    return found


class TestIds:
    @given(st.integers(0, 999), st.none() | st.integers(0, 999))
    def test_ids_are_read_back(self, candidate: int, part: int | None) -> None:
        region_id = RegionId(request_id=new_request_id(), candidate=candidate, part=part)
        assert RegionId.parse(str(region_id)) == region_id

    @pytest.mark.parametrize(
        "text", ["", "hgg7BlXYfy", "j-DzuiDb9W", REQUEST_ID, f"{REQUEST_ID}-", f"x{REQUEST_ID}-0"]
    )
    def test_ids_of_label_studio_are_not_ours(self, text: str) -> None:
        assert RegionId.parse(text) is None

    def test_parts_share_their_candidates_id(self) -> None:
        part = RegionId(request_id=REQUEST_ID, candidate=2, part=5)
        assert str(part) == f"{REQUEST_ID}-2.5"
        assert part.candidate_id == f"{REQUEST_ID}-2"

    def test_request_ids_differ(self) -> None:
        assert len({new_request_id() for _ in range(1000)}) == 1000


class TestNothing:
    def test_an_opened_task_gets_no_results(self) -> None:
        request = parse_predict(recorded("predict_open_task"))
        assert render_nothing(request, "compact-1") == {"results": []}

    def test_an_empty_click_gets_one_empty_result(self) -> None:
        request = parse_predict(recorded("predict_empty_context_with_draft"))
        assert render_nothing(request, "compact-1") == {
            "results": [{"result": [], "score": 0.0, "model_version": "compact-1"}]
        }

    def test_an_empty_mask_is_no_region(self) -> None:
        response = render(click(), np.zeros((400, 600), dtype=bool))
        assert regions(response) == []

    def test_no_candidates_are_no_regions(self) -> None:
        assert regions(render(click())) == []


class TestEnvelope:
    def test_a_brush_region_carries_everything_that_label_studio_wants(self) -> None:
        (region,) = regions(render(click(), disc()))
        rle = region["value"].pop("rle")
        assert region == {
            "id": f"{REQUEST_ID}-0",
            "from_name": "brush",
            "to_name": "image",
            "type": "brushlabels",
            "original_width": 600,
            "original_height": 400,
            "image_rotation": 0,
            "value": {"format": "rle", "brushlabels": ["Object"]},
            "score": 0.9,
        }
        assert np.array_equal(decode_brush(rle, (400, 600)), disc())

    def test_score_and_version_stand_beside_the_result(self) -> None:
        (result,) = render(click(), disc())["results"]
        assert (result["score"], result["model_version"]) == (0.9, "compact-1")

    def test_alternatives_are_regions_of_one_result_with_ids_and_scores_of_their_own(self) -> None:
        found = regions(render(click(), disc(r=50), disc(r=70), disc(r=90)))
        assert [r["id"] for r in found] == [f"{REQUEST_ID}-{i}" for i in range(3)]
        assert [r["score"] for r in found] == [0.9, 0.8, 0.7]
        assert {tuple(r["value"]["brushlabels"]) for r in found} == {("Object",)}

    def test_candidates_keep_their_number_beside_empty_ones(self) -> None:
        found = regions(render(click(), np.zeros((400, 600), dtype=bool), disc()))
        assert [r["id"] for r in found] == [f"{REQUEST_ID}-1"]

    @pytest.mark.parametrize(("score", "shown"), [(1.2, 1.0), (-0.1, 0.0), (float("nan"), 0.0)])
    def test_scores_are_shares(self, score: float, shown: float) -> None:
        response = render_answer(
            click(),
            [OfferedMask(mask=disc(), score=score)],
            request_id=REQUEST_ID,
            model_version="v",
        )
        assert regions(response)[0]["score"] == response["results"][0]["score"] == shown

    def test_a_rectangle_is_answered_like_a_click(self) -> None:
        request = parse_predict(click_request(rectangle(10, 10, 30, 30, label="Other")))
        (region,) = regions(render(request, disc()))
        assert (region["type"], region["value"]["brushlabels"]) == ("brushlabels", ["Other"])

    def test_a_page_of_several_images_is_named(self) -> None:
        body = click_request(keypoint(item_index=1))
        body["label_config"] = body["label_config"].replace('value="$image"', 'valueList="$pages"')
        body["tasks"] = [{"id": 1, "data": {"pages": ["a.jpg", "b.jpg"]}}]
        (region,) = regions(render(parse_predict(body), disc()))
        assert region["item_index"] == 1

    def test_a_mask_of_another_size_is_never_sent(self) -> None:
        with pytest.raises(ProtocolError, match="clicked on at 600x400 pixels"):
            render(click(), disc((200, 300)))

    def test_an_opened_task_has_no_answer(self) -> None:
        with pytest.raises(ProtocolError, match="without clicks"):
            render(parse_predict(recorded("predict_open_task")), disc())

    def test_a_label_without_an_answer_control_says_what_to_add(self) -> None:
        body = click_request(keypoint(label="Crack"))
        with pytest.raises(ProtocolError, match="label 'Crack'.*add <BrushLabels"):
            render(parse_predict(body), disc())


class TestKinds:
    def test_the_recorded_project_answers_with_a_brush(self) -> None:
        (region,) = regions(render(every_control(), disc()))
        assert region["type"] == "brushlabels"

    def test_a_bitmask_is_a_png_whose_alpha_is_the_mask(self) -> None:
        (region,) = regions(render(every_control(), disc(), kind=AnswerKind.BITMASK))
        assert (region["type"], region["from_name"]) == ("bitmasklabels", "bitmask")
        head, data = region["value"]["imageDataURL"].split(",")
        assert head == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            pixels = np.asarray(image.convert("RGBA"))
        assert np.array_equal(pixels[..., 3], disc() * np.uint8(255))

    def test_a_rectangle_is_tight(self) -> None:
        mask = np.zeros((400, 600), dtype=bool)
        mask[100:200, 150:300] = True
        (region,) = regions(render(every_control(), mask, kind=AnswerKind.RECTANGLE))
        assert (region["type"], region["from_name"]) == ("rectanglelabels", "rect")
        assert {k: v for k, v in region["value"].items() if k != "rectanglelabels"} == {
            "x": 25.0,
            "y": 25.0,
            "width": 25.0,
            "height": 25.0,
            "rotation": 0,
        }

    def test_a_polygon_runs_along_the_pixels_edges(self) -> None:
        mask = np.zeros((400, 600), dtype=bool)
        mask[100:200, 150:300] = True
        (region,) = regions(render(every_control(), mask, kind=AnswerKind.POLYGON))
        assert region["value"]["closed"] is True
        assert region["value"]["polygonlabels"] == ["Object"]
        assert sorted(region["value"]["points"]) == [[25, 25], [25, 50], [50, 25], [50, 50]]

    def test_a_whole_image_stays_within_its_percent(self) -> None:
        full = np.ones((400, 600), dtype=bool)
        (region,) = regions(render(every_control(), full, kind=AnswerKind.POLYGON))
        assert sorted(region["value"]["points"]) == [[0, 0], [0, 100], [100, 0], [100, 100]]

    def test_pieces_are_polygons_of_their_own_largest_first(self) -> None:
        mask = disc(x=450, r=60) | disc(x=100, r=90)
        mask[1, 1] = True
        found = regions(render(every_control(), mask, kind=AnswerKind.POLYGON))
        assert [r["id"] for r in found] == [f"{REQUEST_ID}-0.0", f"{REQUEST_ID}-0.1"]
        assert np.mean([x for x, _ in found[0]["value"]["points"]]) < 25

    def test_crumbs_come_along_where_they_are_wanted(self) -> None:
        mask = disc(x=450, r=60) | disc(x=100, r=90)
        mask[1, 1] = True
        style = AnswerStyle(preferred=(AnswerKind.POLYGON,), min_part_share=0.0)
        response = render_answer(
            every_control(),
            [OfferedMask(mask=mask, score=1)],
            request_id=REQUEST_ID,
            model_version="v",
            style=style,
        )
        assert len(regions(response)) == 3

    def test_a_coarser_tolerance_makes_fewer_corners(self) -> None:
        def corners(tolerance: float) -> int:
            style = AnswerStyle(preferred=(AnswerKind.POLYGON,), polygon_tolerance=tolerance)
            response = render_answer(
                every_control(),
                [OfferedMask(mask=disc(), score=1)],
                request_id=REQUEST_ID,
                model_version="v",
                style=style,
            )
            return len(regions(response)[0]["value"]["points"])

        assert corners(0.0) > 4 * corners(1.0) > 4 * corners(5.0)

    def test_vector_vertices_know_the_one_before(self) -> None:
        (region,) = regions(render(every_control(), disc(), kind=AnswerKind.VECTOR))
        vertices = region["value"]["vertices"]
        assert region["value"]["closed"] is True
        assert vertices[0]["prevPointId"] is None
        assert [v["prevPointId"] for v in vertices[1:]] == [v["id"] for v in vertices[:-1]]
        assert len({v["id"] for v in vertices}) == len(vertices)

    @pytest.mark.parametrize("kind", AnswerKind)
    def test_label_studios_own_checks_accept_every_kind(self, kind: AnswerKind) -> None:
        request = every_control()
        (result,) = render(request, disc(), disc(r=40), kind=kind)["results"]
        interface = LabelInterface(recorded("predict_click_after_submit")["label_config"])
        assert interface.validate_prediction(result, return_errors=True) == []

    @pytest.mark.parametrize("kind", AnswerKind)
    def test_every_kind_is_plain_json(self, kind: AnswerKind) -> None:
        response = render(every_control(), disc(), kind=kind)
        assert json.loads(json.dumps(response, allow_nan=False)) == response

    @pytest.mark.parametrize(
        ("kind", "least"),
        [
            (AnswerKind.BRUSH, 1.0),
            (AnswerKind.BITMASK, 1.0),
            (AnswerKind.POLYGON, 0.97),
            (AnswerKind.VECTOR, 0.97),
            (AnswerKind.RECTANGLE, 0.75),
        ],
    )
    def test_what_is_offered_comes_back_when_it_is_submitted(
        self, kind: AnswerKind, least: float
    ) -> None:
        mask = disc(x=450, r=60) | disc(x=100, r=90) if least > 0.9 else disc()
        answered: list[Any] = regions(render(every_control(), mask, kind=kind))
        (back,) = parse_webhook(submission(*answered)).submissions[0].regions
        assert (back.region_id, back.kind) == (f"{REQUEST_ID}-0", kind.value)
        assert iou(back.mask(), mask) >= least


class TestPlainTags:
    def test_a_shape_and_its_label_are_two_results_of_one_id(self) -> None:
        """As Label Studio 1.23 itself writes them; it was seen to draw and submit these."""
        region = keypoint(from_name="k", type="keypoint", value={"labels": ["Car"]})
        beside = {**region, "from_name": "l", "type": "labels"}
        config = (
            '<View><Labels name="l" toName="image"><Label value="Car"/></Labels>'
            '<Image name="image" value="$image"/><Brush name="b" toName="image" smart="false"/>'
            '<KeyPoint name="k" toName="image"/></View>'
        )
        request = parse_predict(click_request(region, beside, config=config))
        shape, label = regions(render(request, disc()))
        assert (shape["from_name"], shape["type"]) == ("b", "brush")
        assert (label["from_name"], label["type"]) == ("l", "labels")
        assert shape["id"] == label["id"] == f"{REQUEST_ID}-0"
        assert "labels" not in shape["value"] and label["value"]["labels"] == ["Car"]
        mask = decode_brush(shape["value"]["rle"], (400, 600))
        assert np.array_equal(mask, disc())


def test_an_answer_calls_the_label_as_its_own_control_does() -> None:
    config = (
        '<View><Image name="image" value="$image"/>'
        '<KeyPointLabels name="kp" toName="image"><Label value="Dog" alias="d"/></KeyPointLabels>'
        '<BrushLabels name="brush" toName="image"><Label value="Dog"/></BrushLabels></View>'
    )
    request = parse_predict(click_request(keypoint(label="d"), config=config))
    (region,) = regions(render(request, disc()))
    assert region["value"]["brushlabels"] == ["Dog"]


def test_labels_of_the_task_decide_in_which_control_the_answer_lies() -> None:
    config = (
        '<View><Image name="image" value="$image"/>'
        '<KeyPointLabels name="kpA" toName="image" value="$a"/>'
        '<KeyPointLabels name="kpB" toName="image" value="$b"/>'
        '<BrushLabels name="brA" toName="image" value="$a"/>'
        '<BrushLabels name="brB" toName="image" value="$b"/></View>'
    )
    data = {"image": "/a.jpg", "a": [{"value": "cat"}], "b": [{"value": "dog"}]}
    tasks = [{"id": 7, "data": data}]
    request = parse_predict(click_request(keypoint(label="dog"), config=config, tasks=tasks))
    (region,) = regions(render(request, disc()))
    assert (region["from_name"], region["value"]["brushlabels"]) == ("brB", ["dog"])
