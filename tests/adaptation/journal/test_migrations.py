from __future__ import annotations

import re
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine, inspect, text
from sqlalchemy.schema import CreateIndex, CreateTable

from adaptation.errors import StoreError
from adaptation.journal import Journal
from adaptation.journal.migrations import MIGRATIONS, migrate
from adaptation.journal.schema import METADATA
from tests.adaptation.journal import raw
from tests.adaptation.journal.samples import interaction

FIRST_SCHEMA = Path(__file__).with_name("schema_v1.sql")


def version_of(connection: Connection) -> int:
    return int(connection.execute(text("SELECT version FROM journal_version")).scalar_one())


def add_note(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE journal_interactions ADD COLUMN note TEXT"))
    connection.execute(text("UPDATE journal_interactions SET note = 'old'"))


def add_mood(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE journal_interactions ADD COLUMN mood TEXT"))
    connection.execute(text("UPDATE journal_interactions SET mood = note || '!'"))


def fail(connection: Connection) -> None:
    connection.execute(text("CREATE TABLE journal_half (id INTEGER)"))
    raise ValueError("this step does not work")


def test_a_new_journal_has_todays_version(journal: Journal, journal_url: str) -> None:
    with raw.reading(journal_url) as connection:
        assert version_of(connection) == journal.schema_version == len(MIGRATIONS) + 1


def test_steps_run_in_order_from_the_version_that_is_there(
    journal: Journal, journal_url: str
) -> None:
    journal.append_interaction(interaction())
    with raw.writing(journal_url) as connection:
        found = migrate(connection, [*MIGRATIONS, add_note])
    assert found == journal.schema_version
    with raw.writing(journal_url) as connection:
        migrate(connection, [*MIGRATIONS, add_note, add_mood])
        assert version_of(connection) == len(MIGRATIONS) + 3
        moods = connection.execute(text("SELECT mood FROM journal_interactions")).scalars()
        assert list(moods) == ["old!"]


def test_a_step_that_fails_leaves_the_journal_as_it_was(journal: Journal, journal_url: str) -> None:
    with pytest.raises(ValueError, match="does not work"):
        with raw.writing(journal_url) as connection:
            migrate(connection, [*MIGRATIONS, add_note, fail])
    with raw.reading(journal_url) as connection:
        assert version_of(connection) == journal.schema_version
        columns = inspect(connection).get_columns("journal_interactions")
        assert "note" not in {column["name"] for column in columns}
        assert not inspect(connection).has_table("journal_half")
    assert journal.append_interaction(interaction()).is_new


def test_a_journal_of_a_newer_version_is_refused(journal_url: str) -> None:
    Journal(journal_url).close()
    with raw.writing(journal_url) as connection:
        migrate(connection, [*MIGRATIONS, add_note])
    with pytest.raises(StoreError, match="has schema version .*: update Strop"):
        Journal(journal_url)


def test_a_database_of_another_program_is_shared_not_touched(journal_url: str) -> None:
    engine = create_engine(journal_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE task (id INTEGER)"))
    with Journal(journal_url) as journal:
        journal.append_interaction(interaction())
    with engine.connect() as connection:
        names = inspect(connection).get_table_names()
    engine.dispose()
    assert "task" in names
    assert all(name == "task" or name.startswith("journal_") for name in names)


def shape(url: str) -> dict[str, list[str]]:
    """Every table's columns and indexes, as the database tells them."""
    engine = create_engine(url)
    with engine.connect() as connection:
        look = inspect(connection)
        found = {
            table: [
                *(f"{c['name']} {c['type']} null={c['nullable']}" for c in look.get_columns(table)),
                *sorted(
                    f"{i['name']} {i['column_names']} {i['unique']}"
                    for i in look.get_indexes(table)
                ),
                f"key {look.get_pk_constraint(table)['constrained_columns']}",
                f"unique {[u['column_names'] for u in look.get_unique_constraints(table)]}",
            ]
            for table in look.get_table_names()
        }
    engine.dispose()
    return found


def test_a_journal_of_the_first_version_ends_up_like_a_new_one(tmp_path: Path) -> None:
    old, new = f"sqlite:///{tmp_path}/old.db", f"sqlite:///{tmp_path}/new.db"
    engine = create_engine(old)
    with engine.begin() as connection:
        for statement in FIRST_SCHEMA.read_text().split(";\n"):
            connection.execute(text(statement))
        connection.execute(text("INSERT INTO journal_version (version) VALUES (1)"))
    engine.dispose()
    record = interaction()
    with Journal(old) as journal:
        journal.append_interaction(record)
        assert list(journal.interactions()) == [record]
    Journal(new).close()
    assert shape(old) == shape(new)


def first_schema() -> str:
    """What ``schema_v1.sql`` was made by; only of use while there is one version."""
    engine = create_engine("sqlite://")
    statements = []
    for table in METADATA.sorted_tables:
        statements.append(str(CreateTable(table).compile(engine)))
        indexes = sorted(table.indexes, key=lambda index: str(index.name))
        statements += [str(CreateIndex(index).compile(engine)) for index in indexes]
    return ";\n".join(re.sub(r"\s+\n", "\n", statement.strip()) for statement in statements) + "\n"


@pytest.mark.skipif(len(MIGRATIONS) > 0, reason="the first schema is history")
def test_the_first_schema_is_still_todays() -> None:
    known, todays = FIRST_SCHEMA.read_text().split(), first_schema().split()
    assert known == todays, "a changed schema needs a migration"
