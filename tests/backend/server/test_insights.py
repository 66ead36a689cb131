"""The pages that people open, and what their buttons ask of sessions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from adaptation.models.registry import RegistryWriter
from backend.server.app import create_app
from backend.service.service import SegmentationService
from tests.adaptation.models.test_registry import base_file
from tests.backend.insights.kit import click_object, submit
from tests.backend.learning_kit import draw, events_of, learning_service, rest, version_now
from tests.backend.service_kit import WatchedSam, journal_of, running_service, settings_for

PROJECT = "/insights/project/1"
SESSIONS = f"{PROJECT}/sessions"
ROLL_BACK = "/insights/versions/roll-back"
OWN = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def service(tmp_path: Path) -> Iterator[SegmentationService]:
    """Two objects were learned from."""
    with learning_service(tmp_path) as service:
        draw(service, 0)
        draw(service, 1)
        rest(service)
        yield service


@pytest.fixture
def client(service: SegmentationService, tmp_path: Path) -> FlaskClient:
    return create_app(settings_for(tmp_path, learning__is_on=True), service).test_client()


def read(reply: TestResponse) -> str:
    """A page's text, without its tags."""
    html = reply.get_data(as_text=True)
    return " ".join(unescape(re.sub(r"<style>.*?</style>|<[^>]*>", " ", html, flags=re.S)).split())


def form_of(client: FlaskClient, address: str = SESSIONS, **query: str) -> dict[str, str]:
    """The fields of the form on the page that confirms."""
    reply = client.get(address, query_string=query)
    assert reply.status_code == 200, read(reply)
    html = reply.get_data(as_text=True)
    assert "form-action 'self'" in reply.headers["Content-Security-Policy"]
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', html))


def test_the_panel_says_what_a_session_knows(client: FlaskClient) -> None:
    text = read(client.get(PROJECT))
    assert "Learned from 2 objects" in text and "The guard" in text
    assert "clicks 2 to 3" in text and "from click 8 on" in text
    assert re.search(r"forget annotation 100", text) and "pause learning" in text
    assert "begin project-1 anew" in text


def test_forget_is_confirmed_pressed_and_unlearned(
    client: FlaskClient, service: SegmentationService, tmp_path: Path
) -> None:
    before = version_now(service, tmp_path)
    form = form_of(client, action="forget", annotation_id="101")
    assert events_of(tmp_path, "session_asked") == [], "looking asks nothing"
    reply = client.post(SESSIONS, data=form, headers=OWN)
    assert reply.status_code == 303
    assert reply.headers["Location"].endswith(f"{PROJECT}#sessions")
    rest(service)
    assert version_now(service, tmp_path) != before
    text = read(client.get(PROJECT))
    assert "Learned from 1 objects" in text and "forget annotation 101 un-learned" in text
    assert "forget annotation 100" in text


def test_a_session_begins_anew_and_learning_pauses_and_goes_on(
    client: FlaskClient, service: SegmentationService, tmp_path: Path
) -> None:
    for query, told in (
        ({"action": "pause"}, "Learning is paused."),
        ({"action": "begin anew", "session": "project-1"}, "No session of this project knows"),
        ({"action": "resume"}, "pause learning"),
    ):
        assert client.post(SESSIONS, data=form_of(client, **query), headers=OWN).status_code == 303
        rest(service)
        assert told in read(client.get(PROJECT))
    assert "Learning is paused." not in read(client.get(PROJECT))
    assert version_now(service, tmp_path) == "base"


@pytest.mark.parametrize(
    ("headers", "changes"),
    [
        ({"Sec-Fetch-Site": "cross-site"}, {}),
        ({"Sec-Fetch-Site": "same-site"}, {}),
        ({"Origin": "https://evil.example.com"}, {}),
        ({"Origin": "null"}, {}),
        ({}, {}),
        (OWN, {"token": "guessed"}),
        (OWN, {"token": ""}),
    ],
)
def test_a_form_of_another_site_asks_nothing(
    client: FlaskClient, tmp_path: Path, headers: dict[str, str], changes: dict[str, str]
) -> None:
    form = form_of(client, action="forget", annotation_id="100") | changes
    reply = client.post(SESSIONS, data=form, headers=headers)
    assert reply.status_code == 403 and "did not come from this page" in read(reply)
    assert events_of(tmp_path, "session_asked") == []


def test_a_form_without_the_cookie_asks_nothing(client: FlaskClient, tmp_path: Path) -> None:
    form = form_of(client, action="pause")
    client.delete_cookie("strop-insights", path="/insights")
    assert client.post(SESSIONS, data=form, headers=OWN).status_code == 403
    assert client.post(SESSIONS, data={**form, "token": ""}, headers=OWN).status_code == 403
    assert events_of(tmp_path, "session_asked") == []


def test_a_browser_without_tls_says_its_origin(client: FlaskClient) -> None:
    form = form_of(client, action="pause")
    reply = client.post(SESSIONS, data=form, headers={"Origin": "http://localhost"})
    assert reply.status_code == 303


def test_what_cannot_be_asked_is_told(client: FlaskClient) -> None:
    for query in ({"action": "dance"}, {"action": "forget"}, {}):
        reply = client.get(SESSIONS, query_string=query)
        assert reply.status_code == 400 and "That cannot be asked" in read(reply)
    form = form_of(client, action="pause") | {"action": "forget"}
    assert client.post(SESSIONS, data=form, headers=OWN).status_code == 400


def test_what_others_named_is_text_and_no_html(tmp_path: Path) -> None:
    evil = '"><script>alert(1)</script>'
    with running_service(tmp_path, WatchedSam()) as service:
        with journal_of(tmp_path) as journal:
            click_object(journal, "a", [10, 40], label=evil, task=evil)
            submit(journal, evil, [("a-r1", 40)], label=evil, task=evil)
            click_object(journal, "b", [10], label="other")
            submit(journal, "2", [("b-r0", 10)], label="other")
            said = {"session": evil, "annotation_id": evil, "region_id": "a-r1", "skipped": evil}
            numbers = {"frozen_iou": 0.5, "adapted_iou": 0.6, "turned_back": False, "version": "v"}
            journal.append_event("learned", "1", {**said, **numbers})
            journal.append_event("learned", "1", {**said, **numbers, "skipped": None})
        client = create_app(settings_for(tmp_path, learning__is_on=True), service).test_client()
        for address in (PROJECT, "/insights", f"{SESSIONS}?action=forget&annotation_id={evil}"):
            html = client.get(address).get_data(as_text=True)
            assert "<script>" not in html
            if address != "/insights":
                assert "&lt;script&gt;" in html


def test_without_learning_there_is_no_panel(tmp_path: Path) -> None:
    with running_service(tmp_path, WatchedSam()) as service:
        with journal_of(tmp_path) as journal:
            click_object(journal, "a", [10, 40])
            submit(journal, "100", [("a-r1", 40)])
        client = create_app(settings_for(tmp_path), service).test_client()
        text = read(client.get(PROJECT))
    assert "Learning is off" in text and "pause learning" not in text


def test_versions_with_the_gates_table_and_what_was_in_use(tmp_path: Path) -> None:
    numbers = {"current": 7.25, "candidate": 6.5, "gain": 0.75, "interval": [0.25, 1.25]}
    card = {
        "replaces": None,
        "metrics": {"potholes": {"role": "gate", "NoC20@85": {**numbers, "p_value": 0.01}}},
        "gate": {"created_at": "2026-11-02T03:00:00Z"},
    }
    with running_service(tmp_path, WatchedSam()) as service:
        client = create_app(settings_for(tmp_path), service).test_client()
        assert "No other was ever promoted" in read(client.get("/insights/versions"))
        writer = RegistryWriter(tmp_path / "registry")
        with writer.locked("test"):
            writer.add("v1", base_file(tmp_path / "base.safetensors", 1), card)
            writer.promote("v1", "passed the gate")
        text = read(client.get("/insights/versions"))
        assert "v1 (in use)" in text and "roll back to embedded" in text
        assert "potholes better NoC20@85 7.25 6.50 +0.75 +0.25 to +1.25" in text
        assert "promote embedded v1 passed the gate" in text
        writer.reader.path("v1").write_bytes(b"damaged")
        text = read(client.get("/insights/versions"))
        assert "It cannot be used" in text and str(tmp_path) not in text


@pytest.fixture
def registry(tmp_path: Path) -> RegistryWriter:
    """Two versions were promoted, one upon the other."""
    writer = RegistryWriter(tmp_path / "registry")
    with writer.locked("test"):
        for number in (1, 2):
            writer.add(f"v{number}", base_file(tmp_path / f"{number}.safetensors", number), {})
            writer.promote(f"v{number}", "test")
    return writer


def test_a_roll_back_is_confirmed_pressed_and_in_the_history(
    client: FlaskClient, registry: RegistryWriter
) -> None:
    form = form_of(client, ROLL_BACK)
    assert registry.reader.current() == "v2", "looking changes nothing"
    assert (form["current"], form["to"]) == ("v2", "v1")
    reply = client.post(ROLL_BACK, data=form | {"reason": " worse  on tiles "}, headers=OWN)
    assert reply.status_code == 303 and reply.headers["Location"].endswith("/insights/versions")
    assert registry.reader.current() == "v1"
    last = registry.history()[-1]
    assert (last.action, last.before, last.now) == ("rollback", "v2", "v1")
    assert last.reason == "worse on tiles"
    text = read(client.get("/insights/versions"))
    assert "v1 (in use)" in text and "rollback v2 v1 worse on tiles" in text


def test_pressed_twice_or_after_a_promotion_it_rolls_back_once(
    client: FlaskClient, registry: RegistryWriter
) -> None:
    form = form_of(client, ROLL_BACK)
    assert client.post(ROLL_BACK, data=form, headers=OWN).status_code == 303
    again = client.post(ROLL_BACK, data=form, headers=OWN)
    assert again.status_code == 409 and "Not v2 but v1 is in use now" in read(again)
    assert registry.reader.current() == "v1"
    assert client.post(ROLL_BACK, data=form_of(client, ROLL_BACK), headers=OWN).status_code == 303
    reply = client.get(ROLL_BACK)
    assert reply.status_code == 409 and "nothing to roll back to" in read(reply)


@pytest.mark.parametrize("headers", [{"Sec-Fetch-Site": "cross-site"}, {}, OWN])
def test_another_site_rolls_nothing_back(
    client: FlaskClient, registry: RegistryWriter, headers: dict[str, str]
) -> None:
    form = form_of(client, ROLL_BACK)
    if headers == OWN:
        form["token"] = "guessed"
    reply = client.post(ROLL_BACK, data=form, headers=headers)
    assert reply.status_code == 403 and registry.reader.current() == "v2"


def test_a_roll_back_that_cannot_be_is_told(
    client: FlaskClient, registry: RegistryWriter, tmp_path: Path
) -> None:
    form = form_of(client, ROLL_BACK)
    with registry.locked("a promotion"):
        busy = client.post(ROLL_BACK, data=form, headers=OWN)
    assert busy.status_code == 503 and "a promotion in process" in read(busy)
    registry.reader.path("v1").unlink()
    gone = client.post(ROLL_BACK, data=form, headers=OWN)
    assert gone.status_code == 409 and "version v1 is missing or damaged" in read(gone)
    assert str(tmp_path) not in read(gone) and registry.reader.current() == "v2"
    assert client.post(ROLL_BACK, data={**form, "to": ""}, headers=OWN).status_code == 409
