"""Requests that are none: each refused in one sentence, and never by another error."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptation.errors import ProtocolError
from backend.protocol import parse_predict, parse_setup
from tests.backend.payloads import Payload, click_request, keypoint, rectangle


class TestRefusals:
    @pytest.mark.parametrize("body", [None, [], "text", 3, True])
    def test_a_body_that_is_no_object(self, body: object) -> None:
        with pytest.raises(ProtocolError, match="'the request' must be an object"):
            parse_predict(body)
        with pytest.raises(ProtocolError, match="'the request' must be an object"):
            parse_setup(body)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"tasks": None}, "'tasks' must be a list, got nothing"),
            ({"tasks": []}, "at least one task"),
            ({"tasks": {"id": 1}}, "'tasks' must be a list, got an object"),
            ({"tasks": [None]}, r"'tasks\[0\]' must be an object"),
            ({"tasks": [{"data": {}}]}, r"'tasks\[0\].id' must be an id, got nothing"),
            ({"tasks": [{"id": 1}]}, r"'tasks\[0\].data' must be an object"),
            ({"project": None}, "'project' must be an id"),
            ({"label_config": None}, "'label_config' must be a text, got nothing"),
            ({"label_config": " "}, "'label_config' must be a text, got an empty text"),
            ({"label_config": "<View"}, "cannot be read"),
            ({"params": []}, "'params' must be an object, got a list"),
            ({"params": {"context": "click"}}, "'context' must be an object, got a text"),
            ({"params": {"context": {"result": {}}}}, "'context.result' must be a list"),
            ({"params": {"context": {}}}, "'context.result' must be a list, got nothing"),
        ],
    )
    def test_a_request_that_is_none(self, changes: Payload, message: str) -> None:
        with pytest.raises(ProtocolError, match=message):
            parse_predict(click_request(keypoint(), **changes))

    @pytest.mark.parametrize(
        ("region", "message"),
        [
            (None, "must be an object, got nothing"),
            (keypoint(type=None), r"\.type' must be a text"),
            (keypoint(id=None), r"\.id' must be an id"),
            (keypoint(to_name=None), r"\.to_name' must be a text"),
            (keypoint(to_name="nowhere"), "no image 'nowhere'"),
            ({**keypoint(), "value": None}, r"\.value' must be an object"),
            (keypoint(value={"x": None}), r"\.value\.x' must be a number, got nothing"),
            (keypoint(value={"x": "50"}), r"\.value\.x' must be a number, got a text"),
            (keypoint(value={"y": True}), r"\.value\.y' must be a number, got True"),
            (keypoint(x=math.nan), "must be a finite number, got nan"),
            (keypoint(y=math.inf), "must be a finite number, got inf"),
            (keypoint(x=10**400), "must be a finite number, got inf"),
            (keypoint(value={"keypointlabels": []}), "pick a label before clicking"),
            (keypoint(value={"keypointlabels": None}), r"keypointlabels' must be a list"),
            (keypoint(value={"keypointlabels": [3]}), r"keypointlabels\[0\]' must be a text"),
            (keypoint(is_positive="yes"), "must be true or false, got a text"),
            (keypoint(is_positive=1), "must be true or false, got 1"),
            (keypoint(original_width=None), r"\.original_width' must be a number"),
            (keypoint(original_height=0), "whole number of pixels, got 0"),
            (keypoint(original_height=1.5), "whole number of pixels, got 1.5"),
            (keypoint(item_index="first"), r"\.item_index' must be a number"),
            (rectangle(0, 0, math.nan, 5), "must be a finite number"),
            (rectangle(0, 0, 5, 5, value={"rotation": "left"}), r"\.rotation' must be a number"),
            ({"type": "brushlabels", "id": "b"}, r'brushlabels cannot be answered.*smart="false"'),
            ({"type": "bitmask", "id": "b"}, "click with <KeyPointLabels"),
            ({**rectangle(0, 0, 5, 5), "type": "polygon"}, r"value.points' must be a list"),
            ({**rectangle(0, 0, 5, 5), "type": "ellipse"}, r"value.radiusX' must be a number"),
        ],
    )
    def test_a_click_that_is_none(self, region: object, message: str) -> None:
        with pytest.raises(ProtocolError, match=message) as caught:
            parse_predict(click_request(region))
        assert "\n" not in str(caught.value)

    def test_a_click_on_several_tasks(self) -> None:
        task = {"id": 7, "data": {"image": "a.jpg"}}
        with pytest.raises(ProtocolError, match="exactly one task, got 2"):
            parse_predict(click_request(keypoint(), tasks=[task, task]))

    @pytest.mark.parametrize("data", [{}, {"photo": "a.jpg"}, {"image": ""}, {"image": 5}])
    def test_a_task_without_the_configs_image_says_which_key_is_missing(
        self, data: Payload
    ) -> None:
        task = {"id": 7, "data": data}
        with pytest.raises(ProtocolError, match="data of task 7 has no image under 'image'"):
            parse_predict(click_request(keypoint(), tasks=[task]))

    def test_a_task_without_its_image_does_not_stop_the_others_from_opening(self) -> None:
        tasks = [{"id": 1, "data": {}}, {"id": 2, "data": {"image": "a.jpg"}}]
        request = parse_predict(click_request(tasks=tasks, params={"context": None}))
        refs = [task.image_refs(request.label_config) for task in request.tasks]
        assert refs == [(), ("a.jpg",)]

    def test_requests_without_params_open_tasks(self) -> None:
        body = click_request()
        del body["params"]
        assert not parse_predict(body).is_interactive

    @given(st.data())
    def test_whatever_is_changed_in_a_request_nothing_but_a_refusal_comes_of_it(
        self, data: st.DataObject
    ) -> None:
        body = json.loads(json.dumps(click_request(keypoint(), rectangle(10, 10, 20, 20))))
        holder, key = data.draw(st.sampled_from(list(places(body))))
        holder[key] = data.draw(json_values)
        try:
            request = parse_predict(body)
        except ProtocolError as error:
            assert "\n" not in str(error)
            return
        assert request.tasks


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


def places(value: Any) -> Any:
    """Every (container, key) of a nested payload."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(items):
        yield value, key
        if isinstance(inner, (dict, list)):
            yield from places(inner)
