from __future__ import annotations

import io
import itertools
import logging
import threading
import time
from collections.abc import Iterator

import pytest
import requests

from adaptation.errors import SettingsError
from backend.label_studio.auth import PersonalAuth, detect_token_kind
from backend.label_studio.client import (
    LabelStudioAuthError,
    LabelStudioClient,
    LabelStudioError,
    Transport,
    Webhook,
)
from tests.backend.sites import (
    LEGACY_TOKEN,
    PERSONAL_TOKEN,
    LabelStudioSite,
    Reply,
    make_token,
)


@pytest.fixture
def site() -> Iterator[LabelStudioSite]:
    with LabelStudioSite().running() as running:
        assert isinstance(running, LabelStudioSite)
        yield running


def new_client(site: LabelStudioSite, token: str | None = LEGACY_TOKEN) -> LabelStudioClient:
    return LabelStudioClient(Transport(site.url, token))


# -- tokens ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "kind"), [(LEGACY_TOKEN, "legacy"), (PERSONAL_TOKEN, "personal"), ("x.y.z", "legacy")]
)
def test_the_kind_of_a_token_is_told_by_its_looks(token: str, kind: str) -> None:
    assert detect_token_kind(token) == kind


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "schlüssel"])
def test_what_cannot_be_a_token_is_refused_without_being_repeated(token: str) -> None:
    with pytest.raises(SettingsError) as caught:
        detect_token_kind(token)
    assert not token or token not in str(caught.value)


def test_an_access_token_is_refused_because_it_dies_in_minutes() -> None:
    token = make_token("access", issued=0, expires=300)
    with pytest.raises(SettingsError, match="personal access token"):
        detect_token_kind(token)


@pytest.mark.parametrize("token", [LEGACY_TOKEN, PERSONAL_TOKEN])
def test_both_kinds_of_token_open_the_api(site: LabelStudioSite, token: str) -> None:
    assert new_client(site, token).whoami() == "ann@example.com"


def test_a_personal_token_is_exchanged_once_for_many_requests(site: LabelStudioSite) -> None:
    client = new_client(site, PERSONAL_TOKEN)
    for _ in range(3):
        client.whoami()
    assert len(site.access_tokens) == 1


def test_an_access_token_is_renewed_before_it_expires(site: LabelStudioSite) -> None:
    now = [0.0]
    tokens = (make_token("access", issued=100, expires=400, serial=n) for n in itertools.count())
    auth = PersonalAuth(lambda: next(tokens), clock=lambda: now[0])
    seen = []
    for now[0] in (0.0, 200.0, 239.0, 241.0, 480.0, 482.0):
        request = auth(_prepared())
        seen.append(request.headers["Authorization"])
    assert [seen.index(value) for value in seen] == [0, 0, 0, 3, 3, 5]


def test_the_lifetime_is_the_issuers_whatever_this_machines_clock_says() -> None:
    """The issuer's clock is a day ahead; only the difference of its two times counts."""
    ahead = time.time() + 86_400
    calls = []

    def exchange() -> str:
        calls.append(1)
        return make_token("access", issued=ahead, expires=ahead + 300, serial=len(calls))

    now = [0.0]
    auth = PersonalAuth(exchange, clock=lambda: now[0])
    auth(_prepared())
    now[0] = 290.0
    auth(_prepared())
    assert len(calls) == 2


def test_many_threads_share_one_exchange(site: LabelStudioSite) -> None:
    client = new_client(site, PERSONAL_TOKEN)
    barrier = threading.Barrier(8)

    def ask() -> None:
        barrier.wait()
        client.whoami()

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(site.access_tokens) == 1
    assert site.paths().count("/api/current-user/whoami") == 8


def test_a_revoked_access_token_is_replaced_and_the_request_repeated(site: LabelStudioSite) -> None:
    client = new_client(site, PERSONAL_TOKEN)
    client.whoami()
    site.revoked.add(site.access_tokens[0])
    assert client.whoami() == "ann@example.com"
    assert len(site.access_tokens) == 2


def test_a_401_says_which_kind_is_refused_and_what_to_do() -> None:
    with LabelStudioSite(accepts=("personal",)).running() as site:
        with pytest.raises(LabelStudioAuthError, match="legacy tokens are disabled") as caught:
            LabelStudioClient(Transport(site.url, LEGACY_TOKEN)).whoami()
        assert caught.value.status == 401
    with LabelStudioSite(accepts=("legacy",)).running() as site:
        with pytest.raises(LabelStudioAuthError, match="refused the personal access token"):
            LabelStudioClient(Transport(site.url, PERSONAL_TOKEN)).whoami()
        with pytest.raises(LabelStudioAuthError, match="none is set"):
            LabelStudioClient(Transport(site.url)).whoami()


@pytest.mark.parametrize("token", [LEGACY_TOKEN, PERSONAL_TOKEN])
def test_no_token_appears_in_reprs_errors_or_logs(
    token: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with LabelStudioSite(accepts=()).running() as site:
        client = LabelStudioClient(Transport(site.url, token))
        with pytest.raises(LabelStudioError) as caught:
            client.whoami()
    auth = vars(client.http)["_auth"]
    shown = f"{client!r} {client.http!r} {auth!r} {caught.value!r} {caplog.text}"
    assert caplog.text
    assert token not in shown and token.split(".")[-1] not in shown


# -- addresses and failures ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8080",
        "ftp://host",
        "http://",
        "http://host:99999",
        "http://u:p@host",
        "http://h/?a",
    ],
)
def test_what_cannot_be_an_address_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="label_studio_url|label_studio.url") as caught:
        Transport(url)
    assert "u:p" not in str(caught.value)


def test_a_path_prefix_is_kept_and_a_slash_at_the_end_is_not() -> None:
    assert Transport("https://Tools.Example.com/label/").url == "https://tools.example.com/label"


def test_an_unreachable_label_studio_is_named() -> None:
    client = LabelStudioClient(Transport("http://127.0.0.1:9", LEGACY_TOKEN))
    with pytest.raises(LabelStudioError, match="127.0.0.1:9 cannot be reached") as caught:
        client.version()
    assert caught.value.status is None


def test_no_proxy_is_asked_for_this_machine(
    site: LabelStudioSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert new_client(site).version() == "1.23.2"


def test_a_redirect_is_reported_and_not_followed(site: LabelStudioSite) -> None:
    target = "https://labels.example.com/api/current-user/whoami"
    site.redirect("/api/current-user/whoami", target)
    with pytest.raises(LabelStudioError, match=r"redirects .* to https://labels.example.com"):
        new_client(site).whoami()


def test_a_web_page_instead_of_json_is_reported(site: LabelStudioSite) -> None:
    site.serve("/api/current-user/whoami", b"<html>", "text/html")
    with pytest.raises(LabelStudioError, match="not JSON"):
        new_client(site).whoami()


def test_the_reason_of_a_refusal_is_passed_on(site: LabelStudioSite) -> None:
    with pytest.raises(LabelStudioError, match="404 to GET /api/projects/8/: No Project") as caught:
        new_client(site).project(8)
    assert caught.value.status == 404


def test_cookies_are_neither_kept_nor_sent(site: LabelStudioSite) -> None:
    cookie = {"Set-Cookie": "sessionid=secret; Path=/"}
    site.routes["/api/current-user/whoami"] = lambda _: Reply(200, b'{"email": "a"}', cookie)
    client = new_client(site)
    client.whoami()
    client.whoami()
    assert "Cookie" not in site.requests[-1].headers


# -- projects, tasks, backends, webhooks ---------------------------------------------------------


def test_projects_are_read(site: LabelStudioSite) -> None:
    client = new_client(site)
    assert client.version() == "1.23.2"
    assert [project.title for project in client.projects()] == ["Potholes"]
    assert client.project("7").n_tasks == 3


def _tasks(site: LabelStudioSite, n_tasks: int) -> None:
    site.tasks = [
        {"id": 10 + n, "data": {"image": f"/data/{n}.png"}, "total_annotations": n % 2}
        for n in range(n_tasks)
    ]


@pytest.mark.parametrize("n_tasks", [0, 1, 4, 5, 9])
def test_tasks_come_in_queue_order_page_by_page(site: LabelStudioSite, n_tasks: int) -> None:
    _tasks(site, n_tasks)
    ids = [task.task_id for task in new_client(site).tasks(7, page_size=4)]
    assert ids == [str(10 + n) for n in range(n_tasks)]


def test_tasks_after_one_and_without_annotation(site: LabelStudioSite) -> None:
    _tasks(site, 9)
    found = new_client(site).tasks(7, after_id="12", only_unlabeled=True, page_size=2)
    assert [(task.task_id, task.is_labeled) for task in found] == [
        ("14", False),
        ("16", False),
        ("18", False),
    ]


def test_only_the_pages_that_are_consumed_are_asked_for(site: LabelStudioSite) -> None:
    _tasks(site, 9)
    first = next(iter(new_client(site).tasks(7, page_size=2)))
    assert first.data == {"image": "/data/0.png"}
    assert site.paths().count("/api/tasks/") == 1


def test_a_backend_is_connected_once_and_then_repaired(site: LabelStudioSite) -> None:
    client = new_client(site)
    first = client.connect_backend(7, "http://127.0.0.1:9090")
    again = client.connect_backend(7, "http://127.0.0.1:9090/", basic_auth=("strop", "secret"))
    assert first.is_interactive and first.state == "CO"
    assert again.backend_id == first.backend_id and len(site.backends) == 1
    assert site.backends[0]["basic_auth_pass"] == "secret"


def test_the_webhook_that_label_studio_made_is_repaired_not_doubled(site: LabelStudioSite) -> None:
    url = "http://127.0.0.1:9090/webhook"
    made = {"id": 1, "url": url, "send_payload": True, "send_for_all_actions": True}
    site.hooks = [{**made, "headers": {}, "is_active": True, "actions": []}]
    header = {"Authorization": "Basic c3Ryb3A6c2VjcmV0"}
    hook = new_client(site).register_webhook(7, url, headers=header)
    assert len(site.hooks) == 1
    assert hook.headers == header
    assert hook.covers() and not hook.send_for_all_actions
    assert "c3Ryb3A" not in repr(hook)


def test_a_webhook_is_registered_where_none_is(site: LabelStudioSite) -> None:
    client = new_client(site)
    client.register_webhook(7, "http://other:9090/webhook")
    client.register_webhook(7, "http://127.0.0.1:9090/webhook")
    assert [hook.url for hook in client.webhooks(7)] == [
        "http://other:9090/webhook",
        "http://127.0.0.1:9090/webhook",
    ]


@pytest.mark.parametrize(
    ("changes", "covers"),
    [
        ({}, True),
        ({"is_active": False}, False),
        ({"send_payload": False}, False),
        ({"send_for_all_actions": False}, False),
        ({"send_for_all_actions": False, "actions": ("ANNOTATION_CREATED",)}, False),
    ],
)
def test_what_a_webhook_covers(changes: dict[str, object], covers: bool) -> None:
    values: dict[str, object] = {"webhook_id": 1, "url": "u", "is_active": True, "headers": {}}
    values |= {"send_payload": True, "send_for_all_actions": True, "actions": ()}
    assert Webhook(**{**values, **changes}).covers() is covers  # type: ignore[arg-type]


def test_a_file_is_uploaded(site: LabelStudioSite) -> None:
    assert new_client(site).upload(7, "nuclei.png", io.BytesIO(b"png bytes")) == ["41"]
    assert b"png bytes" in site.requests[-1].body
    assert b'filename="nuclei.png"' in site.requests[-1].body


def _prepared() -> requests.PreparedRequest:
    return requests.Request("GET", "http://localhost/").prepare()


@pytest.mark.parametrize("project_id", ["abc", "", "1.5", "-1", "١", "9" * 30])
def test_a_project_without_a_number_is_an_error_of_one_sentence(
    site: LabelStudioSite, project_id: str
) -> None:
    client = new_client(site)
    for ask in (client.project, client.ml_backends, lambda p: next(client.tasks(p), None)):
        with pytest.raises(LabelStudioError, match="numbers projects and tasks"):
            ask(project_id)
    with pytest.raises(LabelStudioError, match="is no number"):
        next(client.tasks(7, after_id=project_id), None)
    assert site.requests == []
