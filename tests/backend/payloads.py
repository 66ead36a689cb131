"""Recorded payloads of Label Studio 1.23, and small ones built like them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FIXTURES = Path(__file__).parent.parent / "fixtures" / "label_studio"

Payload = dict[str, Any]

CONFIG = """
<View>
  <Image name="image" value="$image"/>
  <KeyPointLabels name="kp" toName="image" smart="true">
    <Label value="Object"/><Label value="Other"/>
  </KeyPointLabels>
  <RectangleLabels name="rect" toName="image" smart="true">
    <Label value="Object"/><Label value="Other"/>
  </RectangleLabels>
  <BrushLabels name="brush" toName="image" smart="false">
    <Label value="Object"/><Label value="Other"/>
  </BrushLabels>
</View>
"""


def recorded(name: str) -> Payload:
    """A request body as Label Studio sent it."""
    payload: Payload = json.loads((FIXTURES / f"{name}.json").read_text())
    return payload


def keypoint(x: float = 50, y: float = 50, is_positive: object = True, **changes: Any) -> Payload:
    """A smart keypoint on an image of 600x400 pixels; ``label`` and ``value`` can be changed."""
    label = changes.pop("label", "Object")
    value = {"x": x, "y": y, "width": 0.2, "labels": [label], "keypointlabels": [label]}
    region = {
        "original_width": 600,
        "original_height": 400,
        "image_rotation": 0,
        "value": {**value, **changes.pop("value", {})},
        "is_positive": is_positive,
        "id": "kp-1",
        "from_name": "kp",
        "to_name": "image",
        "type": "keypointlabels",
        "origin": "manual",
    }
    return {**region, **changes}


def rectangle(x: float, y: float, width: float, height: float, **changes: Any) -> Payload:
    """A smart rectangle on an image of 600x400 pixels."""
    label = changes.pop("label", "Object")
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": 0}
    region = {
        "original_width": 600,
        "original_height": 400,
        "image_rotation": 0,
        "value": {**value, "rectanglelabels": [label], **changes.pop("value", {})},
        "id": "rect-1",
        "from_name": "rect",
        "to_name": "image",
        "type": "rectanglelabels",
        "origin": "manual",
    }
    return {**region, **changes}


def click_request(*regions: object, config: str = CONFIG, **changes: Any) -> Payload:
    """A /predict request of a click."""
    body: Payload = {
        "tasks": [{"id": 7, "data": {"image": "/data/upload/1/a.jpg"}, "project": 1}],
        "project": "1.1795252480",
        "label_config": config,
        "params": {"login": None, "password": None, "context": {"result": list(regions)}},
    }
    return {**body, **changes}


def submission(*results: object, config: str | None = CONFIG, **changes: Any) -> Payload:
    """An ANNOTATION_CREATED report."""
    return {
        "action": "ANNOTATION_CREATED",
        "annotation": {
            "id": 4,
            "task": 7,
            "project": 1,
            "completed_by": 2,
            "lead_time": 3.5,
            "was_cancelled": False,
            "created_at": "2026-11-21T09:23:18.555269Z",
            "updated_at": "2026-11-21T09:23:18.555336Z",
            "result": list(results),
            **changes,
        },
        "task": {"id": 7, "data": {"image": "/data/upload/1/a.jpg"}},
        "project": {"id": 1, "label_config": config},
    }


def region(kind: str, value: Payload, **changes: Any) -> Payload:
    """A submitted region of a kind like ``brush`` on an image of 60x40 pixels."""
    label = changes.pop("label", "Object")
    return {
        "id": "abcdefghij",
        "type": f"{kind}labels",
        "from_name": kind,
        "to_name": "image",
        "origin": "manual",
        "original_width": 60,
        "original_height": 40,
        "image_rotation": 0,
        "value": {**value, f"{kind}labels": [label]},
        **changes,
    }
