"""The seam between the service and what learns: which weights answer, and what was seen."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from adaptation.journal import Link, SubmissionRecord
from adaptation.predictor.interactive import WeightsAt, base_weights
from backend.images.loader import ImageIdentity, TaskImage


class Learning(Protocol):
    """Something that gives decoder weights and watches how they fare.  Thread-safe."""

    def click(self) -> AbstractContextManager[None]:
        """Surrounds the way of a click: learning leaves it the processor."""

    def weights(self, project_id: str, label: str, task_id: str) -> tuple[WeightsAt, str]:
        """The weights that answer clicks, and their version; called on the way of every click."""

    def n_learned(self, project_id: str, label: str, task_id: str) -> int:
        """Objects that the session which answers has learned from; 0 where nobody here knows."""

    def clicked(self, image: TaskImage, identity: ImageIdentity) -> None:
        """A click on an image was answered; returns at once."""

    def finished(self, submission: SubmissionRecord, links: Sequence[Link]) -> None:
        """A submission is in the journal and linked; runs behind the reply."""

    def asked(self) -> None:
        """The journal holds something that is asked of sessions; returns at once."""

    def linked_late(self) -> None:
        """Submissions were linked after they had been taken in; returns at once."""

    def stop(self, timeout_s: float) -> None:
        """End what runs in the background."""


class NoLearning:
    """The decoder stays as it is."""

    def click(self) -> AbstractContextManager[None]:
        """Nothing stands in a click's way."""
        return nullcontext()

    def weights(self, project_id: str, label: str, task_id: str) -> tuple[WeightsAt, str]:
        """The base weights, version ""."""
        return base_weights, ""

    def n_learned(self, project_id: str, label: str, task_id: str) -> int:
        """None."""
        return 0

    def clicked(self, image: TaskImage, identity: ImageIdentity) -> None:
        """Nothing to learn from."""

    def finished(self, submission: SubmissionRecord, links: Sequence[Link]) -> None:
        """Nothing to learn from."""

    def asked(self) -> None:
        """There are no sessions."""

    def linked_late(self) -> None:
        """Nothing to learn from."""

    def stop(self, timeout_s: float) -> None:
        """Nothing runs."""
