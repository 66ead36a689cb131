"""`GET /metrics`: every number after the thing that it counts was done for real."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from backend.metrics import FOLDER_VARIABLE, Metrics
from backend.server.app import create_app
from backend.service.service import BusyError
from tests.backend.learning_kit import delete, draw, learning_service, rest
from tests.backend.payloads import keypoint
from tests.backend.server.test_app import Failing
from tests.backend.server.test_gunicorn_app import Server, checkpoint  # noqa: F401
from tests.backend.service_kit import (
    WatchedSam,
    click_on,
    data_uri,
    journal_of,
    opened,
    pixels_of,
    running_service,
    settings_for,
)

IMAGE = data_uri(pixels_of())


def numbers(text: str) -> dict[str, float]:
    """Sample with its labels, as Prometheus writes it -> value."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{k}="{v}"' for k, v in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def scraped(client: FlaskClient) -> dict[str, float]:
    reply = client.get("/metrics")
    assert reply.status_code == 200 and reply.content_type.startswith("text/plain")
    return numbers(reply.get_data(as_text=True))


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    with running_service(tmp_path, WatchedSam()) as service:
        yield create_app(settings_for(tmp_path), service)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def test_requests_are_counted_by_route_and_status(client: FlaskClient) -> None:
    client.get("/health")
    client.get("/health")
    client.post("/predict", data="{")
    for path in ("/a", "/b", "/insights/object/1/x"):
        client.get(path)
    found = scraped(client)
    assert found['strop_http_requests_total{method="GET",route="/health",status="200"}'] == 2
    assert found['strop_http_requests_total{method="POST",route="/predict",status="400"}'] == 1
    unmatched = 'method="unmatched",route="unmatched"'
    assert found[f'strop_http_requests_total{{{unmatched},status="404"}}'] == 3
    seconds = 'strop_http_request_duration_seconds_count{method="GET",route="/health"}'
    assert found[seconds] == 2


def test_clicks_their_stages_and_what_was_encoded(client: FlaskClient) -> None:
    for _ in range(2):
        assert client.post("/predict", json=click_on(IMAGE, keypoint(50, 50))).status_code == 200
    negative = keypoint(20, 20, is_positive=False)
    client.post("/predict", json=click_on(IMAGE, negative, task=8))
    found = scraped(client)
    assert found['strop_clicks_total{outcome="answered"}'] == 2
    assert found['strop_clicks_total{outcome="nothing_positive"}'] == 1
    assert found['strop_click_stage_duration_seconds_count{stage="decode"}'] == 2
    assert 0 < found['strop_click_stage_duration_seconds_sum{stage="decode"}'] < 60
    assert found["strop_clicks_in_progress"] == 0
    assert found['strop_embedding_requests_total{result="encoded"}'] >= 1
    assert found["strop_encode_duration_seconds_count"] >= 1
    assert found["strop_embedding_memory_bytes"] > 0
    hits = found['strop_embedding_requests_total{result="memory_hit"}']
    assert hits >= 1, "the second click found the image encoded"


def test_an_opened_task_is_encoded_ahead(client: FlaskClient) -> None:
    client.post("/predict", json=opened(IMAGE))
    end = time.monotonic() + 20
    done = 'strop_prefetch_tasks_total{result="done"}'
    while not (found := scraped(client)).get(done):
        assert time.monotonic() < end, found
        time.sleep(0.02)
    assert found["strop_prefetch_queue_length"] == 0


def test_what_is_learned_turned_back_and_unlearned(tmp_path: Path) -> None:
    with learning_service(tmp_path) as service:
        client = create_app(settings_for(tmp_path), service).test_client()
        draw(service, 0)
        draw(service, 1)
        rest(service)
        delete(service, 0)
        rest(service)
        found = scraped(client)
    assert found['strop_learned_objects_total{result="trained"}'] == 2
    assert found["strop_unlearned_objects_total"] == 1
    assert found["strop_learning_queue_length"] == 0
    assert found['strop_submissions_total{event="created"}'] == 2
    assert found['strop_submissions_total{event="deleted"}'] == 1
    with journal_of(tmp_path) as journal:
        events = list(journal.events(kind="learned"))
        idle = list(journal.events(kind="thought"))
    assert found["strop_sessions_turned_back_total"] == sum(
        e.payload["turned_back"] for e in events
    )
    assert found["strop_idle_training_steps_total"] == sum(e.payload["n_steps"] for e in idle)


def test_a_journal_that_is_behind_or_gone_is_told(tmp_path: Path) -> None:
    with running_service(tmp_path, WatchedSam()) as service:
        client = create_app(settings_for(tmp_path), service).test_client()
        assert scraped(client)["strop_journal_lag_seconds"] == 0
        service.journal.keep_delivery("{}")
        time.sleep(0.05)
        found = scraped(client)
        assert found["strop_journal_waiting_messages"] == 1
        assert 0.05 <= found["strop_journal_lag_seconds"] < 30
        with closing(sqlite3.connect(tmp_path / "journal.db")) as db:
            db.execute("ALTER TABLE journal_deliveries RENAME TO elsewhere")
            db.execute("ALTER TABLE journal_interactions RENAME TO nowhere")
            db.commit()
        found = scraped(client)
        assert found["strop_journal_up"] == 0 and "strop_journal_lag_seconds" not in found
        client.post("/predict", json=click_on(IMAGE, keypoint(50, 50)))
        assert scraped(client)["strop_journal_spooling"] == 1


def test_a_store_that_fails_is_told(tmp_path: Path) -> None:
    (tmp_path / "images").write_text("a file where a folder should be")
    with running_service(tmp_path, WatchedSam()) as service:
        client = create_app(settings_for(tmp_path), service).test_client()
        before = scraped(client)
        shutil.rmtree(tmp_path / "embeddings")
        (tmp_path / "embeddings").write_text("here too")
        assert client.post("/predict", json=click_on(IMAGE, keypoint(50, 50))).status_code == 200
        end = time.monotonic() + 20
        while scraped(client)['strop_store_degraded{store="album"}'] == 0:
            assert time.monotonic() < end
            time.sleep(0.02)
        found = scraped(client)
    for store in ("album", "embeddings"):
        sample = f'strop_store_degraded{{store="{store}"}}'
        assert (before[sample], found[sample]) == (0, 1)


def test_what_serves_is_told(client: FlaskClient, app: Flask) -> None:
    sam = app.extensions["strop"].served.sam
    found = scraped(client)
    model = f'strop_model_info{{decoder="{sam.decoder_id}",model="tiny"}}'
    assert found[model] == 1
    assert any(name.startswith("strop_build_info{python=") for name in found)
    app.extensions["strop"].metrics.serves("tiny", "another")
    found = scraped(client)
    assert found[model] == 0
    assert found['strop_model_info{decoder="another",model="tiny"}'] == 1


def test_the_password_guards_the_metrics_and_refusals_are_counted(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, server__password="geheim")
    client = create_app(settings, Failing(BusyError("many"))).test_client()
    assert client.get("/metrics").status_code == 401
    with running_service(tmp_path, WatchedSam()) as service:
        client = create_app(settings, service).test_client()
        client.get("/metrics")
        token = base64.b64encode(b"strop:geheim").decode()
        reply = client.get("/metrics", headers={"Authorization": f"Basic {token}"})
        found = numbers(reply.get_data(as_text=True))
        assert found['strop_http_requests_total{method="GET",route="/metrics",status="401"}'] == 1


def test_metrics_can_be_switched_off(tmp_path: Path) -> None:
    with running_service(tmp_path, WatchedSam()) as service:
        app = create_app(settings_for(tmp_path, metrics__is_on=False), service)
        assert app.test_client().get("/metrics").status_code == 404


COUNT = """
import sys, os
from backend.metrics import Metrics
metrics = Metrics()
metrics.clicks.labels("answered").inc(int(sys.argv[1]))
metrics.prefetch_queue.set(int(sys.argv[1]))
metrics.degraded.labels("album").set(int(sys.argv[1]) == 5)
print(os.getpid(), flush=True)
sys.stdin.read()
"""


def counting(n: int, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", COUNT, str(n)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, FOLDER_VARIABLE: str(folder)},
    )


ASK = """
import os, sys
from backend.metrics import Metrics, forget_process
for pid in sys.argv[1:]:
    forget_process(int(pid))
sys.stdout.write(Metrics().exposition().decode())
"""


def asked(folder: Path, *gone: int) -> dict[str, float]:
    environ = {**os.environ, FOLDER_VARIABLE: str(folder)}
    command = [sys.executable, "-c", ASK, *map(str, gone)]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=True)
    return numbers(done.stdout)


def test_several_processes_add_up_and_the_ended_keep_their_counts(tmp_path: Path) -> None:
    processes = [counting(n, tmp_path) for n in (2, 5)]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline()
    found = asked(tmp_path)
    assert found['strop_clicks_total{outcome="answered"}'] == 7
    assert found["strop_prefetch_queue_length"] == 7
    assert found['strop_store_degraded{store="album"}'] == 1, "of either process"
    processes[1].communicate()
    found = asked(tmp_path, processes[1].pid)
    assert found['strop_clicks_total{outcome="answered"}'] == 7
    assert found["strop_prefetch_queue_length"] == 2, "its queue ended with it"
    assert found['strop_store_degraded{store="album"}'] == 0
    processes[0].communicate()


def until(is_so: Callable[[], bool], timeout_s: float = 120) -> None:
    end = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_served_count_outlives_its_worker(tmp_path: Path, checkpoint: Path) -> None:  # noqa: F811
    server = Server(tmp_path, checkpoint)

    def served() -> dict[str, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=60) as reply:
            return numbers(reply.read().decode())

    try:
        server.wait_until_up()
        server.ask("/predict", click_on(IMAGE, keypoint(50, 50)))
        answered = 'strop_clicks_total{outcome="answered"}'
        assert served()[answered] == 1
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
        if not children.exists():
            pytest.skip("this system does not tell a process's children")
        (worker,) = map(int, children.read_text().split())
        os.kill(worker, signal.SIGKILL)
        until(lambda: children.read_text().split() not in ([], [str(worker)]))
        server.wait_until_up()
        server.ask("/predict", click_on(IMAGE, keypoint(40, 40), task=8))
        assert served()[answered] == 2
    finally:
        server.kill()


def test_two_sets_of_one_process_do_not_mix() -> None:
    first, second = Metrics(), Metrics()
    first.clicks.labels("answered").inc()
    assert (
        numbers(second.exposition().decode()).get('strop_clicks_total{outcome="answered"}') is None
    )


GUIDE = Path(__file__).resolve().parents[3] / "docs" / "guide"
NAME = r"strop_[a-z_]+"


def families(text: str) -> set[str]:
    """Names that a query may ask for: of samples, as they are written."""
    names = set()
    for family in text_string_to_metric_families(text):
        if family.type == "histogram":
            names |= {f"{family.name}{ending}" for ending in ("_bucket", "_sum", "_count")}
        else:
            names.add(f"{family.name}_total" if family.type == "counter" else family.name)
    return names


def test_dashboard_alerts_and_guide_name_what_there_is(client: FlaskClient) -> None:
    there = families(client.get("/metrics").get_data(as_text=True))
    dashboard = json.loads((GUIDE / "operations-dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [v["query"]["query"] for v in dashboard["templating"]["list"][1:]]
    shown = {name for query in queries for name in re.findall(NAME, query)}
    assert len(shown) > 20 and shown <= there, shown - there
    guide = (GUIDE / "operations.md").read_text()
    alerts = yaml.safe_load(guide[guide.index("groups:") :].partition("```")[0])
    asked = [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]
    named = {name for query in asked for name in re.findall(NAME, query)}
    assert named <= there, named - there
    told = set(re.findall(rf"`({NAME})`", guide.partition("###")[0]))
    counted = {re.sub("_(bucket|sum|count)$", "", name) for name in there}
    assert told == counted, told ^ counted


def test_the_dashboard_asks_for_labels_that_there_are(client: FlaskClient) -> None:
    client.post("/predict", json=click_on(IMAGE, keypoint(50, 50)))
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(client.get("/metrics").get_data(as_text=True)):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    dashboard = json.loads((GUIDE / "operations-dashboard.json").read_text())
    n_checked = 0
    for target in (target for panel in dashboard["panels"] for target in panel["targets"]):
        (by,) = re.findall(r"by \(([^)]*)\)", target["expr"]) or [""]
        name = re.findall(NAME, target["expr"])[0]
        wanted = {label.strip() for label in by.split(",") if label.strip()}
        wanted |= set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        if name in labels:
            assert wanted <= labels[name], target
            n_checked += 1
    assert n_checked > 15
