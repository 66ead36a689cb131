"""What people asked of sessions is done; run by the one thread that learns."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from backend.learning.commands import Action, SessionCommand, answer, note_pause, unanswered
from backend.learning.manager import SessionManager
from backend.learning.session_log import SessionLog

logger = logging.getLogger(__name__)


class SessionCommands:
    """Does what was asked.

    Args:
        log: Of the sessions, with their journal.
        manager: Trains them.
    """

    def __init__(self, log: SessionLog, manager: SessionManager) -> None:
        self._log, self._manager = log, manager
        self._doers: Mapping[Action, Callable[[SessionCommand], str]] = {
            "forget": self._forget,
            "begin anew": self._begin_anew,
            "pause": self._pause_or_resume,
            "resume": self._pause_or_resume,
        }

    def carry_out(self) -> None:
        """Do everything that was asked and not answered yet, in order.

        Raises:
            StropError: Something failed; called again, it goes on.
        """
        for command in unanswered(self._log.journal):
            outcome = self._doers[command.action](command)
            answer(self._log.journal, command, outcome)
            logger.info("project %s: %s: %s", command.project_id, command.action, outcome)

    def _forget(self, command: SessionCommand) -> str:
        known = self._log.index.standing.get(command.annotation_id)
        if known is None or known[0] != command.project_id:
            return "no session knows it"
        n_objects = self._manager.unlearn(command.annotation_id)
        return "un-learned" if n_objects else "it stays learned: it is too old"

    def _begin_anew(self, command: SessionCommand) -> str:
        project_id, version = self._log.index.versions.get(command.session, ("", ""))
        if project_id != command.project_id:
            return "there is no such session"
        self._manager.end(command.session, project_id, version)
        return "begins anew"

    def _pause_or_resume(self, command: SessionCommand) -> str:
        note_pause(self._log.paused, command.project_id, command.action)
        return "paused" if command.project_id in self._log.paused else "goes on"
