"""From a task to its proposals: the image, what is labelled in it, regions, their record."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from adaptation.journal import Journal, SubmissionRecord
from adaptation.masks import Mask, decode_rle
from adaptation.models.sam import PromptableSam
from adaptation.predictor.interactive import InteractivePredictor
from adaptation.predictor.settings import ZoomSettings
from adaptation.predictor.zoom import View
from adaptation.proposals.interface import Generator, ProposalImage
from adaptation.proposals.refiner import Refiner, ZoomRefiner
from backend.embeddings.encoder import Encoder
from backend.images.loader import ImageIdentity, TaskImage
from backend.proposals.events import PROPOSED, ProposedTask
from backend.proposals.knowledge import KnowledgeOptions, Labelled, ProjectKnowledge, Proposed
from backend.protocol import (
    AnswerStyle,
    LabelConfig,
    OfferedMask,
    RegionTarget,
    TaskRef,
    new_request_id,
    render_proposals,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MakerOptions:
    """How proposals are made.

    Args:
        knowledge: What is looked for, and how much is proposed.
        label: Under which anomalies are proposed, and the only one that words are looked for
            under; None: the first of the labeling config, of words all.
        group_key: Key of the tasks' data that names a task's group.
        zoom: Whether small proposals are drawn on a crop around them.
        style: How masks become regions.
    """

    knowledge: KnowledgeOptions = KnowledgeOptions()
    label: str | None = None
    group_key: str | None = None
    zoom: bool = False
    style: AnswerStyle = AnswerStyle()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SeenTask:
    """A task whose image is encoded.

    Args:
        task: The task.
        source: Where its image lies.
        identity: The image's digest and size.
        image: The same for generators.
    """

    task: TaskRef
    source: TaskImage
    identity: ImageIdentity
    image: ProposalImage


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prediction:
    """Proposals as Label Studio keeps them.

    Args:
        regions: Its JSON.
        record: What the journal keeps.
    """

    regions: list[dict[str, object]]
    record: ProposedTask


class ProposalMaker:
    """Makes the proposals of tasks.

    Args:
        sam: The model.
        encoder: Gives embeddings of tasks' images.
        journal: Where proposals are kept, and submissions come from.
        options: How they are made.
        reader: Finds what words name; needed where words are looked for.
    """

    def __init__(
        self,
        sam: PromptableSam,
        encoder: Encoder,
        journal: Journal,
        options: MakerOptions,
        reader: Generator | None = None,
    ) -> None:
        self.sam = sam
        self._encoder, self._journal = encoder, journal
        self.options, self._reader = options, reader
        self.model_version = f"{sam.model_id}-{sam.decoder_id[:8]}"

    def knowledge(self) -> ProjectKnowledge:
        """Of a project of which nothing is known yet."""
        is_similar = self.options.knowledge.look_for == "similar"
        refiner: Refiner | ZoomRefiner = Refiner(self.sam, all_candidates=is_similar)
        if self.options.zoom:
            refiner = ZoomRefiner(InteractivePredictor(self.sam, ZoomSettings()))
        return ProjectKnowledge(self.sam, refiner, self.options.knowledge, self._reader)

    def version(self, knowledge: ProjectKnowledge) -> str:
        """Of what is proposed: the model, what was looked for, and how much was known."""
        options = self.options.knowledge
        known: object = knowledge.n_judged
        if options.look_for == "words":
            texts = json.dumps({k: list(v) for k, v in options.words.items()}, sort_keys=True)
            known = hashlib.sha256(texts.encode()).hexdigest()[:8]
        return f"{self.model_version}-{options.look_for}-{known}"

    def see(self, task: TaskRef, config: LabelConfig) -> SeenTask:
        """Encode a task's first image.

        Raises:
            ProtocolError: The task has no image.
            ImageError: It cannot be read.
        """
        image_ref = task.image_ref(config)
        source = TaskImage(project_id=task.project_id, task_id=task.task_id, image_ref=image_ref)
        identity = self._encoder.identify(source)
        embedding = self._encoder.embed(source, identity, View.full(identity.size))
        group = task.data.get(self.options.group_key) if self.options.group_key else None
        image = ProposalImage(
            image_id=identity.digest,
            group=identity.digest if group is None else str(group),
            embedding=embedding,
            read=partial(self._encoder.pixels, source),
        )
        return SeenTask(task=task, source=source, identity=identity, image=image)

    def learn(
        self,
        knowledge: ProjectKnowledge,
        seen: SeenTask,
        submission: SubmissionRecord,
        rejected: Sequence[Mask] = (),
    ) -> None:
        """Take in what somebody submitted of a task."""
        size = seen.identity.size
        labelled = [
            Labelled(label=r.label, mask=decode_rle(r.rle))
            for r in submission.regions
            if r.rle is not None and r.rle.size == size
        ]
        knowledge.judge(seen.image, labelled, rejected)

    def regions(
        self,
        knowledge: ProjectKnowledge,
        seen: SeenTask,
        config: LabelConfig,
        taken: Sequence[Mask] = (),
    ) -> list[Proposed]:
        """The regions that :meth:`propose` makes a prediction of; arguments and errors as there."""
        config = config.for_task(seen.task.data)
        labels = self._labels(config, next(iter(config.images)))
        encode = partial(self._encoder.embed, seen.source, seen.identity)
        return knowledge.propose(seen.image, labels, taken, encode)

    def propose(
        self,
        knowledge: ProjectKnowledge,
        seen: SeenTask,
        config: LabelConfig,
        *,
        taken: Sequence[Mask] = (),
        is_stored: bool,
    ) -> Prediction:
        """Propose regions in a task.

        Args:
            knowledge: Of its project.
            seen: The task.
            config: The project's labeling config.
            taken: Masks of what is labelled in it, or was rejected there.
            is_stored: Whether they go into Label Studio as a prediction of their own.

        Raises:
            ProtocolError: The labeling config has no control for a mask.
        """
        found = self.regions(knowledge, seen, config, taken)
        config = config.for_task(seen.task.data)
        to_name = next(iter(config.images))
        request_id = new_request_id()
        record = ProposedTask.of(
            found,
            request_id=request_id,
            task_id=seen.task.task_id,
            image_id=seen.identity.digest,
            version=self.version(knowledge),
            look_for=self.options.knowledge.look_for,
            is_stored=is_stored,
        )
        targets = [self._target(item, to_name, seen) for item in found]
        regions = render_proposals(config, targets, request_id=request_id, style=self.options.style)
        return Prediction(regions=regions, record=record)

    def keep(self, project_id: str, prediction: Prediction) -> None:
        """Write what was proposed into the journal."""
        self._journal.append_event(PROPOSED, project_id, prediction.record.payload())

    def _target(
        self, item: Proposed, to_name: str, seen: SeenTask
    ) -> tuple[RegionTarget, OfferedMask]:
        target = RegionTarget(to_name=to_name, label=item.label, image_size=seen.identity.size)
        return target, OfferedMask(mask=item.region.mask, score=item.region.score)

    def _labels(self, config: LabelConfig, to_name: str) -> list[str]:
        """Those that something may be proposed under, each once, in the config's order."""
        named = [label for control in config.controls for label in control.labels or ()]
        labels = list(dict.fromkeys(named)) or [""]
        if self.options.label is not None:
            labels = [self.options.label]
        elif self.options.knowledge.look_for != "words":
            labels = labels[:1]
        for label in labels:
            config.answer_control(label, to_name, self.options.style.preferred)
        return labels
