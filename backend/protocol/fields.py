"""Single values of a payload: each function returns the type it names or says what is wrong.

``name`` is where the value stands in the payload, such as ``context.result[2].value.x``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from adaptation.errors import ProtocolError
from adaptation.types import Size

MAX_PIXELS = 1 << 30
"""Pixels of the largest image that Label Studio's brush masks can have: their header has 32 bits
for four values a pixel.  How many are served is a setting."""

MAX_PERCENT = 1e6
"""Far outside of any image, and far from what overflows."""

MAX_ID_LENGTH = 200
"""Characters of an id; Label Studio's have a dozen."""


def mapping(value: object, name: str) -> Mapping[str, Any]:
    """A JSON object."""
    if not isinstance(value, Mapping):
        _refuse(value, name, "an object")
    return value


def sequence(value: object, name: str) -> Sequence[Any]:
    """A JSON array."""
    if not isinstance(value, (list, tuple)):
        _refuse(value, name, "a list")
    return value


def text(value: object, name: str) -> str:
    """A string that is not empty."""
    if not isinstance(value, str) or not value.strip():
        _refuse(value, name, "a text")
    return storable(value)


def identifier(value: object, name: str) -> str:
    """A number or text that names something, as text."""
    if isinstance(value, bool) or not isinstance(value, (int, str)) or value == "":
        _refuse(value, name, "an id")
    if len(str(value)) > MAX_ID_LENGTH:
        raise ProtocolError(f"'{name}' must be an id of at most {MAX_ID_LENGTH} characters.")
    return storable(str(value))


def storable(value: str) -> str:
    """A text that every database takes: without NUL and without halves of characters."""
    if "\0" not in value and value.isascii():
        return value
    return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def boolean(value: object, name: str) -> bool:
    """True or false, nothing that could pass for them."""
    if not isinstance(value, bool):
        _refuse(value, name, "true or false")
    return value


def number(value: object, name: str) -> float:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        _refuse(value, name, "a number")
    try:
        as_float = float(value)
    except OverflowError:
        as_float = math.inf
    if not math.isfinite(as_float):
        raise ProtocolError(f"'{name}' must be a finite number, got {as_float}.")
    return as_float


def percent(value: object, name: str) -> float:
    """A place or length in percent of an image's side, which may lie outside but not far."""
    found = number(value, name)
    if abs(found) > MAX_PERCENT:
        raise ProtocolError(f"'{name}' must be percent of the image, got {found:g}.")
    return found


def image_size(region: Mapping[str, Any], name: str) -> Size:
    """The (height, width) of the image that a region says it was drawn on."""
    height = _side(region.get("original_height"), f"{name}.original_height")
    width = _side(region.get("original_width"), f"{name}.original_width")
    if height * width > MAX_PIXELS:
        raise ProtocolError(
            f"'{name}' is on an image of {width}x{height} pixels; Label Studio's masks have at "
            f"most {MAX_PIXELS}."
        )
    if region.get("image_rotation"):
        raise ProtocolError(
            f"'{name}' is on an image that is turned in the viewer: turn it back to click on it."
        )
    return height, width


def _side(value: object, name: str) -> int:
    side = number(value, name)
    if side < 1 or side != int(side):
        _refuse(value, name, "a whole number of pixels")
    return int(side)


def _refuse(value: object, name: str, expected: str) -> NoReturn:
    raise ProtocolError(f"'{name}' must be {expected}, got {_describe(value)}.")


def _describe(value: object) -> str:
    """What a value is, without repeating long or private content."""
    if value is None:
        return "nothing"
    if isinstance(value, (bool, int, float)):
        return repr(value)[:40]
    if isinstance(value, str):
        return "an empty text" if not value.strip() else "a text"
    if isinstance(value, Mapping):
        return "an object"
    return "a list" if isinstance(value, (list, tuple)) else type(value).__name__
