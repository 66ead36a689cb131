"""Bodies: what is JSON, and how much of it."""

from __future__ import annotations

import time

import pytest

from adaptation.errors import ProtocolError
from backend.server.json_body import MAX_CONTAINERS, MAX_ELEMENTS, parse_body


@pytest.mark.parametrize(
    "body",
    [
        b"[" + b"[]," * 20_000_000 + b"0]",
        b"[" + b"{}," * MAX_CONTAINERS + b"0]",
        b'{"a":' * (MAX_CONTAINERS + 1) + b"0" + b"}" * (MAX_CONTAINERS + 1),
        b"[" + b"0," * (MAX_ELEMENTS + 1) + b"0]",
    ],
    ids=["lists", "objects", "depth", "values"],
)
def test_bodies_that_would_hold_up_every_thread_are_refused_at_once(body: bytes) -> None:
    started = time.process_time()
    with pytest.raises(ProtocolError, match="The request's body holds more than"):
        parse_body(body)
    assert time.process_time() - started < 1.0


def test_the_masks_of_many_annotations_are_read() -> None:
    body = b'{"rle": [' + b"255, " * 2_000_000 + b"0]}"
    assert len(parse_body(body)["rle"]) == 2_000_001  # type: ignore[index]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000, b"1" * 5000, b"\x00"])
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError, match="must be JSON"):
        parse_body(body)
