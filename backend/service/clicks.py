"""The way of a click: combined with its box, in its object's turn, decoded, kept, rendered.

At most one request of an object is at work.  A request that waits while a later one with at least
the same clicks waits too is never computed: Label Studio shows the newest answer and ignores the
others.  It is answered with no mask, and kept in the journal as what it is, a prompt.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from adaptation.errors import InputError
from adaptation.journal import SpoolingJournal
from adaptation.journal.records import utc_now
from adaptation.models.sam import PromptableSam
from adaptation.predictor.interactive import Answer, InteractivePredictor
from adaptation.predictor.zoom import View
from adaptation.types import Embedding
from backend.embeddings.encoder import Encoder
from backend.embeddings.prefetch import Prefetcher
from backend.images.album_writer import AlbumWriter
from backend.images.loader import TaskImage
from backend.insights.scores import CalibratedScores
from backend.learning.interface import Learning
from backend.metrics import Metrics
from backend.protocol import (
    AnswerStyle,
    Clicked,
    OfferedMask,
    PredictRequest,
    check_image_size,
    new_request_id,
    render_answer,
    render_nothing,
)
from backend.service.drawing import drawn_mask, undrawn_masks
from backend.service.editing import find_edited
from backend.service.patience import GivenUpError, Patience
from backend.service.prompt_state import CombinedPrompt, ObjectKey, Place, PromptState
from backend.service.records import (
    ClickJob,
    ClickResult,
    Outcome,
    interaction_record,
    trace_attributes,
)
from backend.service.request_queue import Slots
from backend.service.stopwatch import Stopwatch
from backend.service.unshown import UnshownMasks

logger = logging.getLogger(__name__)

LIKELY_DONE = 0.9
"""Predicted IoU from which no further click on an object is expected, and none prepared for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClickOptions:
    """How clicks are answered.

    Args:
        max_clicks: Clicks on one object; more are refused.
        alternatives: Masks offered at an object's first click.
        decodes: Clicks computed at once.
        style: How masks are rendered.
    """

    max_clicks: int = 500
    alternatives: int = 1
    decodes: int = 2
    style: AnswerStyle = AnswerStyle()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ServedModel:
    """What answers clicks: a base decoder and what is learned upon it, replaced as a whole.

    Args:
        interaction: The click path, with its model.
        learning: Gives weights for that model and learns.
    """

    interaction: InteractivePredictor
    learning: Learning

    @property
    def sam(self) -> PromptableSam:
        """The model."""
        return self.interaction.sam

    @property
    def version(self) -> str:
        """Name and digest of the model: "compact-0a1b2c3d"."""
        return f"{self.sam.model_id}-{self.sam.decoder_id[:8]}"

    def version_for(self, place: Place) -> str:
        """The same with what was learned: "compact-0a1b2c3d, learned from 37 objects".

        For answers to clicks alone, which Label Studio hands on and does not keep: the version of
        stored predictions is a key there.
        """
        count = self.learning.n_learned(place.project_id, place.label, place.task_id)
        learned = f", learned from {count} object{'s' * (count > 1)}" if count else ""
        return f"{self.version}{learned}"


class ClickHandler:
    """Answers clicks.  Safe to share between threads.

    Args:
        served: What answers; a click is answered by what is served when it arrives.
        encoder: Gives embeddings of tasks' images.
        journal: Where every click goes before it is answered.
        memory: Of the objects in work.
        ahead: Encodes the next view; None: nothing is encoded ahead.
        unshown: Draws and keeps the masks that are not shown.
        link_late: Called when a click came to the journal after the submission of its mask.
        keeper: Keeps the images that were clicked on; None: they are not kept.
        options: How clicks are answered.
        metrics: Told of every click.
        scores: Says what masks are to be expected to be worth; None: the decoder's own word.
    """

    def __init__(
        self,
        *,
        served: ServedModel,
        encoder: Encoder,
        journal: SpoolingJournal,
        memory: PromptState,
        ahead: Prefetcher | None,
        unshown: UnshownMasks,
        link_late: Callable[[], None],
        keeper: AlbumWriter | None,
        options: ClickOptions,
        metrics: Metrics,
        scores: CalibratedScores | None = None,
    ) -> None:
        self.served = served
        """Replaced as a whole: clicks in work finish with what they began with."""
        self._encoder, self._journal = encoder, journal
        self._memory, self._ahead, self._unshown = memory, ahead, unshown
        self._link_late, self._keeper, self._options = link_late, keeper, options
        self._metrics, self._scores = metrics, scores
        self._turns, self._slots = memory.turns, Slots(options.decodes)

    def answer(
        self, request: PredictRequest, clicked: Clicked, watch: Stopwatch, patience: Patience
    ) -> dict[str, Any]:
        """Answer a click with masks, or one that nobody wants answered any more with none.

        Raises:
            StropError: The labeling config has no control for a mask, the image cannot be read,
                the clicks do not fit it, or a store fails.
        """
        clicked = self._as_answered(request, clicked)
        served = self.served
        with served.learning.click():
            job = self._job(request, clicked, watch)
            result = self._in_turn(served, job, watch, patience)
            with watch.stage("render"):
                if result is None:
                    rendered = render_nothing(request, served.version)
                else:
                    rendered = self._render(served, request, job, result)
        if result is not None:
            self._follow_up(served, job, result)
        self._metrics.click_took(watch.stages_ms())
        watch.tell(trace_attributes(job, result))
        _log(job, result, watch)
        return rendered

    # What is asked -------------------------------------------------------------------------------

    def _as_answered(self, request: PredictRequest, clicked: Clicked) -> Clicked:
        """The click, with its label as the submission of its mask will name it."""
        config, preferred = request.label_config, self._options.style.preferred
        control = config.answer_control(clicked.label, clicked.to_name, preferred)
        label = config.label_in(control, clicked.label, clicked.to_name)
        return replace(clicked, label=label)

    def _job(self, request: PredictRequest, clicked: Clicked, watch: Stopwatch) -> ClickJob:
        arrived_at = utc_now()
        n_clicks, most = len(clicked.clicks), self._options.max_clicks
        if n_clicks > most:
            raise InputError(f"An object takes at most {most} clicks, got {n_clicks}.")
        task = clicked.task
        image = TaskImage(
            project_id=task.project_id, task_id=task.task_id, image_ref=clicked.image_ref
        )
        with watch.stage("image"):
            identity = self._encoder.identify(image)
        check_image_size(clicked, identity.size)
        place = Place(task.project_id, task.task_id, clicked.to_name, clicked.label)
        prompt = self._combined(place, clicked)
        edited = None if prompt.box is not None else find_edited(request.editable, clicked)
        if edited is not None:
            prompt = edited.prompt(prompt)
        return ClickJob(
            request_id=new_request_id(),
            arrived_at=arrived_at,
            key=ObjectKey(place, prompt.object_id),
            prompt=prompt,
            image=image,
            identity=identity,
            edited=edited,
        )

    def _combined(self, place: Place, clicked: Clicked) -> CombinedPrompt:
        boxes = self._memory.boxes
        if clicked.box is not None:
            return boxes.with_box(place, clicked.box.region_id, clicked.box.box)
        return boxes.with_clicks(place, tuple((c.region_id, c.click) for c in clicked.clicks))

    # What is answered ----------------------------------------------------------------------------

    def _in_turn(
        self, served: ServedModel, job: ClickJob, watch: Stopwatch, patience: Patience
    ) -> ClickResult | None:
        """Compute and keep the answer when the object's turn comes; None if there is none.

        Raises:
            GivenUpError: Nobody waits for it any more; the click is in the journal.
        """
        try:
            with ExitStack() as turn:
                with watch.stage("turn"):
                    is_wanted = turn.enter_context(
                        self._turns.take(job.key, job.prompt.ids, patience.check)
                    )
                outcome, result = _outcome(job, is_wanted), None
                if outcome == "answered":
                    result = self._compute(served, job, watch, patience)
                self._keep(served, job, watch, outcome, result)
                if result is not None:
                    self._memory.states.put(job.key, result.answer.state, served.sam.decoder_id)
                return result
        except GivenUpError:
            self._keep(served, job, watch, "given up", None)
            raise

    def _keep(
        self,
        served: ServedModel,
        job: ClickJob,
        watch: Stopwatch,
        outcome: Outcome,
        result: ClickResult | None,
    ) -> None:
        """Write a click down; it is durable when this returns."""
        record = interaction_record(job, served.sam, watch, outcome, result)
        with watch.stage("journal"):
            receipt = self._journal.append_interaction(record)
        self._metrics.clicks.labels(outcome.replace(" ", "_")).inc()
        if receipt.needs_link:
            self._link_late()

    def _compute(
        self, served: ServedModel, job: ClickJob, watch: Stopwatch, patience: Patience
    ) -> ClickResult:
        clicks, box = job.prompt.points, job.prompt.rectangle
        place = job.key.place
        weights, version = served.learning.weights(place.project_id, place.label, place.task_id)
        state = self._memory.states.before(job.key, clicks, box, served.sam.decoder_id)
        if state is None and job.edited is not None:
            state = served.interaction.state_of(job.edited.mask, clicks[:1])

        def encode(view: View) -> Embedding:
            with watch.stage("embedding"), self._slots.lent():
                return self._encoder.embed(job.image, job.identity, view, patience.left_s())

        with ExitStack() as slot:
            with watch.stage("slot"):
                slot.enter_context(self._slots.held(patience.check))
            with watch.stage("decode"):
                answer = served.interaction.resume(
                    encode, job.identity.size, clicks, box, state, weights, patience.check
                )
            with watch.stage("masks"):
                return self._result(served, job, answer, version)

    def _result(
        self, served: ServedModel, job: ClickJob, answer: Answer, version: str
    ) -> ClickResult:
        is_first = len(job.prompt.clicks) == 1 and job.prompt.box is None
        n_shown = self._options.alternatives if is_first else 1
        tokens = answer.candidate_tokens()
        return ClickResult(
            answer=answer,
            candidates=tuple(
                drawn_mask(served.interaction, answer, token, is_shown=True)
                for token in tokens[:n_shown]
            ),
            undrawn=tokens[n_shown:],
            adapter_version=version,
        )

    def _render(
        self, served: ServedModel, request: PredictRequest, job: ClickJob, result: ClickResult
    ) -> dict[str, Any]:
        style, edited = self._options.style, job.edited
        return render_answer(
            request,
            [
                OfferedMask(mask=drawn.shown, score=self._score(served, job, drawn.predicted_iou))
                for drawn in result.candidates
                if drawn.shown is not None
            ],
            request_id=job.request_id,
            model_version=served.version_for(job.key.place),
            style=style if edited is None else edited.style(style),
            replaces=None if edited is None else edited.region_id,
        )

    def _score(self, served: ServedModel, job: ClickJob, predicted: float) -> float:
        """The IoU that is to be expected; the journal keeps the decoder's own word."""
        if self._scores is None:
            return predicted
        n_prompts = len(job.prompt.clicks) + (job.prompt.box is not None)
        project_id = job.key.place.project_id
        return self._scores.score(project_id, served.sam.decoder_id, predicted, n_prompts)

    # What comes of it ----------------------------------------------------------------------------

    def _follow_up(self, served: ServedModel, job: ClickJob, result: ClickResult) -> None:
        """Start what runs behind the reply, when nothing is left to compute for it."""
        if result.undrawn:
            draw = partial(undrawn_masks, served.interaction, job, result)
            self._unshown.later(job.request_id, draw)
        self._look_ahead(served, job, result.answer)
        served.learning.clicked(job.image, job.identity)
        if self._keeper is not None:
            self._keeper.clicked(job.image, job.identity)

    def _look_ahead(self, served: ServedModel, job: ClickJob, answer: Answer) -> None:
        if self._ahead is None:
            return
        is_quiet = not len(self._turns) and self._ahead.is_idle()
        if not is_quiet or answer.predicted_iou >= LIKELY_DONE:
            return
        view = served.interaction.next_view(answer)
        if view != answer.view:
            self._ahead.next_view(job.image, job.identity, view)


def _outcome(job: ClickJob, is_wanted: bool) -> Outcome:
    if not job.prompt.is_answerable:
        return "nothing positive"
    return "answered" if is_wanted else "superseded"


def _log(job: ClickJob, result: ClickResult | None, watch: Stopwatch) -> None:
    place = job.key.place
    logger.info(
        "click %s: project %s task %s label %s object %s clicks %d box %s: %s in %s",
        job.request_id,
        place.project_id,
        place.task_id,
        place.label,
        job.key.object_id,
        len(job.prompt.clicks),
        "yes" if job.prompt.box is not None else "no",
        "no mask" if result is None else f"predicted IoU {result.answer.predicted_iou:.3f}",
        watch,
    )
