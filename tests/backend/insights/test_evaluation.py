"""The page's figures are the evaluation's: the same simulated objects through both."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from adaptation.models.catalog import load_model
from adaptation.predictor.click_correction import ClickCorrection, CorrectionSettings
from adaptation.predictor.settings import EdgeSettings, ZoomSettings
from adaptation.simulation.annotator import Rules
from adaptation.storage.datasets import FolderSet
from backend.commands.simulate.run import run
from backend.insights.figures import METRICS
from backend.wiring import build_insights
from tests.backend.making import until
from tests.backend.service_kit import journal_of, settings_for
from tests.backend.simulate_kit import finished_objects, options_for, running_strop
from tests.training.folders import write_set
from training.evaluation.harness import Harness, Slot
from training.evaluation.summary import ResultTable, rows_of
from training.runtime.embedding_cache import CachedEncoder

N_CLICKS = 8
PROJECT = "900001"


def spoil(path: Path, seed: int) -> None:
    """So much noise that no first click finds the whole object."""
    image = cv2.imread(str(path))
    assert image is not None
    noise = np.random.default_rng(seed).normal(0, 70, image.shape)
    cv2.imwrite(str(path), np.clip(image + noise, 0, 255).astype(np.uint8))


@pytest.mark.slow
@pytest.mark.weights
def test_simulated_objects_give_the_evaluations_noc_and_failure_rates(tmp_path: Path) -> None:
    data, store = write_set(tmp_path / "rectangles", 3), tmp_path / "store"
    for number, path in enumerate(sorted((data / "images").glob("*.png"))):
        spoil(path, number)
    sam = load_model("compact", tmp_path)
    # No mask is accepted short of the truth, and the truth is painted: submitted is the truth.
    with running_strop(store, sam, prefetch__is_on=False) as strop:  # type: ignore[arg-type]
        options = options_for(data, strop.url, clicks=N_CLICKS, target=1.0)
        assert run(options, lambda line: None) == 0
        n_objects = len(list(FolderSet(data).objects()))
        until(lambda: len(finished_objects(store)) == n_objects)
    with journal_of(store) as journal:
        figures = build_insights(settings_for(store), journal).figures(PROJECT)
    rules = Rules(max_clicks=N_CLICKS, target=1.0)
    obeying = ClickCorrection(CorrectionSettings(), sam.input_size)
    harness = Harness(
        sam,
        FolderSet(data),
        CachedEncoder(sam),
        rules,
        ZoomSettings(),
        corrector=obeying,
        edges=EdgeSettings(),
    )
    slot = Slot(mode="frozen", order=0, session=0, position=0)
    evaluated = [harness.run_object(ref, slot, None) for ref in FolderSet(data).objects()]
    rows = rows_of(ResultTable(evaluated, 30), METRICS, seed=0, groups=False)
    theirs = {row.metric.name: row.frozen.mean for row in rows if row.frozen is not None}
    assert figures.n_clicked == n_objects == len(evaluated) > 3
    assert {each.name: each.value for each in figures.metrics} == pytest.approx(theirs)
    curves = [result.ious for result in evaluated]
    assert figures.first_iou is not None and figures.clicks is not None
    assert figures.first_iou.value == pytest.approx(sum(c[0] for c in curves) / len(curves))
    assert figures.clicks.value == pytest.approx(sum(map(len, curves)) / len(curves))
    # Not all alike: some objects get there and some do not, at different clicks.
    assert 1 < theirs["NoC20@85"] < 20
