from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from adaptation.journal import database
from tests.adaptation.journal.conftest import (  # noqa: F401 - fixtures
    postgres_database,
    postgres_server,
    postgres_url,
)
from tests.training.preferences.world import World


@pytest.fixture(autouse=True, scope="package")
def _no_waiting_for_the_disk() -> Iterator[None]:
    """What a power cut would lose is of no interest here; most of a test would be waiting."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "SYNCHRONOUS", "OFF")
        yield


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.journal.close()
