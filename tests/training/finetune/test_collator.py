"""Comparisons: what is drawn of them, and that an object's clicks are answered once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from adaptation.models.catalog import load_model
from adaptation.predictor.interactive import Answer, InteractivePredictor
from adaptation.predictor.settings import ZoomSettings
from adaptation.storage.album import Album
from adaptation.types import Box, Click
from tests.training.tuning_kit import example, pairs_of, ranking, rle, write_image, write_model
from training.finetune.collator import PreferenceCollator
from training.finetune.comparisons import (
    RankedMasks,
    bounded,
    comparisons_of_preferences,
    of_objects,
)
from training.finetune.metrics import MetricSums
from training.finetune.prompt_cache import PromptCache, Unusable
from training.preferences.files import EXAMPLES, PAIRS, RANKINGS, TableWriter
from training.runtime.embedding_cache import CachedEncoder

CLICKS = tuple(Click(x=x, y=30, is_positive=x > 10) for x in (30, 4, 34, 26))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two objects: one with pairs after one to three clicks of four, one without an example."""
    folder = tmp_path_factory.mktemp("comparisons")
    write_model(folder)
    album, made = Album(folder / "album"), folder / "preferences"
    made.mkdir()
    image_id = write_image(album, 0)
    with (
        TableWriter(made, EXAMPLES) as examples,
        TableWriter(made, PAIRS) as pairs,
        TableWriter(made, RANKINGS) as rankings,
    ):
        examples.write(replace(example("a", image_id, "train"), clicks=CLICKS))
        for object_id in ("a", "b"):
            template = pairs_of(object_id, image_id, "train")[0]
            for n in (1, 2, 3):
                for radius in (5, 7, 9):
                    name = f"{object_id}/{n}/{radius}"
                    pair = replace(template, pair_id=name, object_id=object_id, clicks=CLICKS[:n])
                    pairs.write(replace(pair, rejected=rle(radius)))
        rankings.write(replace(ranking("b", image_id, "train"), clicks=CLICKS[:2]))
    return folder


def comparisons(root: Path, *, lists: bool = False) -> list[RankedMasks]:
    return comparisons_of_preferences(root / "preferences", Album(root / "album"), lists=lists)


def desk_of(root: Path, cache: Path) -> tuple[PreferenceCollator, Counter[int]]:
    """A desk, and how often so many clicks were answered on it."""
    sam = load_model("compact", root, checkpoint=root / "tiny.safetensors")
    replayer = PromptCache(sam, CachedEncoder(sam, None), cache, ZoomSettings())
    counts: Counter[int] = Counter()
    answer = replayer.interaction.answer

    def counted(*arguments: object, **options: object) -> Answer:
        counts[len(arguments[2])] += 1  # type: ignore[arg-type]
        return answer(*arguments, **options)  # type: ignore[arg-type]

    replayer.interaction.answer = counted  # type: ignore[method-assign]
    return PreferenceCollator(replayer), counts


def test_an_objects_clicks_are_answered_once_for_all_its_comparisons(
    root: Path, tmp_path: Path
) -> None:
    desk, counts = desk_of(root, tmp_path)
    items = comparisons(root) + comparisons(root, lists=True)
    for item in items:
        desk.check(item)
    # Of the first all four clicks of its example, of the second the three that its pairs have.
    assert counts == {1: 2, 2: 2, 3: 2, 4: 1}
    desk.batch(items)
    assert sum(counts.values()) == 7


def test_shared_prompts_are_those_of_a_replay_of_their_own(root: Path, tmp_path: Path) -> None:
    desk, _ = desk_of(root, tmp_path)
    items = [item for item in comparisons(root) if item.name.endswith("/5")]
    batch = desk.batch(items)
    alone = InteractivePredictor(desk.replayer.sam, ZoomSettings())
    encoder = CachedEncoder(desk.replayer.sam, None)
    for item, prompt in zip(items, batch.prompts, strict=True):
        image = item.read()
        answer = alone.resume(encoder.of(image), item.image_size, item.clicks, item.box)
        assert prompt.clicks == answer.prompt.clicks
        if answer.prompt.mask_input is None:
            assert prompt.mask_input is None
        else:
            assert prompt.mask_input is not None
            assert torch.allclose(prompt.mask_input, answer.prompt.mask_input, atol=0.02)


def test_prompts_with_another_box_or_beginning_share_nothing(root: Path) -> None:
    chains = {(item.object_id, len(item.clicks)): len(item.chain) for item in comparisons(root)}
    assert chains == {(o, n): last for o, last in (("a", 4), ("b", 3)) for n in (1, 2, 3)}
    items = comparisons(root)
    image_id = items[0].image_key
    folder = root / "boxed"
    folder.mkdir()
    box = Box(x0=10, y0=10, x1=50, y1=50)
    boxed = replace(pairs_of("a", image_id, "train")[0], clicks=CLICKS[:1], box=box)
    moved = replace(boxed, box=None, clicks=(CLICKS[1],), pair_id="moved")
    with (
        TableWriter(folder, EXAMPLES) as examples,
        TableWriter(folder, PAIRS) as pairs,
        TableWriter(folder, RANKINGS),
    ):
        examples.write(replace(example("a", image_id, "train"), clicks=CLICKS))
        pairs.write(boxed)
        pairs.write(moved)
    found = comparisons_of_preferences(folder, Album(root / "album"), lists=False)
    assert [item.chain for item in found] == [item.clicks for item in found]


def test_prompts_of_more_clicks_are_neither_compared_nor_replayed(
    root: Path, tmp_path: Path
) -> None:
    made, album = root / "preferences", Album(root / "album")
    items = comparisons_of_preferences(made, album, lists=True, most_clicks=2)
    assert {(item.object_id, len(item.clicks)) for item in items} == {
        (o, n) for o in "ab" for n in (1, 2)
    }
    assert all(item.truth is not None for item in items if item.object_id == "a")
    desk, counts = desk_of(root, tmp_path)
    for item in items:
        desk.check(item)
    assert counts == {1: 1, 2: 1}  # by now both objects have the same two clicks


def test_a_mask_of_another_size_is_no_use(root: Path, tmp_path: Path) -> None:
    item = replace(comparisons(root)[0], image_size=(64, 65))
    with pytest.raises(Unusable, match="differ in size"):
        desk_of(root, tmp_path)[0].check(item)


# What is drawn


def test_of_each_source_of_an_object_so_many_are_drawn(root: Path) -> None:
    items = comparisons(root)
    found = bounded(items, 4, seed=0)
    assert Counter(item.object_id for item in found) == {"a": 4, "b": 4}
    assert [item.name for item in found] == [i.name for i in items if i in found]  # their order
    assert bounded(items, 4, seed=0) == found != bounded(items, 4, seed=1)
    # What is drawn of one object does not depend on the others.
    mine = [item for item in items if item.object_id == "a"]
    assert bounded(mine, 4, seed=0) == [item for item in found if item.object_id == "a"]
    halves = [replace(i, source="choice") if i.turn else i for i in items]
    counts = Counter((i.object_id, i.source) for i in bounded(halves, 2, seed=0))
    assert counts == {(o, s): 2 for o in "ab" for s in ("choice", "correction")}
    assert bounded(items, None, seed=0) == items


def test_so_many_objects_are_drawn_whole(root: Path) -> None:
    items = comparisons(root)
    drawn = {seed: {i.object_id for i in of_objects(items, 1, seed)} for seed in range(8)}
    assert all(len(ids) == 1 for ids in drawn.values())
    assert len({tuple(ids) for ids in drawn.values()}) == 2
    assert of_objects(items, None, 0) == of_objects(items, 5, 0) == items


# Calibration


def test_the_expected_calibration_error_is_that_of_all_batches_together() -> None:
    whole, parts = MetricSums(), MetricSums()
    scores = torch.tensor([0.95, 0.92, 0.31, 1.2])
    ious = torch.tensor([0.85, 0.98, 0.61, 1.0])
    whole.note_gap("ece", scores, ious)
    for score, iou in zip(scores, ious, strict=True):
        part = MetricSums()
        part.note_gap("ece", score[None], iou[None])
        parts.add(part)
    # The highest tenth: 0.10 - 0.06 + 0.20 = 0.24; the one of 0.31: -0.30; over four scores.
    assert whole.means() == {"ece": pytest.approx((0.24 + 0.30) / 4, abs=1e-6)}
    assert parts.means("eval_") == {"eval_ece": pytest.approx(0.135, abs=1e-6)}
    whole.note_gap("ece", torch.tensor([[0.5]]), torch.tensor([[torch.nan]]))
    assert whole.means() == {"ece": pytest.approx(0.135, abs=1e-6)}
