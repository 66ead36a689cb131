"""Ranking tasks and their annotations: Label Studio's JSON to and from our types.  Pure.

Written against Label Studio 1.23.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from adaptation.errors import ProtocolError
from backend.commands.ranking.choosing import N_CANDIDATES, RankingPrompt

LETTERS = "ABC"
assert len(LETTERS) == N_CANDIDATES
NONE_USABLE = "none usable"
INSTRUCTION = """\
<p>Three masks for the same clicks. <b>Drag the list into their order</b>, the best on top (if A, B,
C is right as it stands, move one and put it back), and say which one is best, or that none is
usable. Look at, in this order:</p>
<ol>
<li><b>Coverage</b>: does the mask hold the whole region, with all of its parts?</li>
<li><b>Border</b>: does it run where the region ends?</li>
<li><b>Extent</b>: does it reach into its neighbours, or break the region into pieces?</li>
<li><b>Noise</b>: are there holes, specks or pieces that belong to nothing?</li>
</ol>
<p>Green plus: this belongs to it. Red minus: this does not. The places A, B and C mean
nothing.</p>"""

_RANKER, _CHOICE = "rank", "best_one"
_META = "strop_ranking"
_IMAGES = {letter: f"cand_{letter.lower()}" for letter in LETTERS}


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskKey:
    """What a ranking task was made from.

    Args:
        request_id: The prompt.
        region_ids: Its candidates in the order of A, B, C.
    """

    request_id: str
    region_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonalRanking:
    """One person's answer to one task.

    Args:
        key: The task's.
        task_id: Its number.
        annotation_id: Of the annotation.
        annotator: Id of the person; None where Label Studio does not say.
        updated_at: When this version was made, ISO 8601 in UTC: sorts as text.
        order: Candidates' region ids, best first; empty where the list was not ordered.
        best_is_usable: False where the person said that none is.
        best: Region id of the one that was called best; None where none was.
    """

    key: TaskKey
    task_id: str
    annotation_id: str
    annotator: str | None
    updated_at: str
    order: tuple[str, ...]
    best_is_usable: bool
    best: str | None

    @property
    def ranking_id(self) -> str:
        """One for each prompt and person; who answers again, answers under the same id."""
        return f"{self.key.request_id}:{self.annotator or self.annotation_id}"

    @property
    def is_contradictory(self) -> bool:
        """Whether the list has another one on top than the one that was called best."""
        return self.best is not None and bool(self.order) and self.order[0] != self.best


def label_config() -> str:
    """The labeling config of a ranking project."""
    return (resources.files("backend.commands.ranking") / "labels.xml").read_text(encoding="utf-8")


def is_ranking_config(text: str) -> bool:
    """Whether a project's labeling config shows and asks what ranking tasks need, edited or not."""
    wanted = [f"${name}" for name in _IMAGES.values()]
    wanted += ["$items", "<Ranker", _RANKER, _CHOICE, NONE_USABLE]
    return all(part in text for part in wanted)


def task_body(prompt: RankingPrompt, pictures: Sequence[bytes]) -> dict[str, Any]:
    """A task to import.

    The pictures travel inside the task: Label Studio takes no file into a project whose labeling
    config has more than one data key, and nothing is left behind where an import fails.

    Args:
        prompt: With its candidates in the order of A, B, C.
        pictures: WebP files of them, in the same order.
    """
    record = prompt.record
    uris = (f"data:image/webp;base64,{base64.b64encode(file).decode()}" for file in pictures)
    data: dict[str, Any] = dict(zip(_IMAGES.values(), uris, strict=True))
    data["items"] = [{"id": letter, "title": letter} for letter in LETTERS]
    data["question"] = f"{record.label}: which mask fits best?"
    region_ids = [candidate.region_id for candidate in prompt.candidates]
    meta = {_META: {"request_id": record.request_id, "region_ids": region_ids}}
    return {"data": data, "meta": meta}


def read_key(meta: Mapping[str, Any]) -> TaskKey | None:
    """What a task was made from, by its meta; None for tasks that Strop did not make."""
    ours = meta.get(_META)
    if not isinstance(ours, Mapping):
        return None
    request_id, region_ids = ours.get("request_id"), ours.get("region_ids")
    if not isinstance(request_id, str) or not isinstance(region_ids, list):
        return None
    if len(region_ids) != N_CANDIDATES or not all(isinstance(name, str) for name in region_ids):
        return None
    return TaskKey(request_id=request_id, region_ids=tuple(region_ids))


def read_rankings(
    task_id: str, key: TaskKey, annotations: Sequence[Mapping[str, Any]]
) -> Iterator[PersonalRanking]:
    """What people answered to a task; skipped tasks are left out.

    Raises:
        ProtocolError: An annotation is not what the labeling config makes.
    """
    for annotation in annotations:
        if not annotation.get("was_cancelled"):
            try:
                yield _ranking(task_id, key, annotation)
            except (KeyError, TypeError, AttributeError, ValueError):
                raise ProtocolError(
                    f"The annotation {annotation.get('id')} of ranking task {task_id} cannot be "
                    "read: was the project's labeling config changed? Delete the annotation, or "
                    "give the project its labeling config back."
                ) from None


def _ranking(task_id: str, key: TaskKey, annotation: Mapping[str, Any]) -> PersonalRanking:
    values = {entry["from_name"]: entry["value"] for entry in annotation["result"]}
    region_ids = dict(zip(LETTERS, key.region_ids, strict=True))
    # An untouched list is not submitted at all.
    letters = values[_RANKER]["ranker"]["rank"] if _RANKER in values else []
    order = tuple(region_ids[letter] for letter in letters)
    if order and set(order) != set(key.region_ids):
        raise ValueError("not all candidates are in the list")
    (choice,) = values[_CHOICE]["choices"] if _CHOICE in values else ("",)
    person = annotation.get("completed_by")
    return PersonalRanking(
        key=key,
        task_id=task_id,
        annotation_id=str(annotation["id"]),
        annotator=None if person is None else str(_user_id(person)),
        updated_at=str(annotation["updated_at"]),
        order=order,
        best_is_usable=choice != NONE_USABLE,
        best=region_ids[choice[0]] if choice.endswith(" best") else None,
    )


def _user_id(person: object) -> object:
    """Label Studio writes a person as a number, or as an object with one."""
    return person["id"] if isinstance(person, Mapping) else person
