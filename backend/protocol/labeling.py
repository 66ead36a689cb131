"""A project's labeling config: which images it shows and which controls can hold an answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from types import MappingProxyType

from label_studio_sdk.label_interface.control_tags import ControlTag
from label_studio_sdk.label_interface.interface import LabelInterface
from label_studio_sdk.label_interface.object_tags import ObjectTag

from adaptation.errors import ProtocolError


class AnswerKind(str, Enum):
    """How a mask is handed to the annotator, best first; the value is the word for settings."""

    BRUSH = "brush"
    BITMASK = "bitmask"
    POLYGON = "polygon"
    VECTOR = "vector"
    RECTANGLE = "rectangle"

    @property
    def region_type(self) -> str:
        """The type of a region of this kind, which is its control's tag in lower case."""
        return f"{self.value}labels"


PROMPT_TYPES = ("keypointlabels", "rectanglelabels")
"""Controls whose smart tools ask for a mask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """A control of the labeling config that draws on images.

    Args:
        name: Its name, ``from_name`` in regions.
        kind: Its tag in lower case, ``type`` in regions: ``brushlabels``.
        to_names: The images it draws on.
        labels: Its labels; None where each task brings its own.
        is_smart: Whether it offers a smart tool; Label Studio says yes unless told otherwise.
    """

    name: str
    kind: str
    to_names: tuple[str, ...]
    labels: tuple[str, ...] | None
    is_smart: bool

    def holds(self, label: str, to_name: str) -> bool:
        """Whether a region with this label on this image may come from the control."""
        return to_name in self.to_names and (self.labels is None or label in self.labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelConfig:
    """What of a labeling config matters for clicks.

    Args:
        images: The data key of each image by the image's name: ``<Image name="photo"
            value="$url"/>`` is ``{"photo": "url"}``.
        controls: Controls on these images that have labels, in the config's order.
    """

    images: Mapping[str, str]
    controls: tuple[Control, ...]

    def control(self, name: object) -> Control | None:
        """The control of a name, if there is one."""
        return next((control for control in self.controls if control.name == name), None)

    def find_answer_control(
        self, label: str, to_name: str, preferred: Sequence[AnswerKind] = tuple(AnswerKind)
    ) -> Control | None:
        """The first control, by kind and then by place, that can hold a mask of this label."""
        for kind in preferred:
            for control in self.controls:
                if control.kind == kind.region_type and control.holds(label, to_name):
                    return control
        return None

    def answer_control(
        self, label: str, to_name: str, preferred: Sequence[AnswerKind] = tuple(AnswerKind)
    ) -> Control:
        """Like `find_answer_control`, for an answer that must be given.

        Raises:
            ProtocolError: No control of the preferred kinds has the label.
        """
        control = self.find_answer_control(label, to_name, preferred)
        if control is None:
            raise ProtocolError(_no_answer_control(label, to_name, preferred))
        return control

    def problems(self, preferred: Sequence[AnswerKind] = tuple(AnswerKind)) -> tuple[str, ...]:
        """Everything that would keep clicks from being answered; empty when all is well."""
        return tuple(self._problems(preferred))

    def _problems(self, preferred: Sequence[AnswerKind]) -> Iterator[str]:
        prompts = [c for c in self.controls if c.kind in PROMPT_TYPES and c.is_smart]
        if not prompts:
            yield (
                "The labeling config has no smart tool to click with: add <KeyPointLabels "
                'name="points" toName="IMAGE" smart="true"> with the project\'s labels.'
            )
        wanted = {(label, to) for c in prompts for to in c.to_names for label in c.labels or ()}
        for label, to_name in sorted(wanted):
            if self.find_answer_control(label, to_name, preferred) is None:
                yield _no_answer_control(label, to_name, preferred)
        for control in self.controls:
            if control.kind not in PROMPT_TYPES and control.is_smart:
                yield (
                    f"Control '{control.name}' offers a smart tool that cannot be answered: "
                    f'write smart="false" on it.'
                )


def _no_answer_control(label: str, to_name: str, preferred: Sequence[AnswerKind]) -> str:
    kinds = ", ".join(kind.value for kind in preferred)
    return (
        f"The labeling config has no control for the mask of label '{label}' on '{to_name}' "
        f'(one of {kinds}): add <BrushLabels name="brush" toName="{to_name}" smart="false">'
        f'<Label value="{label}"/></BrushLabels>, or the label to the one that is there.'
    )


@lru_cache(maxsize=128)
def parse_label_config(text: str) -> LabelConfig:
    """Read a labeling config; the result of the same text is remembered.

    Raises:
        ProtocolError: It is not XML or shows no image from the task's data.
    """
    interface = _read(text)
    images = {tag.name: key for tag in interface.objects if (key := _image_key(tag)) is not None}
    if not images:
        raise ProtocolError(
            "The labeling config shows no image from the task's data: "
            'add <Image name="image" value="$image"/>.'
        )
    controls = (_control(tag) for tag in interface.controls if tag.tag.lower().endswith("labels"))
    return LabelConfig(
        images=MappingProxyType(images),
        controls=tuple(c for c in controls if images.keys() & set(c.to_names)),
    )


def _read(text: str) -> LabelInterface:
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ProtocolError("A labeling config may not declare a document type or entities.")
    try:
        return LabelInterface(text)
    except Exception as error:  # the SDK lets its parsers' various errors through
        raise ProtocolError(f"The labeling config cannot be read: {_first_line(error)}.") from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".")[:200] if lines else type(error).__name__


def _image_key(tag: ObjectTag) -> str | None:
    """The data key of an <Image>, or None for other tags and for fixed addresses."""
    if (tag.tag or "").lower() != "image" or not tag.name or not tag.value:
        return None
    return tag.value[1:] if tag.value_is_variable else None


def _control(tag: ControlTag) -> Control:
    smart = str(tag.get_attr("smart", "true")).lower()
    return Control(
        name=str(tag.name),
        kind=str(tag.tag).lower(),
        to_names=tuple(name.strip() for name in tag.to_name or ()),
        labels=None if tag.dynamic_value else tuple(tag.labels or ()),
        is_smart=smart != "false",
    )
