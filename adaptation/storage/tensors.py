"""Tensors as safetensors files, written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from adaptation.storage.files import write_bytes


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    durable: bool = False,
    mode: int = 0o600,
) -> None:
    """Write tensors; an existing file is replaced at once.

    Args:
        path: The file; its folder is made where it is missing.
        tensors: On the CPU, contiguous, none a view of another.
        metadata: Rides with them.
        durable: Wait until the file is on the disk.
        mode: Its permissions; as safetensors writes files, only the owner reads them.

    Raises:
        OSError: It cannot be written, a full disk for instance (safetensors itself would raise an
            error that is no OSError); what was there before still is.
    """
    content = save(dict(tensors), None if metadata is None else dict(metadata))
    write_bytes(path, content, durable=durable, mode=mode)
