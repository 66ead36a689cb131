"""Traces of clicks: what the SDK's own exporters are handed, in memory and over HTTP."""

from __future__ import annotations

import gzip
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from adaptation.errors import InputError, SettingsError
from backend.service.service import SegmentationService
from backend.traces import NoTraces, OpenTelemetryTraces, traces_to
from backend.wiring import build_service
from tests.backend.payloads import keypoint
from tests.backend.service_kit import (
    WatchedSam,
    click_on,
    data_uri,
    interactions_of,
    pixels_of,
    settings_for,
)

IMAGE = data_uri(pixels_of())


@contextmanager
def traced_service(
    folder: Path, exporter: InMemorySpanExporter, share: float = 1.0
) -> Iterator[SegmentationService]:
    traces = OpenTelemetryTraces(exporter, share)
    service = build_service(settings_for(folder), WatchedSam(), traces)
    try:
        yield service
    finally:
        service.close()  # which sends what is left


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


def test_a_click_is_a_span_with_one_inside_for_each_stage(tmp_path: Path) -> None:
    exporter = InMemorySpanExporter()
    with traced_service(tmp_path, exporter) as service:
        service.predict(click_on(IMAGE, keypoint(50, 50)))
    spans = by_name(exporter)
    root = spans["predict"]
    assert root.context is not None and root.attributes is not None
    assert {"parse", "image", "turn", "decode", "embedding", "masks", "journal"} <= spans.keys()
    for name, parent in (("decode", "predict"), ("embedding", "decode"), ("render", "predict")):
        inner, outer = spans[name], spans[parent]
        assert inner.parent is not None and outer.context is not None
        assert inner.parent.span_id == outer.context.span_id
        assert inner.start_time is not None and outer.start_time is not None
        assert inner.end_time is not None and outer.end_time is not None
        assert outer.start_time <= inner.start_time <= inner.end_time <= outer.end_time
    (record,) = interactions_of(tmp_path)
    assert root.attributes["strop.request_id"] == record.request_id
    assert root.attributes["strop.task_id"] == "7" and root.attributes["strop.clicks"] == 1
    shown = next(each for each in record.candidates if each.was_shown)
    assert root.attributes["strop.predicted_iou"] == pytest.approx(shown.predicted_iou, abs=1e-3)


def test_an_error_is_noted_in_its_span(tmp_path: Path) -> None:
    exporter = InMemorySpanExporter()
    with traced_service(tmp_path, exporter) as service, pytest.raises(InputError):
        service.predict({"no": "tasks"})
    root = by_name(exporter)["predict"]
    assert not root.status.is_ok and [event.name for event in root.events] == ["exception"]


def test_no_share_is_no_span(tmp_path: Path) -> None:
    exporter = InMemorySpanExporter()
    with traced_service(tmp_path, exporter, share=0) as service:
        service.predict(click_on(IMAGE, keypoint(50, 50)))
    assert exporter.get_finished_spans() == ()


@contextmanager
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """What takes spans over HTTP, as OpenTelemetry's collector does."""
    received: list[ExportTraceServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            received.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Not into the test's output."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/traces", received
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_settings_lead_to_a_collector(tmp_path: Path) -> None:
    with collector() as (address, received):
        service = build_service(settings_for(tmp_path, traces__endpoint=address), WatchedSam())
        service.predict(click_on(IMAGE, keypoint(50, 50)))
        service.close()
    (resource,) = received[0].resource_spans
    names = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
    assert names["service.name"] == "strop"
    spans = [span.name for scope in resource.scope_spans for span in scope.spans]
    assert "predict" in spans and "decode" in spans


def test_off_by_default_and_loaded_only_where_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(traces_to(None, 1.0), NoTraces)
    for name in [name for name in sys.modules if name.startswith("opentelemetry.exporter")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http", None)
    with pytest.raises(SettingsError, match=r"install strop\[traces\]"):
        traces_to("http://127.0.0.1:4318/v1/traces", 1.0)
