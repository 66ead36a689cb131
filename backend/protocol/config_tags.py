"""A labeling config's tags, read as Label Studio's editor reads them.

Tags and attributes count in any case, a tag's own text is its ``value``, and a ``<Repeater>`` is
its children once for each entry of a list in the task's data.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any
from xml.etree import ElementTree

from adaptation.errors import ProtocolError
from backend.protocol.task_values import find_value

MAX_TAGS = 20_000
"""Tags of one labeling config, repeated ones included."""

MAX_DEPTH = 100
"""Tags inside of tags."""

_INDEX_FLAG = "{{idx}}"
_DECLARATION = re.compile(r"<!(DOCTYPE|ENTITY)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag: its name and its attributes' names in lower case."""

    kind: str
    attributes: Mapping[str, str]
    children: tuple[Tag, ...] = ()

    @property
    def name(self) -> str:
        """What other tags and results call it; empty where it has no name."""
        return self.attributes.get("name", "").strip()

    def inside(self) -> Iterator[Tag]:
        """The tag and all tags inside it, in the config's order."""
        yield self
        for child in self.children:
            yield from child.inside()


def read_tags(text: str) -> Tag:
    """Read a labeling config.

    Raises:
        ProtocolError: It is not XML, declares entities, or is larger than any that is used.
    """
    if _DECLARATION.search(text):
        raise ProtocolError("A labeling config may not declare a document type or entities.")
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise ProtocolError(f"The labeling config cannot be read: {error}.") from None
    tag = _tag(root, MAX_DEPTH)
    _check_number(tag)
    return tag


def _tag(element: ElementTree.Element, depth: int) -> Tag:
    if depth == 0:
        raise ProtocolError(f"The labeling config nests more than {MAX_DEPTH} tags.")
    attributes = {name.lower(): value for name, value in element.attrib.items()}
    text = (element.text or "").strip()
    if text and not len(element):
        attributes["value"] = text
    children = tuple(_tag(child, depth - 1) for child in element)
    return Tag(element.tag.lower(), attributes, children)


def repeat(root: Tag, data: Mapping[str, Any]) -> Tag:
    """The tags of one task: every Repeater becomes its children, once for each entry of its list.

    Raises:
        ProtocolError: These are more tags than anybody can label with.
    """
    repeated = Tag(root.kind, root.attributes, tuple(_repeated(root, data, [MAX_TAGS])))
    _check_number(repeated)
    return repeated


def has_repeaters(root: Tag) -> bool:
    """Whether the tags differ from task to task."""
    return any(tag.kind == "repeater" for tag in root.inside())


def _repeated(parent: Tag, data: Mapping[str, Any], left: list[int]) -> Iterator[Tag]:
    """The children of a tag with Repeaters replaced; ``left`` is how many tags may still come."""
    for child in parent.children:
        left[0] -= 1
        if left[0] < 0:
            raise _too_many()
        if child.kind != "repeater":
            yield replace(child, children=tuple(_repeated(child, data, left)))
            continue
        entries = find_value(child.attributes.get("on", ""), data)
        flag = child.attributes.get("indexflag", _INDEX_FLAG)
        for index in range(len(entries) if isinstance(entries, list) else 0):
            copies = tuple(_numbered(tag, flag, index, 2) for tag in child.children)
            yield from _repeated(replace(child, children=copies), data, left)


def _numbered(tag: Tag, flag: str, index: int, n_places: int) -> Tag:
    """A copy with the index written in: by the editor, twice an attribute, and once inside it."""
    attributes = {
        name: value.replace(flag, str(index), n_places) for name, value in tag.attributes.items()
    }
    children = tuple(_numbered(child, flag, index, 1) for child in tag.children)
    return Tag(tag.kind, attributes, children)


def _check_number(root: Tag) -> None:
    if sum(1 for _ in root.inside()) > MAX_TAGS:
        raise _too_many()


def _too_many() -> ProtocolError:
    return ProtocolError(f"The labeling config has more than {MAX_TAGS} tags.")
