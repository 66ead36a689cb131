"""What Label Studio reports: annotations saved or deleted, tasks imported, projects changed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any, Literal, TypeVar

from adaptation.errors import ProtocolError
from backend.protocol import fields
from backend.protocol.labeling import LabelConfig, parse_label_config
from backend.protocol.submitted_regions import SubmittedRegion, parse_regions
from backend.protocol.tasks import TaskRef, parse_project_id, parse_task

logger = logging.getLogger(__name__)

T = TypeVar("T")


class WebhookKind(str, Enum):
    """What happened: every action of Label Studio 1.23; others are OTHER, and are no error."""

    ANNOTATION_CREATED = "ANNOTATION_CREATED"
    ANNOTATIONS_CREATED = "ANNOTATIONS_CREATED"
    ANNOTATION_UPDATED = "ANNOTATION_UPDATED"
    ANNOTATIONS_DELETED = "ANNOTATIONS_DELETED"
    TASKS_CREATED = "TASKS_CREATED"
    TASKS_DELETED = "TASKS_DELETED"
    PROJECT_CREATED = "PROJECT_CREATED"
    PROJECT_UPDATED = "PROJECT_UPDATED"
    PROJECT_DELETED = "PROJECT_DELETED"
    LABEL_LINK_CREATED = "LABEL_LINK_CREATED"
    LABEL_LINK_UPDATED = "LABEL_LINK_UPDATED"
    LABEL_LINK_DELETED = "LABEL_LINK_DELETED"
    START_TRAINING = "START_TRAINING"
    OTHER = "OTHER"


_KINDS = {kind.value: kind for kind in WebhookKind} | {
    # What label-studio-sdk's own server listens for.
    "ANNOTATION_DELETED": WebhookKind.ANNOTATIONS_DELETED,
}

Event = Literal["created", "updated", "deleted"]
_EVENTS: dict[WebhookKind, Event] = {
    WebhookKind.ANNOTATION_CREATED: "created",
    WebhookKind.ANNOTATIONS_CREATED: "created",
    WebhookKind.ANNOTATION_UPDATED: "updated",
    WebhookKind.ANNOTATIONS_DELETED: "deleted",
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Submission:
    """An annotation as it was saved or deleted.

    Args:
        event: What happened to it.
        annotation_id: Its number, as text.
        project_id: Its project's number, as text.
        task_id: Its task's; None for deletions, which name only the annotation.
        annotator: The number of the user who completed it, as text.
        created_at: When it was created, as Label Studio wrote it (ISO 8601, UTC).
        updated_at: When it was last saved.
        lead_time_s: Seconds that the annotator spent on it, as Label Studio counts them.
        was_cancelled: Whether the task was skipped.
        regions: The objects in it that have masks.
    """

    event: Event
    annotation_id: str
    project_id: str | None
    task_id: str | None = None
    annotator: str | None = None
    created_at: str | None = None
    updated_at: str | None = None
    lead_time_s: float | None = None
    was_cancelled: bool = False
    regions: tuple[SubmittedRegion, ...] = ()

    @property
    def idempotency_key(self) -> str:
        """The same for a repeated report of one event: Label Studio sends some twice."""
        return f"{self.annotation_id}/{self.updated_at or ''}/{self.event}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WebhookEvent:
    """A report of Label Studio.

    Args:
        action: The action as sent.
        kind: The action as Strop knows it.
        project_id: The project's number as text, where the report names one.
        submissions: The annotations saved or deleted.
        tasks: The tasks imported.
        label_config_text: The project's labeling config, where the report holds it.
    """

    action: str
    kind: WebhookKind
    project_id: str | None
    submissions: tuple[Submission, ...] = ()
    tasks: tuple[TaskRef, ...] = ()
    label_config_text: str | None = None


def parse_webhook(body: object) -> WebhookEvent:
    """Read a report without decoding any mask.

    Raises:
        ProtocolError: The body is not an object, has no action, or reports annotations or tasks
            of which none can be read.
    """
    report = fields.mapping(body, "the request")
    action = fields.text(report.get("action"), "action")
    kind = _KINDS.get(action, WebhookKind.OTHER)
    raw_project = report.get("project")
    project = raw_project if isinstance(raw_project, Mapping) else {"id": raw_project}
    project_id = _project_id(project.get("id"))
    config_text = project.get("label_config")
    config_text = config_text if isinstance(config_text, str) and config_text.strip() else None
    return WebhookEvent(
        action=action,
        kind=kind,
        project_id=project_id,
        submissions=_submissions(report, kind, project_id, config_text),
        tasks=_tasks(report, project_id) if kind is WebhookKind.TASKS_CREATED else (),
        label_config_text=config_text,
    )


def _project_id(value: object) -> str | None:
    """The project's number; None where there is none, which must not lose what is reported."""
    try:
        return None if value is None else parse_project_id(value)
    except ProtocolError as error:
        logger.warning("Report without its project: %s", error)
        return None


def _tasks(report: Mapping[str, Any], project_id: str | None) -> tuple[TaskRef, ...]:
    raw_tasks = fields.sequence(report.get("tasks"), "tasks")
    return _each(raw_tasks, "tasks[{}]", partial(parse_task, project_id=project_id or ""))


def _submissions(
    report: Mapping[str, Any], kind: WebhookKind, project_id: str | None, config_text: str | None
) -> tuple[Submission, ...]:
    event = _EVENTS.get(kind)
    if event is None:
        return ()
    if event == "deleted":
        return _deletions(report, project_id)
    config = _optional_config(config_text)
    name, annotations = _listed(report, "annotation", "annotations")
    read = partial(_submission, event=event, project_id=project_id, config=config)
    return _each(annotations, name, lambda raw, where: read(raw, where, _task_data(report, raw)))


def _listed(report: Mapping[str, Any], *keys: str) -> tuple[str, Sequence[Any]]:
    """What a report is about, which is one object or a list, and how to call one of them."""
    key = next((key for key in keys if report.get(key) is not None), keys[0])
    found = report.get(key)
    if found is None:
        expected = "a list" if key.endswith("s") else "an object"
        raise ProtocolError(
            f"'{key}' must be {expected}, got nothing: switch on the webhook's payload."
        )
    if isinstance(found, Mapping):
        return key, [found]
    return f"{key}[{{}}]", fields.sequence(found, key)


def _each(raws: Sequence[Any], name: str, read: Callable[[object, str], T]) -> tuple[T, ...]:
    """All that can be read; the others are left out with a warning.

    Raises:
        ProtocolError: There are some, and none can be read.
    """
    found: list[T] = []
    errors: list[ProtocolError] = []
    for i, raw in enumerate(raws):
        try:
            found.append(read(raw, name.format(i)))
        except ProtocolError as error:
            errors.append(error)
    if errors and not found:
        raise errors[0]
    for reason in errors:
        logger.warning("Left out of the report: %s", reason)
    return tuple(found)


def _submission(
    raw: object,
    name: str,
    data: Mapping[str, Any],
    *,
    event: Event,
    project_id: str | None,
    config: LabelConfig | None,
) -> Submission:
    annotation = fields.mapping(raw, name)
    result = fields.sequence(annotation.get("result") or [], f"{name}.result")
    return Submission(
        event=event,
        annotation_id=fields.identifier(annotation.get("id"), f"{name}.id"),
        project_id=project_id or _project_id(annotation.get("project")),
        task_id=_task_id(annotation, data, name),
        annotator=_optional_id(annotation.get("completed_by")),
        created_at=_optional_text(annotation.get("created_at")),
        updated_at=_optional_text(annotation.get("updated_at")),
        lead_time_s=_optional_number(annotation.get("lead_time")),
        was_cancelled=annotation.get("was_cancelled") is True,
        regions=parse_regions(result, f"{name}.result", _of_task(config, data)),
    )


def _task_id(annotation: Mapping[str, Any], task: Mapping[str, Any], name: str) -> str:
    """The annotation's task: as it says itself, or as the report says beside it.

    Raises:
        ProtocolError: Neither does, so that nothing could ever be linked to the annotation.
    """
    named, beside = annotation.get("task"), task.get("id")
    return _optional_id(named) or _optional_id(beside) or fields.identifier(named, f"{name}.task")


def _task_data(report: Mapping[str, Any], annotation: object) -> Mapping[str, Any]:
    """The annotation's task, as the report holds it: alone, or among those of many annotations."""
    raw = report.get("task")
    tasks = raw if isinstance(raw, list) else [raw]
    known = [task for task in tasks if isinstance(task, Mapping)]
    if len(tasks) == 1:
        return known[0] if known else {}
    wanted = annotation.get("task") if isinstance(annotation, Mapping) else None
    return next((task for task in known if wanted is not None and task.get("id") == wanted), {})


def _of_task(config: LabelConfig | None, task: Mapping[str, Any]) -> LabelConfig | None:
    data = task.get("data")
    try:
        return config and config.for_task(data if isinstance(data, Mapping) else {})
    except ProtocolError as error:
        logger.warning("Submission read without its labeling config: %s", error)
        return None


def _deletions(report: Mapping[str, Any], project_id: str | None) -> tuple[Submission, ...]:
    """Deleted annotations: a list of them, or one from older servers."""
    name, annotations = _listed(report, "annotations", "annotation")

    def read(raw: object, where: str) -> Submission:
        annotation_id = raw.get("id") if isinstance(raw, Mapping) else raw
        return Submission(
            event="deleted",
            annotation_id=fields.identifier(annotation_id, f"{where}.id"),
            project_id=project_id,
        )

    return _each(annotations, name, read)


def _optional_id(value: object) -> str | None:
    """A number as text; users and tasks come bare or as objects."""
    if isinstance(value, Mapping):
        value = value.get("id")
    try:
        return None if value is None else fields.identifier(value, "id")
    except ProtocolError:
        return None


def _optional_text(value: object) -> str | None:
    is_text = isinstance(value, str) and 0 < len(value) <= fields.MAX_ID_LENGTH
    return fields.storable(str(value)) if is_text else None


def _optional_number(value: object) -> float | None:
    try:
        return fields.number(value, "number")
    except ProtocolError:
        return None


def _optional_config(text: str | None) -> LabelConfig | None:
    """The labeling config where it can be read: a broken one must not lose a submission."""
    try:
        return None if text is None else parse_label_config(text)
    except ProtocolError as error:
        logger.warning("Submission read without its labeling config: %s", error)
        return None
