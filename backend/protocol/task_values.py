"""``$name`` in a labeling config -> the value in the task's data, by the rules of the editor.

``$image`` and ``$pages[0].url`` are the value itself, of any type; with more text around them or
beside each other, as in ``http://host/$folder/$name``, they are filled in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_VARIABLE = re.compile(r"\$[\w[\].{}]+", re.ASCII)
_PATH_PART = re.compile(r"""[^.[\]]+|\[(?:"([^"]*)"|'([^']*)'|([^\]]*))\]""")


def has_variable(expression: str) -> bool:
    """Whether anything in a tag's value comes from the task."""
    return _VARIABLE.search(expression) is not None


def find_value(expression: str, data: Mapping[str, Any]) -> Any:
    """What a tag's value stands for in a task; None where the data has not what it names.

    Args:
        expression: The attribute as it stands in the labeling config.
        data: The task's data.
    """
    if _VARIABLE.fullmatch(expression):
        return _look_up(data, expression[1:])
    texts = {name: _as_text(_look_up(data, name[1:])) for name in _VARIABLE.findall(expression)}
    if None in texts.values():
        return None
    return _VARIABLE.sub(lambda match: texts[match.group()] or "", expression)


def _look_up(data: Any, path: str) -> Any:
    """A value by its key or, where there is none, by a path such as ``meta.pages[0].url``."""
    found = _member(data, path)
    if found is not None or not any(mark in path for mark in ".[]"):
        return found
    value = data
    for match in _PATH_PART.finditer(path):
        quoted = next((part for part in match.groups() if part is not None), None)
        value = _member(value, match.group() if quoted is None else quoted)
    return value


def _member(holder: Any, key: str) -> Any:
    if isinstance(holder, Mapping):
        return holder.get(key)
    if isinstance(holder, list) and key.isascii() and key.isdecimal() and len(key) < 10:
        return holder[int(key)] if int(key) < len(holder) else None
    return None


def _as_text(value: Any) -> str | None:
    """A value inside of a longer text; None for what has no sensible one there."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, (str, int)) else None
