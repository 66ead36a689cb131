"""The files of a model in a folder that `save_pretrained` wrote, without reading the model."""

from __future__ import annotations

import hashlib
from pathlib import Path

from adaptation.errors import ModelError
from adaptation.storage.digests import file_sha256

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
"""What a folder's weights are called, whole or in several files."""


def is_model_folder(path: Path) -> bool:
    """Whether a path is a folder with a model's description and weights."""
    return (path / CONFIG).is_file() and any((path / name).is_file() for name in WEIGHTS)


def folder_digest(folder: Path) -> str:
    """Digest of a folder's weights: the sha256 of the file, or of its files' one after another."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(no_weights(folder))
    if len(files) == 1:
        return file_sha256(files[0])
    lines = (f"{file_sha256(path)}  {path.name}\n" for path in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def no_weights(folder: Path) -> str:
    """What to say of a folder without weights that may be read."""
    return (
        f"{folder} holds no {WEIGHTS[0]}. Weights in other files may run code and are not read: "
        "load the model in transformers once and write it with save_pretrained."
    )
