"""Estimates from one measured model are those of the benchmark's table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adaptation.models.costs import RELATIVE, Cost, estimated, suiting
from adaptation.models.entries import CATALOG

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results" / "models.json"
SAME_SHAPE = {"compact-1": "compact", "medsam": "sam-vit-b"}


def test_ratios_are_those_that_were_measured() -> None:
    rows = {row["model"]: row for row in json.loads(RESULTS.read_text())["rows"]}
    assert RELATIVE.keys() <= CATALOG.keys()
    for name, cost in RELATIVE.items():
        row = rows[SAME_SHAPE.get(name, name)]
        if row["model"] == "compact":
            assert cost == Cost(encode=1.0, decode=1.0)
        else:
            assert cost.encode == pytest.approx(row["encode_ratio"], abs=0.05)
            assert cost.decode == pytest.approx(row["decode_ratio"], abs=0.05)


def test_one_model_tells_about_the_others() -> None:
    measured = Cost(encode=0.1, decode=0.02)
    costs = estimated(measured, "compact")
    assert costs["compact"] == measured
    assert costs["edgetam"].encode == pytest.approx(0.1 * RELATIVE["edgetam"].encode)
    back = estimated(costs["edgetam"], "edgetam")
    assert back["compact"].decode == pytest.approx(0.02)
    assert estimated(measured, "./mine") == {}


def test_what_is_too_slow_or_too_large_does_not_suit() -> None:
    costs = {"compact": Cost(encode=0.1, decode=0.1), "vit_h": Cost(encode=3.0, decode=0.4)}
    most = Cost(encode=5.0, decode=0.5)
    assert list(suiting(costs, most, None)) == ["compact", "vit_h"]
    assert list(suiting(costs, most, 8 * 10**9)) == ["compact"]  # 2.6 GB are more than a quarter
    assert list(suiting(costs, Cost(encode=5.0, decode=0.3), None)) == ["compact"]
    assert list(suiting(costs, Cost(encode=1.0, decode=0.5), None)) == ["compact"]
