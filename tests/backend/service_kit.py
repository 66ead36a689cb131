"""A whole service around a tiny model: real journal, real stores, real images, no network."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from adaptation.journal import InteractionRecord, Journal
from adaptation.masks import decode_rle
from adaptation.models.sam import PromptableSam
from adaptation.types import Embedding
from backend.protocol.brush_rle import decode_brush
from backend.service.service import SegmentationService
from backend.settings import Settings, load_settings
from backend.wiring import build_service
from tests.adaptation.conftest import tiny_vit_sam
from tests.backend.payloads import Payload, click_request

WIDTH, HEIGHT = 600, 400


class WatchedSam(PromptableSam):
    """The tiny model; its encoder is counted and can be held up."""

    def __init__(self) -> None:
        super().__init__(tiny_vit_sam(), "tiny")
        self.encoded: list[tuple[int, ...]] = []
        self.entered = threading.Event()
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def embed(self, image: NDArray[np.uint8], image_id: str | None = None) -> Embedding:
        self.encoded.append(image.shape)
        self.entered.set()
        assert self.may_go_on.wait(20), "nobody let the encoder go on"
        return super().embed(image, image_id)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Encodes that begin inside end with the block, not before."""
        self.entered.clear()
        self.may_go_on.clear()
        try:
            yield
        finally:
            self.may_go_on.set()


def pixels_of(seed: int = 0, size: tuple[int, int] = (HEIGHT, WIDTH)) -> NDArray[np.uint8]:
    """A picture of coloured rectangles, different for every seed."""
    rng = np.random.default_rng(seed)
    picture = np.full((*size, 3), rng.integers(0, 256, 3), dtype=np.uint8)
    for _ in range(12):
        y, x = rng.integers(0, size[0]), rng.integers(0, size[1])
        picture[y : y + size[0] // 3, x : x + size[1] // 3] = rng.integers(0, 256, 3)
    return picture


def data_uri(pixels: NDArray[np.uint8]) -> str:
    return f"data:image/png;base64,{base64.b64encode(png(pixels)).decode()}"


def png(pixels: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def settings_for(folder: Path, **overrides: object) -> Settings:
    """Settings with their data in a folder; overrides by key with two underscores.

    Sessions do not learn unless a test says so: most tests are about something else.
    """
    given: dict[str, object] = {
        "data_dir": folder,
        "inference.torch_threads": 1,
        "learning.is_on": False,
    }
    given |= {key.replace("__", "."): value for key, value in overrides.items()}
    return load_settings(overrides=given, environ={})


@contextmanager
def running_service(
    folder: Path, sam: PromptableSam | None = None, **overrides: object
) -> Iterator[SegmentationService]:
    service = build_service(settings_for(folder, **overrides), sam or WatchedSam())
    try:
        yield service
    finally:
        service.close()


def click_on(image: str, *regions: object, task: int = 7, **changes: Any) -> Payload:
    """A /predict request of clicks on an image."""
    tasks = [{"id": task, "data": {"image": image}, "project": 1}]
    return click_request(*regions, tasks=tasks, **changes)


def opened(*images: str, first_task: int = 7) -> Payload:
    """A /predict request of tasks that were opened."""
    tasks = [
        {"id": first_task + i, "data": {"image": image}, "project": 1}
        for i, image in enumerate(images)
    ]
    return click_request(tasks=tasks, params={"context": None})


def regions_of(answer: dict[str, Any]) -> list[dict[str, Any]]:
    (result,) = answer["results"]
    regions: list[dict[str, Any]] = result["result"]
    return regions


def masks_of(answer: dict[str, Any]) -> list[NDArray[np.bool_]]:
    return [
        decode_brush(region["value"]["rle"], (region["original_height"], region["original_width"]))
        for region in regions_of(answer)
    ]


def mask_of(answer: dict[str, Any]) -> NDArray[np.bool_]:
    (mask,) = masks_of(answer)
    return mask


def journal_of(folder: Path) -> Journal:
    return Journal(f"sqlite:///{folder.absolute() / 'journal.db'}")


def interactions_of(folder: Path) -> list[InteractionRecord]:
    with journal_of(folder) as journal:
        return list(journal.interactions())


def shown_mask(record: InteractionRecord) -> NDArray[np.bool_]:
    (shown,) = [candidate for candidate in record.candidates if candidate.was_shown]
    return decode_rle(shown.rle)
