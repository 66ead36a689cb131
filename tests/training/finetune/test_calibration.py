"""`strop-train calibrate`: the fit against values made by hand, the command on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from adaptation.errors import ModelError
from adaptation.models.base_decoder import load_base, read_card, save_base
from adaptation.models.catalog import load_model
from adaptation.models.decoder import score_layer
from adaptation.models.sam import PromptableSam
from adaptation.types import Prompt, as_clicks
from tests.training.fakes import disc
from tests.training.tuning_kit import write_world
from training.cli import main
from training.finetune.calibration import LoneClicks, ask, calibrated, fit, measured

CONFIG = Path(__file__).parents[3] / "configs" / "calibrate.yaml"


def lone_clicks(features: object, scores: object, ious: object) -> LoneClicks:
    parts = (torch.tensor(part, dtype=torch.float64) for part in (features, scores, ious))
    return LoneClicks(**dict(zip(("features", "scores", "ious"), parts, strict=True)))


# The fit -----------------------------------------------------------------------------------------


def test_without_a_penalty_what_the_features_explain_is_explained() -> None:
    # Standardised, the feature is -1 and 1; what lacks is 0 and 1: 0.5 and half the feature.
    clicks = lone_clicks([[3.0], [7.0]], [[0.0], [0.0]], [[0.0], [1.0]])
    torch.testing.assert_close(
        fit(clicks, 1e-12).scores(clicks), torch.tensor([[0.0], [1.0]]).double()
    )


def test_a_penalty_keeps_the_scores_together() -> None:
    # w = sum x y / (sum x^2 + l2 N) = 1 / (2 + 2) with y = -0.5, 0.5: 0.5 -+ 0.25.
    clicks = lone_clicks([[3.0], [7.0]], [[0.0], [0.0]], [[0.0], [1.0]])
    torch.testing.assert_close(
        fit(clicks, 1.0).scores(clicks), torch.tensor([[0.25], [0.75]]).double()
    )


def test_scores_that_are_right_stay() -> None:
    right = [[0.1, 0.9], [0.6, 0.2], [0.4, 0.4]]
    clicks = lone_clicks([[1.0, 2.0], [0.0, 5.0], [2.0, 1.0]], right, right)
    torch.testing.assert_close(fit(clicks, 0.03).scores(clicks), clicks.scores)


def test_features_that_never_change_say_nothing() -> None:
    clicks = lone_clicks([[4.0, 1.0], [4.0, 2.0]], [[0.5], [0.5]], [[0.2], [0.8]])
    change = fit(clicks, 0.1)
    assert change.weight[0, 0] == 0 and change.weight[0, 1] > 0
    alone = lone_clicks([[4.0]], [[0.5]], [[0.2]])
    torch.testing.assert_close(fit(alone, 0.1).scores(alone), alone.ious)


numbers = st.floats(-3, 3)
rows = st.tuples(*[numbers] * 3, *[st.floats(0, 1)] * 4)


@given(st.lists(rows, min_size=1, max_size=12), st.floats(0.01, 10))
def test_the_fit_is_never_worse_than_moving_the_mean(
    given_rows: list[tuple[float, ...]], l2: float
) -> None:
    table = np.array(given_rows)
    clicks = lone_clicks(table[:, :3], table[:, 3:5], table[:, 5:])
    lacking = clicks.ious - clicks.scores
    left = (clicks.ious - fit(clicks, l2).scores(clicks)).square().sum()
    assert left <= (lacking - lacking.mean(dim=0)).square().sum() + 1e-9


def test_what_scores_are_worth() -> None:
    clicks = lone_clicks([[0.0]] * 2, [[0.9, 0.1], [0.3, 0.2]], [[0.5, 0.7], [0.3, 0.2]])
    found = measured(clicks, clicks.scores)
    assert found["iou"] == pytest.approx((0.5 + 0.3) / 2)
    assert found["calibration/accuracies"] == 0.5
    assert found["predicted_iou_error"] == pytest.approx((0.4 + 0.6) / 4)
    # Tenths 9, 1, 3 and 2 hold one score each: |0.9 - 0.5|, |0.1 - 0.7|, 0 and 0, of four.
    assert found["calibration/ece"] == pytest.approx((0.4 + 0.6) / 4)


# The decoder -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("calibrate"))


@pytest.fixture(scope="module")
def sam(root: Path) -> PromptableSam:
    return load_model("compact", root, checkpoint=root / "tiny.safetensors")


PROMPT = Prompt(clicks=as_clicks([(30.0, 30.0, True)]))
NOISE = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)


def test_what_is_asked_is_what_the_decoder_says(sam: PromptableSam) -> None:
    embedding = sam.embed(NOISE)
    side = sam.low_res_size
    labels = torch.zeros((side, side), dtype=torch.int8)
    labels[: side // 2] = 1
    labels[:, -3:] = -1
    found = ask(sam, embedding, PROMPT, labels)
    with torch.no_grad():
        plain = sam.decode(embedding, [PROMPT])
    torch.testing.assert_close(found.scores, plain.predicted_iou[:, 1:].double())
    assert found.features.shape == (1, 16) and found.ious.shape == (1, 3)
    assert ((found.ious >= 0) & (found.ious <= 1)).all()


def test_only_the_scores_of_the_candidates_change(sam: PromptableSam) -> None:
    embedding = sam.embed(NOISE)
    labels = torch.zeros((sam.low_res_size,) * 2, dtype=torch.int8)
    labels[4:, 4:] = 1
    seen = ask(sam, embedding, PROMPT, labels)
    change = fit(seen, 0.03)
    other = sam.with_decoder(calibrated(sam, change))
    with torch.no_grad():
        before, after = (m.decode(embedding, [PROMPT]) for m in (sam, other))
    assert torch.equal(before.low_res_logits, after.low_res_logits)
    assert torch.equal(before.predicted_iou[:, 0], after.predicted_iou[:, 0])
    torch.testing.assert_close(
        after.predicted_iou[:, 1:].double(), seen.ious, atol=1e-5, rtol=0
    )  # one click is explained whole
    assert not torch.allclose(before.predicted_iou[:, 1:], after.predicted_iou[:, 1:])


def test_a_decoder_without_scores_is_told() -> None:
    with pytest.raises(ModelError, match="iou_prediction_head"):
        score_layer({"transformer.norm.weight": torch.ones(1)})


# The command -------------------------------------------------------------------------------------


def calibrate(root: Path, run: Path, *more: str) -> Result:
    given = [f"checkpoint={root / 'tiny.safetensors'}", f"cache={root / 'cache'}", f"run={run}"]
    return CliRunner().invoke(main, ["calibrate", "--config", str(CONFIG), *given, *more])


def of_sets(root: Path) -> list[str]:
    return [f"data={root / 'sets'}", "sets=[discs]"]


def test_the_command_leaves_a_base_and_a_report(root: Path, sam: PromptableSam) -> None:
    done = calibrate(root, root / "one", *of_sets(root))
    assert done.exit_code == 0, done.output
    report = json.loads((root / "one" / "report.json").read_text())
    assert report["data"]["train"] == 10 and report["data"]["validation"] == 2
    assert set(report["before"]) == {
        "iou", "predicted_iou_error", "calibration/accuracies", "calibration/ece"
    }  # fmt: skip
    assert report["after"]["predicted_iou_error"] < report["before"]["predicted_iou_error"]
    path = root / "one" / "decoder.safetensors"
    card, found = read_card(path), load_base(path, sam)
    assert card.stage == "calibrate" and card.parent == sam.decoder_id != found.decoder_id
    changed = {
        name
        for name, value in found.decoder_parameters().items()
        if not torch.equal(value, sam.decoder_parameters()[name])
    }
    name = score_layer(sam.decoder_parameters())
    assert changed == {f"{name}.weight", f"{name}.bias"}


def test_the_same_again_gives_the_same_decoder(root: Path) -> None:
    for run in ("again", "again", "once-more"):
        assert calibrate(root, root / run, *of_sets(root), "seed=3").exit_code == 0
    cards = [read_card(root / run / "decoder.safetensors") for run in ("again", "once-more")]
    assert cards[0].decoder_id == cards[1].decoder_id


def test_a_tuned_base_stays_tuned(root: Path, sam: PromptableSam) -> None:
    base = root / "tuned.safetensors"
    save_base(base, sam, sam.decoder_parameters(), "sft", {})
    given = [f"album={root / 'album'}", f"preferences=[{root / 'preferences'}]", f"base={base}"]
    done = calibrate(root, root / "of-preferences", *given)
    assert done.exit_code == 0, done.output
    assert read_card(root / "of-preferences" / "decoder.safetensors").stage == "sft"


def test_clicks_are_those_that_were_made_and_others_inside_of_the_mask(root: Path) -> None:
    from training.finetune.calibration import CalibrationConfig
    from training.finetune.calibration import lone_clicks as clicks_on
    from training.finetune.objects import LabeledObject

    truth = disc(30, 30, 10)
    made = as_clicks([(30.0, 31.0, True), (1.0, 1.0, False)])
    about = {"name": "a", "split": "train", "image_key": "i", "mask_key": "m"}
    item = LabeledObject(**about, read=lambda: NOISE, clicks=made, mask=lambda: truth)  # type: ignore[arg-type]
    config = CalibrationConfig(data=root, sets=("discs",), clicks=4)
    found = list(clicks_on(item, truth, config))
    assert found[0] == made[0] and len(found) == 4
    assert all(click.is_positive and truth[round(click.y), round(click.x)] for click in found)
    assert len(set(found)) > 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["l2=0"], "l2 must be above 0"),
        (["clicks=0"], "clicks must be 1 or more"),
        (["sets=[]"], "data and sets go together"),
        (["lr=1"], "lr"),
    ],
)
def test_mistakes_are_told_with_exit_code_2(root: Path, given: list[str], message: str) -> None:
    done = calibrate(root, root / "never", *of_sets(root), *given)
    assert done.exit_code == 2 and message in done.output
    assert not (root / "never").exists()


def test_a_run_of_something_else_is_not_overwritten(root: Path) -> None:
    assert calibrate(root, root / "kept", *of_sets(root)).exit_code == 0
    before = (root / "kept" / "decoder.safetensors").read_bytes()
    done = calibrate(root, root / "kept", *of_sets(root), "l2=1")
    assert done.exit_code == 2 and "started differently" in done.output
    assert (root / "kept" / "decoder.safetensors").read_bytes() == before
