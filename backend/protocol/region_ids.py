"""Ids of the regions that Strop suggests, which join submitted masks with their clicks."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass

_REGION_ID = re.compile(r"([0-9a-f]{16})-(\d{1,4})(?:\.(\d{1,4}))?")


def new_request_id() -> str:
    """A fresh id of a request: 16 hexadecimal characters, by chance unique."""
    return uuid.uuid4().hex[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionId:
    """The id of a region that Strop made: ``<request>-<candidate>`` or ``...-<candidate>.<part>``.

    Label Studio keeps it from the suggestion to the submitted annotation, so it joins a mask with
    the clicks that made it.

    Args:
        request_id: Of the request that the region answers.
        candidate: Which of the masks offered, counted from 0.
        part: Which piece of the mask, where one region holds one piece only; else None.
    """

    request_id: str
    candidate: int
    part: int | None = None

    def __str__(self) -> str:
        return self.candidate_id if self.part is None else f"{self.candidate_id}.{self.part}"

    @property
    def candidate_id(self) -> str:
        """The id without the part: what all pieces of a mask share."""
        return f"{self.request_id}-{self.candidate}"

    @classmethod
    def parse(cls, text: str) -> RegionId | None:
        """Read an id; None for ids that Label Studio made."""
        match = _REGION_ID.fullmatch(text)
        if match is None:
            return None
        request_id, candidate, part = match.groups()
        return cls(
            request_id=request_id,
            candidate=int(candidate),
            part=None if part is None else int(part),
        )
