"""The keys of a dataclass or a pydantic model, nested ones included."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from adaptation.config.layers import Key


def is_section(hint: Any) -> bool:
    """Whether a type holds keys of its own."""
    return isinstance(hint, type) and (
        dataclasses.is_dataclass(hint) or issubclass(hint, BaseModel)
    )


@functools.cache
def fields_of(section: type) -> Mapping[str, Any]:
    """A section's keys in their order, each with its annotation."""
    hints = typing.get_type_hints(section, include_extras=True)
    if issubclass(section, BaseModel):
        return {name: hints[name] for name in section.model_fields}
    return {
        field.name: hints[field.name] for field in dataclasses.fields(typing.cast(Any, section))
    }


def bare(hint: Any) -> Any:
    """A type without `Annotated`, and without None beside it."""
    while True:
        if typing.get_origin(hint) is typing.Annotated:
            hint = typing.get_args(hint)[0]
        elif typing.get_origin(hint) in (typing.Union, types.UnionType):
            kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
            if len(kinds) != 1:
                return hint
            hint = kinds[0]
        else:
            return hint


def keys_of(section: type, prefix: Key = ()) -> Iterator[Key]:
    """Every key below a section that is no section itself, as a path of names."""
    for name, hint in fields_of(section).items():
        inner = bare(hint)
        if is_section(inner):
            yield from keys_of(inner, (*prefix, name))
        else:
            yield (*prefix, name)


def is_secret(section: type, key: Key) -> bool:
    """Whether a key's value must not be repeated."""
    hint: Any = section
    for part in key:
        if not is_section(bare(hint)) or part not in fields_of(bare(hint)):
            return False
        hint = fields_of(bare(hint))[part]
    return "SecretStr" in str(hint)
