"""The small models of the hub's families, each saved and loaded once a test run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from adaptation.models.sam import PromptableSam

if find_spec("transformers") is None or find_spec("timm") is None:
    collect_ignore_glob = ["test_*.py"]  # needs the extra hub
else:
    from adaptation.models.hub.folder import load_folder
    from tests.adaptation.models.hub import tiny

FAMILIES = ("sam", "sam_hq", "sam2", "edgetam", "sam3_tracker")


@dataclass(frozen=True, eq=False)
class Loaded:
    """One family: its folder, the library's own model, and Strop's."""

    family: str
    folder: Path
    model: Any
    sam: PromptableSam


@pytest.fixture(scope="session", params=FAMILIES)
def loaded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Loaded]:
    folder = tiny.save(request.param, tmp_path_factory.mktemp("hub") / request.param)
    sam = PromptableSam(load_folder(folder), request.param)
    model = tiny.as_the_authors_meant(tiny.build(request.param))
    yield Loaded(request.param, folder, model, sam)


@pytest.fixture(scope="session")
def picture() -> NDArray[np.uint8]:
    """Of another shape than the frame, with structure at several scales."""
    noise = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    return np.kron(noise, np.ones((8, 8, 1), np.uint8))
