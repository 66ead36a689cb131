from __future__ import annotations

import numpy as np
import pytest

from adaptation.masks import Mask
from adaptation.proposals.refiner import Region
from training.proposals.similar import _matched, _most_at_precision, _row


def square(column: int) -> Mask:
    mask = np.zeros((20, 100), dtype=np.bool_)
    mask[5:15, column : column + 10] = True
    return mask


def region(column: int, score: float) -> Region:
    return Region(mask=square(column), score=score, predicted_iou=0.9)


def test_an_object_is_matched_once_by_its_best_proposal() -> None:
    found = _matched([region(1, 0.9), region(0, 0.5)], [square(0), square(50)])
    assert [m.iou for m in found] == [0.0, 1.0]


def test_without_objects_or_proposals_nothing_matches() -> None:
    assert _matched([], [square(0)]) == []
    assert [m.iou for m in _matched([region(0, 0.5)], [])] == [0.0]


def test_the_figures_of_a_row() -> None:
    truths = [square(0), square(30), square(60), square(80)]
    proposals = [region(0, 0.9), region(32, 0.8), region(45, 0.7), region(60, 0.3)]
    found = _matched(proposals, truths)
    row = _row(3, len(truths), found, 0.5)
    assert (row.n_proposed, row.finished, row.n_objects) == (3, 3, 4)
    assert row.precision_50 == pytest.approx(200 / 3)
    assert row.recall_50 == 50.0
    assert row.precision_75 == pytest.approx(100 / 3)
    assert row.accepted == pytest.approx(100 / 3)
    assert row.clicks_saved == 0.0  # one kept as it is, one rejected


def test_recall_at_a_precision_takes_the_best_threshold() -> None:
    found = _matched([region(0, 0.9), region(45, 0.8), region(60, 0.3)], [square(0), square(60)])
    assert _most_at_precision(found, 0.8) == 1
    assert _most_at_precision(found, 0.6) == 2
