"""What machines are told of the service: counters, gauges and histograms for Prometheus.

One object of a process, handed to those who count.  The server's processes keep their numbers in
files of one folder (prometheus_client's multi-process mode), which :func:`share_between_processes`
names; whoever is asked for them adds them up.  A worker that is started anew goes on with what the
one before had counted.  Names and labels are an interface: dashboards and alerts use them
(docs/guide/operations.md).  Labels come from the code, never from a request.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from threading import Lock

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
    values,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Names the folder of all processes' files; prometheus_client reads it too."""

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2, 5, 10, 30)
"""Upper bounds of the histograms' buckets."""


class Metrics:
    """All metrics that are counted where something happens.  Safe to share between threads.

    Make one of a process, after :func:`share_between_processes` where that is called.
    """

    def __init__(self) -> None:
        # The files of several processes keep no times of creation: one process does as they do.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        values.ValueClass = values.get_value_class()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        self._lock = Lock()
        self._model: tuple[str, str] | None = None

        def counter(name: str, text: str, labels: Iterable[str] = ()) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def gauge(name: str, text: str, labels: Iterable[str] = ()) -> Gauge:
            return Gauge(name, text, labels, registry=registry, multiprocess_mode="livesum")

        def highest(name: str, text: str, labels: Iterable[str] = ()) -> Gauge:
            return Gauge(name, text, labels, registry=registry, multiprocess_mode="livemax")

        def histogram(name: str, text: str, labels: Iterable[str] = ()) -> Histogram:
            return Histogram(name, text, labels, registry=registry, buckets=SECONDS)

        self.requests = counter(
            "strop_http_requests", "HTTP requests answered.", ("method", "route", "status")
        )
        self.request_seconds = histogram(
            "strop_http_request_duration_seconds", "Time to the answer.", ("method", "route")
        )
        self.clicks = counter("strop_clicks", "Clicks by what became of them.", ("outcome",))
        self.clicks_refused = counter("strop_clicks_refused", "Clicks refused: too many waited.")
        self.clicks_waiting = gauge("strop_clicks_in_progress", "Clicks computed or waiting.")
        self.stage_seconds = histogram(
            "strop_click_stage_duration_seconds", "Time of a click by its stage.", ("stage",)
        )
        self.submissions = counter(
            "strop_submissions", "Versions of annotations taken into the journal.", ("event",)
        )
        self.embeddings = counter(
            "strop_embedding_requests",
            "What became of requests for embeddings; hits by memory_hit and store_hit.",
            ("result",),
        )
        self.encode_seconds = histogram(
            "strop_encode_duration_seconds", "Time in the image encoder."
        )
        self.evictions = counter(
            "strop_embedding_evictions", "Embeddings that left the memory to make room."
        )
        self.embedding_bytes = gauge("strop_embedding_memory_bytes", "Embeddings in memory.")
        self.prefetches = counter("strop_prefetch_tasks", "Images to encode ahead.", ("result",))
        self.prefetch_queue = gauge("strop_prefetch_queue_length", "Images waiting to be encoded.")
        self.learned = counter(
            "strop_learned_objects", "Finished objects that sessions were trained on.", ("result",)
        )
        self.turned_back = counter(
            "strop_sessions_turned_back", "Sessions that fell back to an earlier adapter."
        )
        self.unlearned = counter("strop_unlearned_objects", "Objects that sessions un-learned.")
        self.idle_steps = counter("strop_idle_training_steps", "Steps trained in idle time.")
        self.learning_queue = gauge("strop_learning_queue_length", "Submissions to be trained on.")
        self.degraded = highest(
            "strop_store_degraded", "1 while a store fails and is done without.", ("store",)
        )
        self._build = highest("strop_build_info", "Versions.", ("version", "python", "torch"))
        self._served = highest("strop_model_info", "1 for what serves.", ("model", "decoder"))
        self._build.labels(
            metadata.version("strop"), platform.python_version(), metadata.version("torch")
        ).set(1)
        for store in ("album", "embeddings"):
            self.degraded.labels(store).set(0)

    def serves(self, model: str, decoder: str) -> None:
        """Another base decoder answers from now on."""
        with self._lock:
            if self._model is not None:
                self._served.labels(*self._model).set(0)
            self._served.labels(model, decoder).set(1)
            self._model = model, decoder

    @contextmanager
    def click_in_progress(self) -> Iterator[None]:
        """Surrounds a click that was admitted."""
        self.clicks_waiting.inc()
        try:
            yield
        finally:
            self.clicks_waiting.dec()

    def click_took(self, stages_ms: Mapping[str, float]) -> None:
        """A click's way is over; milliseconds by stage."""
        for stage, milliseconds in stages_ms.items():
            self.stage_seconds.labels(stage).observe(milliseconds / 1000)

    def exposition(self, *more: Collector) -> bytes:
        """All processes' numbers as Prometheus reads them, and what is measured just now.

        Args:
            more: Ask for what no process counts.
        """
        registry = self.registry
        if FOLDER_VARIABLE in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        found = generate_latest(registry)
        for collector in more:
            passing = CollectorRegistry()
            passing.register(collector)
            found += generate_latest(passing)
        return found


def share_between_processes(folder: Path, *, begins: bool = True) -> None:
    """Have this process and its children keep their numbers in one folder.

    Call it before any of them makes its `Metrics`.  A folder that the environment names already
    is used instead; whoever named it also empties it.

    Args:
        folder: Made where it is missing.
        begins: Whether all numbers begin anew with this process; False joins those that run.
    """
    if FOLDER_VARIABLE in os.environ:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.db") if begins else ():
        path.unlink(missing_ok=True)
    os.environ[FOLDER_VARIABLE] = str(folder.absolute())


def forget_process(pid: int) -> None:
    """A process has ended: its gauges count no more, its counters stay."""
    if FOLDER_VARIABLE in os.environ:
        mark_process_dead(pid)  # type: ignore[no-untyped-call]
