"""What the results of training are judged by; see `adaptation.metrics`."""

from __future__ import annotations

from adaptation.metrics import (
    Curves,
    Kind,
    Metric,
    Values,
    carried_forward,
    clicks_needed,
    failures,
    first_success,
    strict_failures,
    table_metrics,
)

__all__ = [
    "Curves",
    "Kind",
    "Metric",
    "Values",
    "carried_forward",
    "clicks_needed",
    "failures",
    "first_success",
    "strict_failures",
    "table_metrics",
]
