"""Tasks and projects as payloads name them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from adaptation.errors import ProtocolError
from backend.protocol import fields
from backend.protocol.labeling import LabelConfig
from backend.protocol.task_values import find_value

MAX_AHEAD = 8
"""Images of one task that are loaded before anybody clicks on them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRef:
    """A task that a payload names.

    Args:
        task_id: Its number, as text.
        project_id: Its project's number, as text.
        data: What was imported, by data key.
    """

    task_id: str
    project_id: str
    data: Mapping[str, Any]

    def image_ref(
        self, config: LabelConfig, to_name: str | None = None, item_index: int | None = None
    ) -> str:
        """Where the task's image is: an address, a path on Label Studio or a ``data:`` URI.

        Args:
            config: The project's labeling config, which says under which key the image stands.
            to_name: The image's name in the config; None for the first.
            item_index: Which image, where the data holds a list of them.

        Raises:
            ProtocolError: The config has no such image, or the task's data has not.
        """
        config = config.for_task(self.data)
        name = next(iter(config.images), None) if to_name is None else to_name
        expression = config.images.get(name or "")
        if expression is None:
            raise ProtocolError(
                f"The labeling config has no image '{name}' with a value from the task's data; "
                f"it has: {', '.join(config.images) or 'none for this task'}."
            )
        value = find_value(expression, self.data)
        if isinstance(value, list):
            value = value[item_index or 0] if 0 <= (item_index or 0) < len(value) else None
        if not isinstance(value, str) or not value:
            raise ProtocolError(
                f"The data of task {self.task_id} has no image under '{_shown(expression)}', where "
                f"the labeling config looks for '{name}'; it has: {_keys(self.data)}."
            )
        return value

    def image_refs(self, config: LabelConfig) -> tuple[str, ...]:
        """The images of the task that can be loaded ahead; those that are missing are left out."""
        return tuple(islice(self._image_refs(config), MAX_AHEAD))

    def _image_refs(self, config: LabelConfig) -> Iterator[str]:
        try:
            config = config.for_task(self.data)
        except ProtocolError:
            return
        for name in config.images:
            try:
                yield self.image_ref(config, name)
            except ProtocolError:
                continue


def _shown(expression: str) -> str:
    """A tag's value as a message names it: a data key without its ``$``, more as it stands."""
    return expression[1:] if expression.rfind("$") == 0 else expression


def _keys(data: Mapping[str, Any]) -> str:
    """The keys of a task's data, cut to a readable length."""
    return ", ".join(map(str, islice(data, 20)))[:300] or "nothing"


def parse_task(raw: object, name: str, project_id: str) -> TaskRef:
    """The task's number and data; all else in it is left alone."""
    task = fields.mapping(raw, name)
    return TaskRef(
        task_id=fields.identifier(task.get("id"), f"{name}.id"),
        project_id=project_id,
        data=fields.mapping(task.get("data"), f"{name}.data"),
    )


def parse_project_id(value: object) -> str:
    """The project's number: Label Studio sends ``<number>.<time of creation>``."""
    return fields.identifier(value, "project").split(".")[0]
