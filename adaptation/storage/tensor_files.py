"""What a safetensors file says of itself, read without its tensors and without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_MOST_BYTES = 100_000_000
"""Of a header; the format allows no more."""


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file.

    The format (https://github.com/huggingface/safetensors, "Format"): eight bytes, the header's
    length as a little-endian number; the header, JSON; then the tensors, back to back.

    Args:
        path: The file.

    Returns:
        Name -> text; empty where the file has none.

    Raises:
        OSError: It cannot be read.
        ValueError: It is none, or it is cut off; with the reason.
    """
    with path.open("rb") as file:
        start = file.read(8)
        n_bytes = int.from_bytes(start, "little")
        if len(start) < 8 or not 2 <= n_bytes <= _MOST_BYTES:
            raise ValueError("it has no header")
        content = file.read(n_bytes)
        n_there = file.seek(0, 2)
    try:
        header = json.loads(content)
        metadata: Any = header.pop("__metadata__", None) or {}
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (ValueError, AttributeError, KeyError, TypeError, IndexError) as error:
        raise ValueError("its header cannot be read") from error
    if len(content) < n_bytes or n_there != 8 + n_bytes + end:
        raise ValueError(f"it has {n_there} bytes, expected {8 + n_bytes + end}")
    if not isinstance(metadata, dict):
        raise ValueError("its header cannot be read")
    return {str(name): str(value) for name, value in metadata.items()}
