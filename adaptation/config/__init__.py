"""Settings and configs: layers of values that become one checked object, or all mistakes at once.

`load` is used by `strop serve` for its settings and by every command of `strop-train` for its
config, so that one file gets one verdict.  What may stand where is said once, by the types of
dataclasses or pydantic models: ``Annotated[int, Field(ge=1)]``.  No threads; knows no environment
and no command line, these belong to its callers.
"""

from __future__ import annotations

from adaptation.config.layers import Layer, assigned, nested, read_yaml
from adaptation.config.loader import Checked, ConfigError, load
from adaptation.config.ranges import Count, Share, check_ranges, one_of, range_mistakes

__all__ = [
    "Checked",
    "ConfigError",
    "Count",
    "Layer",
    "Share",
    "assigned",
    "check_ranges",
    "load",
    "nested",
    "one_of",
    "range_mistakes",
    "read_yaml",
]
