"""What happened while nobody learned from it: sessions behind the journal, submissions missed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from adaptation.journal import Link
from backend.learning.manager import SessionManager
from backend.learning.names import start_of
from backend.learning.objects import ReplayContext
from backend.learning.rebuild import rebuild_project
from backend.learning.session_log import SessionLog


class CatchUp:
    """Brings sessions up to what the journal holds.

    Used by the one thread that learns: :meth:`rebuild_missing` first, then :meth:`missed`; both
    again after an outage of the journal.

    Args:
        context: Answers the journal's objects again.
        log: Of the sessions.
        manager: Trains them.
    """

    def __init__(self, context: ReplayContext, log: SessionLog, manager: SessionManager) -> None:
        self._context, self._log, self._manager = context, log, manager
        log.journal.append_event("learning_began")

    def rebuild_missing(self) -> None:
        """Make sessions again whose file is missing or behind the journal.

        Everything is read anew: after an outage nobody knows whether the last event was kept.
        """
        self._log.read()
        adapters = self._log.adapters
        for name in self._log.index.ended:
            adapters.drop(name)
        behind = {
            project_id
            for name, (project_id, version) in self._log.index.versions.items()
            if adapters.saved_version(name) != version
        }
        for project_id in sorted(behind):
            rebuilt = rebuild_project(self._context, project_id, self._log.events(project_id))
            for name, session in rebuilt.sessions.items():
                self._log.save(project_id, name, session.adapter)
            if rebuilt.start is not None:
                adapters.publish(start_of(project_id), rebuilt.start)

    def missed(self) -> Iterator[Callable[[], None]]:
        """What happened to annotations and was never learned from, as calls to be made."""
        journal, index = self._log.journal, self._log.index
        journal.link_pending()
        for link in journal.links(current_only=False):
            if link.standing != "current":
                if index.standing.get(link.annotation_id, ("", 0))[1] == link.submission_seq:
                    yield lambda link=link: self._manager.unlearn(link.annotation_id)  # type: ignore[misc]
            elif link.request_id is not None and not index.knows(
                link.submission_seq, link.position
            ):
                yield lambda link=link: self._train_on(link)  # type: ignore[misc]

    def _train_on(self, link: Link) -> None:
        found = self._log.journal.submissions(annotation_id=link.annotation_id, current_only=True)
        for submission in found:
            self._manager.train_on(submission, link)
