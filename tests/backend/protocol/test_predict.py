"""/predict and /setup requests: every recorded payload, and every trap of the protocol."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptation.errors import ProtocolError
from adaptation.types import Box, Click
from backend.protocol import Clicked, check_image_size, parse_predict, parse_setup
from tests.backend.payloads import CONFIG, click_request, keypoint, recorded, rectangle


def clicked(*regions: object, **changes: Any) -> Clicked:
    found = parse_predict(click_request(*regions, **changes)).clicked
    assert found is not None
    return found


PLAIN = (
    '<View><Labels name="l" toName="image"><Label value="Car"/></Labels>'
    '<Image name="image" value="$image"/><Brush name="b" toName="image" smart="false"/>'
    '<KeyPoint name="k" toName="image" smart="true"/></View>'
)


def plain_keypoint(region_id: str = "kp-1", *labels: str, **changes: Any) -> list[dict[str, Any]]:
    """What Label Studio sends for a click with <KeyPoint> while a label of <Labels> is picked."""
    region = keypoint(id=region_id, from_name="k", type="keypoint", **changes)
    del region["value"]["keypointlabels"]
    region["value"]["labels"] = list(labels)
    return [region, *({**region, "from_name": "l", "type": "labels"} for _ in labels[:1])]


class TestOtherSmartTools:
    """What is drawn around an object is a box, whatever its shape."""

    @pytest.mark.parametrize(
        ("kind", "value"),
        [
            ("polygon", {"points": [[10, 20], [30, 25], [20, 60]], "closed": True}),
            ("vector", {"vertices": [{"x": 10, "y": 20}, {"x": 30, "y": 60}], "closed": False}),
            ("ellipse", {"x": 20, "y": 40, "radiusX": 10, "radiusY": 20, "rotation": 0}),
            # Turned by a quarter, in pixels: 60 by 80 of an image of 600 by 400.
            ("ellipse", {"x": 20, "y": 40, "radiusX": 80 / 6, "radiusY": 15, "rotation": 90}),
        ],
    )
    def test_its_bounding_box_is_the_prompt(self, kind: str, value: dict[str, Any]) -> None:
        region = rectangle(0, 0, 1, 1, type=f"{kind}labels", id="around")
        region["value"] = {**value, f"{kind}labels": ["Object"]}
        found = clicked(region)
        assert (found.kind, found.object_id) == ("rectangle", "around")
        assert found.box is not None
        box = found.box.box
        assert (box.x0, box.y0, box.x1, box.y1) == pytest.approx((60, 80, 180, 240))


def test_an_image_may_be_as_large_as_its_file_is_let_through() -> None:
    """How many pixels are served is the loader's to say, by images.max_megapixels."""
    size = {"original_width": 15_000, "original_height": 10_000}
    assert clicked(keypoint(**size)).image_size == (10_000, 15_000)


class TestPlainTags:
    def test_the_label_stands_beside_the_click(self) -> None:
        found = clicked(*plain_keypoint("a", "Car"), *plain_keypoint("b", "Car"), config=PLAIN)
        assert (found.label, found.kind, found.object_id) == ("Car", "keypoint", "a")
        assert [click.region_id for click in found.clicks] == ["a", "b"]

    def test_where_the_config_has_no_labels_there_is_none(self) -> None:
        config = PLAIN.replace('<Labels name="l" toName="image"><Label value="Car"/></Labels>', "")
        assert clicked(*plain_keypoint(), config=config).label == ""

    def test_plain_points_of_an_earlier_session_are_no_clicks(self) -> None:
        stale = plain_keypoint("a", "Car")
        for region in stale:
            del region["is_positive"]
        assert parse_predict(click_request(*stale, config=PLAIN)).clicked is None


class TestRecorded:
    def test_context_null_opens_a_task(self) -> None:
        request = parse_predict(recorded("predict_open_task"))
        assert not request.is_interactive
        assert request.clicked is None
        assert [task.task_id for task in request.tasks] == ["1"]
        assert request.tasks[0].image_refs(request.label_config) == (
            "/data/upload/1/f2582610-coffee.jpg",
        )

    def test_a_batch_opens_all_its_tasks(self) -> None:
        request = parse_predict(recorded("predict_batch_two_tasks"))
        assert not request.is_interactive
        assert [task.task_id for task in request.tasks] == ["11", "12"]

    def test_project_is_its_number_without_the_time(self) -> None:
        request = parse_predict(recorded("predict_open_task"))
        assert request.project_id == "1"
        assert request.tasks[0].project_id == "1"

    def test_one_click(self) -> None:
        found = parse_predict(recorded("predict_one_click")).clicked
        assert found is not None
        assert (found.kind, found.label, found.to_name) == ("keypoint", "Object", "image")
        assert found.object_id == "hgg7BlXYfy"
        assert found.image_size == (512, 512)
        assert found.image_ref == "/data/upload/1/ff4dcfb6-astronaut.jpg"
        assert found.task.task_id == "3"
        (click,) = found.points
        assert click.x == pytest.approx(39.94708994708995 * 5.12 - 0.5)
        assert click.y == pytest.approx(19.973544973544975 * 5.12 - 0.5)
        assert click.is_positive and found.has_positive

    def test_later_clicks_keep_their_order_and_the_objects_id(self) -> None:
        found = parse_predict(recorded("predict_three_positive_one_negative_with_draft")).clicked
        assert found is not None
        assert [c.region_id for c in found.clicks] == [
            "hgg7BlXYfy",
            "BGJfb4zHe2",
            "luOa-dkHJJ",
            "xajaKOx0cI",
        ]
        assert [c.is_positive for c in found.points] == [True, True, True, False]
        two = parse_predict(recorded("predict_two_clicks")).clicked
        assert two is not None
        assert two.object_id == found.object_id == "hgg7BlXYfy"

    def test_a_stale_plain_keypoint_is_neither_positive_nor_negative(self) -> None:
        payload = recorded("predict_negative_click_with_stale_plain_keypoint")
        assert "is_positive" not in payload["params"]["context"]["result"][0]
        found = parse_predict(payload).clicked
        assert found is not None
        assert [c.region_id for c in found.clicks] == ["j-DzuiDb9W", "4-fFeU1_xk"]
        assert [c.is_positive for c in found.points] == [True, False]
        assert found.object_id == "j-DzuiDb9W"

    def test_an_empty_context_is_a_click_with_nothing_to_answer(self) -> None:
        request = parse_predict(recorded("predict_empty_context_with_draft"))
        assert request.is_interactive
        assert request.clicked is None

    def test_a_smart_rectangle_is_a_box_without_clicks(self) -> None:
        found = parse_predict(recorded("predict_smart_rectangle")).clicked
        assert found is not None
        assert found.kind == "rectangle"
        assert found.clicks == () and not found.has_positive
        assert found.object_id == "L_8GTZsCZY"
        assert found.box is not None and found.box.region_id == "L_8GTZsCZY"
        box = found.box.box
        assert (box.x0, box.y0) == pytest.approx((414.270, 66.630), abs=1e-3)
        assert (box.width, box.height) == pytest.approx((114.599, 114.599), abs=1e-3)

    def test_extra_keys_of_an_api_caller_are_tolerated(self) -> None:
        found = parse_predict(recorded("predict_click_after_submit")).clicked
        assert found is not None
        assert found.points == (Click(x=299.5, y=199.5, is_positive=True),)

    def test_masks_that_travel_along_are_not_decoded(self) -> None:
        payload = recorded("predict_click_with_drafts_and_annotations")
        broken = copy.deepcopy(payload)
        task = broken["tasks"][0]
        for holder in (*task["annotations"], *task["drafts"], *task["predictions"]):
            for result in holder["result"]:
                result["value"] = {"rle": "no run lengths"}
        assert broken != payload
        assert parse_predict(broken) == parse_predict(payload)

    def test_setup(self) -> None:
        payload = recorded("setup")
        request = parse_setup(payload)
        assert request.project_id == "1"
        assert request.label_config_text == payload["schema"]
        assert "fake-legacy-token" in json.dumps(payload) and "fake" not in repr(request)


class TestPixels:
    @pytest.mark.parametrize(
        ("percent", "column"), [(0, 0.0), (100 / 600 / 2, 0.0), (50, 299.5), (100, 599.0)]
    )
    def test_percent_count_from_the_edge_and_pixels_from_the_first_centre(
        self, percent: float, column: float
    ) -> None:
        (click,) = clicked(keypoint(x=percent)).points
        assert click.x == pytest.approx(column)

    @given(st.integers(0, 599), st.integers(0, 399), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
    def test_a_click_is_nearest_to_the_pixel_under_the_cursor(
        self, column: int, row: int, across: float, down: float
    ) -> None:
        (click,) = clicked(keypoint((column + across) / 6, (row + down) / 4)).points
        assert (round(click.x), round(click.y)) == (column, row) or (
            abs(click.x - column) <= 0.5 and abs(click.y - row) <= 0.5
        )

    @pytest.mark.parametrize(("x", "y"), [(-0.1, 50), (100.1, 50), (50, -0.2), (50, 100.2)])
    def test_rounding_beyond_the_border_is_moved_inside(self, x: float, y: float) -> None:
        (click,) = clicked(keypoint(x, y)).points
        assert 0 <= click.x <= 599 and 0 <= click.y <= 399

    @pytest.mark.parametrize(("x", "y"), [(-20, 50), (150, 50), (50, 101), (1e9, 50), (50, -1e300)])
    def test_a_click_outside_of_the_image_is_refused(self, x: float, y: float) -> None:
        with pytest.raises(ProtocolError, match=r"context.result\[0\]' lies outside of the image"):
            clicked(keypoint(x, y))

    def test_a_whole_image_is_a_box(self) -> None:
        found = clicked(rectangle(0, 0, 100, 100))
        assert found.box is not None
        assert found.box.box == Box(x0=0, y0=0, x1=600, y1=400)

    def test_a_box_a_little_over_the_border_is_cut(self) -> None:
        found = clicked(rectangle(-0.1, 50, 100.2, 50.1))
        assert found.box is not None
        assert found.box.box == Box(x0=0, y0=200, x1=600, y1=400)

    @pytest.mark.parametrize("box", [(-10, 10, 50, 50), (60, 60, 50, 10), (200, 10, 10, 10)])
    def test_a_box_outside_of_the_image_is_refused(
        self, box: tuple[float, float, float, float]
    ) -> None:
        with pytest.raises(ProtocolError, match="reaches outside of the image"):
            clicked(rectangle(*box))

    @pytest.mark.parametrize("size", [(0, 10), (10, 0)])
    def test_a_box_without_area_is_refused(self, size: tuple[float, float]) -> None:
        with pytest.raises(ProtocolError, match="has no area .* drag a rectangle"):
            clicked(rectangle(10, 10, *size))

    def test_a_turned_rectangle_becomes_its_bounding_box(self) -> None:
        # 120x40 pixels, turned by a quarter clockwise about its corner at (300, 100).
        found = clicked(rectangle(50, 25, 20, 10, value={"rotation": 90}))
        assert found.box is not None
        box = found.box.box
        assert (box.x0, box.y0, box.x1, box.y1) == pytest.approx((260, 100, 300, 220))

    def test_turning_happens_in_pixels_not_in_percent(self) -> None:
        found = clicked(rectangle(50, 25, 10, 15, value={"rotation": 45}))  # 60x60 pixels
        assert found.box is not None
        reach = 60 * math.sqrt(2)
        assert found.box.box.width == pytest.approx(reach)
        assert found.box.box.height == pytest.approx(reach)

    def test_a_turned_rectangle_may_reach_out_and_is_cut(self) -> None:
        found = clicked(rectangle(0, 0, 20, 20, value={"rotation": 30}))
        assert found.box is not None
        assert found.box.box.x0 == 0


class TestGroups:
    def test_labels_are_kept_apart(self) -> None:
        found = clicked(
            keypoint(10, 10, id="a", label="Other"),
            keypoint(20, 20, id="b", label="Object"),
            keypoint(30, 30, id="c", label="Other", is_positive=False),
            keypoint(40, 40, id="d", label="Object"),
        )
        assert found.label == "Object"
        assert [c.region_id for c in found.clicks] == ["b", "d"]

    def test_images_are_kept_apart(self) -> None:
        config = CONFIG.replace("<View>", '<View><Image name="second" value="$image"/>')
        found = clicked(
            keypoint(10, 10, id="a", to_name="second"),
            keypoint(20, 20, id="b", to_name="image"),
            config=config,
        )
        assert [c.region_id for c in found.clicks] == ["b"]

    def test_to_name_decides_which_image_is_meant(self) -> None:
        config = CONFIG.replace("<View>", '<View><Image name="second" value="$other"/>')
        task = {"id": 7, "data": {"image": "first.jpg", "other": "second.jpg"}}
        found = clicked(keypoint(to_name="second"), config=config, tasks=[task])
        assert found.image_ref == "second.jpg"

    def test_the_newest_rectangle_is_the_box(self) -> None:
        found = clicked(rectangle(0, 0, 10, 10, id="a"), rectangle(50, 50, 10, 10, id="b"))
        assert found.box is not None
        assert (found.object_id, found.box.region_id, found.box.box.x0) == ("b", "b", 300)

    def test_box_and_clicks_in_one_request_belong_together(self) -> None:
        found = clicked(rectangle(10, 10, 50, 50, id="r"), keypoint(id="k"))
        assert found.kind == "keypoint"
        assert found.object_id == "k"
        assert found.box is not None and len(found.clicks) == 1

    def test_a_moved_point_counts_once_at_its_new_place(self) -> None:
        found = clicked(
            keypoint(10, 10, id="a"), keypoint(20, 20, id="b"), keypoint(30, 30, id="a")
        )
        assert [(c.region_id, c.click.x) for c in found.clicks] == [("a", 179.5), ("b", 119.5)]

    def test_only_stale_keypoints_leave_nothing_to_answer(self) -> None:
        stale = keypoint()
        del stale["is_positive"]
        request = parse_predict(click_request(stale, keypoint(is_positive=None, id="other")))
        assert request.is_interactive and request.clicked is None

    def test_negative_clicks_alone_are_read_as_such(self) -> None:
        found = clicked(keypoint(is_positive=False))
        assert len(found.clicks) == 1 and not found.has_positive

    def test_an_image_of_a_list_is_found_by_its_index(self) -> None:
        config = CONFIG.replace('value="$image"', 'valueList="$pages"')
        tasks = [{"id": 7, "data": {"pages": ["0.jpg", "1.jpg", "2.jpg"]}}]
        found = clicked(keypoint(item_index=2), config=config, tasks=tasks)
        assert (found.image_ref, found.item_index) == ("2.jpg", 2)
        with pytest.raises(ProtocolError, match="no image under 'pages'"):
            clicked(keypoint(item_index=3), config=config, tasks=tasks)

    def test_a_key_may_lead_into_nested_data(self) -> None:
        config = CONFIG.replace("$image", "$scan.front")
        tasks = [{"id": 7, "data": {"scan": {"front": "f.jpg"}}}]
        assert clicked(keypoint(), config=config, tasks=tasks).image_ref == "f.jpg"


def size_refusal(found: Clicked, size: tuple[int, int]) -> str | None:
    """What is said of an image of another size than was clicked on; None where it fits."""
    try:
        check_image_size(found, size)
    except ProtocolError as error:
        return str(error)
    return None


class TestImageSize:
    def test_the_size_clicked_on_is_the_size_loaded(self) -> None:
        assert size_refusal(clicked(keypoint()), (400, 600)) is None

    def test_another_image_is_refused(self) -> None:
        told = size_refusal(clicked(keypoint()), (768, 1024))
        assert told is not None and "at 600x400 pixels and is 1024x768 when loaded" in told

    def test_swapped_sides_are_blamed_on_exif(self) -> None:
        with pytest.raises(ProtocolError, match="EXIF"):
            check_image_size(clicked(keypoint()), (600, 400))

    def test_a_square_image_is_not_swapped(self) -> None:
        found = parse_predict(recorded("predict_one_click")).clicked
        assert found is not None
        assert size_refusal(found, (512, 512)) is None

    def test_an_image_turned_in_the_viewer_is_refused(self) -> None:
        with pytest.raises(ProtocolError, match="turned in the viewer"):
            clicked(keypoint(image_rotation=90))

    def test_clicks_that_disagree_are_refused(self) -> None:
        with pytest.raises(ProtocolError, match="agree on its size"):
            clicked(keypoint(id="a"), keypoint(id="b", original_width=601))

    def test_no_payload_may_ask_for_any_memory(self) -> None:
        with pytest.raises(ProtocolError, match="at most"):
            clicked(keypoint(original_width=10**6, original_height=10**6))
