"""`strop ranking collect`: annotations of ranking projects -> events of the journal."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adaptation.errors import InputError
from adaptation.journal import CandidateRecord, InteractionRecord, Journal, PromptRecord
from adaptation.masks import Rle
from backend.commands.ranking.create import connect
from backend.commands.ranking.projects import find_ranking_project, ranking_projects
from backend.commands.ranking.tasks import PersonalRanking, read_key, read_rankings
from backend.label_studio.client import LabelStudioClient
from backend.settings import Settings

logger = logging.getLogger(__name__)

EVENT = "ranking"
"""Kind of the journal's events that hold a ranking; the newest of a ``ranking_id`` counts."""


@dataclass(slots=True, kw_only=True)
class Collected:
    """What became of the answers.

    Args:
        n_new: Rankings that the journal did not have.
        n_changed: Rankings that their authors have changed since they were collected.
        n_known: Rankings that the journal has as they are.
        n_unordered: Answers whose list was never touched.
        n_contradictory: Answers that call another mask best than the one on top of the list.
        n_unknown: Answers to prompts that are not in the journal.
    """

    n_new: int = 0
    n_changed: int = 0
    n_known: int = 0
    n_unordered: int = 0
    n_contradictory: int = 0
    n_unknown: int = 0

    def __str__(self) -> str:
        return (
            f"{self.n_new} new rankings, {self.n_changed} changed, {self.n_known} known.\n"
            f"Left out: {self.n_unordered} whose list was not put into order, "
            f"{self.n_contradictory} whose best mask is not on top of the list, {self.n_unknown} "
            "of prompts that are not in the journal."
        )


def collect_rankings(settings: Settings, project_id: int | None = None) -> Collected:
    """Append the rankings of all ranking projects, or of one project's, to the journal.

    Running it again appends only what is new or was changed.

    Raises:
        StropError: Label Studio refuses, or there is no ranking project.
    """
    wanted = None if project_id is None else str(project_id)
    client = connect(settings)
    with client.http, Journal(settings.journal_url, create=False) as journal:
        done = Collected()
        for source_id, home_id in _homes(journal, client, wanted).items():
            known = _known_digests(journal, source_id)
            for ranking in _answers(client, home_id):
                _keep(journal, source_id, ranking, known, done)
        return done


def _homes(journal: Journal, client: LabelStudioClient, wanted: str | None) -> dict[str, str]:
    """The ranking projects that are there, by the projects whose prompts they hold."""
    homes = ranking_projects(journal, wanted)
    of_project = "" if wanted is None else f" of project {wanted}"
    if not homes:
        raise InputError(
            f"The journal {journal.location} knows of no ranking project{of_project}: make one "
            "with `strop ranking create --project NUMBER`."
        )
    found = {source_id: find_ranking_project(journal, client, source_id) for source_id in homes}
    there = {source_id: home.project_id for source_id, home in found.items() if home is not None}
    for source_id in homes.keys() - there.keys():
        logger.warning("the ranking project %s is gone from Label Studio", homes[source_id])
    if not there:
        raise InputError(
            f"Label Studio at {client.url} has no ranking project{of_project} any more (it was "
            f"number {', '.join(homes.values())}): make a new one with `strop ranking create`."
        )
    return there


def _answers(client: LabelStudioClient, ranking_project_id: str) -> list[PersonalRanking]:
    """The newest answer of each person to each prompt."""
    newest: dict[str, PersonalRanking] = {}
    for task in client.annotated_tasks(ranking_project_id):
        key = read_key(task.meta)
        if key is None:
            continue
        for ranking in read_rankings(task.task_id, key, task.annotations):
            known = newest.get(ranking.ranking_id)
            if known is None or known.updated_at <= ranking.updated_at:
                newest[ranking.ranking_id] = ranking
    return list(newest.values())


def _keep(
    journal: Journal,
    source_id: str,
    ranking: PersonalRanking,
    known: dict[str, str],
    done: Collected,
) -> None:
    """Append one answer, unless it says nothing, or nothing new."""
    if not ranking.order:
        done.n_unordered += 1
        return
    if ranking.is_contradictory:
        logger.warning("ranking task %s: the best mask is not on top", ranking.task_id)
        done.n_contradictory += 1
        return
    payload = _payload(journal, ranking)
    if payload is None:
        done.n_unknown += 1
    elif known.get(ranking.ranking_id) == _digest(payload):
        done.n_known += 1
    else:
        journal.append_event(EVENT, project_id=source_id, payload=payload)
        done.n_changed += ranking.ranking_id in known
        done.n_new += ranking.ranking_id not in known


def _payload(journal: Journal, ranking: PersonalRanking) -> dict[str, Any] | None:
    """The event of a ranking; None where the journal does not have its prompt and masks."""
    record = next(journal.interactions(request_id=ranking.key.request_id), None)
    if record is None:
        return None
    found = [record.candidate(region_id) for region_id in ranking.order]
    candidates = [candidate for candidate in found if candidate is not None]
    if len(candidates) < len(found):
        return None
    return ranking_payload(record, candidates, ranking)


def ranking_payload(
    record: InteractionRecord, candidates: Sequence[CandidateRecord], ranking: PersonalRanking
) -> dict[str, Any]:
    """The payload of a ``ranking`` event: JSON values only, in pixels of the upright original.

    Args:
        record: The prompt.
        candidates: Its masks, best first.
        ranking: What the person said.
    """
    return {
        "ranking_id": ranking.ranking_id,
        "request_id": record.request_id,
        "object_id": record.object_id,
        "task_id": record.task_id,
        "image_id": record.image_id,
        "image_ref": record.image_ref,
        "image_size": list(record.image_size),
        "label": record.label,
        **_prompt(record.prompt),
        "candidates": [_mask(candidate.rle) for candidate in candidates],
        "predicted_ious": [_finite(candidate.predicted_iou) for candidate in candidates],
        "best_is_usable": ranking.best_is_usable,
        "annotator": ranking.annotator,
        "model_id": record.model_id,
        "decoder_id": record.decoder_id,
    }


def _prompt(prompt: PromptRecord) -> dict[str, Any]:
    clicks = [{"x": c.x, "y": c.y, "is_positive": c.is_positive} for c in prompt.clicks]
    box = prompt.box
    corners = None if box is None else {"x0": box.x0, "y0": box.y0, "x1": box.x1, "y1": box.y1}
    return {"clicks": clicks, "box": corners}


def _mask(rle: Rle) -> dict[str, Any]:
    return {"size": list(rle.size), "counts": rle.counts.decode("ascii")}


def _finite(score: float) -> float | None:
    return score if math.isfinite(score) else None


def _known_digests(journal: Journal, source_id: str) -> dict[str, str]:
    """Of each ranking in the journal the newest version's digest."""
    events = journal.events(source_id, kind=EVENT)
    return {str(e.payload["ranking_id"]): _digest(e.payload) for e in events}


def _digest(payload: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()
