"""What Label Studio asks: /predict (a task was opened, or something was clicked) and /setup."""

from __future__ import annotations

from dataclasses import dataclass

from adaptation.errors import ProtocolError
from backend.protocol import fields
from backend.protocol.clicks import Clicked, parse_context
from backend.protocol.existing import editable_regions
from backend.protocol.labeling import LabelConfig, parse_label_config
from backend.protocol.submitted_regions import SubmittedRegion
from backend.protocol.tasks import TaskRef, parse_project_id, parse_task


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictRequest:
    """A /predict request.

    Args:
        project_id: The project's number, as text.
        tasks: All tasks of a batch; exactly one where something was clicked.
        label_config: The project's labeling config of this moment; where something was clicked,
            with what the task brings to it.
        is_interactive: False when tasks were opened or predictions are fetched in bulk: nobody
            waits for a mask, the images are worth encoding ahead.
        clicked: What to answer; None when there is nothing, also where a click was announced
            (only leftovers of an earlier session were on the image, say).
        editable: The regions that the click may edit, the newest first; see
            `backend.protocol.existing`.
    """

    project_id: str
    tasks: tuple[TaskRef, ...]
    label_config: LabelConfig
    is_interactive: bool
    clicked: Clicked | None
    editable: tuple[SubmittedRegion, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SetupRequest:
    """What of a /setup request is read: not its access token, the settings hold one."""

    project_id: str | None
    label_config_text: str


def parse_predict(body: object) -> PredictRequest:
    """Read a /predict request.

    Annotations, drafts and predictions, which travel along with all their masks, are not touched,
    but where a click edits one of these masks.

    Raises:
        ProtocolError: Something is missing, of a wrong type or outside of the image.
    """
    request = fields.mapping(body, "the request")
    project_id = parse_project_id(request.get("project"))
    raw_tasks = fields.sequence(request.get("tasks"), "tasks")
    if not raw_tasks:
        raise ProtocolError("'tasks' must hold at least one task, got none.")
    tasks = tuple(parse_task(raw, f"tasks[{i}]", project_id) for i, raw in enumerate(raw_tasks))
    config = parse_label_config(fields.text(request.get("label_config"), "label_config"))
    params = request.get("params")
    context = fields.mapping(params, "params").get("context") if params is not None else None
    if context is not None:
        config = config.for_task(tasks[0].data)
    clicked = None if context is None else parse_context(context, tasks, config)
    return PredictRequest(
        project_id=project_id,
        tasks=tasks,
        label_config=config,
        is_interactive=context is not None,
        clicked=clicked,
        editable=() if clicked is None else editable_regions(raw_tasks[0], clicked, config),
    )


def parse_setup(body: object) -> SetupRequest:
    """Read a /setup request; the labeling config is not judged yet.

    Raises:
        ProtocolError: The body is not an object or holds no labeling config.
    """
    request = fields.mapping(body, "the request")
    project = request.get("project")
    return SetupRequest(
        project_id=parse_project_id(project) if project else None,
        label_config_text=fields.text(request.get("schema"), "schema"),
    )
