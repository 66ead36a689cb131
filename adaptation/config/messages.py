"""Mistakes in plain sentences."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic_core import ErrorDetails

from adaptation.config.layers import Key

_KINDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "string": "text",
    "path": "a path",
    "tuple": "a list",
    "list": "a list",
    "dict": "a mapping",
    "mapping": "a mapping",
    "model": "a mapping",
    "dataclass": "a mapping",
}
"""By the first part of the names of pydantic's errors, such as int_parsing."""

_LONGEST = 80


def sentence(error: ErrorDetails, *, is_secret: bool = False) -> str:
    """What is wrong with a value, to be put behind its name: "must be above 0, got -1"."""
    if error["type"] == "missing":
        return "is required and has no default"
    said = _rule(error["type"], error.get("ctx", {}), error["msg"])
    return (
        said
        if is_secret or isinstance(error["input"], Mapping)
        else f"{said}, got {repr(error['input'])[:_LONGEST]}"
    )


def _rule(kind: str, context: dict[str, Any], message: str) -> str:
    match kind:
        case "greater_than_equal":
            return f"must be {context['ge']:g} or more"
        case "greater_than":
            return f"must be above {context['gt']:g}"
        case "less_than_equal":
            return f"must be at most {context['le']:g}"
        case "less_than":
            return f"must be below {context['lt']:g}"
        case "literal_error":
            return f"must be one of {_listed(context['expected'])}"
        case "string_too_short" | "too_short":
            return "must not be empty"
        case "value_error":
            return message.removeprefix("Value error, ").rstrip(".")
    known = _KINDS.get(kind.split("_")[0])
    return f"must be {known}" if known else message.replace("Input should", "must")


def _listed(expected: str) -> str:
    """Pydantic says: 'a', 'b' or 'c'."""
    return expected.replace(" or ", ", ").replace("'", "")


def suggestion(key: Key, known: Iterable[Key]) -> str:
    """What an unknown key was meant for, to be put behind it; empty where nothing is near.

    A key beside it goes first: ``lerning`` is ``learning`` rather than ``learning.seed``.
    """
    names = list(known)
    n = len(key)
    beside = {
        name[n - 1]: name[:n] for name in names if name[: n - 1] == key[:-1] and len(name) >= n
    }
    close = difflib.get_close_matches(key[-1], list(beside), n=1, cutoff=0.6)
    if close:
        return f"; did you mean {'.'.join(beside[close[0]])}?"
    dotted = [".".join(name) for name in names]
    close = difflib.get_close_matches(".".join(key), dotted, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""
