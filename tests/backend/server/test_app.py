"""The application over HTTP: routes, errors, password, limits, and health under load."""

from __future__ import annotations

import base64
import json
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adaptation.errors import (
    ImageError,
    InputError,
    ModelError,
    ProtocolError,
    SettingsError,
    StoreError,
    StropError,
)
from backend.label_studio.client import LabelStudioAuthError
from backend.metrics import Metrics
from backend.server.app import create_app, status_of
from backend.service.service import BusyError, SegmentationService
from tests.backend.payloads import click_request, keypoint, recorded, rectangle, submission
from tests.backend.service_kit import (
    WatchedSam,
    click_on,
    data_uri,
    journal_of,
    opened,
    pixels_of,
    regions_of,
    running_service,
    settings_for,
)

IMAGE = data_uri(pixels_of())


@pytest.fixture
def sam() -> WatchedSam:
    return WatchedSam()


@pytest.fixture
def app(tmp_path: Path, sam: WatchedSam) -> Iterator[Flask]:
    with running_service(tmp_path, sam) as service:
        yield create_app(settings_for(tmp_path), service)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


class Failing(SegmentationService):
    """Raises what it is told to."""

    def __init__(self, error: Exception) -> None:
        self.error, self.metrics = error, Metrics()

    @property
    def model_version(self) -> str:
        return "failing"

    def predict(self, body: object, is_gone: Callable[[], bool] = bool) -> dict[str, Any]:
        raise self.error


def failing_client(tmp_path: Path, error: Exception) -> FlaskClient:
    return create_app(settings_for(tmp_path), Failing(error)).test_client()


# Routes


def test_health_versions_and_setup_say_the_version(client: FlaskClient) -> None:
    for path in ("/", "/health"):
        assert client.get(path).get_json()["status"] == "UP"
    (version,) = client.get("/versions").get_json()["versions"]
    assert version.startswith("tiny-")
    reply = client.post("/setup", json=recorded("setup"))
    assert (reply.status_code, reply.get_json()) == (200, {"model_version": version})


def test_a_useless_labeling_config_does_not_hinder_the_connection(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "backend.service.service")
    for schema in ("<View></View>", "<View", '<View><Image name="i" value="$i"/></View>'):
        caplog.clear()
        assert (
            client.post("/setup", json={**recorded("setup"), "schema": schema}).status_code == 200
        )
        assert "labeling config of project 1" in caplog.text


def test_setup_logs_no_token(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    body = recorded("setup")
    client.post("/setup", json=body)
    assert body["access_token"] not in caplog.text


def test_a_click_is_answered_and_logged_in_one_line(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "backend.service.clicks")
    reply = client.post("/predict", json=click_on(IMAGE, keypoint(30, 60, id="abc")))
    assert reply.status_code == 200
    assert len(regions_of(reply.get_json())) == 1
    (line,) = [r.getMessage() for r in caplog.records if r.name == "backend.service.clicks"]
    assert "task 7 label Object object abc" in line
    assert "decode" in line


def test_the_content_type_does_not_matter(client: FlaskClient) -> None:
    body = json.dumps(opened(IMAGE))
    assert client.post("/predict", data=body, content_type="text/plain").status_code == 200


def test_a_webhook_is_durable_before_the_reply(client: FlaskClient, tmp_path: Path) -> None:
    assert client.post("/webhook", json=submission()).status_code == 200
    with journal_of(tmp_path) as journal:
        waiting = len(list(journal.deliveries()))  # first: one that is taken in is added, then gone
        submitted = journal.counts()["submissions"]
    assert waiting + submitted >= 1


# Errors


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("bad"), 400),
        (ProtocolError("bad"), 400),
        (ImageError("bad"), 422),
        (ModelError("bad"), 500),
        (StoreError("bad"), 503),
        (BusyError("bad"), 503),
        (LabelStudioAuthError("bad"), 502),
        (SettingsError("bad"), 500),
        (StropError("bad"), 500),
    ],
)
def test_every_deliberate_error_becomes_its_status_and_its_sentence(
    tmp_path: Path, error: StropError, code: int
) -> None:
    reply = failing_client(tmp_path, error).post("/predict", json={})
    assert (reply.status_code, reply.get_json()) == (code, {"error": "bad"})
    assert status_of(error) == code


def test_an_unexpected_error_is_logged_and_not_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    error = RuntimeError("/secret/path exploded")
    reply = failing_client(tmp_path, error).post("/predict", json={})
    assert reply.status_code == 500
    message = reply.get_json()["error"]
    assert "secret" not in message
    assert "Traceback" not in reply.get_data(as_text=True)
    number = message.rpartition("id=")[2].rstrip(".")
    assert f"id={number}" in caplog.text
    assert "exploded" in caplog.text


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000, b"not json"])
def test_a_body_that_is_no_json_is_a_client_error(client: FlaskClient, body: bytes) -> None:
    for path in ("/predict", "/setup", "/webhook"):
        reply = client.post(path, data=body)
        assert reply.status_code == 400
        assert "JSON" in reply.get_json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [("GET", "/nothing", 404), ("GET", "/predict", 405), ("POST", "/health", 405)],
)
def test_wrong_routes_and_methods_are_told_in_json(
    client: FlaskClient, method: str, path: str, code: int
) -> None:
    reply = client.open(path, method=method)
    assert reply.status_code == code
    assert set(reply.get_json()) == {"error"}


def test_no_answer_shows_a_path(client: FlaskClient, tmp_path: Path) -> None:
    for image in ("/etc/passwd", "file:///etc/passwd", "http://127.0.0.1:1/x.png", "x" * 5000):
        reply = client.post("/predict", json=click_on(image, keypoint(30, 60)))
        assert reply.status_code == 422
        text = reply.get_data(as_text=True)
        assert str(tmp_path) not in text
        assert "/site-packages/" not in text


# Limits and password


def test_a_request_that_is_too_large_is_refused(tmp_path: Path, sam: WatchedSam) -> None:
    small = settings_for(tmp_path, server__max_request_mb=0.001)
    with running_service(tmp_path, sam) as service:
        client = create_app(small, service).test_client()
        reply = client.post("/predict", json=click_on(IMAGE, keypoint(30, 60)))
    assert reply.status_code == 413
    assert "server.max_request_mb" in reply.get_json()["error"]


def basic(credentials: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(credentials.encode()).decode()}"}


@pytest.fixture
def guarded(tmp_path: Path, sam: WatchedSam) -> Iterator[FlaskClient]:
    overrides = {"server__username": "ann", "server__password": "käse:brot"}
    with running_service(tmp_path, sam) as service:
        yield create_app(settings_for(tmp_path, **overrides), service).test_client()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        basic("ann:wrong"),
        basic("bob:käse:brot"),
        basic(""),
        {"Authorization": "Basic"},
        {"Authorization": "Basic !!!"},
        {"Authorization": "Bearer abc"},
        {"Authorization": "Token käse"},
    ],
)
def test_without_the_password_every_route_is_closed(
    guarded: FlaskClient, headers: dict[str, str]
) -> None:
    calls = [("GET", "/"), ("GET", "/health"), ("GET", "/versions"), ("GET", "/nothing")]
    calls += [("POST", "/setup"), ("POST", "/predict"), ("POST", "/webhook")]
    for method, path in calls:
        reply = guarded.open(path, method=method, headers=headers, json={})
        assert reply.status_code == 401, path
        assert reply.headers["WWW-Authenticate"].startswith("Basic")
        assert "error" in reply.get_json()


def test_with_the_password_everything_works(guarded: FlaskClient) -> None:
    headers = basic("ann:käse:brot")
    assert guarded.get("/health", headers=headers).status_code == 200
    reply = guarded.post("/predict", headers=headers, json=click_on(IMAGE, keypoint(30, 60)))
    assert reply.status_code == 200


# Speed


def test_health_setup_and_webhooks_answer_while_the_encoder_is_busy(
    app: Flask, sam: WatchedSam
) -> None:
    def timed(method: str, path: str, body: object = None) -> float:
        started = time.perf_counter()
        reply = app.test_client().open(path, method=method, json=body)
        assert reply.status_code == 200
        return time.perf_counter() - started

    with ThreadPoolExecutor(4) as pool, sam.held():
        clicks = [
            pool.submit(
                lambda i=i: app.test_client().post(  # type: ignore[misc]
                    "/predict",
                    json=click_on(data_uri(pixels_of(i)), keypoint(30, 60), task=i),
                )
            )
            for i in range(4)
        ]
        assert sam.entered.wait(10)
        waits = [timed("GET", "/health") for _ in range(20)]
        set_up = timed("POST", "/setup", recorded("setup"))
        submitted = timed("POST", "/webhook", submission())
        assert not any(click.done() for click in clicks)
        sam.may_go_on.set()
        assert all(click.result(20).status_code == 200 for click in clicks)

    assert sorted(waits)[10] < 0.05
    assert set_up < 1.0
    assert submitted < 1.0


# Whatever comes


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@st.composite
def damaged(draw: st.DrawFn, bodies: list[Any]) -> Any:
    """A good request in which one value, at any depth, was replaced or left out."""
    body = json.loads(json.dumps(draw(st.sampled_from(bodies))))
    holder, key = None, None
    node: Any = body
    while isinstance(node, (dict, list)) and node and (holder is None or draw(st.booleans())):
        holder = node
        key = draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        node = node[key]
    if draw(st.booleans()):
        del holder[key]
    else:
        holder[key] = draw(json_values)
    return body


CLICK_BODIES = [
    click_on(IMAGE, keypoint(30, 60), keypoint(40, 50, id="kp-2", is_positive=False)),
    click_on(IMAGE, rectangle(20, 20, 40, 40)),
    opened(IMAGE),
]
EVENT_BODIES = [
    submission({**keypoint(), "type": "brushlabels", "value": {"format": "rle", "rle": [1]}}),
    recorded("webhook_annotation_created"),
    recorded("webhook_annotations_deleted"),
]


@settings(
    max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(body=json_values | damaged(CLICK_BODIES))
def test_no_predict_request_makes_the_server_fail(client: FlaskClient, body: Any) -> None:
    reply = client.post("/predict", json=body)
    assert reply.status_code in (200, 400, 422)
    expected = "results" if reply.status_code == 200 else "error"
    assert expected in reply.get_json()


@settings(
    max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(body=json_values | damaged(EVENT_BODIES))
def test_no_webhook_makes_the_server_fail(client: FlaskClient, body: Any) -> None:
    assert client.post("/webhook", json=body).status_code in (200, 400)


@settings(
    max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(body=json_values | damaged([recorded("setup")]))
def test_no_setup_request_makes_the_server_fail(client: FlaskClient, body: Any) -> None:
    assert client.post("/setup", json=body).status_code in (200, 400)


def test_a_batch_of_tasks_is_only_noted(client: FlaskClient) -> None:
    body = recorded("predict_batch_two_tasks")
    assert client.post("/predict", json=body).get_json() == {"results": []}


def test_an_empty_request_list_of_clicks_is_no_error(client: FlaskClient) -> None:
    reply = client.post("/predict", json=click_request())
    assert reply.status_code == 200
    assert regions_of(reply.get_json()) == []
