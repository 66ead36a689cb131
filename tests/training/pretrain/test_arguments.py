from __future__ import annotations

from pathlib import Path

from training.pretrain.arguments import EMBEDDED, parse_arguments


def test_settings_may_stand_before_and_after_options() -> None:
    found = parse_arguments(["seed=1", "--config", "a.yaml", "run=x", "--export", "b", "steps=2"])
    assert found.overrides == ["seed=1", "run=x", "steps=2"]
    assert (found.config, found.export) == (Path("a.yaml"), Path("b"))


def test_an_export_without_a_file_is_the_embedded_one() -> None:
    assert parse_arguments(["seed=1", "--export"]).export == EMBEDDED
    assert parse_arguments([]).export is None
