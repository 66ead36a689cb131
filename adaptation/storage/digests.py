"""Files known by their digest: made, written beside the file, verified."""

from __future__ import annotations

import hashlib
from pathlib import Path

from adaptation.errors import ModelError
from adaptation.storage.files import write_text

_BLOCK_BYTES = 1 << 20


def file_sha256(path: Path) -> str:
    """The sha256 of a file, as 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def digest_path(path: Path) -> Path:
    """Where the digest of a file that is not in any public list lies: beside it."""
    return path.with_suffix(".sha256")


def write_digest(path: Path) -> str:
    """Write the digest of a file beside it, in the format that `sha256sum --check` reads."""
    digest = file_sha256(path)
    write_text(digest_path(path), f"{digest}  {path.name}\n")
    return digest


def read_digest(path: Path) -> str | None:
    """The digest that was written beside a file; None where there is none."""
    try:
        words = digest_path(path).read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError):
        return None
    return words[0].lower() if words else None


def verify_file(path: Path, *, sha256: str, n_bytes: int | None = None) -> None:
    """Check that a file is the one that is meant.

    Args:
        path: The file.
        sha256: The digest that it must have, 64 lower-case hex digits.
        n_bytes: Its size where it is known: a truncated file is told apart from another one.

    Raises:
        ModelError: It is not that file, or it cannot be read.
    """
    try:
        size = path.stat().st_size
        if n_bytes is not None and size < n_bytes:
            raise ModelError(
                f"{path.name} is truncated: it has {size} of {n_bytes} bytes. "
                "Remove it and fetch it again."
            )
        digest = file_sha256(path)
    except OSError as error:
        raise ModelError(f"Cannot read {path.name}: {error.strerror}.") from error
    if digest != sha256:
        raise ModelError(
            f"{path.name} is not the published file: its sha256 is {digest}, expected {sha256}. "
            "Remove it and fetch it again, or give it as a checkpoint of your own."
        )
