"""Charts as SVG: what is on the axes, in what colours, and what a screen reader hears."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from backend.insights.charts import bars, line

NAME = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    return ["".join(node.itertext()).strip() for node in ET.fromstring(svg).iter(f"{NAME}text")]


def test_counts_have_whole_numbers_on_their_axis() -> None:
    chart = bars("Objects per day", {"01 Nov": 1, "02 Nov": 2}, ("day", "objects"), "3 in all.")
    ticks = set(texts(chart.svg)) - {"day", "objects", "01 Nov", "02 Nov"}
    assert ticks and all(tick.isdigit() for tick in ticks), ticks


def test_long_rows_are_labelled_sparsely_and_told_in_full() -> None:
    days = {f"{n:02} Nov": n for n in range(1, 31)}
    chart = bars("Objects per day", days, ("day", "objects"), "Many.")
    assert sum(text.endswith("Nov") for text in texts(chart.svg)) <= 8
    assert len(chart.rows) == 30 and chart.rows[6] == ("07 Nov", "7")


def test_colours_follow_the_page_and_the_picture_has_a_name() -> None:
    chart = line("A & B", {"1": 0.5, "2": 1.25}, ("x", "y"), "From 0.5 to 1.25.")
    root = ET.fromstring(chart.svg)
    assert root.get("role") == "img" and root.get("aria-label") == "A & B. From 0.5 to 1.25."
    assert "var(--accent)" in chart.svg and not re.search(r"#0[123]0[123]0[123]", chart.svg)
    assert root.get("width") is None and chart.rows == [("1", "0.50"), ("2", "1.25")]
