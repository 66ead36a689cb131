from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.adaptation.journal.samples import square
from tests.training.preferences.world import World
from training.cli import main
from training.preferences.files import read_pairs
from training.preferences.settings import PreferencesConfig
from training.runtime.config import load_config

CONFIG = Path(__file__).parents[3] / "configs" / "preferences.yaml"


def run(*arguments: object, **environment: str) -> Result:
    words = ["preferences", *(str(a) for a in arguments)]
    return CliRunner().invoke(main, words, env=environment)


@pytest.fixture
def filled(world: World) -> World:
    world.finished([square(4, 4, 9), square(4, 4, 5)], square(4, 4, 10))
    return world


def test_the_shipped_config_holds_the_defaults() -> None:
    required = ["journal=sqlite:///a.db", "album=images", "out=prefs"]
    assert load_config(PreferencesConfig, CONFIG, required) == PreferencesConfig(
        journal="sqlite:///a.db", album=Path("images"), out=Path("prefs")
    )


def test_the_command_makes_the_folder_and_says_what_is_in_it(filled: World) -> None:
    out = filled.folder / "out"
    given = ("--album", filled.album.folder, "--out", out, "--val-share", 0)
    result = run("--journal", filled.url, *given)
    assert result.exit_code == 0, result.output
    assert "pairs, correction            1       0" in result.output
    assert "rankings, outcome            1       0" in result.output
    assert (out / "sheet.html").is_file()
    again = run("--journal", filled.url, *given)
    assert again.exit_code == 2 and "exists already" in again.output
    replaced = run(*given, "--replace", "--no-corrections", STROP_JOURNAL__URL=filled.url)
    assert replaced.exit_code == 0, replaced.output
    assert {pair.source for pair in read_pairs(out)} == {"outcome"}
    assert json.loads((out / "report.json").read_text())["config"]["correction"]["is_on"] is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--journal sqlite:///.strop/journal.db"),
        (("--journal", "sqlite:///none.db"), "no journal at none.db"),
        (("--journal", "mysql://a:secret@b/c"), "SQLite or PostgreSQL"),
        (("--journal", "sqlite:///none.db", "--val-share", "2", "--margin", "-1"), "val_share"),
        (("--journal", "sqlite:///none.db", "outcom.margin=0.1"), "did you mean outcome?"),
        (("--journal", "sqlite:///none.db", "--album", "nowhere"), "no album at nowhere"),
    ],
)
def test_mistakes_are_one_message_and_exit_code_2(
    world: World, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(world.folder)
    result = run("--album", "images", "--out", "out", *arguments)
    assert result.exit_code == 2
    assert message in result.output and "Traceback" not in result.output
    assert "secret" not in result.output
    assert not (world.folder / "out").exists()


def test_a_journal_that_is_no_database_is_told(world: World) -> None:
    (world.folder / "text.db").write_text("not a database, though long enough to look like one")
    url = f"sqlite:///{world.folder / 'text.db'}"
    result = run("--journal", url, "--album", world.album.folder, "--out", world.folder / "out")
    assert result.exit_code == 2 and "not a SQLite database" in result.output
    assert not (world.folder / "out").exists()


def test_every_option_is_explained() -> None:
    text = run("--help").output
    for option in ("--journal", "--album", "--out", "--replace", "--seed", "--margin", "KEY=VALUE"):
        assert option in text
