"""What each of the demo's programs is doing while it starts; Label Studio itself says nothing."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

N_MIGRATIONS = 396
"""Steps in which Label Studio 1.23.2 makes its database."""

EVERY_S = 5.0
UNCHANGED_EVERY_S = 20.0


class Progress:
    """Tells now and then how far the programs are.

    Args:
        database: Label Studio's SQLite file, there or not.
        echo: Tells the user.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        database: Path,
        echo: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database, self._echo, self._clock = database, echo, clock
        self._started = self._told_at = clock()
        self._told = ""

    def tell(self, is_up: dict[str, bool]) -> None:
        """Say a line about the programs, by name, if the last one was some seconds ago."""
        now = self._clock()
        waited_s = now - self._told_at
        if waited_s < EVERY_S:
            return
        doing = {"Label Studio": self._label_studio(), "Strop": "loading its model"}
        said = [f"{name}: {'ready' if up else doing[name]}" for name, up in is_up.items()]
        line = "   ".join(said)
        if line == self._told and waited_s < UNCHANGED_EVERY_S:
            return
        self._told, self._told_at = line, now
        self._echo(f"  {now - self._started:3.0f} s   {line}")

    def _label_studio(self) -> str:
        n_done = n_migrations(self._database)
        if n_done >= N_MIGRATIONS:
            return "starting its server"
        return f"making its database, step {n_done} of {N_MIGRATIONS}" if n_done else "starting"


def n_migrations(database: Path) -> int:
    """Steps that Label Studio has made of its database; 0 where nothing can be seen yet."""
    try:
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as file:
            return int(file.execute("SELECT count(*) FROM django_migrations").fetchone()[0])
    except sqlite3.Error:
        return 0
