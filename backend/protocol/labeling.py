"""A project's labeling config: which images it shows and which controls can hold an answer."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from adaptation.errors import ProtocolError
from backend.protocol.config_tags import Tag, has_repeaters, read_tags, repeat
from backend.protocol.task_values import find_value, has_variable


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


PROMPT_SHAPES = ("keypoint", "rectangle", "ellipse", "polygon", "vector")
"""What is drawn with the smart tools that ask for a mask."""

SILENT_SHAPES = ("brush", "bitmask")
"""What is drawn with smart tools that send no request, in Label Studio 1.23."""

SHAPES = (*(kind.value for kind in AnswerKind), "keypoint", "ellipse")
"""What controls draw on images: ``<Brush>`` where the labels stand apart in ``<Labels>``,
``<BrushLabels>`` where it has its own."""

NO_LABEL = ""
"""The label of what is drawn where the labeling config has none."""

_OBJECTS = frozenset(
    "audio audioplus chat hypertext image list pagedview paragraphs pdf richtext table text "
    "timeseries video".split()
)


@dataclass(frozen=True, slots=True)
class Label:
    """A label: what annotators see, and what stands for it in results, which is the alias."""

    value: str
    alias: str | None = None

    @property
    def sent(self) -> str:
        """The word for it in results."""
        return self.alias or self.value

    def is_meant_by(self, word: str) -> bool:
        """Whether a result that says this means the label."""
        return word in (self.value, self.alias)


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """A control of the labeling config that draws on images.

    Args:
        name: Its name, ``from_name`` in regions.
        shape: What it draws: one of `SHAPES`.
        kind: Its tag in lower case, ``type`` in regions: ``brushlabels``, or ``brush``.
        to_names: The images it draws on.
        own_labels: Its labels; None where each task brings its own, and no task is known.
        is_smart: Whether it offers a smart tool; Label Studio says yes unless told otherwise.
        label_control: The ``<Labels>`` beside it, where it has no labels of its own.
    """

    name: str
    shape: str
    kind: str
    to_names: tuple[str, ...]
    own_labels: tuple[Label, ...] | None
    is_smart: bool
    label_control: str | None = None

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The labels as results name them; None where each task brings its own."""
        return None if self.own_labels is None else tuple(label.sent for label in self.own_labels)

    def holds(self, label: str, to_name: str) -> bool:
        """Whether a region with this label on this image may come from the control."""
        return to_name in self.to_names and self.find_label([label]) is not None

    def find_label(self, words: Sequence[str]) -> str | None:
        """The first of its labels that one of the words means, as results name it."""
        if self.own_labels is None:
            return words[0]
        for word in words:
            if word in (self.labels or ()):
                return word
        meant = (own for word in words for own in self.own_labels if own.is_meant_by(word))
        return next((own.sent for own in meant), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelConfig:
    """What of a labeling config matters for clicks.

    Args:
        images: The value of each image by the image's name: ``<Image name="photo"
            value="$url"/>`` is ``{"photo": "$url"}``.
        controls: Controls that draw on these images, in the config's order.
        root: The config's tags, where they differ from task to task; else None.
    """

    images: Mapping[str, str]
    controls: tuple[Control, ...]
    root: Tag | None = field(default=None, repr=False)

    def for_task(self, data: Mapping[str, Any]) -> LabelConfig:
        """The config with what the task brings: repeated images, labels of its own.

        Raises:
            ProtocolError: The task's data repeats more tags than anybody can label with.
        """
        if self.root is None:
            return self
        root = repeat(self.root, data)
        return LabelConfig(images=_images(root), controls=tuple(_controls(root, data)))

    def control(self, name: object) -> Control | None:
        """The control of a name, if there is one."""
        return next((control for control in self.controls if control.name == name), None)

    def find_answer_control(
        self, label: str, to_name: str, preferred: Sequence[AnswerKind] = tuple(AnswerKind)
    ) -> Control | None:
        """The first control, by kind and then by place, that can hold a mask of this label."""
        words = self._words_for(label, to_name)
        for kind in preferred:
            for control in self.controls:
                is_there = control.shape == kind.value and to_name in control.to_names
                if is_there and control.find_label(words) is not None:
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

    def label_in(self, control: Control, label: str, to_name: str) -> str:
        """A label as a control names it: controls may give one label different aliases."""
        return control.find_label(self._words_for(label, to_name)) or label

    def is_same(self, one: str, other: str, to_name: str) -> bool:
        """Whether two words mean one label, under its value or one of its aliases."""
        return not set(self._words_for(one, to_name)).isdisjoint(self._words_for(other, to_name))

    def _words_for(self, label: str, to_name: str) -> list[str]:
        """The label, and what else it is called by the controls of its image."""
        words = [label]
        for control in self.controls:
            if to_name in control.to_names:
                same = [own for own in control.own_labels or () if own.is_meant_by(label)]
                words += [word for own in same for word in (own.value, own.sent)]
        return list(dict.fromkeys(words))

    def problems(self, preferred: Sequence[AnswerKind] = tuple(AnswerKind)) -> tuple[str, ...]:
        """Everything that would keep clicks from being answered; empty when all is well."""
        return tuple(self._problems(preferred))

    def _problems(self, preferred: Sequence[AnswerKind]) -> Iterator[str]:
        prompts = [c for c in self.controls if c.shape in PROMPT_SHAPES and c.is_smart]
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
            if control.shape in SILENT_SHAPES and control.is_smart:
                yield (
                    f"Control '{control.name}' offers a smart tool for which Label Studio asks "
                    f'nobody: write smart="false" on it.'
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
    root = read_tags(text)
    images = _images(root)
    if not images:
        raise ProtocolError(
            "The labeling config shows no image from the task's data: "
            'add <Image name="image" value="$image"/>.'
        )
    controls = tuple(_controls(root, None))
    is_fixed = not has_repeaters(root) and all(c.own_labels is not None for c in controls)
    return LabelConfig(images=images, controls=controls, root=None if is_fixed else root)


def _images(root: Tag) -> Mapping[str, str]:
    """The images whose address comes from the task's data; fixed ones are left out."""
    found = {tag.name: _image_value(tag) for tag in root.inside() if tag.kind == "image"}
    return MappingProxyType({k: v for k, v in found.items() if k and has_variable(v)})


def _image_value(tag: Tag) -> str:
    return tag.attributes.get("valuelist") or tag.attributes.get("value", "")


def _controls(root: Tag, data: Mapping[str, Any] | None) -> Iterator[Control]:
    """The controls that draw on images; their labels from the task where it brings them."""
    images = _images(root).keys()
    only_object = _only_object(root)
    separate = [tag for tag in root.inside() if tag.kind == "labels"]
    for tag in root.inside():
        shape = tag.kind.removesuffix("labels")
        to_names = _to_names(tag, only_object)
        if shape not in SHAPES or not tag.name or not images & set(to_names):
            continue
        if shape != tag.kind:
            yield _control(tag, shape, to_names, _labels(tag, data))
            continue
        beside = [s for s in separate if set(_to_names(s, only_object)) & set(to_names)]
        for labels in beside:
            yield _control(tag, shape, to_names, _labels(labels, data), labels.name)
        if not beside:
            yield _control(tag, shape, to_names, (Label(NO_LABEL),))


def _control(
    tag: Tag,
    shape: str,
    to_names: tuple[str, ...],
    labels: tuple[Label, ...] | None,
    label_control: str | None = None,
) -> Control:
    return Control(
        name=tag.name,
        shape=shape,
        kind=tag.kind,
        to_names=to_names,
        own_labels=labels,
        is_smart=tag.attributes.get("smart", "true").lower() != "false",
        label_control=label_control,
    )


def _only_object(root: Tag) -> str:
    """The one thing that is labeled: controls that do not say what they draw on draw on that."""
    names = [tag.name for tag in root.inside() if tag.kind in _OBJECTS and tag.name]
    return names[0] if len(names) == 1 else ""


def _to_names(tag: Tag, only_object: str) -> tuple[str, ...]:
    names = tag.attributes.get("toname") or only_object
    return tuple(name.strip() for name in names.split(",") if name.strip())


def _labels(tag: Tag, data: Mapping[str, Any] | None) -> tuple[Label, ...] | None:
    """A control's labels: those inside it, and those that the task brings."""
    inside = [_label(child.attributes) for child in tag.inside() if child.kind == "label"]
    source = tag.attributes.get("value", "")
    if not has_variable(source):
        return tuple(label for label in inside if label is not None)
    if data is None:
        return None
    brought = _brought(find_value(source, data))
    return tuple(label for label in (*inside, *brought) if label is not None)


def _brought(entries: object) -> Iterator[Label | None]:
    """Labels in a task's data: objects with the attributes of ``<Label>``, also inside others."""
    pending = deque(entries if isinstance(entries, list) else [])
    while pending:
        entry = pending.popleft()
        if isinstance(entry, Mapping):
            yield _label(entry)
            children = entry.get("children")
            pending.extendleft(reversed(children if isinstance(children, list) else []))


def _label(attributes: Mapping[str, Any]) -> Label | None:
    value, alias = attributes.get("value"), attributes.get("alias")
    if not isinstance(value, str) or not value.strip():
        return None
    return Label(value, alias if isinstance(alias, str) and alias else None)
