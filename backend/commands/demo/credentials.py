"""Names, passwords and tokens of one demo: made at random once, kept for its owner's eyes."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path

from backend.commands.demo.errors import DemoError

FILE_NAME = "credentials.json"
EMAIL = "demo@example.com"
BACKEND_USER = "strop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What opens the demo's Label Studio and the demo's Strop.

    Args:
        email: Login of Label Studio.
        password: Its password.
        token: The user's legacy token, for Strop.
        backend_user: User name of Strop's basic auth, for Label Studio.
        backend_password: Its password.
    """

    email: str = EMAIL
    password: str = field(repr=False)
    token: str = field(repr=False)
    backend_user: str = BACKEND_USER
    backend_password: str = field(repr=False)

    @classmethod
    def new(cls) -> Credentials:
        """Random ones; the password is short enough to type."""
        return cls(
            password=secrets.token_urlsafe(9),
            token=secrets.token_hex(20),
            backend_password=secrets.token_urlsafe(18),
        )


def load_or_make(folder: Path) -> Credentials:
    """The credentials of the demo in this folder; made, and readable by their owner alone.

    Raises:
        DemoError: The file is there and cannot be understood.
    """
    path = folder / FILE_NAME
    if path.exists():
        return _read(path)
    credentials = Credentials.new()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(asdict(credentials), file, indent=1)
    return credentials


def _read(path: Path) -> Credentials:
    try:
        return Credentials(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise DemoError(
            f"{path} cannot be read: remove the folder {path.parent} to start the demo anew "
            "(its annotations and its journal are lost then)."
        ) from None
