"""Ranges that fields are annotated with, for objects that were made without a file."""

from __future__ import annotations

import functools
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from adaptation.config.fields import fields_of, is_section
from adaptation.config.messages import sentence
from adaptation.errors import RangeError

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


def one_of(known: Sequence[str]) -> AfterValidator:
    """Annotates a text that must be one of these."""

    def check(value: str) -> str:
        if value not in known:
            raise ValueError(f"must be one of {', '.join(known)}")
        return value

    return AfterValidator(check)


def range_mistakes(instance: object) -> list[str]:
    """What is out of the range that its field is annotated with, one sentence each."""
    schema: Any = type(instance)
    found: list[str] = []
    for name, adapter in _adapters(schema).items():
        value = getattr(instance, name)
        if adapter is None:
            found += [f"{name}.{mistake}" for mistake in range_mistakes(value)]
            continue
        try:
            adapter.validate_python(value)
        except ValidationError as error:
            found += [f"{name} {sentence(detail)}" for detail in error.errors(include_url=False)]
    return found


def check_ranges(instance: object, what: str) -> None:
    """For ``__post_init__``: refuse values out of range.

    Args:
        instance: A dataclass whose fields are annotated.
        what: It is called in the message, as "The zoom".

    Raises:
        RangeError: Of all fields that are out of range.
    """
    found = range_mistakes(instance)
    if found:
        raise RangeError(f"{what} cannot be so: {'; '.join(found)}.")


@functools.cache
def _adapters(schema: type) -> Mapping[str, TypeAdapter[Any] | None]:
    """What checks the fields that have a range; None for a section of fields."""
    hints = fields_of(schema).items()
    return {
        name: None if is_section(hint) else TypeAdapter(hint)
        for name, hint in hints
        if is_section(hint) or typing.get_origin(hint) is typing.Annotated
    }
