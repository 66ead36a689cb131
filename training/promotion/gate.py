"""The gate: a candidate and the decoder in use on the same objects, clicked in the same way.

A candidate passes when it is better on the gate sets and on no set shown to be possibly worse:

- **Better**: of the objects of all gate sets together, the interval of the paired gain lies above 0
  in at least one metric, at a level shared out among the metrics (Bonferroni), and the signs of so
  many objects can say so at all.
- **Not worse**: on every set, gate or guarded, and in every metric, the interval of the gain stays
  above minus the tolerance.  This is a test of non-inferiority: too few objects fail it too.

Where objects come in groups (patients, tiles, roads), groups are drawn, not objects.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from adaptation.errors import InputError
from adaptation.models.base_decoder import BaseCard, Registry, load_base, read_card
from adaptation.models.sam import PromptableSam
from adaptation.simulation.metrics import Metric
from adaptation.storage.datasets import FolderSet, ObjectRef
from adaptation.storage.digests import file_sha256
from adaptation.storage.provenance import provenance
from training.evaluation import evaluate
from training.evaluation.config import EvaluateConfig
from training.evaluation.evaluate import Evaluation
from training.evaluation.harness import ObjectResult
from training.evaluation.statistics import Interval, bootstrap_interval, bootstrap_p_value
from training.evaluation.streams import choose_objects, digest_of_objects, has_groups
from training.evaluation.summary import ResultTable
from training.promotion.config import GateConfig
from training.runtime.config import as_dict

Values = NDArray[np.float64]
Role = Literal["gate", "guard"]
Progress = Callable[[Iterator[ObjectResult], int, str], Iterable[ObjectResult]]

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class MetricGain:
    """One metric of the candidate beside the decoder in use, on the same objects.

    Args:
        metric: Its name.
        current, candidate: Means in the metric's unit (percent, clicks).
        gain: Mean paired difference; positive is better, also where less is better.
        interval: Of the gain; objects drawn, or groups where there are some.
        p_value: Two-sided, of no difference.
        n_better, n_worse: Objects on which the candidate is better and worse.
        is_better: Whether the interval lies above 0 and the p-value below its level.
        is_not_worse: Whether the interval lies above minus the tolerance.
        tolerance: In the metric's unit.
    """

    metric: str
    current: float
    candidate: float
    gain: float
    interval: Interval
    p_value: float
    n_better: int
    n_worse: int
    is_better: bool
    is_not_worse: bool
    tolerance: float


@dataclass(frozen=True, kw_only=True)
class SetResult:
    """What came out on one set, or on all gate sets together.

    Args:
        name: Of the set.
        role: What it is asked for.
        n_objects: Objects clicked.
        comparisons: One for each metric.
    """

    name: str
    role: Role
    n_objects: int
    comparisons: tuple[MetricGain, ...]


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """What the gate says.

    Args:
        identity: Everything that it depends on, as plain values.
        pooled: The gate sets together.
        sets: Every set alone, gate sets first.
        reasons: Why the candidate does not pass; empty: it passes.
    """

    identity: Mapping[str, Any]
    pooled: SetResult
    sets: tuple[SetResult, ...]
    reasons: tuple[str, ...]

    @property
    def is_passed(self) -> bool:
        """Whether the candidate may be promoted."""
        return not self.reasons


@dataclass(frozen=True, eq=False)
class Paired:
    """Both decoders on one set.

    Args:
        name: Of the set.
        role: What it is asked for.
        current, candidate: By metric the values of every object, `[N]`, in the metric's unit.
        clusters: What is drawn together, `[N]` names; every object alone where there are no groups.
    """

    name: str
    role: Role
    current: Mapping[Metric, Values]
    candidate: Mapping[Metric, Values]
    clusters: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _AskedSet:
    role: Role
    where: str
    data: Mapping[str, Any]


class Gate:
    """One candidate against the decoder in use.

    Args:
        config: What is asked.
        candidate: The base file.

    Raises:
        ModelError: The model, the decoder in use or the candidate does not load.
        SettingsError: A set is not there or has no objects, or the run folder holds another gate.
        InputError: The candidate is in use already.
    """

    def __init__(self, config: GateConfig, candidate: Path) -> None:
        self.config = config
        registry = Registry(config.registry)
        name = registry.current()
        self.current_name = name
        self._files = None if name is None else registry.path(name), candidate
        asked = config.evaluation(config.gate_sets[0], config.out, None)
        model = evaluate.load_evaluated_model(asked)
        self.current = registry.load_current(model)
        self.candidate = load_base(candidate, model)
        self.card: BaseCard = read_card(candidate)
        if self.candidate.decoder_id == self.current.decoder_id:
            raise InputError(
                f"{candidate.name} is decoder {self.candidate.decoder_id}, which is in use already"
                f"{'' if name is None else f' as {name}'}."
            )
        self._sets = [self._described(role, where) for role, where in self._asked_sets()]

    @property
    def folder(self) -> Path:
        """Where the report goes: a folder whose name changes with the identity."""
        return self.config.out / f"{self.candidate.decoder_id[:8]}-{_digest(self.identity())}"

    def identity(self) -> dict[str, Any]:
        """Everything that the outcome depends on, as plain values."""
        config = self.config
        asked = config.evaluation(config.gate_sets[0], config.out, None)
        return {
            "format": FORMAT,
            "candidate": self.candidate.decoder_id,
            "current": self.current.decoder_id,
            "encoder": self.current.encoder_id,
            "device": self.current.device.type,
            "rules": dataclasses.asdict(asked.rules()),
            "settings": _settings(asked),
            "metrics": list(config.metrics),
            "confidence": config.confidence,
            "tolerance_percent": config.tolerance_percent,
            "tolerance_clicks": config.tolerance_clicks,
            "min_objects": config.min_objects,
            "data": [{"role": found.role, **found.data} for found in self._sets],
        }

    def run(self, progress: Progress) -> GateResult:
        """Click everything with both decoders and compare; goes on where it was stopped.

        What was measured before (the decoder in use, last night, on the same pictures) is taken
        from there.

        Args:
            progress: Called with results as they come, how many there will be, and of what;
                gives them back one by one.
        """
        paired = [self._paired(found, progress) for found in self._sets]
        pooled = compare_set(joined([p for p in paired if p.role == "gate"]), self.config)
        sets = tuple(compare_set(p, self.config) for p in paired)
        return GateResult(
            identity=self.identity(),
            pooled=pooled,
            sets=sets,
            reasons=tuple(reasons_against(pooled, sets, self.config)),
        )

    def _asked_sets(self) -> list[tuple[Role, str]]:
        config = self.config
        gates: list[tuple[Role, str]] = [("gate", where) for where in config.gate_sets]
        return gates + [("guard", where) for where in config.guard_sets]

    def _described(self, role: Role, where: str) -> _AskedSet:
        asked = self.config.evaluation(where, self.config.out, None)
        dataset = evaluate.open_dataset(asked)
        refs = choose_objects(dataset, asked.objects, asked.seed)
        data = {
            "name": dataset.name,
            "n_objects": len(refs),
            "n_images": len({ref.stem for ref in refs}),
            "n_groups": len({ref.group for ref in refs}),
            "has_groups": has_groups(refs),
            "digest": digest_of_objects(refs),
            "contents": _digest_of_files(dataset, refs),
        }
        return _AskedSet(role=role, where=where, data=data)

    def _paired(self, found: _AskedSet, progress: Progress) -> Paired:
        pair = zip((self.current, self.candidate), self._files, strict=True)
        current, candidate = [self._measured(found, sam, file, progress) for sam, file in pair]
        metrics = self.config.parsed_metrics()
        clusters = [
            r.group if found.data["has_groups"] else f"{r.stem} {r.label}" for r in current.refs
        ]
        return Paired(
            name=found.data["name"],
            role=found.role,
            current={m: current.values("frozen", m)[0] for m in metrics},
            candidate={m: candidate.values("frozen", m)[0] for m in metrics},
            clusters=tuple(clusters),
        )

    def _measured(
        self, found: _AskedSet, sam: PromptableSam, file: Path | None, progress: Progress
    ) -> ResultTable:
        """One decoder's results on one set."""
        config = self.config
        identity = self.identity()
        depends_on = {key: identity[key] for key in ("encoder", "device", "rules", "settings")}
        depends_on |= {"data": found.data, "decoder": sam.decoder_id, "code": _code()}
        name = f"{found.data['name'].replace('/', '-')}-{sam.decoder_id[:8]}-{_digest(depends_on)}"
        out = config.out / "measured" / name
        evaluation = Evaluation(config.evaluation(found.where, out, file), sam)
        done = evaluation.finished()
        fresh = evaluation.go_on(evaluation.jobs(done))
        label = f"{found.data['name']}, {'candidate' if sam is self.candidate else 'current'}"
        results = [*done, *progress(fresh, evaluation.n_results - len(done), label)]
        return ResultTable(results, config.max_clicks)


# The comparison --------------------------------------------------------------------------------


def joined(sets: Sequence[Paired]) -> Paired:
    """Several sets as one; groups of different sets stay different."""
    first = sets[0]
    if len(sets) == 1:
        return first
    return Paired(
        name=" + ".join(p.name for p in sets),
        role=first.role,
        current={m: np.concatenate([p.current[m] for p in sets]) for m in first.current},
        candidate={m: np.concatenate([p.candidate[m] for p in sets]) for m in first.current},
        clusters=tuple(f"{p.name} {c}" for p in sets for c in p.clusters),
    )


def compare_set(paired: Paired, config: GateConfig) -> SetResult:
    """Every metric of one set."""
    return SetResult(
        name=paired.name,
        role=paired.role,
        n_objects=len(paired.clusters),
        comparisons=tuple(_compare(paired, metric, config) for metric in paired.current),
    )


def _compare(paired: Paired, metric: Metric, config: GateConfig) -> MetricGain:
    current, candidate = paired.current[metric], paired.candidate[metric]
    gains = current - candidate if metric.is_better_lower else candidate - current
    level = (1 - config.confidence) / len(paired.current)
    interval_of = partial(bootstrap_interval, gains, config.seed, clusters=paired.clusters)
    strict, interval = interval_of(share=1 - level), interval_of(share=config.confidence)
    p_value = bootstrap_p_value(gains, config.seed, clusters=paired.clusters)
    return MetricGain(
        metric=metric.name,
        current=float(current.mean()),
        candidate=float(candidate.mean()),
        gain=float(gains.mean()),
        interval=interval,
        p_value=p_value,
        n_better=int((gains > 0).sum()),
        n_worse=int((gains < 0).sum()),
        is_better=strict.low > 0 and p_value <= level,
        is_not_worse=interval.low >= -config.tolerance(metric),
        tolerance=config.tolerance(metric),
    )


def reasons_against(
    pooled: SetResult, sets: Sequence[SetResult], config: GateConfig
) -> Iterator[str]:
    """Why a candidate is not promoted, one sentence each; none: it is."""
    if pooled.n_objects < config.min_objects:
        yield (
            f"{pooled.name} has {pooled.n_objects} objects, the gate asks for at least "
            f"{config.min_objects}: label more, or add a gate set"
        )
    if not any(c.is_better for c in pooled.comparisons):
        shown = ", ".join(_gain_text(c) for c in pooled.comparisons)
        yield f"not shown to be better on {pooled.name}: {shown}"
    for found in sets:
        for comparison in found.comparisons:
            if not comparison.is_not_worse:
                yield (
                    f"not shown to be no worse on {found.name}: {_gain_text(comparison)}, allowed "
                    f"down to {-comparison.tolerance:+.2f}"
                )


def _gain_text(c: MetricGain) -> str:
    return f"{c.metric} {c.gain:+.2f} [{c.interval.low:+.2f}, {c.interval.high:+.2f}]"


# Digests ---------------------------------------------------------------------------------------


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def _digest_of_files(dataset: FolderSet, refs: Sequence[ObjectRef]) -> str:
    """Of the bytes of the objects' images and label maps: a changed picture is another set."""
    sha = hashlib.sha256()
    for stem in sorted({ref.stem for ref in refs}):
        for path in (dataset.paths[stem], dataset.root / "masks" / f"{stem}.png"):
            sha.update(f"{path.name} {file_sha256(path)} ".encode())
    return sha.hexdigest()[:16]


def _settings(asked: EvaluateConfig) -> dict[str, Any]:
    """All of an evaluation's settings that may change its results, but for model and data."""
    elsewhere = ("data", "part", "base", "checkpoint", "device", "out")
    without_effect = ("models_dir", "workers", "threads", "cache", "cache_gb")
    found = as_dict(asked)
    return {k: v for k, v in found.items() if k not in (*elsewhere, *without_effect)}


@functools.cache
def _code() -> dict[str, str]:
    """Commit and versions: what other code measured is measured again."""
    found = provenance("")
    return {"commit": found["commit"], **found["versions"]}
