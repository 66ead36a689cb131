"""The harness: the protocol on a scripted model, learning on a real one, and runs on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import pytest
import torch

from adaptation.errors import ImageError, SettingsError
from adaptation.learning.adapter import adapter_of, save_adapter
from adaptation.learning.settings import LearnerSettings
from adaptation.models.sam import PromptableSam
from adaptation.predictor.click_correction import ClickCorrection, CorrectionSettings
from adaptation.predictor.settings import EdgeSettings, ZoomSettings
from adaptation.simulation.annotator import Rules
from adaptation.storage.datasets import FolderSet
from adaptation.types import Click, Prompt
from tests.training.fakes import (
    Mask,
    OneStepLearner,
    OneStepLearners,
    ScriptedSam,
    disc,
    tiny_model,
    write_discs,
)
from training.evaluation.config import ABLATIONS
from training.evaluation.evaluate import EvaluateConfig, Evaluation, with_adapter
from training.evaluation.harness import Harness, ObjectResult, Slot, is_contradicted
from training.evaluation.learners import OnlineFactory, make_learners, without
from training.evaluation.results import RESULTS_FILE, RunFolder, result_from_json, result_to_json
from training.runtime.embedding_cache import CachedEncoder

FROZEN = Slot(mode="frozen", order=0, session=0, position=0)
NO_ZOOM = ZoomSettings(is_on=False)


@pytest.fixture
def discs(tmp_path: Path) -> Path:
    return write_discs(tmp_path / "discs")


def scripted(root: Path, mask_after: Callable[[int], Mask], rules: Rules) -> ObjectResult:
    """The first object of the folder on a model that answers by script."""
    dataset = FolderSet(root)
    sam = cast(PromptableSam, ScriptedSam(mask_after))
    plain = EdgeSettings(is_on=False)
    harness = Harness(sam, dataset, CachedEncoder(sam), rules, NO_ZOOM, edges=plain)
    return harness.run_object(next(dataset.objects()), FROZEN, None)


# The protocol ---------------------------------------------------------------------------------

TRUTH = disc(16, 18, 9)


def missing_rows(n_rows: int) -> Mask:
    """The object without its first rows."""
    mask = TRUTH.copy()
    mask[: 9 + n_rows] = False
    return mask


def test_clicking_stops_at_the_target_and_every_iou_is_exact(discs: Path) -> None:
    # 12, 10, 8, ... rows are missing after 1, 2, 3, ... clicks.
    result = scripted(discs, lambda n: missing_rows(14 - 2 * n), Rules(target=0.9))
    expected = [missing_rows(14 - 2 * n).sum() / TRUTH.sum() for n in range(1, 8)]
    n_needed = next(n for n, iou in enumerate(expected, 1) if iou >= 0.9)
    assert result.ious == pytest.approx(expected[:n_needed])
    assert result.dices == pytest.approx([2 * i / (1 + i) for i in expected[:n_needed]])
    assert result.is_accepted
    assert len(result.clicks) == len(result.click_s) == n_needed
    assert result.clicks[0] == (16, 18, True)


def test_a_model_that_never_gets_there_uses_up_its_clicks(discs: Path) -> None:
    result = scripted(discs, lambda n: missing_rows(12), Rules(max_clicks=5))
    assert len(result.ious) == 5
    assert not result.is_accepted
    assert len(set(result.clicks)) == 5, "no pixel is clicked twice"


def test_a_mask_that_is_exactly_at_the_target_is_accepted(discs: Path) -> None:
    iou = float(missing_rows(6).sum() / TRUTH.sum())
    result = scripted(discs, lambda n: missing_rows(6), Rules(target=iou))
    assert len(result.ious) == 1 and result.is_accepted


def test_contradicted_clicks_are_counted(discs: Path) -> None:
    # Nothing is ever shown: every positive click is contradicted by every mask after it.
    result = scripted(discs, lambda n: np.zeros_like(TRUTH), Rules(max_clicks=3))
    assert result.contradicted == (1, 2, 3)
    assert result.disobeyed == (True, True, True)
    assert result.ious == (0.0, 0.0, 0.0)


def test_a_click_and_a_mask_contradict_each_other_at_the_clicked_pixel() -> None:
    assert not is_contradicted(TRUTH, Click(x=16, y=18, is_positive=True))
    assert is_contradicted(TRUTH, Click(x=16, y=18, is_positive=False))
    assert is_contradicted(TRUTH, Click(x=50, y=50, is_positive=True))


@pytest.mark.parametrize(("prompts", "n_clicks"), [("point", 1), ("point+negative", 2), ("box", 0)])
def test_single_prompts_are_answered_once(discs: Path, prompts: str, n_clicks: int) -> None:
    sam = tiny_model()
    dataset = FolderSet(discs)
    harness = Harness(sam, dataset, CachedEncoder(sam), Rules(prompts=prompts), NO_ZOOM)
    result = harness.run_object(next(dataset.objects()), FROZEN, None)
    assert len(result.ious) == 1
    assert len(result.clicks) == n_clicks


def test_the_next_click_is_answered_with_the_last_masks_logits(discs: Path) -> None:
    model = ScriptedSam(lambda n: missing_rows(12))
    sam, dataset = cast(PromptableSam, model), FolderSet(discs)
    harness = Harness(sam, dataset, CachedEncoder(sam), Rules(max_clicks=2), NO_ZOOM)
    harness.run_object(next(dataset.objects()), FROZEN, None)
    assert [p.mask_input is None for p in model.prompts] == [True, False]


def test_a_label_map_of_another_size_is_said(discs: Path) -> None:
    cv2.imwrite(str(discs / "masks" / "im0.png"), np.ones((32, 64), np.uint8))
    with pytest.raises(ImageError, match="im0 has 64x64 pixels, its label map 64x32"):
        scripted(discs, lambda n: TRUTH, Rules())


def test_corrected_masks_obey_every_click(discs: Path) -> None:
    dataset, sam, rules = FolderSet(discs), tiny_model(), Rules(max_clicks=6, target=0.999)
    refs = list(dataset.objects())[:4]
    wrong = {}
    for is_corrected in (False, True):
        corrector = ClickCorrection(CorrectionSettings(), sam.input_size) if is_corrected else None
        harness = Harness(sam, dataset, CachedEncoder(sam), rules, NO_ZOOM, corrector=corrector)
        results = list(harness.run_stream(refs, None))
        wrong[is_corrected] = sum(sum(r.contradicted) for r in results)
    assert wrong[True] < 0.2 * wrong[False]


# Learning -------------------------------------------------------------------------------------


def stream(root: Path, learner: OneStepLearner | None, rules: Rules) -> list[ObjectResult]:
    sam, dataset = tiny_model(), FolderSet(root)
    plain = EdgeSettings(is_on=False)
    harness = Harness(sam, dataset, CachedEncoder(sam), rules, NO_ZOOM, edges=plain)
    return list(harness.run_stream(list(dataset.objects()), learner))


def test_a_learner_that_learns_does_better_on_later_objects(tmp_path: Path) -> None:
    root = write_discs(tmp_path / "many", n_images=12)
    rules = Rules(max_clicks=1, target=0.99)
    frozen = stream(root, None, rules)
    adapted = stream(root, OneStepLearner(tiny_model(), 0, n_steps=10), rules)
    assert adapted[0].ious == frozen[0].ious, "nothing is learnt before the first object"
    gain = [a.ious[0] - f.ious[0] for a, f in zip(adapted, frozen, strict=True)]
    assert np.mean(gain[-8:]) > 0.05


def test_the_learner_sees_every_click_and_the_masks_that_were_submitted(discs: Path) -> None:
    learner = OneStepLearner(tiny_model(), 0)
    results = stream(discs, learner, Rules(max_clicks=2, target=0.999))
    assert learner.n_clicks == sum(len(r.clicks) for r in results)
    dataset = FolderSet(discs)
    for result, mask in zip(results, learner.masks, strict=True):
        assert not result.is_accepted
        np.testing.assert_array_equal(mask, dataset.mask(result.ref))


def test_an_accepted_mask_is_submitted_as_it_was_shown(discs: Path) -> None:
    learner = OneStepLearner(tiny_model(), 0, n_steps=0)
    results = stream(discs, learner, Rules(target=1e-6))
    truth = FolderSet(discs).mask(results[0].ref)
    accepted = [i for i, r in enumerate(results) if r.is_accepted]
    assert accepted
    submitted = learner.masks[accepted[0]]
    shared = (submitted & truth).sum() / (submitted | truth).sum()
    assert results[accepted[0]].ious[-1] == pytest.approx(shared)
    assert shared < 0.9, "the tiny model's own mask, not the ground truth"


# Runs -----------------------------------------------------------------------------------------


def config(root: Path, folder: Path, **changes: object) -> EvaluateConfig:
    values: dict[str, object] = {
        "data": root, "objects": 6, "orders": 2, "max_clicks": 3, "adapt": "both",
        "cache": folder / "cache", "out": folder / "run",
    }  # fmt: skip
    return EvaluateConfig(**{**values, **changes})  # type: ignore[arg-type]


def evaluate(config: EvaluateConfig, stop_after: int | None = None) -> list[ObjectResult]:
    """Run, or go on with, an evaluation of the tiny model; stop early like a crash would."""
    evaluation = Evaluation(config, tiny_model(), OneStepLearners())
    done = evaluation.finished()
    fresh = []
    for result in evaluation.go_on(evaluation.jobs(done)):
        fresh.append(result)
        if len(fresh) == stop_after:
            break
    return done + fresh


def without_times(results: Sequence[ObjectResult]) -> list[ObjectResult]:
    timeless = [
        replace(r, click_s=(), encode_s=0.0, n_encoded=0, learn_click_s=0.0, learn_mask_s=0.0)
        for r in results
    ]
    return sorted(timeless, key=lambda r: (r.slot.mode, r.slot.order, r.ref))


def test_both_modes_run_on_the_same_objects(discs: Path, tmp_path: Path) -> None:
    results = evaluate(config(discs, tmp_path))
    frozen = [r.ref for r in results if r.slot.mode == "frozen"]
    assert len(frozen) == len(set(frozen)) == 6
    for order in range(2):
        adapted = [r for r in results if r.slot.mode == "adapted" and r.slot.order == order]
        assert {r.ref for r in adapted} == set(frozen)
        assert [r.slot.position for r in adapted] == list(range(6))


def test_a_stopped_run_goes_on_and_ends_the_same(discs: Path, tmp_path: Path) -> None:
    whole = evaluate(config(discs, tmp_path / "a"))
    asked = config(discs, tmp_path / "b")
    evaluate(asked, stop_after=8)  # in the second stream
    with (asked.out / RESULTS_FILE).open("a") as file:  # type: ignore[operator]
        file.write('{"ref": {"datas')
    resumed = Evaluation(asked, tiny_model(), OneStepLearners())
    assert len(resumed.finished()) == 6, "the stream that was cut off starts again"
    assert len((asked.out / RESULTS_FILE).read_text().splitlines()) == 6  # type: ignore[operator]
    assert without_times(evaluate(asked)) == without_times(whole)
    finished = Evaluation(asked, tiny_model(), OneStepLearners())
    assert finished.jobs(finished.finished()) == []
    assert len(finished.finished()) == finished.n_results == 18


def test_frozen_objects_are_never_done_twice(discs: Path, tmp_path: Path) -> None:
    asked = config(discs, tmp_path, adapt="none")
    evaluate(asked, stop_after=4)
    evaluation = Evaluation(asked, tiny_model())
    left = evaluation.jobs(evaluation.finished())
    assert sum(len(job.refs) for job in left) == 2


def test_a_changed_command_is_not_resumed(discs: Path, tmp_path: Path) -> None:
    evaluate(config(discs, tmp_path), stop_after=1)
    with pytest.raises(SettingsError, match=r"rules.max_clicks: 3 before, 4 now") as error:
        evaluate(config(discs, tmp_path, max_clicks=4))
    assert "--out" in str(error.value)
    evaluate(config(discs, tmp_path, workers=1, cache_gb=1.0))  # changes no result


def test_what_changes_results_gets_a_folder_of_its_own(
    discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folders = {
        Evaluation(replace(config(discs, tmp_path), out=None, **change), tiny_model()).run.path
        for change in ({"adapt": "none"}, {"adapt": "none", "seed": 1}, {"adapt": "none"})
    }
    assert len(folders) == 2


def test_cached_embeddings_change_no_result(discs: Path, tmp_path: Path) -> None:
    plain = evaluate(config(discs, tmp_path / "a", cache=None))
    first = evaluate(config(discs, tmp_path / "b"))
    second = evaluate(config(discs, tmp_path / "b", out=tmp_path / "again"))
    assert without_times(plain) == without_times(first) == without_times(second)
    assert sum(r.n_encoded for r in plain) > 0
    assert sum(r.n_encoded for r in second) == 0


def test_a_run_is_given_more_orders_later(discs: Path, tmp_path: Path) -> None:
    whole = evaluate(config(discs, tmp_path / "a", orders=2))
    one = evaluate(config(discs, tmp_path / "b", orders=1))
    assert {r.slot.order for r in one} == {0}
    more = Evaluation(config(discs, tmp_path / "b", orders=2), tiny_model(), OneStepLearners())
    assert {job.order for job in more.jobs(more.finished())} == {1}
    assert without_times(evaluate(more.config)) == without_times(whole)
    again = Evaluation(config(discs, tmp_path / "b", orders=1), tiny_model(), OneStepLearners())
    assert without_times(again.finished()) == without_times(one)


def test_sessions_have_learners_of_their_own(discs: Path, tmp_path: Path) -> None:
    results = evaluate(config(discs, tmp_path, sessions=2, orders=1, adapt="online"))
    sessions = {s: [r for r in results if r.slot.session == s] for s in (0, 1)}
    assert all(sessions.values())
    groups = [{r.ref.group for r in members} for members in sessions.values()]
    assert not groups[0] & groups[1]
    alone = evaluate(config(discs, tmp_path / "one", orders=1, adapt="none", correct=False))
    frozen = {r.ref: r.ious[0] for r in alone}
    for members in sessions.values():
        first = next(r for r in members if r.slot.position == 0)
        assert first.ious[0] == frozen[first.ref], "a session starts from the base model"


@pytest.mark.slow
def test_worker_processes_change_no_result(
    discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.evaluation.evaluate.load_evaluated_model", load_tiny)
    asked = config(discs, tmp_path / "a", objects=4, orders=1)
    alone = evaluate(asked)
    shared = evaluate(replace(asked, workers=2, out=tmp_path / "b"))
    assert without_times(shared) == without_times(alone)


def load_tiny(config: EvaluateConfig) -> PromptableSam:
    torch.set_num_threads(1)
    return tiny_model()


def test_an_adapter_becomes_the_base_decoder(tmp_path: Path) -> None:
    sam = tiny_model()
    changed = {n: v + 0.25 for n, v in sam.decoder_parameters().items()}
    save_adapter(adapter_of(sam, changed), tmp_path / "a.safetensors", {})
    image = np.full((64, 64, 3), 90, np.uint8)
    prompt = [Prompt(clicks=(Click(x=9, y=9, is_positive=True),))]
    wanted = sam.decode(sam.embed(image), prompt, weights=changed).low_res_logits
    adapted = with_adapter(tiny_model(), tmp_path / "a.safetensors")
    torch.testing.assert_close(adapted.decode(adapted.embed(image), prompt).low_res_logits, wanted)
    assert adapted.decoder_id != sam.decoder_id
    assert adapted.encoder_id == sam.encoder_id
    assert adapted.model_id.startswith("tiny+")


def test_all_mistakes_of_a_config_are_said_at_once(discs: Path) -> None:
    wrong = EvaluateConfig(
        data=discs, prompts="lasso", adapt="maybe", orders=0, target=90, cache_gb=0, seed=-1
    )
    assert len(wrong.mistakes()) == 6
    assert EvaluateConfig(data=discs).mistakes() == []


def test_a_result_survives_the_way_through_json(discs: Path) -> None:
    result = scripted(discs, lambda n: missing_rows(12), Rules(max_clicks=3))
    assert without_times([result_from_json(result_to_json(result))]) == without_times([result])


def test_a_folder_with_results_of_unknown_origin_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / RESULTS_FILE).write_text("")
    with pytest.raises(SettingsError, match="holds results but no run.json"):
        RunFolder(tmp_path, {}, "abc")


def test_code_that_changed_under_a_run_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    RunFolder(tmp_path, {"seed": 0}, "abc")
    RunFolder(tmp_path, {"seed": 0}, "abc")
    assert not caplog.records
    RunFolder(tmp_path, {"seed": 0}, "def")
    assert "begun by the code of abc" in caplog.text


def test_a_damaged_run_file_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(SettingsError, match="run.json in .* is damaged"):
        RunFolder(tmp_path, {}, "abc")


@pytest.mark.parametrize(
    ("adapt", "ablate", "steps", "scores"),
    [
        ("both", "", 8, True),
        ("online", "scores", 8, False),
        ("weights", "", 8, False),
        ("scores", "", 0, True),
        ("both", "weights", 0, True),
    ],
)
def test_parts_of_the_learner_are_left_out(
    discs: Path, adapt: str, ablate: str, steps: int, scores: bool
) -> None:
    asked = EvaluateConfig(data=discs, adapt=adapt, ablate=ablate)
    learners = make_learners(asked)
    assert isinstance(learners, OnlineFactory)
    assert (learners.settings.steps, learners.settings.trust.scores) == (steps, scores)
    assert asked.modes == (("adapted",) if adapt == "online" else ("frozen", "adapted"))


def test_every_part_can_be_left_out() -> None:
    whole = LearnerSettings()
    for part in ABLATIONS:
        assert (without(whole, part) == whole) == (part == "")


def test_what_does_not_learn_has_no_part_to_leave_out(discs: Path) -> None:
    for adapt in ("none", "seed"):
        mistakes = EvaluateConfig(data=discs, adapt=adapt, ablate="scores").mistakes()
        assert mistakes == [f"ablate leaves out a part of the learner, and adapt {adapt} has none"]
