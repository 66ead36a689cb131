"""From settings to what is remembered of the objects in work."""

from __future__ import annotations

from backend.service.prompt_state import DrawnBoxes, ObjectStates, PromptState
from backend.service.request_queue import NewestWinsQueue
from backend.service.shared_objects import shared_memory
from backend.service.state_files import StateFiles
from backend.settings import Settings


def build_memory(settings: Settings) -> PromptState:
    """What is remembered of the objects in work, shared where there are several workers."""
    sessions, box_ttl_s = settings.sessions, settings.inference.box_ttl_s
    if settings.server.workers > 1:
        return shared_memory(settings.objects_dir, sessions.max_objects, sessions.ttl_s, box_ttl_s)
    return PromptState(
        states=ObjectStates(
            max_objects=sessions.max_objects,
            ttl_s=sessions.ttl_s,
            files=StateFiles(settings.objects_dir, sessions.max_objects),
        ),
        boxes=DrawnBoxes(ttl_s=box_ttl_s),
        turns=NewestWinsQueue(),
    )
