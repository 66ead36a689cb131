"""`GET /metrics`: what the server's processes counted, in the text form that Prometheus reads.

It stands behind the server's password like every route: a scrape costs a query of the journal, and
the numbers tell how much a team works.  Prometheus knows basic auth.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import cast

from flask import Blueprint, Flask, Response, current_app, g, request
from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from adaptation.errors import StoreError
from adaptation.journal.records import utc_now
from backend.metrics import Metrics
from backend.service.service import SegmentationService

blueprint = Blueprint("metrics", __name__)

UNMATCHED = "unmatched"
"""Label of requests to addresses that do not exist: nobody from outside names a label."""


@blueprint.get("/metrics")
def metrics() -> Response:
    """All numbers."""
    service = cast(SegmentationService, current_app.extensions["strop"])
    found = service.metrics.exposition(JournalCollector(service))
    return Response(found, content_type=CONTENT_TYPE_LATEST)


class JournalCollector(Collector):
    """Asks the journal, which all processes share, how far it is behind.

    Args:
        service: Whose journal.
    """

    def __init__(self, service: SegmentationService) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """Messages that wait, since when, and whether the journal answers."""
        up = GaugeMetricFamily("strop_journal_up", "1 while the journal can be read.")
        try:
            count, oldest = self._service.journal.oldest_delivery()
        except StoreError:
            up.add_metric((), 0)
            yield up
        else:
            up.add_metric((), 1)
            yield up
            lag = 0.0 if oldest is None else (utc_now() - oldest).total_seconds()
            yield GaugeMetricFamily(
                "strop_journal_lag_seconds",
                "Since when the oldest webhook waits to be taken into the journal.",
                max(0.0, lag),
            )
            yield GaugeMetricFamily(
                "strop_journal_waiting_messages", "Webhooks kept and not taken in yet.", count
            )
        yield GaugeMetricFamily(
            "strop_journal_spooling",
            "1 while clicks and webhooks wait on this machine's disk for the journal.",
            float(self._service.is_spooling),
        )


def count_requests(app: Flask, counted: Metrics) -> None:
    """Count every request by route and status, refused ones too."""

    @app.before_request
    def began() -> None:
        g.began_at = time.perf_counter()

    @app.after_request
    def ended(response: Response) -> Response:
        rule = request.url_rule
        route = UNMATCHED if rule is None else rule.rule
        method = request.method if rule is not None else UNMATCHED
        counted.requests.labels(method, route, response.status_code).inc()
        counted.request_seconds.labels(method, route).observe(time.perf_counter() - g.began_at)
        return response
