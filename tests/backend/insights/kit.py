"""A journal of labelled objects, written record by record, and the rows that it must give."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

import numpy as np
from numpy.typing import NDArray

from adaptation.journal import (
    CandidateRecord,
    ClickRecord,
    InteractionRecord,
    Journal,
    PromptRecord,
    SubmissionRecord,
    SubmittedRegion,
)
from adaptation.masks import encode_rle

SIZE = (60, 80)
START = datetime(2026, 11, 2, 9, 0, tzinfo=timezone.utc)


def bar(width: int) -> NDArray[np.bool_]:
    """A bar of full height from the left: IoU of two is the ratio of their widths."""
    mask = np.zeros(SIZE, np.bool_)
    mask[:, :width] = True
    return mask


def click_object(
    journal: Journal,
    name: str,
    widths: Sequence[int],
    *,
    task: str = "1",
    project: str = "1",
    label: str = "cell",
    at: datetime = START,
    every_s: float = 2.0,
    image_id: str = "",
    predicted: float = 0.5,
    decoder_id: str = "d",
) -> None:
    """Requests with 1, 2, ... clicks, each answered with a bar."""
    for step, width in enumerate(widths):
        clicks = tuple(
            ClickRecord(id=f"{name}-{i}", x=3.0 + i, y=5.0, is_positive=True)
            for i in range(step + 1)
        )
        shown = CandidateRecord(
            region_id=f"{name}-r{step}",
            rle=encode_rle(bar(width)),
            predicted_iou=predicted,
            was_shown=True,
            token=0,
        )
        journal.append_interaction(
            InteractionRecord(
                request_id=f"{name}-q{step}",
                created_at=at + timedelta(seconds=every_s * step),
                project_id=project,
                task_id=task,
                label=label,
                object_id=f"{name}-0",
                step=step,
                prompt=PromptRecord(clicks=clicks),
                image_ref="http://images.example.com/1.png",
                image_id=image_id or hashlib.sha256(task.encode()).hexdigest(),
                image_size=SIZE,
                model_id="m",
                encoder_id="e",
                decoder_id=decoder_id,
                candidates=(shown,),
                timings_ms={"decode": 40.0 + step, "draw": 5.0},
            )
        )


def submit(
    journal: Journal,
    annotation: str,
    regions: Sequence[tuple[str, int]],
    *,
    task: str = "1",
    project: str = "1",
    label: str = "cell",
    at: datetime = START + timedelta(minutes=5),
    event: str = "created",
    annotator: str = "7",
) -> None:
    """An annotation whose regions are bars with the ids of what was offered, or their own."""
    journal.append_submission(
        SubmissionRecord(
            event=event,  # type: ignore[arg-type]
            annotation_id=annotation,
            project_id=project,
            task_id=None if event == "deleted" else task,
            annotator=annotator,
            received_at=at,
            updated_at=at,
            regions=tuple(
                SubmittedRegion(
                    region_id=region, label=label, kind="brush", rle=encode_rle(bar(width))
                )
                for region, width in regions
            ),
        )
    )
