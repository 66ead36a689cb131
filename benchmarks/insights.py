"""How fast the insights open on a long journal.

python -m benchmarks.insights
python -m benchmarks.insights --clicks 100000 --folder /var/tmp/insights

Writes a journal of objects of four clicks, five to a task, submitted, most of them as shown, every
one learned from, over a hundred working days; then opens the project's page: for the first time,
again, and after one more object. A folder that holds such a journal already is used as it is.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np

from adaptation.journal import (
    CandidateRecord,
    ClickRecord,
    InteractionRecord,
    Journal,
    PromptRecord,
    SubmissionRecord,
    SubmittedRegion,
)
from adaptation.masks import Rle, encode_rle
from adaptation.storage.provenance import provenance
from backend.settings import load_settings
from backend.wiring import build_insights
from benchmarks.environment import load

SIZE = (60, 80)
CLICKS_PER_OBJECT = 4
OBJECTS_PER_TASK = 5
START = datetime(2026, 6, 1, 8, tzinfo=timezone.utc)
N_DAYS = 100


def bar(width: int) -> Rle:
    """A bar of full height from the left."""
    mask = np.zeros(SIZE, np.bool_)
    mask[:, :width] = True
    return encode_rle(mask)


SHOWN = tuple(bar(width) for width in (20, 30, 36, 40))
CHANGED = bar(38)


def write_task(journal: Journal, number: int, n_tasks: int) -> None:
    """One task: clicks, submission, links, and what the session said of each object."""
    day, place = divmod(number * N_DAYS, n_tasks)
    began = START + timedelta(days=day, hours=8 * place / n_tasks)
    regions = []
    for index in range(OBJECTS_PER_TASK):
        name = f"{number}-{index}"
        for step in range(CLICKS_PER_OBJECT):
            at = began + timedelta(seconds=20 * index + 3 * step)
            journal.append_interaction(click(name, str(number), step, at))
        is_edited = (number + index) % 6 == 0
        regions.append(
            SubmittedRegion(
                region_id=f"{name}-{CLICKS_PER_OBJECT - 1}-r",
                label=f"label {index % 3}",
                kind="brush",
                rle=CHANGED if is_edited else SHOWN[-1],
            )
        )
    submission = SubmissionRecord(
        event="created",
        annotation_id=str(number),
        project_id="1",
        task_id=str(number),
        annotator=str(number % 4),
        received_at=began + timedelta(minutes=3),
        regions=tuple(regions),
    )
    receipt = journal.append_submission(submission)
    journal.link(submission)
    for position, region in enumerate(regions):
        journal.append_event(
            "learned", "1", learned(submission, receipt.seq, position, region.region_id)
        )


def click(name: str, task: str, step: int, at: datetime) -> InteractionRecord:
    """A request with one more click than the one before it."""
    clicks = tuple(
        ClickRecord(id=f"{name}-{i}", x=9.0 + i, y=9.0, is_positive=True) for i in range(step + 1)
    )
    return InteractionRecord(
        request_id=f"{name}-{step}",
        created_at=at,
        project_id="1",
        task_id=task,
        label=f"label {int(name[-1]) % 3}",
        object_id=name,
        step=step,
        prompt=PromptRecord(clicks=clicks),
        image_ref="/data/upload/1/tile.png",
        image_id="0" * 64,
        image_size=SIZE,
        model_id="compact",
        encoder_id="0" * 64,
        decoder_id="0" * 64,
        candidates=(
            CandidateRecord(
                region_id=f"{name}-{step}-r",
                rle=SHOWN[step],
                predicted_iou=0.9,
                was_shown=True,
                token=0,
            ),
        ),
        timings_ms={"parse": 1.2, "image": 0.3, "decode": 31.4, "masks": 6.1, "journal": 3.3},
    )


def learned(
    submission: SubmissionRecord, seq: int, position: int, region_id: str
) -> dict[str, object]:
    """The event of an object that a session was trained on."""
    return {
        "session": "project-1",
        "annotation_id": submission.annotation_id,
        "region_id": region_id,
        "submission": submission.idempotency_key,
        "submission_seq": seq,
        "position": position,
        "requests": [f"{submission.task_id}-{position}-{i}" for i in range(CLICKS_PER_OBJECT)],
        "adapted_iou": 0.83,
        "frozen_iou": 0.79,
        "n_steps": 8,
        "skipped": None,
        "turned_back": position == 0 and seq % 50 == 0,
        "version": "0123456789ab",
    }


def seconds(work: Callable[[], object]) -> float:
    """How long something takes."""
    began = time.perf_counter()
    work()
    return round(time.perf_counter() - began, 3)


def cpu_seconds(work: Callable[[], object]) -> float:
    """How much of the processor something takes."""
    began = time.process_time()
    work()
    return round(time.process_time() - began, 3)


def measure(folder: Path, n_tasks: int, *, keeps_rows: bool) -> dict[str, float]:
    """Write what is missing of the journal, and time what is asked of it."""
    found = {}
    settings = load_settings(overrides={"data_dir": folder}, environ={})
    with Journal(settings.journal_url) as journal:
        there = journal.counts()["submissions"]
        for number in range(there, n_tasks):
            write_task(journal, number, n_tasks)
        insights = build_insights(settings, journal)
        if not keeps_rows:
            found["counted_from_nothing_s"] = seconds(insights.recount)
        insights.project_page("1", "")  # what is imported and compiled once

        def page() -> str:
            """A process that has shown no page of this project yet."""
            return build_insights(settings, journal).project_page("1", "")

        found["first_page_s"] = float(np.median([seconds(page) for _ in range(7)]))
        found["first_page_cpu_s"] = float(np.median([cpu_seconds(page) for _ in range(7)]))
        again = [seconds(lambda: insights.project_page("1", "")) for _ in range(7)]
        found["page_without_news_s"] = float(np.median(again))
        news = []
        for number in range(5):
            write_task(journal, max(there, n_tasks) + number, n_tasks)
            news.append(seconds(lambda: insights.project_page("1", "")))
        found["page_after_one_more_task_s"] = float(np.median(news))
    return found


def main() -> None:
    """Measure and print; write the result where it is the default size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clicks", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--keep-rows", action="store_true", help="count nothing anew")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    n_tasks = options.clicks // (CLICKS_PER_OBJECT * OBJECTS_PER_TASK)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if options.folder is None else options.folder
        found = measure(folder, n_tasks, keeps_rows=options.keep_rows)
    result = {
        **provenance("python -m benchmarks.insights" + " --keep-rows" * options.keep_rows),
        "clicks": options.clicks,
        "load": load(),
        **found,
    }
    text = json.dumps(result, indent=2)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
