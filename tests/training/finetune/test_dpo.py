"""`strop-train dpo` on a model and preferences small enough to tune in a second."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from adaptation.config import ConfigError
from adaptation.masks import encode_rle
from adaptation.models.base_decoder import load_base, read_card, save_base
from adaptation.models.catalog import load_model
from adaptation.models.precision import has_fast_bfloat16
from adaptation.models.sam import PromptableSam
from adaptation.types import MaskPrediction
from tests.training.fakes import disc
from tests.training.tuning_kit import SIZE, about, rle, write_image, write_model, write_preferences
from training.cli import main
from training.finetune.collator import best_is_scored_highest
from training.finetune.dpo import DpoConfig, DpoRecipe
from training.finetune.policy import Policy
from training.finetune.reference import match_tokens
from training.finetune.trainer import Pick, open_model, open_replayer
from training.preferences.files import PAIRS, PreferencePair, TableWriter
from training.runtime.checkpoints import read_log
from training.runtime.config import load_config
from training.runtime.distributed import Rank

CONFIG = Path(__file__).parents[3] / "configs" / "dpo.yaml"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a base of it that says it went through SFT, preferences."""
    folder = tmp_path_factory.mktemp("dpo")
    write_model(folder)
    write_preferences(folder)
    sam = model(folder)
    save_base(folder / "sft.safetensors", sam, sam.decoder_parameters(), "sft", {})
    save_base(folder / "plain.safetensors", sam, sam.decoder_parameters(), "base", {})
    return folder


def model(root: Path) -> PromptableSam:
    return load_model("compact", root, checkpoint=root / "tiny.safetensors")


def settings(root: Path, run: Path, *more: str) -> list[str]:
    return [
        f"checkpoint={root / 'tiny.safetensors'}",
        f"base={root / 'sft.safetensors'}",
        f"preferences=[{root / 'preferences'}]",
        f"album={root / 'album'}",
        f"cache={root / 'cache'}",
        f"run={run}",
        "steps=3",
        "batch=4",
        "micro_batch=2",
        "eval_every=3",
        "log_every=1",
        "lr=1e-3",
        "mixed_precision=false",
        "loss_type=dpo",
        *more,
    ]


def dpo(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["dpo", "--config", str(CONFIG), *arguments])


def recipe_of(root: Path, *more: str) -> tuple[DpoRecipe, Policy]:
    config = load_config(DpoConfig, CONFIG, settings(root, root / "unused", *more))
    sam = open_model(config, Rank())
    recipe = DpoRecipe(config, open_replayer(config, sam), Rank())
    return recipe, Policy(sam, "all", mixed_precision=config.mixed_precision)


def at_start(root: Path, *more: str) -> dict[str, float]:
    """What the training items say before the first step."""
    recipe, policy = recipe_of(root, *more)
    rng = torch.zeros(0).numpy()  # nothing is drawn
    picks = [Pick(index, rng) for index in range(recipe.n_train)]  # type: ignore[arg-type]
    return recipe.train(policy, picks)[1].means()


@pytest.fixture(scope="module")
def finished(root: Path) -> tuple[Path, Result]:
    return root / "finished", dpo(*settings(root, root / "finished"))


def test_a_run_tunes_the_decoder_and_reports_with_trl_names(
    root: Path, finished: tuple[Path, Result]
) -> None:
    run, done = finished
    assert done.exit_code == 0, done.output
    card, sam = read_card(run / "decoder.safetensors"), model(root)
    assert card.stage == "dpo" and card.parent == sam.decoder_id
    tuned = load_base(run / "decoder.safetensors", sam).decoder_parameters()
    base = load_base(root / "sft.safetensors", sam).decoder_parameters()
    assert any(not torch.equal(tuned[name], base[name]) for name in base)
    report = json.loads((run / "report.json").read_text())
    assert report["sources"] == {"correction": 4, "choice": 4}
    assert (report["data"]["train"], report["data"]["validation"]) == (8, 4)
    row = read_log(run / "log.jsonl")[1]
    assert {
        "loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies",
        "logps/chosen", "logps/rejected", "grad_norm", "learning_rate", "epoch",
    } <= row.keys()  # fmt: skip
    assert "eval_rewards/margins" in read_log(run / "log.jsonl")[0]


NATIVE = pytest.mark.skipif(not has_fast_bfloat16(), reason="no bfloat16 on this processor")
PRECISIONS = [
    "mixed_precision=false",
    pytest.param("mixed_precision=true", marks=NATIVE),
]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_preferences_are_learned(root: Path, tmp_path: Path, precision: str) -> None:
    more = ("steps=12", "lr=3e-3", "ranking_weight=0", "error_weight=0", precision)
    assert dpo(*settings(root, tmp_path / "run", *more)).exit_code == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["before"]["preference_loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert report["after"]["preference_loss"] < 0.6
    assert report["after"]["rewards/margins"] > 0.1


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [("dpo", math.log(2)), ("ipo", 0.25), ("plackett-luce", None), ("bce", None)],
)
def test_losses_at_the_reference(
    root: Path, loss_type: str, expected: float | None, precision: str
) -> None:
    means = at_start(root, f"loss_type={loss_type}", precision)
    if loss_type == "bce":  # without a reference the rewards are the log-likelihoods
        assert means["rewards/chosen"] == pytest.approx(means["logps/chosen"])
        return
    assert means["rewards/margins"] == pytest.approx(0, abs=1e-5)
    if loss_type == "plackett-luce":  # four lists of three, log 3!, and eight pairs, log 2
        expected = (4 * math.log(6) + 8 * math.log(2)) / 12
    assert means["preference_loss"] == pytest.approx(expected, abs=1e-4)


def test_the_reference_is_asked_once_and_its_file_tells_pixels_apart(root: Path) -> None:
    recipe_of(root)
    files = {p: p.stat().st_mtime_ns for p in (root / "cache" / "references").iterdir()}
    recipe_of(root, "loss_type=ipo", "beta=2")  # the same likelihoods
    assert {p: p.stat().st_mtime_ns for p in (root / "cache" / "references").iterdir()} == files
    recipe_of(root, "over=all")
    assert len(list((root / "cache" / "references").iterdir())) == len(files) + 1


@NATIVE
def test_the_reference_of_one_precision_is_not_that_of_another(root: Path) -> None:
    own = ("over=region", "region_weight=3")
    recipe_of(root, *own)
    files = set((root / "cache" / "references").iterdir())
    recipe_of(root, *own, "mixed_precision=true")
    assert set((root / "cache" / "references").iterdir()) > files


def test_regions_change_the_likelihoods_of_corrections_only(root: Path) -> None:
    plain = at_start(root, "sources=[correction]")
    for more in ("over=region", "region_weight=4"):
        assert at_start(root, "sources=[correction]", more)["logps/chosen"] != pytest.approx(
            plain["logps/chosen"], rel=1e-4
        )
    choices = at_start(root, "sources=[choice]")
    regions = at_start(root, "sources=[choice]", "over=region", "region_weight=4")
    assert regions["logps/chosen"] == pytest.approx(choices["logps/chosen"], rel=1e-6)


def test_calibration_alone_leaves_the_preference_out(root: Path) -> None:
    with_both = at_start(root, "sources=[correction]")
    assert with_both["calibration_loss"] > 0
    assert with_both["loss"] == pytest.approx(
        with_both["preference_loss"] + with_both["calibration_loss"], rel=1e-4
    )
    without = at_start(root, "sources=[correction]", "ranking_weight=0", "error_weight=0")
    assert without["calibration_loss"] == 0
    anchored = at_start(root, "sources=[correction]", "rpo_alpha=2")
    assert anchored["loss"] == pytest.approx(
        with_both["loss"] - 2 * with_both["logps/chosen"], rel=1e-4
    )


# What is refused


def test_an_untuned_base_is_refused_unless_allowed(root: Path, tmp_path: Path) -> None:
    for base in (f"base={root / 'plain.safetensors'}", "base=null"):
        done = dpo(*settings(root, tmp_path / "run", base))
        assert done.exit_code == 2 and "strop-train sft" in done.output
    more = "base=null", "steps=1"
    assert dpo(*settings(root, tmp_path / "run", *more), "--allow-untuned").exit_code == 0


def test_impossible_configs_are_refused_at_once() -> None:
    wrong = ["loss_type=ppo", "over=some", "beta=0", "label_smoothing=0.7", "sources=[x]"]
    with pytest.raises(ConfigError) as caught:
        load_config(DpoConfig, CONFIG, wrong)
    for part in ("loss_type", "over", "beta", "label_smoothing", "sources", "preferences"):
        assert part in str(caught.value)


def test_the_shipped_config_holds_the_defaults(root: Path) -> None:
    more = [f"preferences=[{root / 'preferences'}]", f"album={root / 'album'}"]
    assert load_config(DpoConfig, CONFIG, more) == load_config(DpoConfig, None, [*more, "lr=3e-5"])


@pytest.fixture
def broken(root: Path, tmp_path: Path) -> Path:
    for name in ("preferences", "album"):
        shutil.copytree(root / name, tmp_path / name)
    for name in ("tiny.safetensors", "sft.safetensors"):
        shutil.copy(root / name, tmp_path)
    return tmp_path


def test_pairs_of_equal_masks_are_left_out_and_end_a_run_of_nothing_else(broken: Path) -> None:
    image_id = write_image(_album(broken), 50)
    with TableWriter(broken / "preferences", PAIRS) as pairs:
        for name, other in (("same", rle(14)), ("empty", encode_rle(disc(99, 99, 1)))):
            pairs.write(
                PreferencePair(
                    **about("o", image_id, "train"),  # type: ignore[arg-type]
                    pair_id=name,
                    source="choice",
                    chosen=rle(14),
                    rejected=other,
                )
            )
    more = "max_unusable=0.5", "steps=1"
    assert dpo(*settings(broken, broken / "run", *more)).exit_code == 0
    report = json.loads((broken / "run" / "report.json").read_text())
    assert report["left_out"]["two of its masks are the same at the model's resolution"]["n"] == 1
    done = dpo(*settings(broken, broken / "other"))
    assert done.exit_code == 2 and "1 of 2 items cannot be trained on" in done.output


def test_half_written_pairs_and_missing_images_are_named(broken: Path) -> None:
    path = broken / "preferences" / "pairs.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    done = dpo(*settings(broken, broken / "run"))
    assert done.exit_code == 2 and "pairs.parquet cannot be read" in done.output
    path.write_bytes(whole)
    shutil.rmtree(broken / "album")
    done = dpo(*settings(broken, broken / "run"))
    assert done.exit_code == 2 and "is not in the album" in done.output


def _album(root: Path):  # type: ignore[no-untyped-def]
    from adaptation.storage.album import Album

    return Album(root / "album")


# Matching masks with the decoder's own


def prediction_of(*masks: torch.Tensor) -> MaskPrediction:
    logits = torch.stack([torch.where(mask > 0, 4.0, -4.0) for mask in masks])[None]
    return MaskPrediction(
        low_res_logits=logits,
        predicted_iou=torch.zeros(1, len(masks)),
        is_ambiguous=torch.tensor([True]),
        upscaled=torch.zeros(1, 1, *SIZE),
    )


def plane_of(radius: int) -> torch.Tensor:
    return torch.from_numpy(disc(30, 30, radius)).float()


def test_compared_masks_find_their_tokens() -> None:
    prediction = prediction_of(plane_of(5), plane_of(10), plane_of(15), plane_of(20))
    compared = torch.stack([plane_of(15), plane_of(28), plane_of(5), plane_of(15)])[None]
    found = match_tokens(prediction, compared, torch.ones(1, *SIZE))
    # Nothing is like the second; the fourth is like the first, which is better and has the token.
    assert found.tolist() == [[2, -1, 0, -1]]


def test_the_best_mask_is_found_among_what_is_known() -> None:
    nan = math.nan
    scores = torch.tensor([[0.9, 0.1, 0.5], [0.9, 0.1, 0.5], [0.9, 0.1, 0.5]])
    quality = torch.tensor([[nan, 0.2, 0.8], [0.3, nan, 0.8], [nan, nan, 0.8]])
    found = best_is_scored_highest(scores, quality)
    assert found[:2].tolist() == [1, 0] and bool(found[2].isnan())
