"""Finished objects out of the journal, as sessions are trained on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from adaptation.errors import InputError
from adaptation.journal import InteractionRecord, Journal, SubmissionRecord
from adaptation.models.sam import PromptableSam
from adaptation.predictor.zoom import View
from adaptation.types import Box, Click, Embedding
from backend.learning.events import Learned
from backend.learning.session import AnsweredPrompt, Pause, SessionObject

Embed = Callable[[str, View], Embedding]
"""The embedding of a view of an image that is known by its id."""

MOST_REQUESTS = 24
"""Requests of one object that are answered again; of more, evenly spread ones and the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkedObject:
    """A submitted region with the requests that led to it.

    Args:
        submission: That holds it.
        position: Its index in the submission.
        interactions: The requests, oldest first; at least one.
        embed: Embedding of a view of an image.
    """

    submission: SubmissionRecord
    position: int
    interactions: tuple[InteractionRecord, ...]
    embed: Embed

    @property
    def last(self) -> InteractionRecord:
        """The request whose mask was accepted."""
        return self.interactions[-1]

    @property
    def requests(self) -> tuple[str, ...]:
        """Ids of the requests."""
        return tuple(record.request_id for record in self.interactions)

    def session_object(self) -> SessionObject:
        """As a session is trained on it.

        Raises:
            InputError: The region has no mask, or one of another size than its image.
        """
        region, image_id = self.submission.regions[self.position], self.last.image_id
        embed = self.embed
        if region.rle is None or tuple(region.rle.size) != tuple(self.last.image_size):
            raise InputError(
                f"Region {region.region_id} of annotation {self.submission.annotation_id} has no "
                f"mask of its image's size {self.last.image_size}; nothing can be learned from it."
            )
        return SessionObject(
            annotation_id=self.submission.annotation_id,
            region_id=region.region_id,
            steps=tuple(_step(record) for record in self.interactions),
            mask=region.rle,
            encode=lambda view: embed(image_id, view),
        )


class ObjectReader:
    """Reads objects from a journal.

    Args:
        journal: Which.
        embed: Gives embeddings of their images.
    """

    def __init__(self, journal: Journal, embed: Embed) -> None:
        self._journal, self._embed = journal, embed

    def linked(
        self, submission: SubmissionRecord, position: int, request_id: str
    ) -> LinkedObject | None:
        """A region that was linked with a request; None where no session answered that request."""
        last = self._interaction(request_id)
        if not last.adapter_version:
            return None
        return LinkedObject(
            submission=submission,
            position=position,
            interactions=_thinned(_grown(self._answered(last))),
            embed=self._embed,
        )

    def again(self, project_id: str, learned: Learned) -> LinkedObject:
        """An object that a session was trained on before, with the same requests.

        Raises:
            InputError: The journal does not hold it any more.
        """
        known = self._journal.submissions(project_id, annotation_id=learned.annotation_id)
        for submission in known:
            if submission.idempotency_key == learned.submission:
                return LinkedObject(
                    submission=submission,
                    position=learned.position,
                    interactions=tuple(self._interaction(name) for name in learned.requests),
                    embed=self._embed,
                )
        raise InputError(
            f"The journal does not hold annotation {learned.annotation_id} as it was learned from."
        )

    def _interaction(self, request_id: str) -> InteractionRecord:
        for record in self._journal.interactions(request_id=request_id):
            return record
        raise InputError(f"The journal does not hold request {request_id}.")

    def _answered(self, last: InteractionRecord) -> list[InteractionRecord]:
        """The object's requests up to one, those that were computed, in the order they came."""
        found = self._journal.interactions(
            last.project_id, last.task_id, last.label, last.object_id
        )
        before = [
            record
            for record in found
            if record.candidates
            and record.image_id == last.image_id
            and record.created_at < last.created_at
        ]
        return [*sorted(before, key=lambda record: record.created_at), last]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayContext:
    """What it takes to answer the requests of the journal's objects again.

    Args:
        sam: The shared model.
        reader: Gives the objects.
        pause: Called between two computations; returns when no click waits for the processor.
    """

    sam: PromptableSam
    reader: ObjectReader
    pause: Pause = lambda: None


def _grown(records: Sequence[InteractionRecord]) -> list[InteractionRecord]:
    """The last requests of a sequence in which each holds the clicks of the one before.

    A request that lacks a click of the one before it starts the object again.
    """
    kept: list[InteractionRecord] = []
    for record in records:
        if kept and not _ids(kept[-1]) <= _ids(record):
            kept = []
        kept.append(record)
    return kept


def _ids(record: InteractionRecord) -> set[str]:
    box = record.prompt.box
    names = {click.id for click in record.prompt.clicks}
    return names if box is None else names | {box.id}


def _thinned(records: Sequence[InteractionRecord]) -> tuple[InteractionRecord, ...]:
    n, most = len(records), MOST_REQUESTS
    if n <= most:
        return tuple(records)
    return tuple(records[round(i * (n - 1) / (most - 1))] for i in range(most))


def _step(record: InteractionRecord) -> AnsweredPrompt:
    box = record.prompt.box
    return AnsweredPrompt(
        clicks=tuple(Click(x=c.x, y=c.y, is_positive=c.is_positive) for c in record.prompt.clicks),
        box=None if box is None else Box(x0=box.x0, y0=box.y0, x1=box.x1, y1=box.y1),
        view=View.full(record.image_size) if record.view is None else View(*record.view),
    )
