"""Webhook events: every recorded one, submitted regions as masks, and what to leave out."""

from __future__ import annotations

import base64
import logging
import math
import time
from typing import Any

import cv2
import numpy as np
import pytest

from adaptation.errors import ProtocolError
from adaptation.masks import Mask
from backend.protocol import Submission, SubmittedRegion, WebhookKind, parse_webhook
from backend.protocol.brush_rle import encode_brush
from tests.backend.payloads import (
    CONFIG,
    Payload,
    keypoint,
    recorded,
    rectangle,
    region,
    submission,
)

REQUEST_ID = "0123456789abcdef"
SIZE = (40, 60)


def block(x0: int = 10, y0: int = 5, x1: int = 30, y1: int = 20) -> Mask:
    mask = np.zeros(SIZE, dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def brush(mask: Mask | None = None, **changes: Any) -> Payload:
    rle = encode_brush(block() if mask is None else mask)
    return region("brush", {"format": "rle", "rle": rle}, **changes)


def only(body: object) -> Submission:
    (found,) = parse_webhook(body).submissions
    return found


def submitted(*results: object, **changes: Any) -> tuple[SubmittedRegion, ...]:
    return only(submission(*results, **changes)).regions


def submitted_mask(result: Payload) -> Mask:
    (found,) = submitted(result)
    return found.mask()


class TestRecorded:
    def test_annotation_created(self) -> None:
        event = parse_webhook(recorded("webhook_annotation_created"))
        assert (event.kind, event.project_id) == (WebhookKind.ANNOTATION_CREATED, "1")
        (found,) = event.submissions
        assert found.event == "created"
        assert (found.annotation_id, found.task_id, found.project_id) == ("1", "6", "1")
        assert found.annotator == "1"
        assert found.lead_time_s == 22.138
        assert not found.was_cancelled
        assert found.created_at == "2026-11-21T09:23:18.555269Z"
        assert found.idempotency_key == "1/2026-11-21T09:23:18.555336Z/created"

    def test_of_its_three_results_only_the_brush_is_an_object(self) -> None:
        payload = recorded("webhook_annotation_created")
        types = [r["type"] for r in payload["annotation"]["result"]]
        assert types == ["rectanglelabels", "brushlabels", "keypointlabels"]
        (found,) = only(payload).regions
        assert (found.region_id, found.kind, found.label) == ("49WHOH5SOkM", "brush", "Object")
        assert (found.to_name, found.image_size) == ("image", (400, 600))
        assert found.mask().sum() == 15708

    def test_annotation_updated_to_nothing(self) -> None:
        found = only(recorded("webhook_annotation_updated"))
        assert (found.event, found.annotation_id, found.regions) == ("updated", "1", ())
        assert found.idempotency_key == "1/2026-11-21T09:27:58.840014Z/updated"

    def test_annotations_deleted(self) -> None:
        event = parse_webhook(recorded("webhook_annotations_deleted"))
        assert event.kind is WebhookKind.ANNOTATIONS_DELETED
        (found,) = event.submissions
        assert (found.event, found.annotation_id, found.project_id) == ("deleted", "2", "1")
        assert found.task_id is None and found.regions == ()

    def test_tasks_created(self) -> None:
        event = parse_webhook(recorded("webhook_tasks_created"))
        assert event.kind is WebhookKind.TASKS_CREATED
        (task,) = event.tasks
        assert (task.task_id, task.project_id) == ("4", "1")
        assert task.data == {"image": "/data/upload/1/b62a1790-c0.jpg"}
        assert event.submissions == ()

    @pytest.mark.parametrize("name", ["project_updated", "start_training"])
    def test_events_of_the_project(self, name: str) -> None:
        payload = recorded(f"webhook_{name}")
        event = parse_webhook(payload)
        assert event.kind is WebhookKind(name.upper())
        assert event.project_id == "1"
        assert event.label_config_text == payload["project"]["label_config"]
        assert event.submissions == () and event.tasks == ()


class TestEvents:
    def test_the_sdks_old_deletion_is_understood(self) -> None:
        body = {"action": "ANNOTATION_DELETED", "annotation": {"id": 9}, "project": {"id": 3}}
        event = parse_webhook(body)
        assert event.kind is WebhookKind.ANNOTATIONS_DELETED
        assert event.action == "ANNOTATION_DELETED"
        assert [(s.annotation_id, s.event) for s in event.submissions] == [("9", "deleted")]

    def test_many_deletions_at_once(self) -> None:
        body = {"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 1}, {"id": 2}, 3]}
        assert [s.annotation_id for s in parse_webhook(body).submissions] == ["1", "2", "3"]

    def test_unknown_actions_are_tolerated(self) -> None:
        event = parse_webhook({"action": "SOMETHING_NEW", "project": {"id": 1}, "tasks": "any"})
        assert (event.kind, event.action) == (WebhookKind.OTHER, "SOMETHING_NEW")

    @pytest.mark.parametrize(
        "action",
        [
            *("PROJECT_CREATED", "PROJECT_UPDATED", "PROJECT_DELETED", "TASKS_DELETED"),
            *("LABEL_LINK_CREATED", "LABEL_LINK_UPDATED", "LABEL_LINK_DELETED", "START_TRAINING"),
        ],
    )
    def test_actions_that_submit_nothing_are_known(self, action: str) -> None:
        event = parse_webhook({"action": action, "project": {"id": 1}, "tasks": [{"id": 3}]})
        assert (event.kind, event.submissions) == (WebhookKind(action), ())

    def test_predictions_accepted_in_bulk_are_submissions(self) -> None:
        (found,) = parse_webhook(recorded("webhook_annotations_created")).submissions
        assert (found.event, found.annotation_id, found.task_id) == ("created", "3", "5")
        assert (found.lead_time_s, found.annotator) == (None, "1")
        (region_,) = found.regions
        assert (region_.region_id, region_.label) == ("1123456789abcdef-0", "Car")
        assert region_.mask().sum() == 1245

    def test_each_annotation_of_a_list_has_its_own_task_and_labels(self) -> None:
        config = (
            '<View><Image name="image" value="$image"/>'
            '<RectangleLabels name="rect" toName="image" smart="true" value="$ls"/>'
            '<BrushLabels name="brush" toName="image" value="$ls"/></View>'
        )
        body = submission(config=config)
        one = body["annotation"]
        body["action"] = "ANNOTATIONS_CREATED"
        body["annotation"] = [
            {**one, "id": i, "task": i + 10, "result": [rectangle(10, 10, 20, 20)]} for i in (1, 2)
        ]
        body["task"] = [
            {"id": 12, "data": {"ls": [{"value": "Object"}]}},
            {"id": 11, "data": {"ls": [{"value": "Other"}]}},
        ]
        found = parse_webhook(body).submissions
        assert [(s.annotation_id, s.task_id) for s in found] == [("1", "11"), ("2", "12")]
        # Of the second task the brush has the label, and the rectangle only asked for a mask.
        assert [len(s.regions) for s in found] == [1, 0]

    @pytest.mark.parametrize("bad", [None, 5, [], {}, {"id": None}, {"id": 1, "result": 7}])
    def test_one_bad_annotation_of_a_list_leaves_the_others(
        self, bad: object, caplog: pytest.LogCaptureFixture
    ) -> None:
        body = submission(brush())
        body |= {"action": "ANNOTATIONS_CREATED", "annotation": [bad, body["annotation"]]}
        (found,) = parse_webhook(body).submissions
        assert len(found.regions) == 1
        assert "Left out of the report: 'annotation[0]" in caplog.text
        deleted = {
            "action": "ANNOTATIONS_DELETED",
            "annotations": [{"id": 1}, {"id": []}, {"id": 2}],
        }
        assert [s.annotation_id for s in parse_webhook(deleted).submissions] == ["1", "2"]

    @pytest.mark.parametrize("bad", [None, 5, [], {}, {"id": {}, "data": {}}, {"id": 3, "data": 7}])
    def test_one_bad_task_of_an_import_leaves_the_others(
        self, bad: object, caplog: pytest.LogCaptureFixture
    ) -> None:
        good = recorded("webhook_tasks_created")
        event = parse_webhook({**good, "tasks": [bad, *good["tasks"]]})
        assert [task.task_id for task in event.tasks] == ["4"]
        assert "Left out of the report: 'tasks[0]" in caplog.text

    @pytest.mark.parametrize(
        ("key", "value", "attribute"),
        [
            ("lead_time", 10**400, "lead_time_s"),
            ("lead_time", math.nan, "lead_time_s"),
            ("lead_time", -math.inf, "lead_time_s"),
            ("lead_time", True, "lead_time_s"),
            ("lead_time", "fast", "lead_time_s"),
            ("completed_by", [1], "annotator"),
            ("completed_by", {"id": {}}, "annotator"),
            ("completed_by", "x" * 201, "annotator"),
            ("created_at", 5, "created_at"),
            ("updated_at", "x" * 10**6, "updated_at"),
        ],
    )
    def test_a_malformed_field_is_none_and_loses_nothing(
        self, key: str, value: object, attribute: str
    ) -> None:
        found = only(submission(brush(), **{key: value}))
        assert getattr(found, attribute) is None and len(found.regions) == 1

    @pytest.mark.parametrize("project", [{"id": []}, {"id": True}, {"id": {}}, [], 5.5, {"id": ""}])
    def test_a_malformed_project_leaves_the_annotations_own(self, project: object) -> None:
        body = {**submission(brush()), "project": project}
        assert only(body).project_id == "1"

    def test_texts_that_no_database_takes_are_mended(self) -> None:
        found = only(submission(brush(id="a\0b", label="Gr\ud800n"), updated_at="now\ud800"))
        (one,) = found.regions
        assert (one.region_id, one.label, found.updated_at) == ("a\ufffdb", "Gr?n", "now?")

    def test_a_skipped_task_is_marked(self) -> None:
        assert only(submission(was_cancelled=True)).was_cancelled

    def test_the_same_report_has_the_same_key_and_a_later_one_another(self) -> None:
        first, again = only(submission(brush())), only(submission(brush()))
        later = only(submission(brush(), updated_at="2026-11-21T10:00:00Z"))
        assert first.idempotency_key == again.idempotency_key != later.idempotency_key

    def test_the_task_may_be_named_beside_the_annotation_alone(self) -> None:
        body = submission(brush())
        body["task"] = {"id": 8}
        del body["annotation"]["task"]
        assert only(body).task_id == "8"

    @pytest.mark.parametrize("user", [2, "2", {"id": 2, "email": "someone"}])
    def test_the_annotator_may_come_as_an_object(self, user: object) -> None:
        assert only(submission(completed_by=user)).annotator == "2"

    @pytest.mark.parametrize("key", ["completed_by", "lead_time", "created_at", "updated_at"])
    def test_what_is_missing_is_none(self, key: str) -> None:
        body = submission(brush())
        del body["annotation"][key]
        assert len(only(body).regions) == 1

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (None, "must be an object"),
            ([], "must be an object"),
            ({}, "'action' must be a text"),
            ({"action": 5}, "'action' must be a text"),
            ({"action": "ANNOTATION_CREATED"}, "'annotation' must be an object"),
            ({"action": "ANNOTATION_CREATED", "annotation": {}}, "'annotation.id' must be an id"),
            (
                {"action": "ANNOTATION_CREATED", "annotation": {"id": 1, "result": {"a": 1}}},
                "'annotation.result' must be a list",
            ),
            (
                {"action": "ANNOTATION_CREATED", "annotation": {"id": 1}, "task": {"id": []}},
                "'annotation.task' must be an id, got nothing",
            ),
            (
                {"action": "ANNOTATION_UPDATED", "annotation": {"id": 1, "task": {}}},
                "'annotation.task' must be an id, got an object",
            ),
            ({"action": "ANNOTATIONS_DELETED"}, "'annotations' must be a list"),
            ({"action": "ANNOTATIONS_DELETED", "annotations": [{}]}, r"annotations\[0\].id'"),
            ({"action": "TASKS_CREATED", "tasks": None}, "'tasks' must be a list"),
            ({"action": "TASKS_CREATED", "tasks": [{}]}, r"tasks\[0\].id'"),
        ],
    )
    def test_what_is_no_report_is_refused(self, body: object, message: str) -> None:
        with pytest.raises(ProtocolError, match=message):
            parse_webhook(body)

    def test_a_large_report_is_read_within_milliseconds(self) -> None:
        mask = np.random.default_rng(0).random((1000, 1000)) < 0.5
        rle = encode_brush(mask)
        one = {**brush(), "value": {"rle": rle, "brushlabels": ["Object"]}}
        body = submission(*({**one, "id": f"region-{i}"} for i in range(300)))
        parse_webhook(submission())
        start = time.perf_counter()
        event = parse_webhook(body)
        assert time.perf_counter() - start < 0.1
        assert len(event.submissions[0].regions) == 300


class TestWhatIsNoObject:
    def test_a_repeated_result_of_type_keypointlabels(self) -> None:
        repeated = brush(type="keypointlabels", from_name="kp")
        repeated["value"]["keypointlabels"] = repeated["value"].pop("brushlabels")
        (found,) = submitted(brush(), repeated)
        assert found.kind == "brush"
        assert np.array_equal(found.mask(), block())

    def test_smart_points_left_behind(self) -> None:
        stale = keypoint(id="stale")
        del stale["is_positive"]
        assert submitted(keypoint(), stale) == ()

    @pytest.mark.parametrize("kind", [{}, [], None, 5, True, {"a": []}, "", "\ud800"])
    def test_types_that_are_none_lose_no_other_region(self, kind: object) -> None:
        assert [r.region_id for r in submitted(brush(type=kind), brush(id="w"))] == ["w"]

    def test_choices_and_texts(self) -> None:
        choice = {"id": "c", "type": "choices", "value": {"choices": ["good"]}}
        per_region = {**choice, "value": {"choices": ["best"], "format": "rle", "rle": [1, 2]}}
        relation = {"type": "relation", "from_id": "a", "to_id": "b"}
        assert submitted(choice, per_region, relation) == ()

    def test_a_rectangle_that_only_asked_for_a_mask(self) -> None:
        assert [r.kind for r in submitted(rectangle(10, 10, 20, 20), brush())] == ["brush"]

    def test_a_rectangle_of_a_plain_control_is_an_object(self) -> None:
        config = CONFIG.replace(
            '<RectangleLabels name="rect" toName="image" smart="true">',
            '<RectangleLabels name="rect" toName="image" smart="false">',
        )
        (found,) = submitted(rectangle(10, 10, 20, 20), config=config)
        assert found.kind == "rectangle"

    def test_a_rectangle_is_an_object_where_nothing_else_could_be(self) -> None:
        config = "".join(CONFIG.partition("<BrushLabels")[:1]) + "</View>"
        assert [r.kind for r in submitted(rectangle(10, 10, 20, 20), config=config)] == [
            "rectangle"
        ]

    def test_a_rectangle_that_strop_suggested_is_an_object(self) -> None:
        suggested = rectangle(10, 10, 20, 20, id=f"{REQUEST_ID}-0")
        assert [r.region_id for r in submitted(suggested)] == [f"{REQUEST_ID}-0"]

    @pytest.mark.parametrize("config", [None, "", "<View", "<View/>"])
    def test_without_a_labeling_config_every_region_counts(self, config: str | None) -> None:
        assert len(submitted(rectangle(10, 10, 20, 20), brush(), config=config)) == 2

    def test_lines_that_were_never_closed(self) -> None:
        corners = [[10, 10], [50, 10], [50, 50]]
        vertices = [{"id": str(i), "x": x, "y": y} for i, (x, y) in enumerate(corners)]
        assert (
            submitted(
                region("vector", {"vertices": vertices, "closed": False}, id="a"),
                region("vector", {"vertices": vertices}, id="b"),
                region("polygon", {"points": corners, "closed": False}, id="c"),
            )
            == ()
        )

    @pytest.mark.parametrize(
        "broken",
        [
            None,
            {"type": "brushlabels"},
            {**brush(), "type": "polygonlabels"},
            brush(id=None),
            brush(id="x" * 201),
            brush(id=10**300),
            brush(original_width=None),
            brush(original_height=0),
            brush(original_width=10**6, original_height=10**6),
            {**brush(), "value": None},
            {**brush(), "value": {"rle": [1]}},
            {**brush(), "value": {"rle": [1], "brushlabels": []}},
        ],
    )
    def test_a_broken_region_is_left_out_with_a_warning_and_the_others_stay(
        self, broken: object, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING):
            found = submitted(broken, brush(id="whole"))
        assert [r.region_id for r in found] == ["whole"]
        assert "left out: 'annotation.result[0]" in caplog.text


class TestPlainShapes:
    """``<Brush>`` beside ``<Labels>``: the label is a result of its own, with the same id."""

    @staticmethod
    def plain(kind: str, value: Payload, *labels: str, **changes: Any) -> list[Payload]:
        whole = region(kind, value, **changes)
        bare = {k: v for k, v in whole["value"].items() if k != f"{kind}labels"}
        shape = {**whole, "type": kind, "value": bare}
        beside = {**whole, "type": "labels", "from_name": "l"}
        return [shape, {**beside, "value": {**bare, "labels": list(labels)}}]

    def test_a_brush_and_its_label(self) -> None:
        value = {"format": "rle", "rle": encode_brush(block())}
        (found,) = submitted(*self.plain("brush", value, "Other"))
        assert (found.kind, found.label) == ("brush", "Other")
        assert np.array_equal(found.mask(), block())

    def test_the_label_may_come_first(self) -> None:
        shape, label = self.plain("polygon", {"points": [[0, 0], [50, 0], [50, 50]]}, "Other")
        assert [(r.kind, r.label) for r in submitted(label, shape)] == [("polygon", "Other")]

    def test_a_region_without_a_label_is_kept_without_one(self) -> None:
        value = {"format": "rle", "rle": encode_brush(block())}
        shape, _ = self.plain("brush", value)
        assert [r.label for r in submitted(shape)] == [""]

    @pytest.mark.parametrize("labels", [None, {}, [5], [[]], []])
    def test_a_malformed_label_beside_it_loses_no_region(self, labels: object) -> None:
        value = {"format": "rle", "rle": encode_brush(block())}
        shape, beside = self.plain("brush", value)
        beside["value"]["labels"] = labels
        assert [r.label for r in submitted(shape, beside)] == [""]


class TestObjects:
    def test_strops_ids_come_back_and_others_stay_as_they_are(self) -> None:
        found = submitted(brush(id=f"{REQUEST_ID}-1"), brush(id="49WHOH5SOkM"))
        assert [r.region_id for r in found] == [f"{REQUEST_ID}-1", "49WHOH5SOkM"]

    def test_pieces_of_one_candidate_are_one_object(self) -> None:
        left, right = block(0, 0, 10, 10), block(30, 0, 40, 10)
        found = submitted(
            brush(left, id=f"{REQUEST_ID}-0.0"),
            brush(block(), id="another"),
            brush(right, id=f"{REQUEST_ID}-0.1"),
        )
        assert [r.region_id for r in found] == [f"{REQUEST_ID}-0", "another"]
        assert np.array_equal(found[0].mask(), left | right)

    def test_pieces_that_do_not_fit_together_leave_the_first(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        points = {"points": [[0, 0], [50, 0], [50, 50]]}
        found = submitted(
            brush(id=f"{REQUEST_ID}-0.0"), region("polygon", points, id=f"{REQUEST_ID}-0.1")
        )
        assert [r.kind for r in found] == ["brush"]
        assert "do not fit together" in caplog.text

    def test_the_first_label_counts(self) -> None:
        result = brush()
        result["value"]["brushlabels"] = ["Other", "Object"]
        (found,) = submitted(result)
        assert found.label == "Other"

    def test_an_image_of_several_is_named(self) -> None:
        (found,) = submitted(brush(item_index=2))
        assert found.item_index == 2


class TestMasks:
    def test_brush(self) -> None:
        assert np.array_equal(submitted_mask(brush()), block())

    def test_bitmask_by_its_alpha(self) -> None:
        pixels = np.zeros((*SIZE, 4), dtype=np.uint8)
        pixels[..., 2] = 200
        pixels[block(), 3] = 255
        mask = submitted_mask(region("bitmask", {"imageDataURL": data_url(pixels)}))
        assert np.array_equal(mask, block())

    def test_polygon(self) -> None:
        points = [[100 / 6, 12.5], [50, 12.5], [50, 50], [100 / 6, 50]]
        assert np.array_equal(submitted_mask(region("polygon", {"points": points})), block())

    def test_closed_vector(self) -> None:
        corners = [(100 / 6, 12.5), (50, 12.5), (50, 50), (100 / 6, 50)]
        vertices = [{"id": str(i), "x": x, "y": y} for i, (x, y) in enumerate(corners)]
        mask = submitted_mask(region("vector", {"vertices": vertices, "closed": True}))
        assert np.array_equal(mask, block())

    def test_rectangle(self) -> None:
        value = {"x": 100 / 6, "y": 12.5, "width": 100 / 3, "height": 37.5, "rotation": 0}
        assert np.array_equal(submitted_mask(region("rectangle", value)), block())

    def test_turned_rectangle(self) -> None:
        # 15x20 pixels from the corner (30, 5), turned by a quarter: what was right lies below.
        value = {"x": 50, "y": 12.5, "width": 25, "height": 50, "rotation": 90}
        assert np.array_equal(submitted_mask(region("rectangle", value)), block())

    def test_ellipse(self) -> None:
        value = {"x": 50, "y": 50, "radiusX": 25, "radiusY": 25, "rotation": 0}
        mask = submitted_mask(region("ellipse", value))
        assert mask.sum() == pytest.approx(math.pi * 15 * 10, rel=0.02)
        assert mask[20, 15] and not mask[20, 14] and mask[10, 30] and not mask[9, 30]

    def test_turned_ellipse(self) -> None:
        value = {"x": 50, "y": 50, "radiusX": 25, "radiusY": 12.5, "rotation": 90}
        upright = {"x": 50, "y": 50, "radiusX": 25 / 3, "radiusY": 37.5, "rotation": 0}
        mask = submitted_mask(region("ellipse", value))
        assert np.array_equal(mask, submitted_mask(region("ellipse", upright)))

    @pytest.mark.parametrize(
        ("result", "message"),
        [
            (brush(np.zeros((20, 30), dtype=bool)), "another size"),
            (region("brush", {"rle": "text"}), "'rle' must be a list"),
            (region("brush", {"rle": [1, 2, 3]}), "cut off"),
            (region("bitmask", {}), "'imageDataURL' must be a text"),
            (region("bitmask", {"imageDataURL": "http://x/y.png"}), "a PNG in base64"),
            (region("bitmask", {"imageDataURL": "data:image/png;base64,AAAA"}), "cannot be read"),
            (region("bitmask", {"imageDataURL": "data:image/png;base64,A"}), "cannot be read"),
            (region("polygon", {"points": [[0, 0], [5, 5]]}), "encloses nothing"),
            (region("polygon", {"points": [[0, 0], [5], [5, 5]]}), r"points\[1\]' must be two"),
            (region("polygon", {"points": [[0, math.nan], [5, 1], [5, 5]]}), "finite number"),
            (region("vector", {"vertices": [None], "closed": True}), r"vertices\[0\]' must be an"),
            (region("rectangle", {"x": 1, "y": 1, "width": 5}), "'value.height' must be a number"),
            (region("polygon", {"points": [[0, 0], [1e300, 0], [0, 5]]}), "percent of the image"),
            (region("ellipse", {"x": 1e9, "y": 1, "radiusX": 1, "radiusY": 5}), "percent of the"),
            (region("ellipse", {"x": 1, "y": 1, "radiusX": 0, "radiusY": 5}), "two radii above 0"),
        ],
    )
    def test_a_broken_value_is_told_when_its_mask_is_asked_for(
        self, result: Payload, message: str
    ) -> None:
        (found,) = submitted(result, config=None)
        with pytest.raises(ProtocolError, match=f"Region 'abcdefghij'.*{message}"):
            found.mask()

    def test_the_image_may_be_as_large_as_the_settings_say(self) -> None:
        (found,) = submitted(brush())
        assert found.mask(40 * 60).sum() == block().sum()
        with pytest.raises(ProtocolError, match="60x40 pixels, more than images.max_megapixels"):
            found.mask(40 * 60 - 1)

    def test_a_png_of_another_size(self) -> None:
        url = data_url(np.zeros((20, 30, 4), dtype=np.uint8))
        with pytest.raises(ProtocolError, match="PNG has 30x20 pixels, its image 60x40"):
            submitted_mask(region("bitmask", {"imageDataURL": url}))

    def test_a_cut_off_png(self) -> None:
        url = data_url(np.random.default_rng(0).integers(0, 255, (*SIZE, 4), dtype=np.uint8))
        cut = url[: len(url) // 2 // 4 * 4]
        cut = cut[: len(cut) - (len(cut.split(",")[1]) % 4)]
        with pytest.raises(ProtocolError, match="cannot be read"):
            submitted_mask(region("bitmask", {"imageDataURL": cut}))


def data_url(pixels: np.ndarray[Any, Any]) -> str:
    """A PNG in base64, as the editor writes them (blue, green, red, alpha in)."""
    _, png = cv2.imencode(".png", pixels)
    return "data:image/png;base64," + base64.b64encode(png.tobytes()).decode("ascii")
