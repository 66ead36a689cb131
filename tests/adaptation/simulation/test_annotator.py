from __future__ import annotations

import numpy as np
import pytest

from adaptation.simulation.annotator import Annotator, Rules, click_beside
from tests.training.fakes import disc

TRUTH = disc(20, 30, 10)
NOTHING = np.zeros_like(TRUTH)


def test_the_first_click_is_the_middle_and_the_next_the_middle_of_the_error() -> None:
    annotator = Annotator(TRUTH, Rules(max_clicks=3), "a")
    annotator.begin()
    assert [(c.x, c.y, c.is_positive) for c in annotator.clicks] == [(20, 30, True)]
    assert annotator.reply(TRUTH | disc(50, 50, 6))
    assert (annotator.clicks[1].x, annotator.clicks[1].y) == (50, 50)
    assert not annotator.clicks[1].is_positive


def test_the_annotator_stops_at_the_last_click() -> None:
    annotator = Annotator(TRUTH, Rules(max_clicks=2), "a")
    annotator.begin()
    assert annotator.reply(NOTHING)
    assert not annotator.reply(NOTHING)
    assert len(annotator.clicks) == 2


def test_a_perfect_mask_leaves_nothing_to_click() -> None:
    annotator = Annotator(TRUTH, Rules(), "a")
    annotator.begin()
    assert not annotator.reply(TRUTH)
    assert len(annotator.clicks) == 1


def test_single_prompts_are_asked_once() -> None:
    for prompts, n_clicks, has_box in (
        ("point", 1, False),
        ("point+negative", 2, False),
        ("box", 0, True),
    ):
        annotator = Annotator(TRUTH, Rules(prompts=prompts), "a")
        annotator.begin()
        assert len(annotator.clicks) == n_clicks
        assert (annotator.box is not None) == has_box
        assert not annotator.reply(NOTHING)


def test_the_box_is_tight() -> None:
    annotator = Annotator(TRUTH, Rules(prompts="box"), "a")
    annotator.begin()
    box = annotator.box
    assert box is not None
    assert (box.x0, box.y0, box.x1, box.y1) == (10, 20, 31, 41)


def test_the_negative_point_lies_beside_the_object() -> None:
    click = click_beside(TRUTH)
    assert click is not None and not click.is_positive
    assert not TRUTH[int(click.y), int(click.x)]
    assert abs(click.x - 20) <= 22 and abs(click.y - 30) <= 22


def test_an_object_that_fills_the_image_has_no_negative_point() -> None:
    assert click_beside(np.ones((8, 8), np.bool_)) is None
    annotator = Annotator(np.ones((8, 8), np.bool_), Rules(prompts="point+negative"), "a")
    annotator.begin()
    assert len(annotator.clicks) == 1


def noisy_clicks(name: str, seed: int) -> list[tuple[float, float]]:
    annotator = Annotator(TRUTH, Rules(clicker="noisy", seed=seed), name)
    annotator.begin()
    annotator.reply(NOTHING)
    return [(c.x, c.y) for c in annotator.clicks]


def test_noisy_clicks_belong_to_the_object_and_the_seed() -> None:
    assert noisy_clicks("a", 0) == noisy_clicks("a", 0)
    assert noisy_clicks("a", 0) != noisy_clicks("b", 0)
    assert noisy_clicks("a", 0) != noisy_clicks("a", 1)
    assert all(TRUTH[int(y), int(x)] for x, y in noisy_clicks("a", 0))


@pytest.mark.parametrize(("prompts", "rounds"), [("clicks", 7), ("point", 1), ("box", 1)])
def test_rounds(prompts: str, rounds: int) -> None:
    assert Rules(prompts=prompts, max_clicks=7).n_rounds == rounds
