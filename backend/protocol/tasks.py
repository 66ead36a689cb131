"""Tasks and projects as payloads name them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from adaptation.errors import ProtocolError
from backend.protocol import fields
from backend.protocol.labeling import LabelConfig


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
        name = next(iter(config.images)) if to_name is None else to_name
        key = config.images.get(name)
        if key is None:
            raise ProtocolError(
                f"The labeling config has no image '{name}' with a value from the task's data; "
                f"it has: {', '.join(config.images)}."
            )
        value = _look_up(self.data, key)
        if isinstance(value, list):
            value = value[item_index or 0] if 0 <= (item_index or 0) < len(value) else None
        if not isinstance(value, str) or not value:
            raise ProtocolError(
                f"The data of task {self.task_id} has no image under '{key}', where the labeling "
                f"config looks for '{name}'; it has: {', '.join(map(str, self.data)) or 'nothing'}."
            )
        return value

    def image_refs(self, config: LabelConfig) -> tuple[str, ...]:
        """The images of the task that can be loaded ahead; those that are missing are left out."""
        return tuple(self._image_refs(config))

    def _image_refs(self, config: LabelConfig) -> Iterator[str]:
        for name in config.images:
            try:
                yield self.image_ref(config, name)
            except ProtocolError:
                continue


def _look_up(data: Mapping[str, Any], key: str) -> object:
    """A value by its key or, where there is none, by a dotted way through nested objects."""
    if key in data:
        return data[key]
    value: object = data
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


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
