from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from adaptation.models.compact.model import build_compact
from adaptation.models.sam import PromptableSam
from tests.backend.commands.propose.project import Project


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    torch.manual_seed(0)
    sam = PromptableSam(build_compact(input_size=64, dim=16, n_heads=2), "compact-random")
    monkeypatch.setattr("backend.commands.propose.opening.load_sam", lambda *_, **__: sam)
    with Project().running() as running:
        assert isinstance(running, Project)
        yield running
