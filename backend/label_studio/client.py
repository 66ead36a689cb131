"""What Strop asks of Label Studio's API: tasks, ML backends, webhooks, and no more.

Written against Label Studio 1.23.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, BinaryIO

from backend.label_studio.http import LabelStudioAuthError, LabelStudioError, Transport

__all__ = [
    "AnnotatedTask",
    "LabelStudioAuthError",
    "LabelStudioClient",
    "LabelStudioError",
    "MlBackend",
    "Project",
    "Task",
    "Transport",
    "Webhook",
    "same_url",
]

WEBHOOK_ACTIONS = ("ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_DELETED")
"""What Strop learns from; a webhook that Strop registers asks for these alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A project, as far as Strop looks at it."""

    project_id: str
    title: str
    label_config: str
    n_tasks: int
    n_annotations: int
    model_version: str
    asks_on_open: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task: its number, its data by key, and whether somebody has submitted it."""

    task_id: str
    data: Mapping[str, Any]
    is_labeled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotatedTask:
    """A task with what people submitted, as Label Studio's JSON.

    Args:
        task_id: Its number.
        meta: What was imported beside its data.
        annotations: Skipped ones too, with their "result"s.
    """

    task_id: str
    meta: Mapping[str, Any]
    annotations: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MlBackend:
    """An ML backend as a project knows it; ``state`` is "CO" when Label Studio reaches it."""

    backend_id: int
    url: str
    title: str
    is_interactive: bool
    state: str
    error_message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """A webhook of a project; its headers may carry a password and stay out of the repr."""

    webhook_id: int
    url: str
    is_active: bool
    send_payload: bool
    send_for_all_actions: bool
    actions: tuple[str, ...]
    headers: Mapping[str, str] = field(repr=False)

    def covers(self, actions: Sequence[str] = WEBHOOK_ACTIONS) -> bool:
        """Whether the webhook is sent, with its payload, for all of these actions."""
        asks = self.send_for_all_actions or set(actions) <= set(self.actions)
        return self.is_active and self.send_payload and asks


class LabelStudioClient:
    """Talks to one Label Studio.  Safe to share between threads.

    Every method raises LabelStudioError where Label Studio cannot be reached or refuses.

    Args:
        http: The way there, with its token.
    """

    def __init__(self, http: Transport) -> None:
        self.http = http

    def __repr__(self) -> str:
        return f"LabelStudioClient({self.http!r})"

    @property
    def url(self) -> str:
        """Address of Label Studio, without a slash at the end."""
        return self.http.url

    # -- who and what ---------------------------------------------------------------------------

    def version(self) -> str:
        """The release of Label Studio, such as "1.23.2"; needs no token."""
        return str(self.http.get_json("/api/version").get("release", "unknown"))

    def whoami(self) -> str:
        """E-mail address of the token's owner."""
        return str(self.http.get_json("/api/current-user/whoami").get("email", ""))

    def projects(self) -> Iterator[Project]:
        """All projects that the token's owner can see, newest first."""
        page = 1
        while True:
            answer = self.http.get_json("/api/projects/", params={"page": page, "page_size": 100})
            yield from map(_project, answer["results"])
            if not answer.get("next"):
                return
            page += 1

    def project(self, project_id: str | int) -> Project:
        """One project; unknown numbers raise LabelStudioError with status 404."""
        return _project(self.http.get_json(f"/api/projects/{_number(project_id)}/"))

    def tasks(
        self,
        project_id: str | int,
        *,
        after_id: str | int = 0,
        only_unlabeled: bool = False,
        page_size: int = 100,
    ) -> Iterator[Task]:
        """Tasks in the order of the project's queue, which by default is the order of their ids.

        Pages are asked for as the iterator is consumed, each from the last id on, so that tasks
        that are added or finished meanwhile shift nothing.

        Args:
            project_id: The project.
            after_id: Only tasks behind this one.
            only_unlabeled: Only tasks without a submitted annotation.
            page_size: Tasks a request.
        """
        params = {"project": _number(project_id), "page_size": page_size}
        yield from map(_task, self._task_pages(_number(after_id), only_unlabeled, params))

    def annotated_tasks(
        self,
        project_id: str | int,
        *,
        page_size: int = 20,
        changed_since: datetime | None = None,
    ) -> Iterator[AnnotatedTask]:
        """Tasks with their meta and their annotations, page by page, by their ids.

        Args:
            project_id: The project.
            page_size: Tasks a request.
            changed_since: Only tasks that were changed later, as they are by every submission.
        """
        params = {"project": _number(project_id), "page_size": page_size, "fields": "all"}
        pages = self._task_pages(0, False, params, changed_since)
        yield from map(_annotated_task, pages)

    def _task_pages(
        self,
        last: int,
        only_unlabeled: bool,
        params: Mapping[str, Any],
        changed_since: datetime | None = None,
    ) -> Iterator[Mapping[str, Any]]:
        while True:
            query = _task_query(last, only_unlabeled=only_unlabeled, changed_since=changed_since)
            asked = {"query": query, **params}
            answer = self.http.get_json("/api/tasks/", params={**asked, "resolve_uri": "false"})
            entries = answer["tasks"]
            yield from entries
            if len(entries) < params["page_size"]:
                return
            last = int(entries[-1]["id"])

    # -- the connection between a project and Strop -----------------------------------------------

    def ml_backends(self, project_id: str | int) -> list[MlBackend]:
        """The ML backends of a project; Label Studio asks each for its health meanwhile."""
        answer = self.http.get_json("/api/ml", params={"project": _number(project_id)})
        return [_ml_backend(entry) for entry in answer]

    def connect_backend(
        self,
        project_id: str | int,
        url: str,
        *,
        title: str = "Strop",
        basic_auth: tuple[str, str] | None = None,
    ) -> MlBackend:
        """Connect an interactive ML backend to a project, or repair the connection of that URL.

        Label Studio calls the backend's ``/health`` and ``/setup`` before it answers.
        """
        body: dict[str, Any] = {"url": url, "project": _number(project_id), "title": title}
        body |= {"is_interactive": True, "auth_method": "NONE"}
        if basic_auth is not None:
            user, password = basic_auth
            body |= {"auth_method": "BASIC_AUTH"}
            body |= {"basic_auth_user": user, "basic_auth_pass": password}
        for known in self.ml_backends(project_id):
            if same_url(known.url, url):
                path = f"/api/ml/{known.backend_id}"
                return _ml_backend(self.http.send_json("PATCH", path, body))
        return _ml_backend(self.http.send_json("POST", "/api/ml", body))

    def disconnect_backend(self, backend_id: int) -> None:
        """Remove an ML backend from its project; what it predicted stays."""
        self.http.send_json("DELETE", f"/api/ml/{backend_id}", {})

    def webhooks(self, project_id: str | int) -> list[Webhook]:
        """The webhooks of a project."""
        answer = self.http.get_json("/api/webhooks/", params={"project": _number(project_id)})
        return [_webhook(entry) for entry in answer]

    def register_webhook(
        self, project_id: str | int, url: str, *, headers: Mapping[str, str] | None = None
    ) -> Webhook:
        """Register the webhook of that URL with its headers, or repair the one that is there.

        Connecting a backend makes Label Studio register ``<url>/webhook`` by itself, but without
        the backend's password: that one is repaired, not doubled.
        """
        body = {"url": url, "project": _number(project_id), "headers": dict(headers or {})}
        body |= {"is_active": True, "send_payload": True}
        body |= {"send_for_all_actions": False, "actions": list(WEBHOOK_ACTIONS)}
        for known in self.webhooks(project_id):
            if same_url(known.url, url):
                path = f"/api/webhooks/{known.webhook_id}/"
                return _webhook(self.http.send_json("PATCH", path, body))
        return _webhook(self.http.send_json("POST", "/api/webhooks/", body))

    def remove_webhook(self, webhook_id: int) -> None:
        """Remove a webhook."""
        self.http.send_json("DELETE", f"/api/webhooks/{webhook_id}/", {})

    def upload(self, project_id: str | int, name: str, content: BinaryIO) -> list[str]:
        """Import one file into a project; returns the ids of the tasks that it became."""
        path = f"/api/projects/{_number(project_id)}/import"
        answer = self.http.send_file(path, name, content, params={"return_task_ids": "1"})
        return [str(task_id) for task_id in answer["task_ids"]]

    def create_project(self, title: str, label_config: str, **fields: Any) -> Project:
        """Make a project; ``fields`` are further ones of Label Studio's API."""
        body = {"title": title, "label_config": label_config, **fields}
        return _project(self.http.send_json("POST", "/api/projects/", body))

    def add_task(self, project_id: str | int, task: Mapping[str, Any]) -> str:
        """Import one task (``data``, ``meta``); returns its number."""
        path = f"/api/projects/{_number(project_id)}/import?return_task_ids=1"
        (task_id,) = self.http.send_json("POST", path, [task])["task_ids"]
        return str(task_id)

    def set_data(self, task: Task, changes: Mapping[str, Any]) -> None:
        """Change keys of a task's data; its other keys stay as ``task`` has them."""
        path = f"/api/tasks/{_number(task.task_id)}/"
        self.http.send_json("PATCH", path, {"data": {**task.data, **changes}})

    def store_prediction(
        self,
        task_id: str | int,
        result: Sequence[Mapping[str, Any]],
        *,
        score: float,
        model_version: str,
    ) -> None:
        """Keep a prediction with a task, where annotators see it and can sort by its score.

        Args:
            task_id: The task.
            result: Its regions.
            score: In [0, 1].
            model_version: That made it; predictions of one version are shown together.
        """
        body = {"task": int(task_id), "result": list(result), "score": score}
        self.http.send_json("POST", "/api/predictions/", {**body, "model_version": model_version})


def _number(value: str | int) -> int:
    """The number of a project or a task.

    Raises:
        LabelStudioError: It is none: whoever asked does not speak for a Label Studio.
    """
    text = str(value)
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise LabelStudioError(
            f"Label Studio numbers projects and tasks, and {text[:40]!r} is no number."
        )
    return int(text)


def same_url(one: str, other: str) -> bool:
    """Whether two addresses are the same but for a slash at the end."""
    return one.rstrip("/") == other.rstrip("/")


def _task_query(
    after_id: int, *, only_unlabeled: bool, changed_since: datetime | None = None
) -> str:
    wanted: list[tuple[str, str, int]] = [("id", "greater", after_id)]
    if only_unlabeled:
        wanted.append(("total_annotations", "equal", 0))
    items: list[dict[str, Any]] = [
        {"filter": f"filter:tasks:{name}", "operator": operator, "type": "Number", "value": value}
        for name, operator, value in wanted
    ]
    if changed_since is not None:
        moment = changed_since.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        changed: dict[str, Any] = {"filter": "filter:tasks:updated_at", "operator": "greater"}
        items.append({**changed, "type": "Datetime", "value": moment})
    filters = {"conjunction": "and", "items": items}
    return json.dumps({"ordering": ["tasks:id"], "filters": filters})


def _project(entry: Mapping[str, Any]) -> Project:
    return Project(
        project_id=str(entry["id"]),
        title=str(entry.get("title") or ""),
        label_config=str(entry.get("label_config") or ""),
        n_tasks=int(entry.get("task_number") or 0),
        n_annotations=int(entry.get("total_annotations_number") or 0),
        model_version=str(entry.get("model_version") or ""),
        asks_on_open=bool(entry.get("show_collab_predictions")),
    )


def _task(entry: Mapping[str, Any]) -> Task:
    return Task(
        task_id=str(entry["id"]),
        data=entry.get("data") or {},
        is_labeled=int(entry.get("total_annotations") or 0) > 0,
    )


def _annotated_task(entry: Mapping[str, Any]) -> AnnotatedTask:
    return AnnotatedTask(
        task_id=str(entry["id"]),
        meta=entry.get("meta") or {},
        annotations=tuple(entry.get("annotations") or ()),
    )


def _ml_backend(entry: Mapping[str, Any]) -> MlBackend:
    return MlBackend(
        backend_id=int(entry["id"]),
        url=str(entry.get("url") or ""),
        title=str(entry.get("title") or ""),
        is_interactive=bool(entry.get("is_interactive")),
        state=str(entry.get("state") or ""),
        error_message=str(entry.get("error_message") or ""),
    )


def _webhook(entry: Mapping[str, Any]) -> Webhook:
    return Webhook(
        webhook_id=int(entry["id"]),
        url=str(entry.get("url") or ""),
        is_active=bool(entry.get("is_active")),
        send_payload=bool(entry.get("send_payload")),
        send_for_all_actions=bool(entry.get("send_for_all_actions")),
        actions=tuple(entry.get("actions") or ()),
        headers=dict(entry.get("headers") or {}),
    )
