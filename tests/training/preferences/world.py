"""A real journal and a real album, filled the way the service fills them."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from adaptation.journal import (
    ClickRecord,
    InteractionRecord,
    Journal,
    PromptRecord,
    SubmissionRecord,
)
from adaptation.masks import Rle, rle_iou
from adaptation.storage.album import Album, image_id_of
from tests.adaptation.journal.samples import SIZE, at, interaction, region, submission
from training.preferences.settings import PreferencesConfig


def png(seed: int, size: tuple[int, int] = SIZE) -> bytes:
    """A small noisy image, another for every seed."""
    file = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "PNG")
    return file.getvalue()


def at_click(*points: tuple[float, float, bool]) -> PromptRecord:
    """A prompt of clicks; the n-th click has the same id in every prompt."""
    return PromptRecord(
        clicks=tuple(
            ClickRecord(id=f"click-{n}", x=x, y=y, is_positive=p)
            for n, (x, y, p) in enumerate(points)
        )
    )


class World:
    """A data folder as a server leaves it.

    Args:
        folder: Gets the album, and the journal unless it has a database of its own.
        url: Of that database.
    """

    def __init__(self, folder: Path, url: str = "") -> None:
        self.folder = folder
        self.url = url or f"sqlite:///{folder.absolute() / 'journal.db'}"
        self.journal = Journal(self.url)
        self.album = Album(folder / "images")
        self.album.folder.mkdir(parents=True)
        self._numbers = itertools.count()

    def image(self, seed: int = 0) -> str:
        """Keep an image; its id."""
        content = png(seed)
        self.album.keep(image_id_of(content), content)
        return image_id_of(content)

    def click(
        self, masks: Sequence[Rle], prompt: PromptRecord | None = None, **changes: Any
    ) -> InteractionRecord:
        """Append a click and its answer; without masks, one that nobody waited for any more."""
        number = next(self._numbers)
        values: dict[str, Any] = {
            "created_at": at(number),
            "prompt": prompt or at_click((8, 8, True)),
            "image_id": changes.get("image_id") or self.image(),
        }
        if not masks:
            values["candidates"] = ()
        record = interaction(f"request{number:04d}", masks=masks, **(values | changes))
        self.journal.append_interaction(record)
        return record

    def submit(
        self, accepted: InteractionRecord, mask: Rle | None = None, place: int = 0, **changes: Any
    ) -> SubmissionRecord:
        """Append the submission of one candidate, as it was or painted over; it is not linked."""
        number = next(self._numbers)
        candidate = accepted.candidates[place]
        values: dict[str, Any] = {
            "annotation_id": f"{number}",
            "task_id": accepted.task_id,
            "project_id": accepted.project_id,
            "received_at": at(number),
            "created_at": at(number),
            "updated_at": at(number),
        }
        shape = region(candidate.region_id, mask or candidate.rle, label=accepted.label)
        record = submission(shape, **(values | changes))
        self.journal.append_submission(record)
        return record

    def finished(
        self, masks: Sequence[Rle], submitted: Rle | None = None, **changes: Any
    ) -> SubmissionRecord:
        """One click and its submission, in a task of their own."""
        changes.setdefault("task_id", f"task{next(self._numbers)}")
        place = 0
        if submitted is not None:
            place = max(range(len(masks)), key=lambda n: rle_iou(masks[n], submitted))
        return self.submit(self.click(masks, **changes), submitted, place)

    def config(self, out: str = "out", **changes: Any) -> PreferencesConfig:
        """A config over this data, everything in the training split."""
        values: dict[str, Any] = {
            "journal": self.url,
            "album": self.album.folder,
            "out": self.folder / out,
            "val_share": 0.0,
        }
        return PreferencesConfig(**(values | changes))
