"""A folder of preferences: made whole or not at all, and never in the place of anything else."""

from __future__ import annotations

import contextlib
import errno
import json
from collections.abc import Iterator
from pathlib import Path

from adaptation.errors import InputError, StoreError
from adaptation.storage.files import whole_folder
from training.preferences.rows import FORMAT

REPORT = "report.json"
"""Is in every finished folder, and names its format: nobody's other files are ever replaced."""


@contextlib.contextmanager
def preferences_folder(out: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder to fill, which gets its name only when all went well.

    Args:
        out: The folder to make; its parent is made too.
        replace: Put it in the place of an older one, once it is whole.

    Raises:
        InputError: There is one already, or another job is making it.
        StoreError: It cannot be written; nothing is left behind.
    """

    def may_replace(old: Path) -> bool:
        if not replace:
            raise InputError(
                f"{old} exists already: name a new folder, or say that it may be replaced "
                "(--replace)."
            )
        if not _is_ours(old):
            raise InputError(
                f"{old} is no folder of preferences and is not replaced: name another."
            )
        return True

    try:
        with whole_folder(out, may_replace=may_replace, durable=True) as folder:
            yield folder
    except OSError as error:
        advice = "make room on the disk" if error.errno == errno.ENOSPC else "make it writable"
        raise StoreError(
            f"{out} cannot be written ({error.strerror or error}): {advice} and run the same "
            "command again. Nothing was left behind."
        ) from error


def _is_ours(out: Path) -> bool:
    try:
        report = json.loads((out / REPORT).read_text(encoding="utf-8"))
        return bool(report["format"] == FORMAT)
    except (OSError, ValueError, LookupError, TypeError):
        return False
