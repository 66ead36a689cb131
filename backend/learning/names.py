"""Names of sessions, and of the start that a project's sessions share."""

from __future__ import annotations

from typing import Literal

Scope = Literal["project", "label", "task"]
"""What shares a session: a click carries no user, so never a person."""


def session_name(scope: Scope, project_id: str, label: str, task_id: str) -> str:
    """Name of the session that answers a click; events and files on the disk carry it."""
    if scope == "label":
        return f"project-{project_id}-label-{label}"
    if scope == "task":
        return f"project-{project_id}-task-{task_id}"
    return f"project-{project_id}"


def start_of(project_id: str) -> str:
    """Name under which a project's start is kept; no session has it."""
    return f"start-{project_id}"
