"""Annotations that Label Studio told of while nobody listened, fetched from it afterwards.

A webhook is sent once.  So at the start, and after an outage, the projects that the journal knows
are asked for what was saved since the journal last heard of them; what it does not hold yet goes
the way of a webhook.  Deletions are not told by Label Studio afterwards and stay unknown.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from adaptation.errors import StropError
from adaptation.journal import Journal
from backend.label_studio.client import LabelStudioClient
from backend.service.records import parse_time

logger = logging.getLogger(__name__)

MARGIN = timedelta(hours=1)
"""Asked for before the last news, as two clocks differ and news may come out of order."""

SAME = timedelta(seconds=2)
"""An annotation that was saved this soon after its creation was only created."""

Body = dict[str, Any]


class MissedAnnotations:
    """Asks Label Studio for what the journal missed, on a thread of its own.

    Args:
        client: The way to Label Studio, with a token.
        journal: What is known.
        receive: Takes a webhook's body.
    """

    def __init__(
        self, client: LabelStudioClient, journal: Journal, receive: Callable[[Body], None]
    ) -> None:
        self._client, self._journal, self._receive = client, journal, receive
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_stopping = False

    def look(self) -> None:
        """Begin to look, unless a look is going on; returns at once."""
        with self._lock:
            if self._is_stopping or (self._thread is not None and self._thread.is_alive()):
                return
            self._thread = threading.Thread(target=self._guarded, name="missed", daemon=True)
            self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """End after the page at hand."""
        with self._lock:
            self._is_stopping, thread = True, self._thread
        if thread is not None:
            thread.join(timeout_s)

    def fetch(self) -> int:
        """Look now; how many annotations were missed.

        Raises:
            StropError: Label Studio or the journal fails.
        """
        n_missed = 0
        for project_id, since in self._journal.last_heard():
            for body in self._missed(project_id, since - MARGIN):
                if self._is_stopping:
                    return n_missed
                self._receive(body)
                n_missed += 1
        return n_missed

    def _guarded(self) -> None:
        try:
            n_missed = self.fetch()
        except StropError as error:
            logger.warning("Label Studio is not asked for missed annotations: %s", error)
        except Exception:
            logger.exception("missed annotations were not fetched")
        else:
            logger.info("%d annotations had been missed", n_missed)

    def _missed(self, project_id: str, since: datetime) -> Iterator[Body]:
        if not project_id.isdecimal():
            return
        known = self._journal.known_versions(project_id)
        project: Body | None = None
        for task in self._client.annotated_tasks(project_id, changed_since=since):
            for annotation in task.annotations:
                version = str(annotation.get("id")), parse_time(_text(annotation, "updated_at"))
                if version in known:
                    continue
                if project is None:
                    config = self._client.project(project_id).label_config
                    project = {"id": int(project_id), "label_config": config}
                yield {
                    "action": _action(annotation),
                    "annotation": dict(annotation),
                    "task": {"id": int(task.task_id)},
                    "project": project,
                }


def _action(annotation: Mapping[str, Any]) -> str:
    created = parse_time(_text(annotation, "created_at"))
    updated = parse_time(_text(annotation, "updated_at"))
    is_update = created is not None and updated is not None and updated - created > SAME
    return "ANNOTATION_UPDATED" if is_update else "ANNOTATION_CREATED"


def _text(annotation: Mapping[str, Any], name: str) -> str | None:
    value = annotation.get(name)
    return value if isinstance(value, str) else None
