"""The pretraining recipe, on a model and data small enough to train in a second."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from adaptation.config import ConfigError
from adaptation.errors import SettingsError
from adaptation.models.compact.model import build_compact, load_compact
from adaptation.models.compact.trunk import EfficientNetLite0
from adaptation.storage.datasets import FolderSet, held_out_stems
from tests.training.folders import write_set
from training.pretrain.config import PretrainConfig, draw_plan, learning_rate
from training.pretrain.episode import (
    Correction,
    Episode,
    EpisodeReport,
    LossWeights,
    Plan,
    choose,
    degrade,
    draw_place,
    to_frame,
)
from training.pretrain.imagenet import import_imagenet_weights, load_reference_trunk
from training.pretrain.recipe import (
    Pretraining,
    export,
    main,
    make_optimizer,
    make_sampler,
    summarise,
)
from training.pretrain.windows import TrainingWindow
from training.runtime.checkpoints import load_checkpoint, read_log, save_checkpoint
from training.runtime.config import load_config
from training.runtime.distributed import Rank

CONFIG = Path(__file__).parents[3] / "configs" / "pretrain.yaml"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    write_set(folder / "toy", regions=True)
    return folder


def overrides(data: Path, run: Path, *more: str) -> list[str]:
    return [
        f"data={data}",
        f"run={run}",
        "model={input_size: 64, dim: 16}",
        "windows=[{size: 64, objects: 2, first_share: 1, last_share: 1}]",
        *(f"shares.{name}=0" for name in yaml.safe_load(CONFIG.read_text())["shares"]),
        "shares={toy: 0.7, synthetic: 0.3}",
        "photographs=toy",
        "merging=[]",
        "imagenet=false",
        "validation={sets: [], groups_of: [], objects: 0}",
        "processes=1",
        "windows_per_step=1",
        "max_steps=4",
        "log_every=2",
        *more,
    ]


def tiny(data: Path, run: Path, *more: str) -> PretrainConfig:
    return load_config(PretrainConfig, CONFIG, overrides(data, run, *more))


def weights_of(run: Path, name: str = "model") -> dict[str, Tensor]:
    found: dict[str, Tensor] = load_checkpoint(run / "checkpoint.pt")[name]
    return found


def test_the_shipped_config_loads_and_needs_the_data_only() -> None:
    config = load_config(PretrainConfig, CONFIG)
    assert sum(config.shares.values()) == pytest.approx(1)
    assert config.model.input_size == 384


def test_impossible_configs_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(
            PretrainConfig,
            CONFIG,
            [
                "max_steps=null",
                "windows_per_step=1",
                "start=nowhere.safetensors",
                "windows=[{size: 100, objects: 2, first_share: 1, last_share: 1}]",
                "photographs=nowhere",
                "boxes=2",
                "validation.share=2",
                "validation.sets=[pets]",
                "validation.groups_of=[nowhere]",
            ],
        )
    assert len(caught.value.mistakes) == 9


def test_the_config_of_all_data_loads_and_keeps_out_what_is_measured_on() -> None:
    config = load_config(PretrainConfig, CONFIG.with_name("pretrain_all.yaml"))
    assert sum(config.shares.values()) == pytest.approx(1)
    measured = {"mtd", "dsb2018", "ampis_powder", "potholes", "cvc_clinicdb", "wbc"}
    measured |= {"carrot_weed", "bsds500", "bsds500/test"}
    assert not measured & {*config.shares, *config.validation.sets}


def test_a_run_leaves_out_what_it_is_watched_by_and_keeps_its_best_weights(
    data: Path, tmp_path: Path
) -> None:
    watched = "validation={sets: [], groups_of: [toy], share: 0.75, objects: 1, every_minutes: 999}"
    config = tiny(data, tmp_path, watched)
    kept = held_out_stems(FolderSet(data / "toy"), 0.75)
    source = make_sampler(config).sources["toy"]
    assert source.left_out == kept and 0 < len(kept) < 4
    drawn = {id(source.draw(np.random.default_rng(seed))[0]) for seed in range(40)}
    assert len(drawn) == 4 - len(kept)
    Pretraining(config, Rank()).train()
    rows = read_log(tmp_path / "log.jsonl")
    assert [row["step"] for row in rows if "val_score" in row] == [4]  # at its end at the latest
    best = load_checkpoint(tmp_path / "best.pt")
    assert best["step"] == 4
    best["ema"] = {name: value + 1 for name, value in best["ema"].items()}
    save_checkpoint(tmp_path / "best.pt", best)
    export(tmp_path, tmp_path / "compact.safetensors")
    name = "mask_decoder.iou_token.weight"
    exported = load_compact(tmp_path / "compact.safetensors").state_dict()[name]
    assert torch.equal(exported, best["ema"][name].half().float())


def test_a_run_trains_every_part_and_leaves_its_files(data: Path, tmp_path: Path) -> None:
    config = tiny(data, tmp_path, "corrections=[1]", "mends=0")
    torch.manual_seed(config.seed)
    before = build_compact(input_size=64, dim=16).state_dict()
    Pretraining(config, Rank()).train()
    after = weights_of(tmp_path)
    same = [n for n, t in after.items() if torch.equal(t, before[n])]
    # Not learned: the random frequencies of the positions. "Not a point" only pads batches.
    assert set(same) <= {
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
        *(n for n in before if n.startswith("prompt_encoder.mask_downscaling")),
        *(n for n in before if n.startswith("prompt_encoder.point_embeddings")),
    }
    rows = read_log(tmp_path / "log.jsonl")
    assert [row["step"] for row in rows] == [2, 4]
    assert all(np.isfinite(row["loss"]) for row in rows)
    assert (tmp_path / "curves.png").is_file()


def test_a_run_is_repeatable_and_resuming_changes_nothing(data: Path, tmp_path: Path) -> None:
    Pretraining(tiny(data, tmp_path / "whole"), Rank()).train()
    half = Pretraining(tiny(data, tmp_path / "halves"), Rank())
    for _ in range(2):
        half.step(half.progress)
    half.save()
    Pretraining(tiny(data, tmp_path / "halves"), Rank()).train()
    for kind in ("model", "ema"):
        whole, halves = (weights_of(tmp_path / name, kind) for name in ("whole", "halves"))
        assert all(torch.equal(whole[name], halves[name]) for name in whole)
    assert load_checkpoint(tmp_path / "halves" / "checkpoint.pt")["step"] == 4


def test_the_averaged_weights_are_exported_with_their_story(data: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    Pretraining(tiny(data, tmp_path, "seed=5"), Rank()).train()
    target = tmp_path / "compact.safetensors"
    digest = export(tmp_path, target)
    sam = load_compact(target)
    average = weights_of(tmp_path, "ema")
    name = "mask_decoder.iou_token.weight"
    assert torch.equal(sam.state_dict()[name], average[name].half().float())
    with safe_open(target, framework="pt") as file:
        story = file.metadata()
    assert (story["seed"], story["steps"], story["sha256"]) == ("5", "4", digest)
    assert "toy 0.7" in story["data"]


def test_the_command_line_ends_with_two_and_all_mistakes(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["--config", str(CONFIG), "lrr=1", "seed=x"])
    assert code == 2
    said = capsys.readouterr().err
    assert (
        "lrr: no such setting; did you mean lr?" in said and "seed must be a whole number" in said
    )
    missing = overrides(tmp_path / "nowhere", tmp_path / "run")
    assert main(["--config", str(CONFIG), *missing]) == 2
    assert "Data sets not found" in capsys.readouterr().err


def test_the_command_line_trains_and_exports(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = ["--config", str(CONFIG), *overrides(data, tmp_path / "run", "max_steps=1")]
    assert main(arguments) == 0
    target = tmp_path / "weights.safetensors"
    with caplog.at_level(logging.INFO):
        assert main([*arguments, "--export", str(target)]) == 0
    assert "exported, sha256" in caplog.text and target.is_file()


@pytest.mark.slow
def test_two_ranks_take_the_steps_that_one_takes(data: Path, tmp_path: Path) -> None:
    for name, processes in (("two", 2), ("again", 2), ("one", 1)):
        more = f"processes={processes}", "windows_per_step=2"
        assert main(["--config", str(CONFIG), *overrides(data, tmp_path / name, *more)]) == 0
    two, again, one = (weights_of(tmp_path / name) for name in ("two", "again", "one"))
    assert all(torch.equal(two[name], again[name]) for name in two)
    for name in two:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-4)
    assert not torch.equal(two[name], initial(name))


def initial(name: str) -> Tensor:
    torch.manual_seed(0)
    value: Tensor = build_compact(input_size=64, dim=16).state_dict()[name]
    return value


def test_a_run_goes_on_from_given_weights(data: Path, tmp_path: Path) -> None:
    Pretraining(tiny(data, tmp_path / "first"), Rank()).train()
    target = tmp_path / "compact.safetensors"
    export(tmp_path / "first", target)
    config = tiny(data, tmp_path / "second", f"start={target}")
    later = Pretraining(config, Rank())
    later.save()
    given, begun = load_compact(target).state_dict(), weights_of(tmp_path / "second")
    assert all(torch.equal(given[name], begun[name]) for name in given)
    later.train()
    export(tmp_path / "second", tmp_path / "blend.safetensors", blend=0.25)
    blend, learned = (
        load_compact(tmp_path / "blend.safetensors"),
        weights_of(tmp_path / "second", "ema"),
    )
    name = "mask_decoder.iou_token.weight"
    expected = 0.25 * given[name] + 0.75 * learned[name]
    assert torch.equal(blend.state_dict()[name], expected.half().float())
    with pytest.raises(SettingsError, match="start="):
        export(tmp_path / "first", tmp_path / "none.safetensors", blend=0.25)
    assert load_checkpoint(tmp_path / "second" / "checkpoint.pt")["origin"].startswith(
        "compact.safetensors, sha256 "
    )


def test_the_trunk_computes_what_its_source_computes() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    reference, trunk = load_reference_trunk(), EfficientNetLite0().eval()
    import_imagenet_weights(trunk)
    x = torch.rand(1, 3, 96, 64) * 2 - 1
    with torch.no_grad():
        taps = trunk(x)
        expected = reference._swish(reference._bn0(reference._conv_stem(x)))  # type: ignore[operator]
        seen = []
        for block in reference._blocks:  # type: ignore[union-attr]
            expected = block(expected)
            seen.append(expected)
    for stride, index in ((2, 0), (4, 2), (8, 4), (16, 10), (32, 15)):
        torch.testing.assert_close(taps[stride], seen[index], rtol=1e-3, atol=1e-3)


# Plans and rates


def test_plans_follow_the_shares_and_the_progress(data: Path, tmp_path: Path) -> None:
    config = load_config(PretrainConfig, CONFIG)
    for progress, share in ((0.0, config.windows[0].first_share), (1.0, 0.45)):
        plans = [draw_plan(config, progress, np.random.default_rng(s)) for s in range(600)]
        small = np.mean([plan.window_size == config.windows[0].size for plan in plans])
        assert small == pytest.approx(share, abs=0.06)
        assert all(plan.supervised[-1] for plan in plans)
        assert np.mean([plan.has_boxes for plan in plans]) == pytest.approx(
            (1 - config.mends) * config.boxes, abs=0.04
        )
        assert all(plan.has_boxes or plan.starts_with_click for plan in plans)


def test_the_rate_warms_up_and_falls_to_a_hundredth() -> None:
    config = load_config(PretrainConfig, CONFIG, ["warmup_steps=10"])
    assert learning_rate(0.0, 0, config) == pytest.approx(0.1)
    assert learning_rate(0.0, 10, config) == pytest.approx(1)
    assert learning_rate(0.5, 999, config) == pytest.approx(0.505)
    assert learning_rate(1.0, 999, config) == pytest.approx(0.01)


def test_the_trunk_learns_slower() -> None:
    sam = build_compact(input_size=64, dim=16)
    optimizer = make_optimizer(sam, load_config(PretrainConfig, CONFIG))
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates == [1e-3, 2.5e-4]
    counted = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
    assert counted == sum(p.numel() for p in sam.parameters())


# Episodes


def window(n_objects: int = 2) -> TrainingWindow:
    masks = np.zeros((n_objects, 32, 32), np.bool_)
    for index, mask in enumerate(masks):
        mask[4 : 12 + index, 6 : 16 + index] = True
    image = np.full((64, 64, 3), 90, np.float32)
    image[8:26, 12:34] = 200
    return TrainingWindow(image, (64, 48), masks)


@pytest.mark.parametrize(
    "plan",
    [
        Plan(64, 2, (True,), False, True, 0),
        Plan(64, 2, (True,), True, False, 0),
        Plan(64, 2, (False, True, True), True, True, 0),
        Plan(64, 2, (False, False, True), False, True, 2),
        Plan(64, 2, (False, True), False, True, 3, starts_from_mask=True),
    ],
)
def test_an_episode_leaves_gradients_in_encoder_and_decoder(plan: Plan) -> None:
    sam = build_compact(input_size=64, dim=16)
    rng = np.random.default_rng(0)
    episode = Episode(sam, window(), plan, LossWeights(), rng, device=torch.device("cpu"))
    report = episode.run()
    assert len(report.rounds) == len(plan.supervised) and report.n_objects == 2
    first = report.rounds[0][0]
    assert first >= int(plan.starts_with_click) + plan.n_scattered
    for part in (sam.image_encoder.trunk.stem, sam.mask_decoder.skip2, sam.prompt_encoder):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())


def test_padding_carries_no_label() -> None:
    # What the image shows in the padding, and what is predicted there, changes nothing.
    plan = Plan(64, 2, (True,), False, True, 0)
    losses = []
    for value in (0.0, 255.0):
        torch.manual_seed(0)
        sam = build_compact(input_size=64, dim=16)
        view = window()
        view.image[:, 48:] = value
        rng, device = np.random.default_rng(0), torch.device("cpu")
        losses.append(Episode(sam, view, plan, LossWeights(), rng, device=device).run().loss)
    assert losses[0] == losses[1]


def test_a_lone_click_is_answered_by_the_best_candidate() -> None:
    logits = torch.arange(4.0).view(1, 4, 1, 1).expand(2, 4, 3, 3)
    quality = torch.tensor([[0.9, 0.1, 0.3, 0.2], [0.0, 0.5, 0.1, 0.6]])
    assert choose(logits, quality, is_ambiguous=True)[:, 0, 0, 0].tolist() == [2, 3]
    assert choose(logits, quality, is_ambiguous=False)[:, 0, 0, 0].tolist() == [0, 0]


def test_degrading_keeps_the_shape_and_most_masks() -> None:
    logits = torch.randn(2, 1, 33, 33)
    kept = [torch.equal(degrade(logits, np.random.default_rng(s)), logits) for s in range(100)]
    assert 0.7 < np.mean(kept) < 0.9
    assert degrade(logits, np.random.default_rng(kept.index(False))).shape == logits.shape


def test_places_lie_on_the_grid_inside_the_frame() -> None:
    for seed in range(20):
        place = draw_place(64, 96, np.random.default_rng(seed))
        assert place.x % 8 == place.y % 8 == 0 and 0 <= min(place.x, place.y)
        assert max(place.x, place.y) + 64 <= 96


def test_pixels_of_the_logits_are_the_middle_of_two_pixels() -> None:
    assert [to_frame(0), to_frame(10)] == [0.5, 20.5]


def test_a_summary_counts_clicks_in_bins() -> None:
    report = EpisodeReport(n_objects=3, loss=2.0, rounds=[(1, 0.5), (4, 0.75), (9, 1.0)])
    report.obeyed = [1.0, 0.5]
    report.corrections = [Correction(4, 0.5, 0.75, 0.25), Correction(9, 0.75, 1.0, 0.0)]
    mending = EpisodeReport(n_objects=1, loss=1.0, mends=True, rounds=[(5, 0.9)])
    mending.corrections = [Correction(5, 0.8, 0.9, 0.125), Correction(6, 0.9, 0.1, 1.0)]
    other = EpisodeReport(n_objects=1, loss=0.0, rounds=[(1, 0.7), (16, 0.5)])
    assert summarise([report, mending, other]) == {
        "iou@1": 0.6,
        "iou@3": 0.75,
        "iou@9": 0.75,
        "gain@3": 0.25,
        "gain@9": 0.25,
        "far@3": 0.25,
        "far@9": 0.0,
        "before@mend": 0.8,
        "gain@mend": 0.1,
        "far@mend": 0.125,
        "loss": 1.0,
        "obeyed": 0.75,
        "objects": 5,
    }


def test_episodes_from_good_masks_start_with_a_click_on_the_error() -> None:
    plan = Plan(64, 2, (True,), False, True, 3, starts_from_mask=True)
    for seed in range(5):
        sam = build_compact(input_size=64, dim=16)
        rng = np.random.default_rng(seed)
        report = Episode(sam, window(), plan, LossWeights(), rng, device=torch.device("cpu")).run()
        (correction,) = report.corrections
        assert report.mends and correction.n_clicks == 4
        assert 0.75 <= correction.before < 1  # an error of a quarter of the object at most
        assert report.rounds == [(4, correction.after)]


def test_the_share_of_far_pixels_that_change_is_that_of_pixels_far_from_the_click() -> None:
    plan = Plan(128, 1, (True,), False, True, 0)
    masks = np.zeros((1, 64, 64), np.bool_)
    masks[0, 4:12, 4:12] = True
    view = TrainingWindow(np.full((128, 128, 3), 90, np.float32), (128, 128), masks)
    sam = build_compact(input_size=128, dim=16)
    rng, device = np.random.default_rng(0), torch.device("cpu")
    episode = Episode(sam, view, plan, LossWeights(), rng, device=device)
    episode.run()  # leaves a click inside the object, at the upper left
    prompts = episode._first_prompts()
    before = -torch.ones(1, 1, 64, 64)
    near, far = before.clone(), before.clone()
    near[..., 4:12, 4:12] = 1
    far[..., 50:, 50:] = 1
    assert episode._far_changed(prompts, before, near) == 0
    assert 0.04 < episode._far_changed(prompts, before, far) < 0.1  # 196 of 4096 less the disk


def test_long_episodes_are_supervised_here_and_there_with_fewer_objects() -> None:
    config = load_config(PretrainConfig, CONFIG)
    plans = [draw_plan(config, 0.5, np.random.default_rng(seed)) for seed in range(1500)]
    from_nothing = [plan for plan in plans if not plan.starts_from_mask]
    longest = max(len(plan.supervised) for plan in plans)
    assert longest == len(config.corrections) == 16
    long = [plan for plan in from_nothing if len(plan.supervised) > 8]
    assert long and all(plan.max_objects <= 4 for plan in long)
    assert np.mean([sum(plan.supervised) for plan in long]) < 4
    first = [plan.supervised[0] for plan in from_nothing if len(plan.supervised) > 1]
    assert np.mean(first) == pytest.approx(config.supervise, abs=0.05)
    mends = [plan for plan in plans if plan.starts_from_mask]
    assert len(mends) / len(plans) == pytest.approx(config.mends, abs=0.04)
    assert all(not p.has_boxes and p.n_scattered >= 1 and len(p.supervised) <= 4 for p in mends)
