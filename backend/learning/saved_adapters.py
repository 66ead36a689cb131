"""The files of what sessions learned, as far as they are known without their weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from adaptation.storage.tensor_files import read_metadata

MAX_NAME = 150
"""Characters of a session's name that its file's name holds."""


def file_name(session: str) -> str:
    """Of a session's file: it may be 255 bytes long, and a label may be longer."""
    safe = "".join(
        c if c.isascii() and (c.isalnum() or c in "-_") else f"%{ord(c):x}" for c in session
    )
    if len(safe) > MAX_NAME:
        digest = hashlib.sha256(session.encode()).hexdigest()[:16]
        safe = f"{safe[:MAX_NAME]}-{digest}"
    return f"{safe}.safetensors"


def saved_shares(folder: Path, session: str, version: str) -> tuple[float, ...] | None:
    """How much of what a session learned answers a click, by the stage of an object.

    Args:
        folder: Where adapters are kept; those of promoted bases lie in folders inside of it.
        session: Its name.
        version: Of its weights, as the journal has them; a file of other ones says nothing.

    Returns:
        A share in [0, 1] for each stage; None where there is no such file.
    """
    name = file_name(session)
    for path in (folder / name, *folder.glob(f"*/{name}")):
        metadata = metadata_of(path)
        if metadata.get("version") == version:
            return tuple(float(share) for share in json.loads(metadata.get("shares", "[]")))
    return None


def metadata_of(path: Path) -> dict[str, str]:
    """What a file of weights says of itself; nothing where it cannot be read."""
    try:
        return read_metadata(path)
    except (OSError, ValueError):
        return {}
