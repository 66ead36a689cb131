"""Measure a model with simulated clicks: frozen, and while it adapts, on the same objects.

One run is one data set and one model.  Frozen, every object is independent and done once; adapted,
the objects come as streams, one learner for each session of each order.  All of it can be spread
over processes, stopped, and gone on with by the same command.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import cv2
import torch

from adaptation.learning.adapter import load_adapter
from adaptation.models import base_decoder
from adaptation.models.catalog import load_model
from adaptation.models.sam import PromptableSam
from adaptation.predictor.click_correction import ClickCorrection, CorrectionSettings
from adaptation.storage.datasets import FolderSet, ObjectRef, open_sets
from adaptation.storage.provenance import commit
from training.evaluation.config import EvaluateConfig
from training.evaluation.harness import Harness, Learner, Mode, ObjectResult
from training.evaluation.results import RunFolder
from training.evaluation.streams import (
    choose_objects,
    digest_of_objects,
    has_groups,
    split_sessions,
    stream_order,
)
from training.runtime.embedding_cache import CachedEncoder, EncodingStore
from training.runtime.workers import stream_jobs

__all__ = ["EvaluateConfig", "Evaluation", "Learner", "LearnerFactory", "load_evaluated_model"]


class LearnerFactory(Protocol):
    """Makes the learner of one session; picklable, so that worker processes can have it."""

    def __call__(self, sam: PromptableSam, seed: int) -> Learner:
        """A fresh learner on a model that is never written to."""
        ...

    def identity(self) -> Mapping[str, Any]:
        """The settings that decide what is learnt, as plain values."""
        ...


def load_evaluated_model(config: EvaluateConfig) -> PromptableSam:
    """The model to evaluate, with its base decoder and its adapter where they are given."""
    sam = load_model(
        config.model,
        config.models_dir,
        device=config.device,
        checkpoint=config.checkpoint,
        encoder=config.encoder,
        show_progress=True,
    )
    if config.base is not None:
        sam = base_decoder.load_base(config.base, sam)
    return sam if config.adapter is None else with_adapter(sam, config.adapter)


def with_adapter(sam: PromptableSam, path: Path) -> PromptableSam:
    """A model whose base decoder is the adapted one; the given model is used up.

    Raises:
        ModelError: The adapter cannot be read, or belongs to another decoder.
    """
    adapter = load_adapter(path, sam)
    with torch.no_grad():
        parameters = dict(sam.sam.mask_decoder.named_parameters())
        for name, value in (adapter.weights(sam) or {}).items():
            parameters[name].copy_(value)
    name = f"{sam.model_id}+{adapter.version}"
    return PromptableSam(sam.sam, name, sam.encoder_id, sam.imitates)


@dataclass(frozen=True, kw_only=True)
class Job:
    """Objects that are done one after the other: one image's, or a learner's whole stream."""

    mode: Mode
    order: int
    session: int
    refs: tuple[ObjectRef, ...]


class Evaluation:
    """One run: which objects in which streams, and what came of them.

    Args:
        config: What to do.
        sam: The model; worker processes load their own.
        learners: Makes learners; needed unless `adapt` is "none".

    Raises:
        SettingsError: No objects, too many sessions, or a folder that holds another run.
    """

    def __init__(
        self,
        config: EvaluateConfig,
        sam: PromptableSam,
        learners: LearnerFactory | None = None,
    ) -> None:
        if learners is None and "adapted" in config.modes:
            raise ValueError("adapting needs something that makes learners")
        self.config = config
        self.sam = sam
        self.dataset = open_dataset(config)
        self.refs = choose_objects(self.dataset, config.objects, config.seed)
        self._orders: dict[int, list[list[ObjectRef]]] = {}
        self.streams = [self._sessions(order) for order in range(config.orders)]
        self._learners = learners
        self.run = RunFolder(self._folder(), self._lasting_identity(), commit())

    @property
    def n_results(self) -> int:
        """Objects to do in all, finished ones counted."""
        per_mode = {"frozen": 1, "adapted": self.config.orders}
        return len(self.refs) * sum(per_mode[mode] for mode in self.config.modes)

    def identity(self) -> dict[str, Any]:
        """Everything that the results depend on, as plain values."""
        config = self.config
        learns = self._learners is not None and "adapted" in config.modes
        return {
            "data": self.describe_data(),
            "model": {
                "model_id": self.sam.model_id,
                "encoder_id": self.sam.encoder_id,
                "decoder_id": self.sam.decoder_id,
                "device": self.sam.device.type,
            },
            "rules": dataclasses.asdict(config.rules()),
            "zoom": dataclasses.asdict(config.zoom),
            "edges": dataclasses.asdict(config.edges),
            "correct": config.correct,
            "adapt": config.adapt,
            "learner": dict(self._learners.identity()) if learns and self._learners else {},
            "streams": {
                "orders": config.orders,
                "sessions": config.sessions,
                "keep_groups": config.keep_groups,
                "seed": config.seed,
            },
        }

    def _lasting_identity(self) -> dict[str, Any]:
        """What may not change in a run's folder; more orders can be added to a run."""
        identity = self.identity()
        streams = {k: v for k, v in identity["streams"].items() if k != "orders"}
        return {**identity, "streams": streams}

    def describe_data(self) -> dict[str, Any]:
        """The objects in numbers, and the digest of their list."""
        return {
            "name": self.dataset.name,
            "n_objects": len(self.refs),
            "n_images": len({ref.stem for ref in self.refs}),
            "n_groups": len({ref.group for ref in self.refs}),
            "has_groups": has_groups(self.refs),
            "digest": digest_of_objects(self.refs),
        }

    def finished(self) -> list[ObjectResult]:
        """Results of an earlier start that need not be made again.

        The rest of what the folder holds, streams that were stopped half-way, is dropped.
        """
        found = self.run.results()
        unique = {(r.slot.mode, r.slot.order, r.ref): r for r in found}
        kept = [
            result
            for result in unique.values()
            if result.slot.mode == "frozen" or self._is_whole(result, unique.keys())
        ]
        if len(kept) < len(found):
            self.run.keep(kept)
        return [r for r in kept if r.slot.order < self.config.orders]

    def jobs(self, finished: Iterable[ObjectResult]) -> list[Job]:
        """What is left to do, the longest jobs first."""
        done = {(r.slot.mode, r.slot.order, r.ref) for r in finished}
        jobs = []
        if "adapted" in self.config.modes:
            jobs += [
                Job(mode="adapted", order=order, session=session, refs=tuple(refs))
                for order, sessions in enumerate(self.streams)
                for session, refs in enumerate(sessions)
                if ("adapted", order, refs[0]) not in done
            ]
        if "frozen" in self.config.modes:
            by_image: dict[str, list[ObjectRef]] = {}
            for ref in self.refs:
                if ("frozen", 0, ref) not in done:
                    by_image.setdefault(ref.stem, []).append(ref)
            jobs += [
                Job(mode="frozen", order=0, session=0, refs=tuple(refs))
                for refs in by_image.values()
            ]
        return jobs

    def go_on(self, jobs: Sequence[Job]) -> Iterator[ObjectResult]:
        """Do jobs; every result is on disk before it is yielded."""
        workers = min(self.config.workers, len(jobs))
        load = (
            partial(load_evaluated_model, self.config) if workers > 1 else partial(_same, self.sam)
        )
        prepare = partial(prepare_worker, self.config, load, self._learners)
        for result in stream_jobs(jobs, prepare, workers):
            self.run.append(result)
            yield result

    def _is_whole(self, result: ObjectResult, known: Iterable[tuple[str, int, ObjectRef]]) -> bool:
        """Whether the stream that a result belongs to was finished."""
        stream = self._sessions(result.slot.order)[result.slot.session]
        return all(("adapted", result.slot.order, ref) in known for ref in stream)

    def _sessions(self, order: int) -> list[list[ObjectRef]]:
        if order not in self._orders:
            config = self.config
            stream = stream_order(self.refs, config.seed, order, keeps_groups=config.keep_groups)
            self._orders[order] = split_sessions(stream, config.sessions)
        return self._orders[order]

    def _folder(self) -> Path:
        """The run's folder; by default one whose name changes with the identity."""
        if self.config.out is not None:
            return self.config.out
        content = json.dumps(self._lasting_identity(), sort_keys=True)
        digest = hashlib.sha256(content.encode()).hexdigest()[:8]
        name = f"{self.dataset.name.replace('/', '-')}-{self.sam.model_id}-{digest}"
        return Path("runs/evaluate") / name


def open_dataset(config: EvaluateConfig) -> FolderSet:
    """The data set of a config.

    Raises:
        SettingsError: It is not there, or has no images.
    """
    root = config.data.resolve()
    name = f"{root.name}/{config.part}" if config.part else root.name
    return open_sets(root.parent, [name])[0]


def prepare_worker(
    config: EvaluateConfig,
    load: Callable[[], PromptableSam],
    learners: LearnerFactory | None,
) -> Callable[[Job], Iterator[ObjectResult]]:
    """Load what a worker needs; returns the function that does a job."""
    torch.set_num_threads(config.threads)
    cv2.setNumThreads(config.threads)
    sam = load()
    store = None
    if config.cache is not None:
        store = EncodingStore(config.cache, int(config.cache_gb * 1e9))
    harness = Harness(
        sam,
        open_dataset(config),
        CachedEncoder(sam, store),
        config.rules(),
        config.zoom,
        corrector=ClickCorrection(CorrectionSettings(), sam.input_size) if config.correct else None,
        edges=config.edges,
    )
    return partial(_do_job, harness, learners)


def _do_job(harness: Harness, learners: LearnerFactory | None, job: Job) -> Iterator[ObjectResult]:
    learner = None
    if job.mode == "adapted" and learners is not None:
        seed = harness.rules.seed * 1_000_003 + job.order * 1_009 + job.session
        learner = learners(harness.sam, seed)
    return harness.run_stream(job.refs, learner, order=job.order, session=job.session)


def _same(sam: PromptableSam) -> PromptableSam:
    return sam
