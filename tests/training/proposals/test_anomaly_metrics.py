from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import auc, precision_recall_curve, roc_curve

from adaptation.masks import Mask
from training.proposals.anomaly_metrics import aupro, max_f1, max_f1_region, measure


def squares(*places: tuple[int, int], side: int = 10, size: int = 50) -> Mask:
    mask = np.zeros((size, size), dtype=np.bool_)
    for row, column in places:
        mask[row : row + side, column : column + side] = True
    return mask


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n_levels", [3, 50, 100_000])
def test_max_f1_agrees_with_scikit_learn(seed: int, n_levels: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.random(3000) < 0.1
    scores = (rng.normal(truth, 1.0) * n_levels / 8).round().astype(np.float32)
    precision, recall, _ = precision_recall_curve(truth, scores)
    with np.errstate(invalid="ignore"):
        expected = np.nanmax(2 * precision * recall / (precision + recall))
    assert max_f1(scores[truth], scores[~truth]) == pytest.approx(expected, abs=1e-9)


def test_max_f1_of_a_perfect_and_of_a_flat_map() -> None:
    truth = squares((5, 5))
    assert max_f1(truth[truth].astype(np.float32), truth[~truth].astype(np.float32)) == 1.0
    flat = np.zeros((50, 50), np.float32)
    share = truth.mean()
    assert max_f1(flat[truth], flat[~truth]) == pytest.approx(2 * share / (share + 1))
    assert max_f1(flat[:0], flat) == 0.0


def test_a_region_is_hit_where_the_overlap_exceeds_0_6() -> None:
    truth = squares((10, 10))
    good, poor = squares((10, 11)), squares((10, 14))  # IoU 90/110 and 60/140
    assert max_f1_region([good.astype(np.float32)], [truth]) == 1.0
    assert max_f1_region([poor.astype(np.float32)], [truth]) == 0.0


def test_two_halves_of_a_region_are_no_two_hits() -> None:
    truth = squares((10, 10), side=20)
    split = truth.copy()
    split[19:21] = False
    assert max_f1_region([split.astype(np.float32)], [truth]) == 0.0
    assert max_f1_region([truth.astype(np.float32)], [truth]) == 1.0


def test_regions_of_all_images_share_one_threshold() -> None:
    truth = squares((10, 10))
    sure, unsure = truth.astype(np.float32), 0.5 * truth.astype(np.float32)
    false = 0.7 * squares((30, 30)).astype(np.float32)
    # Above 0.7 one hit of three; above 0.5 one of two predictions; above 0 both hits, one false.
    found = max_f1_region([sure, unsure, false], [truth, truth, np.zeros_like(truth)])
    assert found == pytest.approx(2 * 2 / (3 + 2))


def test_aupro_of_one_region_is_the_area_under_its_roc_curve() -> None:
    rng = np.random.default_rng(0)
    truth = squares((10, 10), side=16)
    scores = (rng.normal(0, 1, truth.shape) + 1.2 * truth).astype(np.float32)
    fpr, tpr, _ = roc_curve(truth.ravel(), scores.ravel(), drop_intermediate=False)
    inside = fpr < 0.3
    x, y = np.append(fpr[inside], 0.3), np.append(tpr[inside], np.interp(0.3, fpr, tpr))
    assert aupro([scores], [truth], 2000) == pytest.approx(auc(x, y) / 0.3, abs=0.01)


def test_aupro_counts_a_small_region_as_much_as_a_large_one() -> None:
    large, small = squares((2, 2), side=20), squares((40, 40), side=4)
    truth = large | small
    found = aupro([large.astype(np.float32)], [truth])
    # The large one is found at once; the small one only with everything else: 0.3 / 2 of the way.
    assert found == pytest.approx(0.5 + 0.5 * 0.15, abs=0.01)


def test_good_images_and_percent() -> None:
    truth = squares((10, 10))
    found = measure(
        [truth.astype(np.float32), np.zeros((50, 50), np.float32)], [truth, np.zeros_like(truth)]
    )
    assert found.max_f1_pixel == found.max_f1_region == 100.0
    assert found.aupro == pytest.approx(100.0)
