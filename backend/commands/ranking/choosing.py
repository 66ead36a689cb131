"""Which prompts of the journal are worth a person's time, and in which order their masks stand."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

from adaptation.errors import InputError
from adaptation.journal import CandidateRecord, InteractionRecord, Journal
from adaptation.masks import rle_iou, run_lengths

N_CANDIDATES = 3
Objects = Literal["all", "finished", "unfinished"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which prompts are to be ranked.

    Args:
        count: New prompts at most.
        margin: Any two of a prompt's masks differ by at least this, as 1 - IoU.
        objects: Of which objects: those whose mask was submitted, the others, or all.
        seed: Of the sample, and of the order in which the masks stand.

    Raises:
        InputError: The count or the margin is out of range.
    """

    count: int = 50
    margin: float = 0.05
    objects: Objects = "all"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(f"--count must be 1 or more, got {self.count}.")
        if not 0 <= self.margin <= 1:
            raise InputError(f"--margin is a difference from 0 to 1, got {self.margin}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingPrompt:
    """A prompt with the masks to rank.

    Args:
        record: The prompt.
        candidates: Three of its masks, in the order in which they are shown as A, B and C.
    """

    record: InteractionRecord
    candidates: tuple[CandidateRecord, ...]


@dataclass(slots=True)
class Census:
    """What there was to choose from.

    Args:
        n_prompts: Prompts of the project in the journal.
        n_few: Of them, without three masks that are not empty.
        n_alike: With three, of which two differ by less than the margin.
        n_known: Objects of which the ranking project has a prompt already.
    """

    n_prompts: int = 0
    n_few: int = 0
    n_alike: int = 0
    n_known: int = 0


RankedObjectKey = tuple[str, str, str]


@dataclass(slots=True)
class _Objects:
    """One prompt of each object: the one that the draw favours, so that the sample is stable."""

    drawn: dict[RankedObjectKey, tuple[str, str]] = field(default_factory=dict)
    known: set[RankedObjectKey] = field(default_factory=set)
    finished: set[RankedObjectKey] = field(default_factory=set)

    def offer(self, key: RankedObjectKey, draw: str, request_id: str) -> None:
        self.drawn[key] = min(self.drawn.get(key, (draw, request_id)), (draw, request_id))


def choose(
    journal: Journal, project_id: str, wanted: Wanted, known: Collection[str] = ()
) -> tuple[list[str], Census]:
    """Draw prompts, at most one of an object: what a person ranks twice teaches less.

    The draw depends on the seed and the prompt's id alone: a journal that has grown, or a second
    run, shuffles nothing.

    Args:
        journal: Where the prompts are.
        project_id: The project that was clicked in.
        wanted: Which prompts.
        known: Ids of the requests that are ranked already, or about to be.

    Returns:
        Ids of all requests that are worth ranking, in the order of the draw; what there was.

    Raises:
        InputError: The journal has no prompt of the project with three masks.
    """
    objects, census = _survey(journal, project_id, wanted, known)
    _check_any(journal, project_id, census)
    census.n_known = len(objects.known)
    draws = [
        draw
        for key, draw in objects.drawn.items()
        if key not in objects.known
        and wanted.objects in ("all", "finished" if key in objects.finished else "unfinished")
    ]
    return [request_id for _, request_id in sorted(draws)], census


def load_prompt(journal: Journal, request_id: str, seed: int) -> RankingPrompt:
    """A prompt that was drawn, its three masks in their shuffled order."""
    (record,) = journal.interactions(request_id=request_id)
    three = three_candidates(record)
    assert three is not None, "a prompt that was drawn has three masks"
    return RankingPrompt(record=record, candidates=shuffled(three, request_id, seed))


def three_candidates(record: InteractionRecord) -> tuple[CandidateRecord, ...] | None:
    """The shown mask and two others, of all such threes the one whose closest two differ most.

    Returns:
        In the record's order; None where fewer than three masks hold a pixel.
    """
    first, *rest = record.candidates or (None,)
    if first is None or _is_empty(first):
        return None
    filled = [candidate for candidate in rest if not _is_empty(candidate)]
    threes = [(first, *pair) for pair in itertools.combinations(filled, N_CANDIDATES - 1)]
    return max(threes, key=difference, default=None)


def difference(candidates: Sequence[CandidateRecord]) -> float:
    """How far the closest two of some masks are apart: 1 - IoU, in [0, 1]."""
    pairs = itertools.combinations(candidates, 2)
    return min(1 - rle_iou(one.rle, other.rle) for one, other in pairs)


def shuffled(
    candidates: Sequence[CandidateRecord], request_id: str, seed: int
) -> tuple[CandidateRecord, ...]:
    """Masks in an order that depends on the seed and the request alone: a place tells nothing."""
    order = list(candidates)
    random.Random(f"{seed}:{request_id}").shuffle(order)
    return tuple(order)


def _survey(
    journal: Journal, project_id: str, wanted: Wanted, known: Collection[str]
) -> tuple[_Objects, Census]:
    objects, census = _Objects(), Census()
    linked = {link.request_id for link in journal.links(project_id) if link.request_id}
    for record in journal.interactions(project_id):
        key = (record.task_id, record.label, record.object_id)
        census.n_prompts += 1
        if record.request_id in known:
            objects.known.add(key)
        if record.request_id in linked:
            objects.finished.add(key)
        three = three_candidates(record)
        if three is None:
            census.n_few += 1
        elif difference(three) < wanted.margin:
            census.n_alike += 1
        else:
            objects.offer(key, _draw(wanted.seed, record.request_id), record.request_id)
    return objects, census


def _check_any(journal: Journal, project_id: str, census: Census) -> None:
    if census.n_prompts == 0:
        raise InputError(
            f"The journal {journal.location} has no click of project {project_id}: is it the "
            "journal of the server that was clicked on, and the right project?"
        )
    if census.n_few == census.n_prompts:
        raise InputError(
            f"None of the {census.n_prompts} prompts of project {project_id} in the journal "
            f"{journal.location} has three masks to rank: the model that answered them must offer "
            "several masks, as compact and Segment Anything do."
        )


def _draw(seed: int, request_id: str) -> str:
    return hashlib.sha256(f"{seed}:{request_id}".encode()).hexdigest()


def _is_empty(candidate: CandidateRecord) -> bool:
    return len(run_lengths(candidate.rle)) < 2
