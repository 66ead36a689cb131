"""What answers clicks where another process learns: the adapters that it saves.

Each click looks at its session's file (one `stat`), and reads it again where the learner has
replaced it.  What is to be learned, and what people ask of sessions, is in the journal, where the
learner finds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from adaptation.journal import Link, SubmissionRecord
from adaptation.models.sam import PromptableSam
from adaptation.predictor.interactive import WeightsAt
from backend.images.loader import ImageIdentity, TaskImage
from backend.learning.adapter_store import AdapterStore
from backend.learning.manager import OnlineOptions
from backend.learning.names import session_name, start_of


class LearningApart:
    """A :class:`~backend.learning.interface.Learning` that another process does.  Thread-safe.

    Args:
        sam: The shared model.
        options: How sessions are kept; the learner has the same scope and folder.
    """

    def __init__(self, sam: PromptableSam, options: OnlineOptions) -> None:
        self._scope = options.scope
        self._adapters = AdapterStore(
            sam,
            options.folder,
            max_sessions=options.max_sessions,
            ttl_s=options.ttl_s,
            is_reader=True,
        )

    def click(self) -> AbstractContextManager[None]:
        """The learner's process runs at the lowest priority: nothing has to pause."""
        return nullcontext()

    def weights(self, project_id: str, label: str, task_id: str) -> tuple[WeightsAt, str]:
        """The session's weights as they were saved last, and their version."""
        name = session_name(self._scope, project_id, label, task_id)
        return self._adapters.weights(name, start_of(project_id))

    def n_learned(self, project_id: str, label: str, task_id: str) -> int:
        """Objects that the session has learned from and not un-learned."""
        return self._adapters.n_learned(session_name(self._scope, project_id, label, task_id))

    def clicked(self, image: TaskImage, identity: ImageIdentity) -> None:
        """The learner reads images from the album."""

    def finished(self, submission: SubmissionRecord, links: Sequence[Link]) -> None:
        """The learner takes submissions in itself."""

    def asked(self) -> None:
        """The learner looks into the journal."""

    def linked_late(self) -> None:
        """The learner links itself."""

    def stop(self, timeout_s: float) -> None:
        """Nothing runs."""
