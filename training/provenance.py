"""Where a result comes from (see `adaptation.provenance`), and how it is put into a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adaptation.provenance import command_line, commit, provenance

__all__ = ["command_line", "commit", "provenance", "rounded"]


def rounded(value: Any) -> Any:
    """A result with its floats cut to six places, so that equal figures make equal files."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, Mapping):
        return {str(key): rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return value
