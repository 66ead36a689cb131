"""Requests with malformed fields, several at once: refused or answered, and never an error here.

Seeded, quick by default and long in the slow tier; `test_app.py` lets hypothesis do the same.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from backend.server.app import create_app
from tests.backend.payloads import click_request, keypoint, recorded, rectangle, region, submission
from tests.backend.service_kit import (
    WatchedSam,
    click_on,
    data_uri,
    journal_of,
    pixels_of,
    running_service,
    settings_for,
)

IMAGE = data_uri(pixels_of(size=(40, 60)))
SIZE = {"original_width": 60, "original_height": 40}

VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 0.5, 10**400, -(10**400), 2**63, 1e308, -1e308),
    *(math.nan, math.inf, -math.inf, 4294967296, 1e-320),
    *("", " ", "x", "\0", "\ud800", "\u202f", "x" * 5000, "$image", "{{idx}}", "0x10", "-1"),
    *("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-13-45", "brushlabels"),
    *([], {}, [[]], [{}], {"id": {}}, {"a": [1]}, [None], [1, 2, 3], {"": ""}),
    *([[1, 2]] * 3, "data:image/png;base64,AAAA", "/data/local-files/?d=" + "y" * 5000),
    *("http://[::1", "s3://b/\u3000.png", "file:///x", "javascript:1", "//x/y"),
]

PLAIN_CONFIG = """<View><Repeater on="$pages"><Image name="image" value="$pages[{{idx}}].url"/>
</Repeater><Labels name="l" toName="image" value="$labels"/><KeyPoint name="kp" toName="image"/>
<Brush name="brush" toName="image" smart="false"/></View>"""


def clicks() -> list[Any]:
    points = {"value": {"labels": ["Object"]}, **SIZE}
    plain = keypoint(30, 60, type="keypoint", **points)
    repeated = click_on(
        IMAGE, plain, {**plain, "type": "labels"}, config=PLAIN_CONFIG.replace("\n", "")
    )
    repeated["tasks"][0]["data"] = {"pages": [{"url": IMAGE}], "labels": [{"value": "Object"}]}
    edit = click_on(IMAGE, keypoint(20, 20, is_positive=False, **SIZE))
    box = region("rectangle", {"x": 0, "y": 0, "width": 60, "height": 60})
    edit["tasks"][0] |= {"drafts": [{"result": [box]}], "annotations": [{"result": [box]}]}
    return [
        click_on(IMAGE, keypoint(30, 60, **SIZE), keypoint(40, 50, id="b", **SIZE)),
        click_on(IMAGE, rectangle(20, 20, 40, 40, **SIZE)),
        click_request(),
        repeated,
        edit,
    ]


def events() -> list[Any]:
    corners = [[0, 0], [50, 0], [50, 50]]
    shapes = [
        region("polygon", {"points": corners, "closed": True}, id="a"),
        region("ellipse", {"x": 5, "y": 5, "radiusX": 5, "radiusY": 9, "rotation": 5}, id="b"),
        region("rectangle", {"x": 5, "y": 5, "width": 5, "height": 9, "rotation": 5}, id="c"),
        region("brush", {"format": "rle", "rle": [0, 0, 37, 128, 0, 0]}, id="d"),
        region("bitmask", {"imageDataURL": "data:image/png;base64,AAAA"}, id="e"),
        region("vector", {"vertices": [{"x": 1, "y": 2}] * 3, "closed": True}, id="f"),
        {**region("brush", {"rle": []}, id="g"), "type": "labels"},
    ]
    created = submission(*shapes)
    many = copy.deepcopy(created)
    many |= {"action": "ANNOTATIONS_CREATED", "annotation": [many["annotation"]] * 2}
    many["task"] = [many["task"]] * 2
    return [created, many, recorded("webhook_annotations_deleted")]


SETUPS = [recorded("setup")]


def mutated(body: Any, rng: random.Random) -> Any:
    """A body with one to three values replaced, left out, or put where others were."""
    body = json.loads(json.dumps(body))
    for _ in range(rng.randint(1, 3)):
        places = list(_places(body))
        if not places:
            break
        holder, key = rng.choice(places)
        if rng.random() < 0.15:
            del holder[key]
        elif rng.random() < 0.15:
            other, name = rng.choice(places)
            holder[key] = copy.deepcopy(other[name]) if _has(other, name) else None
        else:
            holder[key] = copy.deepcopy(rng.choice(VALUES))
    return body


def _has(holder: Any, key: Any) -> bool:
    return key in holder if isinstance(holder, dict) else key < len(holder)


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    keys = node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    for key in list(keys):
        yield node, key
        yield from _places(node[key])


@pytest.fixture
def sam() -> WatchedSam:
    return WatchedSam()


def bombard(client: FlaskClient, n_requests: int, seed: int) -> None:
    rng = random.Random(seed)
    routes = {"/predict": clicks(), "/webhook": events(), "/setup": SETUPS}
    for number in range(n_requests):
        path = rng.choice(list(routes))
        body = mutated(rng.choice(routes[path]), rng)
        reply = client.post(path, data=json.dumps(body), content_type="application/json")
        assert reply.status_code < 500, f"seed {seed}, request {number}: {path} {body!r:.2000}"
        assert reply.get_json() is not None


def no_faults(caplog: pytest.LogCaptureFixture, folder: Path) -> None:
    faults = [r.getMessage() for r in caplog.records if r.exc_info]
    assert faults == [], "something behind the replies failed"
    with journal_of(folder) as journal:
        assert not list(journal.deliveries())
        assert not list(journal.events(kind="delivery_set_aside"))


def test_malformed_fields_are_no_errors(
    tmp_path: Path, sam: WatchedSam, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with running_service(tmp_path, sam) as service:
        bombard(create_app(settings_for(tmp_path), service).test_client(), 250, seed=0)
    no_faults(caplog, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 9))
def test_malformed_fields_are_no_errors_in_the_long_run(
    tmp_path: Path, sam: WatchedSam, caplog: pytest.LogCaptureFixture, seed: int
) -> None:
    caplog.set_level(logging.WARNING)
    with running_service(tmp_path, sam) as service:
        bombard(create_app(settings_for(tmp_path), service).test_client(), 2500, seed=seed)
    no_faults(caplog, tmp_path)
