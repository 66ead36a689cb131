"""The seam between the service and what learns: which weights answer, and what was seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from adaptation.interaction import Answer
from adaptation.journal import Link, SubmissionRecord
from adaptation.sam import Weights
from backend.sessions import ObjectKey


class Learning(Protocol):
    """Something that gives decoder weights and watches how they fare.  Thread-safe."""

    def weights(self, key: ObjectKey) -> tuple[Weights | None, str]:
        """The weights that answer a click, and their version; called on the way of every click."""

    def clicked(self, key: ObjectKey, answer: Answer) -> None:
        """A click was answered; returns at once."""

    def finished(self, submission: SubmissionRecord, links: Sequence[Link]) -> None:
        """A submission is in the journal and linked; runs behind the reply."""


class NoLearning:
    """The decoder stays as it is."""

    def weights(self, key: ObjectKey) -> tuple[Weights | None, str]:
        """The base weights, version ""."""
        return None, ""

    def clicked(self, key: ObjectKey, answer: Answer) -> None:
        """Nothing to learn from."""

    def finished(self, submission: SubmissionRecord, links: Sequence[Link]) -> None:
        """Nothing to learn from."""
