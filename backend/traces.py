"""Traces of clicks for OpenTelemetry: a span for a click, and one inside it for each stage.

Off unless an address is set, and then the extra ``strop[traces]`` has to be installed.  Spans name
requests and tasks by their numbers; they hold no image, no mask and no label.  A collector that
does not answer costs clicks nothing: a thread of their own sends spans, and drops them.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol

from adaptation.errors import SettingsError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

Attributes = Mapping[str, str | int | float | bool]


class Traces(Protocol):
    """Something that is told what happens when.  Thread-safe."""

    def span(self, name: str) -> AbstractContextManager[object]:
        """Surrounds what is to be timed, inside of what this thread is in already."""

    def tell(self, attributes: Attributes) -> None:
        """Say something of what this thread is in."""

    def stop(self, timeout_s: float) -> None:
        """Send what is left."""


class NoTraces:
    """Nobody asks."""

    def span(self, name: str) -> AbstractContextManager[object]:
        """Nothing."""
        return nullcontext()

    def tell(self, attributes: Attributes) -> None:
        """Nothing."""

    def stop(self, timeout_s: float) -> None:
        """Nothing."""


class OpenTelemetryTraces:
    """Spans for an OpenTelemetry collector.

    Args:
        exporter: Where they go.
        share: Of all clicks that are traced, 0 to 1.
    """

    def __init__(self, exporter: SpanExporter, share: float = 1.0) -> None:
        from importlib.metadata import version

        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

        resource = Resource.create({"service.name": "strop", "service.version": version("strop")})
        sampler = ParentBased(TraceIdRatioBased(share))
        self._provider = TracerProvider(resource=resource, sampler=sampler, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("strop")

    def span(self, name: str) -> AbstractContextManager[object]:
        """A span that is current inside; an error that passes through it is noted."""
        return self._tracer.start_as_current_span(name)

    def tell(self, attributes: Attributes) -> None:
        """Attributes of this thread's current span."""
        from opentelemetry.trace import get_current_span

        get_current_span().set_attributes(dict(attributes))

    def stop(self, timeout_s: float) -> None:
        """Send what is left, for so long."""
        self._provider.force_flush(int(1000 * timeout_s))
        self._provider.shutdown()


def traces_to(endpoint: str | None, share: float) -> Traces:
    """Traces sent to an OTLP/HTTP address; none where there is no address.

    Raises:
        SettingsError: The extra is not installed.
    """
    if endpoint is None:
        return NoTraces()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise SettingsError(
            f"traces.endpoint is set, but {error.name} is not installed: install strop[traces], or "
            "leave traces.endpoint empty."
        ) from error
    return OpenTelemetryTraces(OTLPSpanExporter(endpoint=endpoint), share)
