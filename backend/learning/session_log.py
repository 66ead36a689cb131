"""What is known of sessions: their events in the journal, and the adapters that these led to."""

from __future__ import annotations

from adaptation.journal import Journal, Link
from adaptation.learning.adapter import Adapter
from backend.learning.adapter_store import AdapterStore
from backend.learning.commands import PAUSED, paused_projects
from backend.learning.events import (
    Ended,
    Forgot,
    IdleTrained,
    Learned,
    SessionEvent,
    read_events,
    read_passed_over,
    write_event,
    write_passed_over,
)
from backend.learning.index import SessionIndex
from backend.metrics import Metrics


class SessionLog:
    """Writes an event down before its weights show.  Used by the one thread that learns.

    An event goes to the journal first; then the weights are published and saved.  So no file is
    ahead of the journal, and one that is behind it, or missing, is made again from it.

    Args:
        journal: Where events go.
        adapters: What sessions answer with.
        decoder_id: Digest of the base decoder.
        metrics: Told of every event; None: nobody is.
    """

    def __init__(
        self,
        journal: Journal,
        adapters: AdapterStore,
        decoder_id: str,
        metrics: Metrics | None = None,
    ) -> None:
        self.journal, self.adapters = journal, adapters
        self._metrics = Metrics() if metrics is None else metrics
        self.index = SessionIndex(decoder_id)
        self.paused: set[str] = set()
        """Projects whose sessions learn nothing at present; the thread that learns changes it."""

    def read(self) -> None:
        """Make the index anew from the journal: after an outage nobody knows what was kept."""
        self.index.clear()
        for project_id, event in read_events(self.journal):
            self.index.note(project_id, event)
        self.paused = paused_projects(self.journal)
        for submission_seq, position in read_passed_over(self.journal):
            self.index.settle(submission_seq, position)

    def events(self, project_id: str) -> list[SessionEvent]:
        """A project's events, oldest first."""
        return [event for _, event in read_events(self.journal, project_id)]

    def append(self, project_id: str, event: SessionEvent) -> None:
        """Write an event that leaves the weights as they are, or whose weights follow.

        Raises:
            StoreError: The journal cannot take it.
        """
        write_event(self.journal, project_id, event)
        self.index.note(project_id, event)
        _count(self._metrics, event)

    def pass_over(self, project_id: str, link: Link, reason: str) -> None:
        """Write down that a region can never be trained on, and why.

        Raises:
            StoreError: The journal cannot take it.
        """
        write_passed_over(self.journal, project_id, link.submission_seq, link.position, reason)
        self.index.settle(link.submission_seq, link.position)

    def pass_over_in_pause(self, project_id: str, link: Link) -> bool:
        """Pass a region over if its project's learning is paused; returns whether it was.

        Raises:
            StoreError: The journal cannot take it.
        """
        is_paused = project_id in self.paused
        if is_paused:
            self.pass_over(project_id, link, PAUSED)
        return is_paused

    def end(self, project_id: str, event: Ended) -> None:
        """Write down that a session begins anew, and only then drop what it had learned.

        Raises:
            StoreError: The journal cannot take it; nothing is dropped then.
        """
        self.append(project_id, event)
        self.adapters.drop(event.session)

    def publish(
        self, project_id: str, event: Learned | IdleTrained | Forgot, adapter: Adapter
    ) -> None:
        """Write an event of a session, and only then show and save what it led to.

        Raises:
            StoreError: The journal cannot take it; nothing shows then.
        """
        self.append(project_id, event)
        self.save(project_id, event.session, adapter)

    def save(self, project_id: str, session: str, adapter: Adapter) -> None:
        """Show and save what the journal says of a session already."""
        n_learned = self.index.tallies.get(project_id, {}).get(session, 0)
        self.adapters.publish(session, adapter, n_learned)


def _count(metrics: Metrics, event: SessionEvent) -> None:
    if isinstance(event, Learned):
        metrics.learned.labels("trained" if event.skipped is None else "skipped").inc()
        metrics.turned_back.inc(event.turned_back)
    elif isinstance(event, Forgot):
        metrics.unlearned.inc(event.n_objects)
    elif isinstance(event, IdleTrained):
        metrics.idle_steps.inc(event.n_steps)
