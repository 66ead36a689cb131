from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adaptation.simulation.metrics import Metric, table_metrics
from adaptation.storage.datasets import ObjectRef
from adaptation.storage.provenance import command_line, provenance
from training.evaluation.along import THINK_S, along_stream, progress, quantities
from training.evaluation.harness import Mode, ObjectResult, Slot
from training.evaluation.plots import _smooth, plot_along, plot_table
from training.evaluation.report import Report, make_report, render, write_json
from training.evaluation.summary import ResultTable, pace_of, rows_of

N_OBJECTS, N_CLICKS = 20, 6
FR = Metric("fr", N_CLICKS, 0.9)
NOC = Metric("noc", N_CLICKS, 0.9)


def ref(i: int) -> ObjectRef:
    return ObjectRef("discs", f"im{i:02}", 1, f"g{i // 4}", 500)


def result(i: int, mode: Mode, order: int, position: int, ious: list[float]) -> ObjectResult:
    n = len(ious)
    return ObjectResult(
        ref=ref(i),
        slot=Slot(mode=mode, order=order, session=0, position=position),
        clicks=((1, 2, True),) * n,
        ious=tuple(ious),
        dices=tuple(2 * v / (1 + v) for v in ious),
        contradicted=(1,) + (0,) * (n - 1),
        disobeyed=(True,) + (False,) * (n - 1),
        click_s=(0.02,) * n,
        is_accepted=ious[-1] >= 0.9,
        n_views=2,
        n_encoded=1,
        encode_s=0.1,
        learn_click_s=0.0,
        learn_mask_s=0.5 if mode == "adapted" else 0.0,
    )


FAILING = [0.2, 0.4, 0.5, 0.5, 0.5, 0.5]
SLOW = [0.2, 0.5, 0.7, 0.92]
FAST = [0.6, 0.95]


def results(modes: tuple[Mode, ...] = ("frozen", "adapted")) -> list[ObjectResult]:
    """Frozen, every second object fails; adapted, those of the stream's second half do not."""
    found = []
    if "frozen" in modes:
        found += [result(i, "frozen", 0, i, FAILING if i % 2 else SLOW) for i in range(N_OBJECTS)]
    if "adapted" in modes:
        for order in range(2):
            stream = np.random.default_rng(order).permutation(N_OBJECTS)
            for position, i in enumerate(stream):
                late = position >= N_OBJECTS // 2
                ious = FAST if late else (FAILING if i % 2 else SLOW)
                found.append(result(int(i), "adapted", order, position, ious))
    return found


def identity(has_groups: bool = True) -> dict[str, object]:
    return {
        "data": {
            "name": "discs", "n_objects": N_OBJECTS, "n_images": N_OBJECTS, "n_groups": 5,
            "has_groups": has_groups, "digest": "0123456789abcdef",
        },
        "model": {"model_id": "tiny", "encoder_id": "e", "decoder_id": "d", "device": "cpu"},
        "rules": {
            "prompts": "clicks", "clicker": "central", "max_clicks": N_CLICKS, "target": 0.9,
            "seed": 0,
        },
        "zoom": {"is_on": True},
        "edges": {"is_on": True},
        "correct": False,
        "adapt": "both",
        "learner": {},
        "streams": {"orders": 2, "sessions": 1, "keep_groups": True, "seed": 0},
    }  # fmt: skip


def report_of(table: ResultTable, has_groups: bool = True) -> Report:
    metrics = table_metrics(N_CLICKS, 0.9)
    return make_report(table, metrics, identity(has_groups), provenance("strop-train evaluate"))


def test_means_changes_and_tests_are_those_of_the_objects() -> None:
    table = ResultTable(results(), N_CLICKS)
    row = rows_of(table, [FR], seed=0, groups=True)[0]
    assert row.frozen is not None and row.adapted is not None and row.change is not None
    assert row.frozen.mean == 50.0
    adapted = table.values("adapted", FR)
    assert adapted.shape == (2, N_OBJECTS)
    assert row.adapted.per_order == pytest.approx(tuple(adapted.mean(axis=1)))
    assert row.change.mean == pytest.approx(row.adapted.mean - 50.0)
    assert row.change.relative == pytest.approx(row.change.mean / 50.0)
    assert row.change.signs.n_higher == 0
    assert row.change.signs.n_lower == (adapted.mean(axis=0) < table.values("frozen", FR)[0]).sum()
    assert [t.n_lower for t in row.change.per_order] == [
        int((50 * 2 * (np.arange(N_OBJECTS) % 2) > order).sum()) for order in adapted
    ]
    assert row.change.p_value == row.change.signs.p_value
    assert row.change.group_interval is not None


def test_clicks_are_tested_by_the_paired_bootstrap() -> None:
    row = rows_of(ResultTable(results(), N_CLICKS), [NOC], seed=0, groups=False)[0]
    assert row.frozen is not None and row.change is not None
    assert row.frozen.mean == 5.0  # half of 4 and half of 6
    assert row.change.interval.high < 0
    assert row.change.p_value < 0.01
    assert row.change.group_interval is None


def test_the_learning_curve_compares_both_modes_in_the_streams_order() -> None:
    table = ResultTable(results(), N_CLICKS)
    frozen, adapted = (table.stream_curves(m, FR)[1] for m in ("frozen", "adapted"))
    half = N_OBJECTS // 2
    np.testing.assert_allclose(frozen[:half], adapted[:half])
    assert adapted[-1] < frozen[-1]
    assert frozen[-1] == pytest.approx(50.0)


def test_pace_counts_clicks_and_contradictions() -> None:
    pace = pace_of(results(("frozen",)))
    assert pace.n_clicks == 10 * 4 + 10 * 6
    assert pace.click_ms == pytest.approx((20, 20, 20))
    assert pace.encode_ms == pytest.approx(100)
    assert pace.disobeyed == pytest.approx(100 * 20 / 100)
    assert pace.contradicted == pytest.approx(20.0)


def test_the_text_says_what_was_done_and_what_came_of_it() -> None:
    text = render(report_of(ResultTable(results(), N_CLICKS)))
    assert "discs: 20 objects in 20 images in 5 groups (seed 0, digest 0123456789abcdef)" in text
    assert "central clicks, at most 6, stops at IoU >= 0.90" in text
    assert "else, after the last click, the ground truth" in text
    line = next(line for line in text.splitlines() if line.startswith("FR6@90 "))
    assert line.split()[1] == "50.00"
    assert "-50 %" in line or "%" in line
    assert "adapted: 0.020 s per click" in text
    assert "500 ms per finished object" in text
    assert "by group" in text
    assert "by group" not in render(report_of(ResultTable(results(), N_CLICKS), has_groups=False))


def test_one_mode_alone_makes_a_table_without_comparison() -> None:
    report = report_of(ResultTable(results(("frozen",)), N_CLICKS))
    text = render(report)
    assert "adapted" not in text and "change" not in text
    assert all(row.change is None for row in report.rows)


def test_the_json_holds_everything_and_no_path(tmp_path: Path) -> None:
    write_json(report_of(ResultTable(results(), N_CLICKS)), tmp_path / "result.json")
    content = json.loads((tmp_path / "result.json").read_text())
    assert content["metrics"]["FR6@90"]["frozen"]["mean"] == 50.0
    assert content["metrics"]["FR6@90"]["change"]["signs"]["n_higher"] == 0
    assert len(content["curves"]["adapted"]) == N_CLICKS
    assert len(content["streams"]["FR6@90"]["adapted"]) == N_OBJECTS
    assert content["streams"]["FR6@90"]["frozen"][-1] == 50.0
    assert content["command"].startswith("strop-train evaluate")
    assert {"commit", "versions", "created_at", "data", "model", "rules"} <= content.keys()
    assert str(tmp_path) not in json.dumps(content)


def test_plots_are_pictures(tmp_path: Path) -> None:
    plot_table(ResultTable(results(), N_CLICKS), [NOC, FR], "discs", 0.9, tmp_path)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["iou_over_clicks.png", "stream_FR6_at_90.png"]
    for name in names:
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 300
            assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 10


def test_a_command_line_tells_no_folder() -> None:
    line = command_line(
        "strop-train evaluate",
        {"data": Path("/home/somebody/mtd"), "no-zoom": True, "seed": 3, "part": None},
    )
    assert line == "strop-train evaluate --data mtd --no-zoom --seed 3"


def test_no_results_are_refused() -> None:
    with pytest.raises(ValueError, match="no results"):
        ResultTable([], N_CLICKS)


# Along the stream --------------------------------------------------------------------------------


def test_values_stand_in_the_order_of_each_stream() -> None:
    table = ResultTable(results(), N_CLICKS)
    adapted = quantities(table, 0.9)["clicks to 0.90"]["adapted"]
    assert adapted.shape == (2, N_OBJECTS)
    assert (adapted[:, N_OBJECTS // 2 :] == 2).all(), "the stream's second half is fast"
    assert set(adapted[:, : N_OBJECTS // 2].ravel()) == {4.0, 6.0}


def test_frozen_objects_follow_the_adapted_stream() -> None:
    table = ResultTable(results(), N_CLICKS)
    frozen = quantities(table, 0.9)["clicks to 0.90"]["frozen"]
    for order in range(2):
        stream = np.random.default_rng(order).permutation(N_OBJECTS)
        assert frozen[order].tolist() == [6.0 if i % 2 else 4.0 for i in stream]


def test_seconds_are_measured_clicks_and_thinking() -> None:
    table = ResultTable(results(), N_CLICKS)
    seconds = quantities(table, 0.9)["seconds"]["adapted"]
    assert seconds[0, -1] == pytest.approx(2 * (0.02 + THINK_S))


def test_late_objects_are_compared_with_early_ones_and_with_the_frozen_decoder() -> None:
    frozen, adapted = np.full((1, 20), 10.0), np.full((2, 20), 10.0)
    adapted[:, 10:] = [[6.0], [7.0]]
    found = progress({"frozen": frozen, "adapted": adapted})
    assert found is not None
    assert found.early == {"frozen": 10.0, "adapted": 10.0}
    assert found.late["adapted"] == 6.5 and found.of_frozen == pytest.approx(-35.0)


def test_streams_of_ten_objects_have_no_late_ones() -> None:
    assert progress({"frozen": np.ones((1, 10))}) is None


def test_the_band_is_the_range_of_the_orders() -> None:
    found = along_stream(np.array([[1.0, 4.0], [3.0, 4.0]]))
    assert (found.mean, found.low, found.high) == ((2.0, 4.0), (1.0, 4.0), (3.0, 4.0))


def test_the_curve_along_the_stream_is_drawn(tmp_path: Path) -> None:
    table = ResultTable(results(), N_CLICKS)
    report = make_report(table, [FR, NOC], identity(), provenance("x"))
    plot_along(report.along, "discs", tmp_path / "along.png")
    with Image.open(tmp_path / "along.png") as image:
        assert image.size[0] > image.size[1]
    assert "objects 1-5 -> 11-20" in render(report)


def test_short_streams_are_smoothed_over_what_there_is() -> None:
    assert _smooth([1.0, 2.0, 6.0]).tolist() == [3.0, 3.0, 3.0]
    assert _smooth([4.0]).tolist() == [4.0]
    assert _smooth([0.0, 0.0, 0.0, 5.0, 0.0, 0.0]).tolist() == [0, 1.25, 1, 1, 1.25, 5 / 3]
