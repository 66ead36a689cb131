"""Layers become one object, or all mistakes at once; see tests/backend/test_settings.py too."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field, SecretStr

from adaptation.config import (
    ConfigError,
    Count,
    Layer,
    Share,
    check_ranges,
    load,
    one_of,
    range_mistakes,
)
from adaptation.errors import RangeError, SettingsError


@dataclass(frozen=True, kw_only=True)
class Inner:
    least: Count = 1
    most: Count = 5

    def __post_init__(self) -> None:
        if self.least > self.most:
            raise RangeError(f"The least is above the most, got {self.least} and {self.most}.")


@dataclass(frozen=True, kw_only=True)
class Outer:
    home: Path = Path("here")
    kind: Annotated[str, one_of(("red", "blue"))] = "red"
    share: Share = 0.5
    half: bool = True
    token: SecretStr | None = None
    limit: Annotated[int, Field(gt=0, lt=10)] | None = None
    inner: Inner = field(default_factory=Inner)
    parts: tuple[Inner, ...] = ()

    def mistakes(self) -> list[str]:
        found = range_mistakes(self)
        return [*found, "half and red do not go together"] if self.half else found


def file(**values: Any) -> Layer:
    return Layer(values, lambda key: f"a.yaml: {'.'.join(key)}")


def wrong(*layers: Layer) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(Outer, layers)
    return sorted(caught.value.mistakes)


def test_later_layers_win_key_by_key() -> None:
    below = file(half=False, inner={"least": 2, "most": 3})
    found = load(Outer, [below, file(inner={"most": "4"}, home="~/x")])
    assert found.inner == Inner(least=2, most=4)
    assert found.home == Path.home() / "x"


def test_a_section_without_keys_is_an_empty_one() -> None:
    assert load(Outer, [file(half=False, inner=None)]).inner == Inner()


def test_the_layer_that_set_a_value_is_named() -> None:
    environment = Layer({"share": "2"}, lambda key: "STROP_" + "__".join(key).upper())
    assert wrong(file(share=0.5, half="no", kind="green"), environment) == [
        "STROP_SHARE must be at most 1, got '2'",
        "a.yaml: kind must be one of red, blue, got 'green'",
    ]


def test_what_is_out_of_range_hides_nothing_that_goes_wrong_together() -> None:
    assert wrong(file(limit=10, inner={"least": 7}, parts=[{"least": 0}])) == [
        "a.yaml: inner: The least is above the most, got 7 and 5",
        "a.yaml: limit must be below 10, got 10",
        "a.yaml: parts[0].least must be 1 or more, got 0",
        "half and red do not go together",
    ]


def test_values_of_wrong_types_are_not_looked_at_together() -> None:
    assert wrong(file(limit="many")) == ["a.yaml: limit must be a whole number, got 'many'"]


def test_a_truth_value_is_no_number() -> None:
    assert wrong(file(half=False, share=True, limit=True)) == [
        "a.yaml: limit must be a whole number, got 'true'",
        "a.yaml: share must be a number, got 'true'",
    ]


def test_unknown_keys_are_told_with_what_was_meant() -> None:
    layer = file(half=False, iner={"least": 2}, inner={"leest": 2}, parts=[{"moost": 1}], most=3)
    assert wrong(layer) == [
        "a.yaml: iner: no such setting; did you mean inner?",
        "a.yaml: inner.leest: no such setting; did you mean inner.least?",
        "a.yaml: most: no such setting",
        "a.yaml: parts[0].moost: no such setting; did you mean parts.most?",
    ]


def test_secrets_are_not_repeated() -> None:
    (line,) = wrong(file(half=False, token=12345))
    assert line == "a.yaml: token must be text"


def test_objects_made_without_a_file_know_their_ranges() -> None:
    assert range_mistakes(Outer(share=2, kind="green", inner=Inner(most=5, least=-1))) == [
        "kind must be one of red, blue, got 'green'",
        "share must be at most 1, got 2",
        "inner.least must be 1 or more, got -1",
    ]
    with pytest.raises(SettingsError, match="The thing cannot be so: share must be at most 1"):
        check_ranges(Outer(share=2), "The thing")
