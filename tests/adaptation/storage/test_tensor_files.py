"""What a safetensors file says of itself, without its tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from adaptation.storage.tensor_files import read_metadata

TENSORS = {"a": torch.zeros(3, 5), "b": torch.ones(7, dtype=torch.float16)}


def test_metadata_are_those_of_the_library(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    said = {"version": "1", "name": "Stra\u00dfe"}
    save_file(TENSORS, path, metadata=said)
    assert read_metadata(path) == said
    save_file(TENSORS, path)
    assert read_metadata(path) == {}


def test_a_file_that_is_cut_off_or_none_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(TENSORS, path, metadata={"version": "1"})
    whole = path.read_bytes()
    for content in (b"", whole[:5], whole[:40], whole[:-1], whole + b"x", b"no tensors" * 9):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="header|bytes, expected"):
            read_metadata(path)
    with pytest.raises(FileNotFoundError):
        read_metadata(tmp_path / "none")
    path.write_bytes((2).to_bytes(8, "little") + b"[]")
    with pytest.raises(ValueError, match="header cannot be read"):
        read_metadata(path)
