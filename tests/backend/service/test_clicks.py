"""The way of a click: what is done for the reply, and what only behind it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from backend.embeddings.prefetch import Prefetcher
from backend.images.loader import ImageIdentity, TaskImage
from backend.learning.interface import NoLearning
from backend.protocol import render_answer
from backend.service.clicks import ServedModel
from tests.backend.payloads import keypoint
from tests.backend.service_kit import WatchedSam, click_on, data_uri, pixels_of, running_service

IMAGE = data_uri(pixels_of())


class Noting(NoLearning):
    """Learns nothing, and notes what comes after what."""

    def __init__(self, notes: list[str]) -> None:
        self.notes = notes

    @contextmanager
    def click(self) -> Iterator[None]:
        yield
        self.notes.append("learning may go on")

    def clicked(self, image: TaskImage, identity: ImageIdentity) -> None:
        self.notes.append("learning hears of the click")


def test_nothing_else_begins_before_the_answer_is_rendered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []

    def rendered(*args: Any, **options: Any) -> Any:
        notes.append("rendered")
        return render_answer(*args, **options)

    monkeypatch.setattr("backend.service.clicks.render_answer", rendered)
    monkeypatch.setattr(Prefetcher, "next_view", lambda *_: notes.append("the next view"))
    with running_service(tmp_path, WatchedSam()) as service:
        served = service.served
        service.swap(ServedModel(interaction=served.interaction, learning=Noting(notes)))
        monkeypatch.setattr(type(served.interaction), "next_view", lambda *_: "another view")
        service.predict(click_on(IMAGE, keypoint(30, 60)))
    assert notes == [
        "rendered",
        "learning may go on",
        "the next view",
        "learning hears of the click",
    ]
