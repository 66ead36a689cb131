"""A service that learns, for tests: objects to label, and ways to wait until they are learned."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from adaptation.journal import EventRecord
from adaptation.predictor.zoom import View
from adaptation.storage.album import Album
from adaptation.types import Embedding
from backend.embeddings.encoder import Encoder
from backend.learning.manager import OnlineOptions
from backend.learning.worker import KnownImages, OnlineLearning
from backend.protocol.brush_rle import encode_brush
from backend.service.service import SegmentationService
from backend.settings import load_learner
from backend.wiring import build_embeddings, build_images
from tests.backend.payloads import Payload, keypoint, region, submission
from tests.backend.service_kit import (
    HEIGHT,
    WIDTH,
    click_on,
    data_uri,
    interactions_of,
    journal_of,
    mask_of,
    pixels_of,
    regions_of,
    running_service,
    settings_for,
)
from tests.learner_settings import pinned

FAST: dict[str, Any] = pinned(
    steps=2,
    think_steps=2,
    think_patience=1,
    keep_out=2,
    guard={"least_overlap": 0.0, "agreement": 0.0},
)
"""A learner that is quick, and that learns from anything."""

IMAGES = [data_uri(pixels_of(seed)) for seed in range(3)]


def disk(x: int = WIDTH // 2, y: int = HEIGHT // 2, radius: int = 80) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.asarray((rows - y) ** 2 + (columns - x) ** 2 < radius**2)


def painted(answer: dict[str, Any], mask: NDArray[np.bool_], **changes: Any) -> Payload:
    """A submission of an accepted region whose mask was painted over."""
    value = {"format": "rle", "rle": encode_brush(mask)}
    shown = regions_of(answer)[0]
    kept = region(
        "brush",
        value,
        id=shown["id"],
        original_width=WIDTH,
        original_height=HEIGHT,
        label=changes.pop("label", "Object"),
    )
    return submission(kept, **changes)


@contextmanager
def learning_service(
    folder: Path, learner: dict[str, Any] | None = None, **overrides: object
) -> Iterator[SegmentationService]:
    """A running service that learns, with the settings of its learner in the folder."""
    folder.mkdir(exist_ok=True)
    config = folder / "learner.yaml"
    config.write_text(yaml.safe_dump(learner or FAST))
    sam = overrides.pop("sam", None)
    given: dict[str, Any] = {"learning__is_on": True, "learning__config": config, **overrides}
    with running_service(folder, sam, **given) as service:  # type: ignore[arg-type]
        yield service


class SpoiledImages(KnownImages):
    """Images whose embeddings are spoiled on their way to learning, if wanted."""

    spoil: Callable[[Embedding], Embedding] | None = None

    def embed(self, image_id: str, view: View) -> Embedding:
        found = super().embed(image_id, view)
        return found if self.spoil is None else self.spoil(found)


def learn_from_spoiled_images(service: SegmentationService, folder: Path) -> SpoiledImages:
    """Let a service learn anew, with nothing in memory, from images that the test may spoil."""
    settings, sam = settings_for(folder), service.served.interaction.sam
    encoder = Encoder(sam, build_images(settings, None), build_embeddings(settings))
    images = SpoiledImages(encoder, Album(settings.album_dir))
    learner = load_learner(folder / "learner.yaml")
    options = OnlineOptions(scope="project", folder=settings.adapters_dir)
    learning = OnlineLearning(sam, images, service.journal, learner, options)
    service.swap(replace(service.served, learning=learning))
    return images


def learning_of(service: SegmentationService) -> OnlineLearning:
    found = service.served.learning
    assert isinstance(found, OnlineLearning)
    return found


def rest(service: SegmentationService, timeout_s: float = 120) -> None:
    """Wait until everything submitted is trained on, and no session gains any more."""
    handed_over(service)
    end = time.monotonic() + timeout_s
    while not learning_of(service).idle():
        assert time.monotonic() < end, "the sessions found no rest"
        time.sleep(0.002)


def handed_over(service: SegmentationService) -> None:
    """Wait until everything submitted is in the journal, linked, and told to learning."""
    service.drain(60)


def draw(
    service: SegmentationService,
    number: int,
    *,
    mask: NDArray[np.bool_] | None = None,
    n_clicks: int = 2,
    label: str = "Object",
    image: str | None = None,
    as_shown: bool = False,
) -> dict[str, Any]:
    """Click an object and submit it: task 10 + number, annotation 100 + number."""
    image = image or IMAGES[number % len(IMAGES)]
    spots = [(50, 50, 1), (20, 80, 0), (60, 55, 1), (55, 60, 1)]
    clicks = [
        keypoint(x, y, bool(sign), id=f"kp-{number}-{i}", label=label)
        for i, (x, y, sign) in enumerate((spots * 60)[:n_clicks])
    ]
    for n in range(1, n_clicks + 1):
        answer = service.predict(click_on(image, *clicks[:n], task=10 + number))
    chosen = disk(250 + 20 * number) if mask is None else mask
    chosen = mask_of(answer) if as_shown else chosen
    changes = {"id": 100 + number, "task": 10 + number, "label": label}
    service.webhook(painted(answer, chosen, **changes))
    return answer


def delete(service: SegmentationService, number: int) -> None:
    """Delete the annotation of a drawn object."""
    annotations = [{"id": 100 + number}]
    service.webhook(
        {"action": "ANNOTATIONS_DELETED", "annotations": annotations, "project": {"id": 1}}
    )


def version_now(service: SegmentationService, folder: Path, **changes: Any) -> str:
    """The version of the weights that a click is answered with."""
    label, task = changes.get("label", "Object"), changes.get("task", 7)
    spot = keypoint(40, 40, id=f"kp-now-{label}-{task}", label=label)
    service.predict(click_on(IMAGES[0], spot, task=task))
    return interactions_of(folder)[-1].adapter_version


def events_of(folder: Path, kind: str = "learned") -> list[EventRecord]:
    with journal_of(folder) as journal:
        return list(journal.events(kind=kind))
