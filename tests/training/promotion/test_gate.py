"""The gate on real models and discs, the promotion behind it, and their commands."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from adaptation.errors import InputError, ModelError, StoreError
from adaptation.models.base_decoder import EMBEDDED, Registry, load_base, read_card
from adaptation.models.registry import RegistryWriter
from adaptation.simulation.metrics import Metric
from tests.training.fakes import tiny_model
from tests.training.gating import better_base, worse_base, write_sets
from training.cli import main
from training.evaluation.config import EvaluateConfig
from training.evaluation.harness import ObjectResult
from training.promotion.config import GateConfig, parse_metric
from training.promotion.gate import Gate, Paired, compare_set, joined, reasons_against
from training.promotion.promote import promote
from training.runtime.config import load_config

MIOU = Metric("iou", 1)
NOC = Metric("noc", 20, 0.9)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two sets, a candidate that learnt the discs and one that was shaken."""
    folder = tmp_path_factory.mktemp("shop")
    _, guard = write_sets(folder)
    better_base(folder / "better.safetensors", guard)
    worse_base(folder / "worse.safetensors")
    return folder


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)

    def load(config: EvaluateConfig) -> object:
        return tiny_model() if config.base is None else load_base(config.base, tiny_model())

    monkeypatch.setattr("training.evaluation.evaluate.load_evaluated_model", load)


@pytest.fixture
def config(shop: Path, tmp_path: Path) -> GateConfig:
    return GateConfig(
        registry=tmp_path / "registry",
        gate_sets=(str(shop / "gate-discs"),),
        guard_sets=(str(shop / "guard-discs"),),
        metrics=("mIoU@1",),
        max_clicks=1,
        correct=False,  # a bump around the click would hide what the decoder learnt
        cache=tmp_path / "cache",
        out=tmp_path / "gate",
    )


def through(results: Iterator[ObjectResult], n: int, what: str) -> Iterable[ObjectResult]:
    return results


def counting(counts: list[int]) -> Callable[..., Iterable[ObjectResult]]:
    def progress(results: Iterator[ObjectResult], n: int, what: str) -> Iterable[ObjectResult]:
        counts.append(n)
        return results

    return progress


# The rule --------------------------------------------------------------------------------------


def paired(gains: np.ndarray, metric: Metric = MIOU, name: str = "set", groups: int = 0) -> Paired:
    """Values whose improvement, in the metric's own direction, is given."""
    current = np.full(len(gains), 10.0)
    sign = -1 if metric.is_better_lower else 1
    clusters = [f"g{i % groups}" if groups else str(i) for i in range(len(gains))]
    return Paired(
        name=name,
        role="gate",
        current={metric: current},
        candidate={metric: current + sign * gains},
        clusters=tuple(clusters),
    )


def verdict(config: GateConfig, *sets: Paired) -> list[str]:
    results = [compare_set(p, config) for p in sets]
    return list(reasons_against(compare_set(joined(sets), config), results, config))


def noise(n: int, mean: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 2.0, n)


@pytest.mark.parametrize("metric", [MIOU, NOC])
def test_better_is_better_whichever_way_the_metric_points(
    config: GateConfig, metric: Metric
) -> None:
    assert verdict(config, paired(noise(100, 1.0), metric)) == []
    (comparison,) = compare_set(paired(noise(100, 1.0), metric), config).comparisons
    assert comparison.gain == pytest.approx(1.0, abs=0.4) and comparison.is_better
    assert comparison.candidate > comparison.current or metric.is_better_lower


def test_the_same_is_not_better(config: GateConfig) -> None:
    (reason,) = verdict(config, paired(np.zeros(100)))
    assert reason == "not shown to be better on set: mIoU@1 +0.00 [+0.00, +0.00]"


def test_a_loss_within_the_tolerance_is_no_loss_on_a_guarded_set(config: GateConfig) -> None:
    gate, guard = paired(noise(100, 2.0), name="gate"), paired(noise(400, -0.5), name="guard")
    results = [compare_set(p, config) for p in (gate, guard)]
    assert list(reasons_against(results[0], results, config)) == []
    strict = replace(config, tolerance_percent=0.1)
    results = [compare_set(p, strict) for p in (gate, guard)]
    (reason,) = reasons_against(results[0], results, strict)
    assert "not shown to be no worse on guard" in reason and "allowed down to -0.10" in reason


def test_too_few_objects_are_said(config: GateConfig) -> None:
    (reason,) = verdict(config, paired(noise(20, 5.0)))
    assert "has 20 objects, the gate asks for at least 30" in reason


def test_few_groups_cannot_show_anything_however_many_objects(config: GateConfig) -> None:
    # Four groups that all gain: the signs of four pairs say p >= 2^-3 = 0.125.
    reasons = verdict(config, paired(noise(200, 5.0), groups=4))
    assert len(reasons) == 1 and "not shown to be better" in reasons[0]
    assert verdict(config, paired(noise(200, 5.0), groups=20)) == []


def test_several_metrics_share_the_level(config: GateConfig) -> None:
    # A gain whose 95 % interval just excludes 0 is enough for one metric, not for one of four.
    values = noise(60, 0.0, seed=1)
    values += 0.57 - values.mean()
    one = paired(values)
    assert verdict(config, one) == []
    others = [Metric("iou", n) for n in (2, 3, 4)]
    four = replace(
        one,
        current=dict(one.current) | {m: one.current[MIOU] for m in others},
        candidate=dict(one.candidate) | {m: one.current[MIOU] for m in others},
    )
    assert "not shown to be better" in verdict(config, four)[0]


def test_gate_sets_are_judged_together_and_guarded_one_by_one(config: GateConfig) -> None:
    good, bad = paired(noise(100, 6.0), name="a"), paired(noise(100, -3.0), name="b")
    (reason,) = verdict(config, good, bad)
    assert reason.startswith("not shown to be no worse on b")


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("mIoU@3", Metric("iou", 3)),
        ("Dice@1", Metric("dice", 1)),
        ("NoC20@90", Metric("noc", 20, 0.9)),
        ("FR20@90", None),
        ("mIoU", None),
    ],
)
def test_metrics_have_their_names_of_the_tables(name: str, metric: Metric | None) -> None:
    assert parse_metric(name) == metric
    assert metric is None or metric.name == name


def test_mistakes_are_found_all_at_once(config: GateConfig) -> None:
    wrong = replace(
        config,
        gate_sets=("a",),
        guard_sets=("a",),
        metrics=("FR20@90", "mIoU@9", "NoC1@95"),
        confidence=95.0,
        min_objects=2,
    )
    found = "\n".join(wrong.mistakes())
    for part in ("name it once", "'FR20@90' is none", "mIoU@9 needs more clicks", "above target",
                 "confidence must", "min_objects must"):  # fmt: skip
        assert part in found


def test_the_shipped_config_is_the_default() -> None:
    path = Path(__file__).parents[3] / "configs" / "gate.yaml"
    assert load_config(GateConfig, path, ["gate_sets=[a]"]) == GateConfig(gate_sets=("a",))


# The gate on models ----------------------------------------------------------------------------


def test_a_candidate_that_learnt_passes_and_a_shaken_one_does_not(
    config: GateConfig, shop: Path
) -> None:
    counts: list[int] = []
    result = Gate(config, shop / "better.safetensors").run(counting(counts))
    assert result.is_passed and counts == [40, 40, 36, 36]
    (gate, guard) = result.sets
    assert (gate.n_objects, guard.n_objects) == (40, 36)
    assert gate.comparisons[0].gain > 10 and gate.comparisons[0].n_better > 30
    counts.clear()
    shaken = Gate(config, shop / "worse.safetensors").run(counting(counts))
    assert not shaken.is_passed
    assert counts == [0, 40, 0, 36], "what is in use was measured before"


def test_a_set_whose_pictures_changed_is_measured_again(
    config: GateConfig, shop: Path, tmp_path: Path
) -> None:
    import shutil

    own = tmp_path / "own"
    shutil.copytree(shop / "gate-discs", own)
    config = replace(config, gate_sets=(str(own),), guard_sets=())
    before = Gate(config, shop / "better.safetensors")
    image = cv2.imread(str(own / "images" / "im0.png"))
    cv2.imwrite(str(own / "images" / "im0.png"), 255 - image)
    after = Gate(config, shop / "better.safetensors")
    (old,), (new,) = before.identity()["data"], after.identity()["data"]
    assert old["digest"] == new["digest"] and old["contents"] != new["contents"]
    assert before.folder != after.folder


# Promotion -------------------------------------------------------------------------------------


def test_a_promotion_makes_a_version_with_data_and_metrics(config: GateConfig, shop: Path) -> None:
    candidate = shop / "better.safetensors"
    done = promote(config, candidate, command="c", progress=through)
    registry = Registry(config.registry)
    assert done.name is not None and registry.current() == done.name
    card = json.loads(registry.path(done.name).with_name("card.json").read_text())
    assert card["parent"] == tiny_model().decoder_id and card["replaces"] is None
    assert card["metrics"]["gate-discs"]["mIoU@1"]["gain"] > 10
    assert card["data"][0]["contents"] and card["gate"]["command"] == "c"
    again = promote(config, candidate, command="c", progress=through)
    assert not again.is_new and len(RegistryWriter(config.registry).history()) == 1


def test_what_does_not_pass_changes_nothing(config: GateConfig, shop: Path) -> None:
    done = promote(config, shop / "worse.safetensors", command="c", progress=through)
    assert done.name is None and done.report["reasons"]
    registry = Registry(config.registry)
    assert registry.versions() == [] and registry.current() is None


def test_the_next_candidate_is_measured_against_the_promoted_one(
    config: GateConfig, shop: Path
) -> None:
    first = promote(config, shop / "better.safetensors", command="c", progress=through)
    gate = Gate(config, shop / "worse.safetensors")
    assert gate.current.decoder_id == read_card(shop / "better.safetensors").decoder_id
    assert gate.identity()["current"] == gate.current.decoder_id
    assert first.name == gate.current_name


def test_a_promotion_that_was_killed_goes_on(config: GateConfig, shop: Path) -> None:
    """Stopped in the middle of the second set: nothing changed, and little is done again."""

    class Stop(Exception):
        pass

    def stopping(results: Iterator[ObjectResult], n: int, what: str) -> Iterable[ObjectResult]:
        for i, result in enumerate(results):
            if what == "guard-discs, current" and i == 10:
                raise Stop
            yield result

    with pytest.raises(Stop):
        promote(config, shop / "better.safetensors", command="c", progress=stopping)
    assert Registry(config.registry).current() is None
    counts: list[int] = []
    done = promote(config, shop / "better.safetensors", command="c", progress=counting(counts))
    assert done.name is not None
    assert counts[:2] == [0, 0] and counts[2] <= 26 and counts[3] == 36


def test_a_second_promotion_at_once_is_told(config: GateConfig, shop: Path) -> None:
    with RegistryWriter(config.registry).locked("promote other.safetensors"):
        with pytest.raises(StoreError, match=r"promote other\.safetensors in process"):
            promote(config, shop / "better.safetensors", command="c", progress=through)


# Commands --------------------------------------------------------------------------------------


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def asked(shop: Path, candidate: str, *more: str | Path) -> tuple[str | Path, ...]:
    return (
        shop / f"{candidate}.safetensors", "--gate-set", shop / "gate-discs",
        "--guard-set", shop / "guard-discs", "metrics=[mIoU@1]", "max_clicks=1",
        "correct=false", "--registry", "registry", *more,
    )  # fmt: skip


def test_gate_promote_versions_and_rollback(shop: Path) -> None:
    looked = run("gate", *asked(shop, "better"))
    assert looked.exit_code == 0, looked.output
    for part in ("PASSED", "gate-discs (gate)", "contents", "report.json"):
        assert part in looked.output
    assert not Path("registry/versions").exists()
    report = next(Path("runs/gate").glob("*/report.json"))
    content = json.loads(report.read_text())
    assert content["command"] == (
        "strop-train gate better.safetensors --gate-set gate-discs --guard-set guard-discs "
        "--objects 200 --seed 0"
    )

    done = run("promote", *asked(shop, "better", "--report", report, "--name", "first"))
    assert done.exit_code == 0, done.output
    assert "first is in use now, before it the model as it came" in done.output
    listed = run("versions", "--registry", "registry")
    assert "*  first" in listed.output and "in use: first" in listed.output
    assert json.loads(run("versions", "--registry", "registry", "--json").output)["history"]

    again = run("promote", *asked(shop, "better"))
    assert again.exit_code == 0 and "in use already, as first" in again.output
    back = run("rollback", "--registry", "registry", "--reason", "odd masks")
    assert back.exit_code == 0 and back.output.startswith(f"{EMBEDDED} is in use now")
    assert run("rollback", "--registry", "registry").exit_code == 2


def test_a_candidate_that_does_not_pass_is_exit_code_1(shop: Path) -> None:
    done = run("promote", *asked(shop, "worse"))
    assert done.exit_code == 1
    assert "NOT PASSED" in done.output and "Nothing was changed" in done.output


def test_a_report_about_something_else_or_too_old_is_refused(shop: Path) -> None:
    run("gate", *asked(shop, "better"))
    report = next(Path("runs/gate").glob("*/report.json"))
    other = run("promote", *asked(shop, "worse", "--report", report))
    assert other.exit_code == 2 and "about something else: candidate changed" in other.output
    seed = run("promote", *asked(shop, "better", "--report", report, "seed=1"))
    assert seed.exit_code == 2 and "rules, settings changed" in seed.output
    content = json.loads(report.read_text())
    report.write_text(json.dumps(content | {"created_at": "2026-01-01T00:00:00+00:00"}))
    old = run("promote", *asked(shop, "better", "--report", report))
    assert old.exit_code == 2 and "hours old, at most 24" in old.output
    report.write_text("{}")
    assert run("promote", *asked(shop, "better", "--report", report)).exit_code == 2
    assert Registry(Path("registry")).current() is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none.safetensors", "--gate-set", "x"), "There is no base none.safetensors"),
        (("none.safetensors",), "gate_sets must name at least one"),
        (("none.safetensors", "--gate-set", "x", "metrics=[best]"), "'best' is none"),
    ],
)
def test_mistakes_are_one_message_and_exit_code_2(arguments: tuple[str, ...], message: str) -> None:
    for command in ("gate", "promote"):
        result = run(command, *arguments)
        assert result.exit_code == 2 and message in result.output
        assert "Traceback" not in result.output


def test_sets_that_are_missing_are_named(shop: Path) -> None:
    result = run("gate", shop / "better.safetensors", "--gate-set", "nowhere")
    assert result.exit_code == 2 and "not found in the data folder: nowhere" in result.output


def test_a_base_can_be_evaluated(shop: Path) -> None:
    result = run(
        "evaluate", "--data", shop / "gate-discs", "--base", shop / "better.safetensors",
        "--objects", 4, "--max-clicks", 1, "--out", "out",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    content = json.loads(Path("out/result.json").read_text())
    assert content["model"]["decoder_id"] == read_card(shop / "better.safetensors").decoder_id
    assert "--base better.safetensors" in content["command"]


def test_a_candidate_of_another_model_is_refused(
    config: GateConfig, shop: Path, tmp_path: Path
) -> None:
    from adaptation.models.sam import PromptableSam
    from tests.adaptation.conftest import tiny_vit_sam

    stranger = PromptableSam(tiny_vit_sam(seed=9), "stranger")
    path = worse_base(tmp_path / "s.safetensors", stranger)
    with pytest.raises(ModelError, match="stranger"):
        Gate(config, path)


def test_the_decoder_in_use_is_no_candidate(config: GateConfig, shop: Path) -> None:
    promote(config, shop / "better.safetensors", command="c", progress=through, name="v1")
    with pytest.raises(InputError, match="in use already as v1"):
        Gate(config, shop / "better.safetensors")
