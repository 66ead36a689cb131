"""What Label Studio reports: annotations saved or deleted, tasks imported, projects changed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import reduce
from typing import Any, Literal

import numpy as np

from adaptation.errors import ProtocolError
from adaptation.masks import Mask
from adaptation.types import Size
from backend.protocol import fields
from backend.protocol.labeling import AnswerKind, LabelConfig, parse_label_config
from backend.protocol.regions import MASK_TYPES, decode_region, is_closed
from backend.protocol.render import RegionId
from backend.protocol.tasks import TaskRef, parse_project_id, parse_task

logger = logging.getLogger(__name__)

_NOT_RECTANGLE = tuple(kind for kind in AnswerKind if kind is not AnswerKind.RECTANGLE)


class WebhookKind(str, Enum):
    """What happened; actions that Strop does not know are OTHER, and are no error."""

    ANNOTATION_CREATED = "ANNOTATION_CREATED"
    ANNOTATION_UPDATED = "ANNOTATION_UPDATED"
    ANNOTATIONS_DELETED = "ANNOTATIONS_DELETED"
    TASKS_CREATED = "TASKS_CREATED"
    PROJECT_UPDATED = "PROJECT_UPDATED"
    START_TRAINING = "START_TRAINING"
    OTHER = "OTHER"


_KINDS = {kind.value: kind for kind in WebhookKind} | {
    # What label-studio-sdk's own server listens for.
    "ANNOTATION_DELETED": WebhookKind.ANNOTATIONS_DELETED,
}

Event = Literal["created", "updated", "deleted"]
_EVENTS: dict[WebhookKind, Event] = {
    WebhookKind.ANNOTATION_CREATED: "created",
    WebhookKind.ANNOTATION_UPDATED: "updated",
    WebhookKind.ANNOTATIONS_DELETED: "deleted",
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SubmittedRegion:
    """One object of a submitted annotation; its mask is decoded only when asked for.

    Args:
        region_id: For an object that Strop suggested, the candidate's id (pieces of one candidate
            are one object); otherwise Label Studio's own.
        label: Its first label.
        kind: ``brush``, ``bitmask``, ``polygon``, ``vector``, ``rectangle`` or ``ellipse``.
        to_name: Its image's name in the labeling config.
        image_size: (H, W) of its image.
        item_index: Which image of a list of images, or None.
        values: The value of each piece as submitted.
    """

    region_id: str
    label: str
    kind: str
    to_name: str
    image_size: Size
    item_index: int | None
    values: tuple[Mapping[str, Any], ...]

    def mask(self) -> Mask:
        """The pixels of all pieces, ``[H, W]`` bool.

        Raises:
            ProtocolError: A value is broken.
        """
        pieces = (
            decode_region(f"{self.kind}labels", value, self.image_size, self.region_id)
            for value in self.values
        )
        return reduce(np.logical_or, pieces)


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
        ProtocolError: The body is not an object, has no action, or a report of annotations names
            none.
    """
    report = fields.mapping(body, "the request")
    action = fields.text(report.get("action"), "action")
    kind = _KINDS.get(action, WebhookKind.OTHER)
    raw_project = report.get("project")
    project = raw_project if isinstance(raw_project, Mapping) else {"id": raw_project}
    project_id = parse_project_id(project["id"]) if project.get("id") is not None else None
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


def _tasks(report: Mapping[str, Any], project_id: str | None) -> tuple[TaskRef, ...]:
    raw_tasks = fields.sequence(report.get("tasks"), "tasks")
    return tuple(
        parse_task(raw, f"tasks[{i}]", project_id or "") for i, raw in enumerate(raw_tasks)
    )


def _submissions(
    report: Mapping[str, Any], kind: WebhookKind, project_id: str | None, config_text: str | None
) -> tuple[Submission, ...]:
    event = _EVENTS.get(kind)
    if event is None:
        return ()
    if event == "deleted":
        return tuple(_deletions(report, project_id))
    annotation = fields.mapping(report.get("annotation"), "annotation")
    raw_task = report.get("task")
    task = raw_task if isinstance(raw_task, Mapping) else {}
    result = fields.sequence(annotation.get("result") or [], "annotation.result")
    return (
        Submission(
            event=event,
            annotation_id=fields.identifier(annotation.get("id"), "annotation.id"),
            project_id=project_id or _optional_id(annotation.get("project")),
            task_id=_optional_id(annotation.get("task")) or _optional_id(task.get("id")),
            annotator=_optional_id(annotation.get("completed_by")),
            created_at=_optional_text(annotation.get("created_at")),
            updated_at=_optional_text(annotation.get("updated_at")),
            lead_time_s=_optional_number(annotation.get("lead_time")),
            was_cancelled=annotation.get("was_cancelled") is True,
            regions=_regions(result, _optional_config(config_text)),
        ),
    )


def _deletions(report: Mapping[str, Any], project_id: str | None) -> Iterator[Submission]:
    """Deleted annotations: a list of them, or one from older servers."""
    one = report.get("annotation")
    raw_annotations = [one] if one is not None else report.get("annotations")
    for i, raw in enumerate(fields.sequence(raw_annotations, "annotations")):
        annotation_id = raw.get("id") if isinstance(raw, Mapping) else raw
        yield Submission(
            event="deleted",
            annotation_id=fields.identifier(annotation_id, f"annotations[{i}].id"),
            project_id=project_id,
        )


def _optional_id(value: object) -> str | None:
    """A number as text; users and tasks come bare or as objects."""
    if isinstance(value, Mapping):
        value = value.get("id")
    return str(value) if isinstance(value, (int, str)) and value != "" else None


def _optional_text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _optional_number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _optional_config(text: str | None) -> LabelConfig | None:
    """The labeling config where it can be read: a broken one must not lose a submission."""
    try:
        return None if text is None else parse_label_config(text)
    except ProtocolError as error:
        logger.warning("Submission read without its labeling config: %s", error)
        return None


def _regions(result: Sequence[Any], config: LabelConfig | None) -> tuple[SubmittedRegion, ...]:
    """The objects with masks; a broken region is left out with a warning, the others stay."""
    regions: dict[str, SubmittedRegion] = {}
    for index, raw in enumerate(result):
        try:
            region = _parse_region(raw, f"annotation.result[{index}]", config)
        except ProtocolError as error:
            logger.warning("Submitted region left out: %s", error)
            continue
        if region is not None:
            earlier = regions.get(region.region_id)
            regions[region.region_id] = region if earlier is None else _join(earlier, region)
    return tuple(regions.values())


def _join(first: SubmittedRegion, second: SubmittedRegion) -> SubmittedRegion:
    """Two pieces of one object; of pieces that cannot be joined the first stays alone."""
    if (first.kind, first.image_size) != (second.kind, second.image_size):
        logger.warning("Pieces of region %s do not fit together; one is left out", first.region_id)
        return first
    return SubmittedRegion(
        region_id=first.region_id,
        label=first.label,
        kind=first.kind,
        to_name=first.to_name,
        image_size=first.image_size,
        item_index=first.item_index,
        values=first.values + second.values,
    )


def _parse_region(raw: object, name: str, config: LabelConfig | None) -> SubmittedRegion | None:
    """An object, or None for results that are none: choices, points, prompts, open lines.

    With "keep label selected" the editor repeats a brush region as one of type
    ``keypointlabels``, with the same id and run lengths; it is one of those that are none.
    """
    result = fields.mapping(raw, name)
    region_type = result.get("type")
    if region_type not in MASK_TYPES:
        return None
    value = fields.mapping(result.get("value"), f"{name}.value")
    labels = fields.sequence(value.get(region_type), f"{name}.value.{region_type}")
    text_id = fields.identifier(result.get("id"), f"{name}.id")
    own_id = RegionId.parse(text_id)
    label = fields.text(labels[0] if labels else None, f"{name}.value.{region_type}[0]")
    to_name = fields.text(result.get("to_name"), f"{name}.to_name")
    if not is_closed(region_type, value):
        return None
    if own_id is None and _is_prompt(result, region_type, label, to_name, config):
        return None
    item_index = result.get("item_index")
    return SubmittedRegion(
        region_id=text_id if own_id is None else own_id.candidate_id,
        label=label,
        kind=region_type.removesuffix("labels"),
        to_name=to_name,
        image_size=fields.image_size(result, name),
        item_index=item_index if isinstance(item_index, int) else None,
        values=(value,),
    )


def _is_prompt(
    result: Mapping[str, Any],
    region_type: str,
    label: str,
    to_name: str,
    config: LabelConfig | None,
) -> bool:
    """Whether a rectangle was drawn to ask for a mask and only stayed behind in the annotation.

    So it is when it comes from a smart tool while masks of its label have a control of their own.
    """
    if region_type != AnswerKind.RECTANGLE.region_type or config is None:
        return False
    control = config.control(result.get("from_name"))
    is_smart = control is not None and control.is_smart
    return is_smart and config.find_answer_control(label, to_name, _NOT_RECTANGLE) is not None
