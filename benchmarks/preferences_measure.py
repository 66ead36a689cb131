"""What a decoder is worth on held-out objects: clicks, single prompts, and its own scores.

Everything goes through the harness and the interaction that are served: zoom and edges on, no
learner, no corrector, so that only the decoder's weights differ between two measurements.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptation.masks.regions import iou
from adaptation.models.sam import PromptableSam
from adaptation.predictor.interactive import InteractivePredictor
from adaptation.predictor.settings import EdgeSettings, ZoomSettings
from adaptation.simulation.annotator import Annotator, Rules
from adaptation.storage.datasets import FolderSet, ObjectRef, open_sets, sample_objects
from training.evaluation.harness import Harness, Slot
from training.evaluation.statistics import bootstrap_interval
from training.runtime.embedding_cache import CachedEncoder, EncodingStore

SLOT = Slot(mode="frozen", order=0, session=0, position=0)
CACHE_BYTES = 20_000_000_000
CLICKS = (1, 3, 5)
TARGETS = (85, 90)
N_BINS = 10

Row = dict[str, Any]
"""One object: what `measure` found of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasurePlan:
    """What is measured.

    Args:
        data: Folder of data sets.
        sets: Their names.
        objects: Of each set, drawn by the seed.
        max_clicks: On one object; one that needs more counts with this many, as a failure.
        first_clicks: First clicks on an object that the scores are measured at: one in the middle,
            the others beside it.
        seed: Of the sample and of those clicks.
        cache: Folder of embeddings.
    """

    data: Path
    sets: tuple[str, ...]
    objects: int
    max_clicks: int
    first_clicks: int
    seed: int
    cache: Path

    def rules(self, prompts: str = "clicks", clicker: str = "central", seed: int = 0) -> Rules:
        """How the annotator behaves; the seed tells one noisy click from the next."""
        return Rules(
            prompts=prompts,
            clicker=clicker,
            max_clicks=self.max_clicks,
            target=max(TARGETS) / 100,
            seed=self.seed + seed,
        )


def measure(plan: MeasurePlan, sam: PromptableSam) -> Iterator[Row]:
    """Measure one object after the other."""
    encoder = CachedEncoder(sam, EncodingStore(plan.cache, CACHE_BYTES))
    for dataset in open_sets(plan.data, plan.sets):
        harnesses = {
            prompts: Harness(sam, dataset, encoder, plan.rules(prompts), ZoomSettings())
            for prompts in ("clicks", "point+negative", "box")
        }
        for ref in sorted(sample_objects(dataset.objects(), plan.objects, plan.seed)):
            found = {name: each.run_object(ref, SLOT, None) for name, each in harnesses.items()}
            yield {
                "object": f"{ref.dataset}/{ref.stem}/{ref.label}",
                "group": f"{ref.dataset}/{ref.group}",
                "ious": found["clicks"].ious,
                "dices": found["clicks"].dices,
                **{f"iou {name}": found[name].ious[0] for name in ("point+negative", "box")},
                **{f"dice {name}": found[name].dices[0] for name in ("point+negative", "box")},
                "first": list(_first_clicks(plan, sam, dataset, ref, encoder)),
            }


def _first_clicks(
    plan: MeasurePlan,
    sam: PromptableSam,
    dataset: FolderSet,
    ref: ObjectRef,
    encoder: CachedEncoder,
) -> Iterator[Row]:
    """Scores and IoUs of the masks that are offered for a lone click, as the decoder made them."""
    image, truth = dataset.image(ref.stem), dataset.mask(ref)
    encode, size = encoder.of(image), (image.shape[0], image.shape[1])
    plain = InteractivePredictor(sam, ZoomSettings(), edges=EdgeSettings(is_on=False))
    for number in range(plan.first_clicks):
        rules = plan.rules(clicker="noisy" if number else "central", seed=number)
        annotator = Annotator(truth, rules, f"{ref.stem}/{ref.label}")
        annotator.begin()
        answer = plain.answer(encode, size, annotator.clicks)
        logits, scores = answer.prediction.low_res_logits[0, 1:], answer.prediction.predicted_iou
        masks = [answer.pasted(sam.binary_mask(each, answer.embedding)) for each in logits]
        yield {
            "scores": [float(score) for score in scores[0, 1:]],
            "ious": [iou(mask, truth) for mask in masks],
        }


# Numbers of one object ---------------------------------------------------------------------------


def metrics(row: Row, max_clicks: int) -> dict[str, float]:
    """One object's values; an object that was finished early keeps its last mask."""
    found = {}
    for n in CLICKS:
        found[f"IoU@{n}"] = row["ious"][min(n, len(row["ious"])) - 1]
        found[f"Dice@{n}"] = row["dices"][min(n, len(row["dices"])) - 1]
    for target in TARGETS:
        reached = [n for n, each in enumerate(row["ious"], start=1) if each >= target / 100]
        found[f"NoC@{target}"] = reached[0] if reached else max_clicks
        found[f"FR@{target}"] = 0.0 if reached else 1.0
    for name in ("point+negative", "box"):
        found |= {f"IoU {name}": row[f"iou {name}"], f"Dice {name}": row[f"dice {name}"]}
    found["best scored highest"] = float(np.mean([_is_best_highest(p) for p in row["first"]]))
    return found


def _is_best_highest(prompt: Row) -> bool:
    """Whether the mask with the highest score has the highest IoU, a tie included."""
    chosen = prompt["ious"][int(np.argmax(prompt["scores"]))]
    return bool(chosen >= max(prompt["ious"]))


def calibration_error(rows: Sequence[Row]) -> float:
    """Expected calibration error of the scores of all offered masks, in ten bins of equal width."""
    scores, ious = _scores_and_ious(rows)
    bins = np.clip((scores * N_BINS).astype(int), 0, N_BINS - 1)
    gaps = [abs((scores - ious)[bins == b].sum()) for b in range(N_BINS)]
    return float(sum(gaps) / len(scores))


def _scores_and_ious(rows: Sequence[Row]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    prompts = [prompt for row in rows for prompt in row["first"]]
    return (
        np.array([score for prompt in prompts for score in prompt["scores"]]),
        np.array([value for prompt in prompts for value in prompt["ious"]]),
    )


# Two decoders ------------------------------------------------------------------------------------


def summary(rows: Sequence[Row], max_clicks: int) -> dict[str, float]:
    """Means over the objects, and the calibration error."""
    values = [metrics(row, max_clicks) for row in rows]
    means = {name: float(np.mean([each[name] for each in values])) for name in values[0]}
    return {**means, "calibration error": calibration_error(rows)}


def compare(
    rows: Sequence[Row], others: Sequence[Row], max_clicks: int, seed: int
) -> Mapping[str, Mapping[str, float]]:
    """Paired differences to another decoder on the same objects, with 95 % intervals.

    Raises:
        ValueError: The objects are not the same.
    """
    if [row["object"] for row in rows] != [row["object"] for row in others]:
        raise ValueError("two measurements are of different objects")
    pairs = zip(rows, others, strict=True)
    values = [(metrics(a, max_clicks), metrics(b, max_clicks)) for a, b in pairs]
    groups = [row["group"] for row in rows]
    found = {}
    for name in values[0][0]:
        gains = np.array([a[name] - b[name] for a, b in values], np.float64)
        interval = bootstrap_interval(gains, seed)
        by_group = bootstrap_interval(gains, seed, clusters=groups)
        before = float(np.mean([b[name] for _, b in values]))
        found[name] = {
            "gain": float(gains.mean()),
            "low": interval.low,
            "high": interval.high,
            "low_by_group": by_group.low,
            "high_by_group": by_group.high,
            **({"relative_percent": 100 * float(gains.mean()) / before} if before else {}),
        }
    found["calibration error"] = _calibration_gain(rows, others, seed)
    return found


def _calibration_gain(rows: Sequence[Row], others: Sequence[Row], seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(1000):
        drawn = rng.integers(0, len(rows), len(rows))
        after, before = ([each[i] for i in drawn] for each in (rows, others))
        draws.append(calibration_error(after) - calibration_error(before))
    low, high = np.quantile(draws, [0.025, 0.975])
    gain = calibration_error(rows) - calibration_error(others)
    return {"gain": gain, "low": float(low), "high": float(high)}
