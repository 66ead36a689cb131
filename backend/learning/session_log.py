"""What is known of sessions: their events in the journal, and the adapters that these led to."""

from __future__ import annotations

from adaptation.journal import Journal
from adaptation.learning.adapter import Adapter
from backend.learning.adapter_store import AdapterStore
from backend.learning.events import (
    Forgot,
    IdleTrained,
    Learned,
    SessionEvent,
    read_events,
    write_event,
)
from backend.learning.index import SessionIndex


class SessionLog:
    """Writes an event down before its weights show.  Used by the one thread that learns.

    An event goes to the journal first; then the weights are published and saved.  So no file is
    ahead of the journal, and one that is behind it, or missing, is made again from it.

    Args:
        journal: Where events go.
        adapters: What sessions answer with.
        decoder_id: Digest of the base decoder.
    """

    def __init__(self, journal: Journal, adapters: AdapterStore, decoder_id: str) -> None:
        self.journal, self.adapters = journal, adapters
        self.index = SessionIndex(decoder_id)

    def read(self) -> None:
        """Take all events of earlier runs into the index; called once, before any is appended."""
        for project_id, event in read_events(self.journal):
            self.index.note(project_id, event)

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

    def publish(
        self, project_id: str, event: Learned | IdleTrained | Forgot, adapter: Adapter
    ) -> None:
        """Write an event of a session, and only then show and save what it led to.

        Raises:
            StoreError: The journal cannot take it; nothing shows then.
        """
        self.append(project_id, event)
        self.adapters.publish(event.session, adapter)
