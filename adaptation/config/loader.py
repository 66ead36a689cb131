"""From layers of values to one checked object."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from adaptation.config.fields import bare, fields_of, is_secret, is_section, keys_of
from adaptation.config.layers import Key, Layer, merged
from adaptation.config.messages import sentence, suggestion
from adaptation.errors import SettingsError

SchemaT = TypeVar("SchemaT")
_Location = tuple[str | int, ...]

_OUT_OF_RANGE = frozenset(
    {
        "greater_than",
        "greater_than_equal",
        "less_than",
        "less_than_equal",
        "literal_error",
        "string_too_short",
        "too_short",
        "value_error",
    }
)
"""Errors of values that have the right type: the other values can be looked at together."""


class ConfigError(SettingsError):
    """Settings are wrong; `mistakes` lists everything that is, one sentence each."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(["The settings are wrong:", *(f"  {m}" for m in mistakes)]))


@runtime_checkable
class Checked(Protocol):
    """A config that knows which of its values make no sense together."""

    def mistakes(self) -> list[str]:
        """One sentence per mistake; empty when the config can be used."""
        ...


def load(schema: type[SchemaT], layers: Sequence[Layer], mistakes: Sequence[str] = ()) -> SchemaT:
    """Merge layers and check them as a whole.

    Texts become numbers, truth values and paths where these are wanted, as environments and quoted
    YAML need it; a truth value is no number, and a number no text.  A section without keys is an
    empty one.

    Args:
        schema: A dataclass or pydantic model.
        layers: Later ones win.
        mistakes: Found while the layers were read; reported with the others.

    Raises:
        ConfigError: Anything is wrong, all of it at once, each with the place that it came from.
    """
    check = _Check(schema, layers, list(mistakes))
    found = check.validated()
    if isinstance(found, Checked):
        check.mistakes += found.mistakes()
    if check.mistakes:
        raise ConfigError(check.mistakes)
    return typing.cast(SchemaT, found)


class _Check:
    """One look at all values; collects what is wrong."""

    def __init__(self, schema: type, layers: Sequence[Layer], mistakes: list[str]) -> None:
        self._schema, self._layers, self.mistakes = schema, layers, mistakes

    def validated(self) -> Any:
        """The object; None where some values have not even the right type."""
        values: Mapping[str, Any] = {}
        for layer in self._layers:
            values = merged(values, layer.values)
        prepared = self._prepared(self._schema, values, ())
        try:
            return TypeAdapter(self._schema).validate_python(prepared)
        except ValidationError as error:
            details = error.errors(include_url=False)
        for detail in details:
            self._report(detail)
        if all(detail["type"] in _OUT_OF_RANGE for detail in details):
            return self._rest(prepared, [detail["loc"] for detail in details])
        return None

    def _rest(self, prepared: Mapping[str, Any], bad: Sequence[_Location]) -> Any:
        """The object with the defaults for what is out of range, to look at the rest of it."""
        for at in bad:
            prepared = _without(prepared, at)
        try:
            return TypeAdapter(self._schema).validate_python(prepared)
        except ValidationError:  # a key without a default
            return None

    def _prepared(self, hint: Any, value: Any, at: _Location) -> Any:
        """A value as pydantic shall see it; unknown keys are reported and left out."""
        wanted = bare(hint)
        if is_section(wanted):
            return self._section(wanted, value, at, may_be_none=wanted is not hint)
        if typing.get_origin(wanted) is tuple and isinstance(value, list | tuple):
            kind = typing.get_args(wanted)[0]
            return [self._prepared(kind, item, (*at, i)) for i, item in enumerate(value)]
        if wanted in (int, float) and isinstance(value, bool):
            return str(value).lower()  # pydantic takes true for 1; so it is refused
        if wanted is Path and isinstance(value, str) and value.startswith("~"):
            return Path(value).expanduser()
        return value

    def _section(self, section: type, value: Any, at: _Location, *, may_be_none: bool) -> Any:
        if value is None and not may_be_none:
            return {}
        if not isinstance(value, Mapping):
            return value
        fields = fields_of(section)
        for name in value:
            if name not in fields:
                self._report_unknown((*at, str(name)), at, section)
        return {
            name: self._prepared(fields[name], inner, (*at, name))
            for name, inner in value.items()
            if name in fields
        }

    def _report_unknown(self, at: _Location, parent: _Location, section: type) -> None:
        prefix = _names(parent)
        whole_tree = not any(isinstance(part, int) for part in at)
        known = keys_of(self._schema) if whole_tree else keys_of(section, prefix)
        self.mistakes.append(f"{self._origin(at)}: no such setting{suggestion(_names(at), known)}")

    def _report(self, error: ErrorDetails) -> None:
        at = error["loc"]
        told = sentence(error, is_secret=is_secret(self._schema, _names(at)))
        colon = ":" if told[:1].isupper() else ""  # a sentence of its own
        self.mistakes.append(f"{self._origin(at)}{colon} {told}".lstrip())

    def _origin(self, at: _Location) -> str:
        """How the source that set a key calls it; an item of a list by its number."""
        key = next((at[:i] for i, part in enumerate(at) if isinstance(part, int)), at)
        rest = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in at[len(key) :])
        names = _names(key)
        source = next((la.name_of for la in reversed(self._layers) if la.holds(names)), None)
        return (source(names) if source and names else ".".join(names)) + rest


def _names(at: _Location) -> Key:
    return tuple(part for part in at if isinstance(part, str))


def _without(tree: Any, at: _Location) -> Any:
    """A tree without a key; a list with a bad item goes as a whole."""
    if len(at) == 1 or not isinstance(at[1], str) or not isinstance(tree.get(at[0]), Mapping):
        return {name: value for name, value in tree.items() if name != at[0]}
    return {**tree, at[0]: _without(tree[at[0]], at[1:])}
