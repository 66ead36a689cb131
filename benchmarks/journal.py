"""What the journal costs a click, and how fast it is read; SQLite beside PostgreSQL.

python -m benchmarks.journal
python -m benchmarks.journal --folder /var/tmp --postgres postgresql://user@host/empty_database

Every interaction holds four masks of one round object in a 4000x2667 image, about 8 kB in all. The
first row is the floor: as many bytes appended to a plain file, and the disk waited for. A commit
can be no faster than the disk; what the journal adds is the difference.
"""

from __future__ import annotations

import argparse
import os
import platform
import sqlite3
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable
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
from adaptation.journal.export import export
from adaptation.masks import Rle, encode_rle

IMAGE_SIZE = (2667, 4000)
CLICKS_PER_OBJECT = 4
OBJECTS_PER_TASK = 5


def disc(radius: float) -> Rle:
    """A round object in the middle of the image."""
    rows, columns = np.ogrid[: IMAGE_SIZE[0], : IMAGE_SIZE[1]]
    return encode_rle((rows - 1300) ** 2 + (columns - 2000) ** 2 < radius**2)


MASKS = tuple(disc(radius) for radius in (500.0, 480.0, 450.0, 520.0))


def interaction(number: int) -> InteractionRecord:
    """One click of many: four clicks an object, five objects a task."""
    name = f"{number}-{uuid.uuid4().hex[:8]}"
    step = number % CLICKS_PER_OBJECT
    clicks = tuple(
        ClickRecord(id=f"click{i}", x=1900.25 + i, y=1300.5, is_positive=i % 2 == 0)
        for i in range(step + 1)
    )
    return InteractionRecord(
        request_id=name,
        project_id="1",
        task_id=str(number // (CLICKS_PER_OBJECT * OBJECTS_PER_TASK)),
        label="Defect",
        object_id=f"object{number // CLICKS_PER_OBJECT}",
        step=step,
        prompt=PromptRecord(clicks=clicks),
        image_ref="/data/upload/1/tile.png",
        image_id="0" * 64,
        image_size=IMAGE_SIZE,
        model_id="compact-00000000",
        encoder_id="0" * 64,
        decoder_id="0" * 64,
        candidates=tuple(
            CandidateRecord(
                region_id=f"{name}-{i}", rle=rle, predicted_iou=0.9, was_shown=i == 0, token=i
            )
            for i, rle in enumerate(MASKS)
        ),
        timings_ms={"decode": 31.4, "total": 52.7},
    )


def submissions(records: Iterable[InteractionRecord]) -> list[SubmissionRecord]:
    """Every task's objects as submitted: half with their ids, half with the ids lost."""
    regions: dict[str, list[SubmittedRegion]] = {}
    for number, record in enumerate(records):
        if record.step == CLICKS_PER_OBJECT - 1:
            offered = record.candidates[0]
            is_lost = number % (2 * CLICKS_PER_OBJECT) > CLICKS_PER_OBJECT
            region_id = uuid.uuid4().hex if is_lost else offered.region_id
            region = SubmittedRegion(
                region_id=region_id, label=record.label, kind="brush", rle=MASKS[1]
            )
            regions.setdefault(record.task_id, []).append(region)
    return [
        SubmissionRecord(
            event="created",
            annotation_id=task_id,
            project_id="1",
            task_id=task_id,
            regions=tuple(found),
        )
        for task_id, found in regions.items()
    ]


Times = list[tuple[float, float]]
"""Of each call: milliseconds by the clock, and of this thread's processor."""


def times_ms(work: Callable[[], object], n: int) -> Times:
    """Time n calls."""
    times = []
    for _ in range(n):
        start, cpu_start = time.perf_counter(), time.thread_time()
        work()
        cpu = time.thread_time() - cpu_start
        times.append((1000 * (time.perf_counter() - start), 1000 * cpu))
    return times


def row(name: str, times: Times, wall_s: float | None = None) -> None:
    """Print one line of the first table."""
    clock, cpu = np.array(times).T
    values = " | ".join(f"{value:.1f}" for value in np.percentile(clock, [50, 95, 99]))
    rate = len(times) / (wall_s or clock.sum() / 1000)
    print(f"| {name} | {values} | {np.median(cpu):.2f} | {rate:.0f} |", flush=True)


def time_floor(folder: Path, n: int) -> None:
    """A plain file, as many bytes."""
    payload = os.urandom(sum(len(rle.counts) for rle in MASKS))
    with (folder / "floor").open("wb", buffering=0) as file:

        def append() -> None:
            file.write(payload)
            os.fsync(file.fileno())

        row("plain file, fsync", times_ms(append, n))


def time_appends(name: str, journal: Journal, n: int) -> list[InteractionRecord]:
    """One thread, then eight at once."""
    records = [interaction(number) for number in range(n)]
    waiting = iter(records)
    row(f"{name}, 1 thread", times_ms(lambda: journal.append_interaction(next(waiting)), n))
    times: Times = []

    def append_some() -> None:
        mine = iter([interaction(10**6 + number) for number in range(n // 8)])
        times.extend(times_ms(lambda: journal.append_interaction(next(mine)), n // 8))

    threads = [threading.Thread(target=append_some) for _ in range(8)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    row(f"{name}, 8 threads", times, time.perf_counter() - start)
    return records


def time_reading(name: str, journal: Journal, records: list[InteractionRecord]) -> None:
    """What runs behind the reply, and what reads the journal later."""
    done = submissions(records)
    append = [journal.append_submission(record) for record in done]
    works: dict[str, Callable[[], int]] = {
        "submissions linked": lambda: journal.link_pending(),
        "interactions read": lambda: sum(1 for _ in journal.interactions()),
        "objects read": lambda: sum(1 for _ in journal.objects()),
        "rejected masks read": lambda: sum(1 for _ in journal.rejected_offers()),
    }
    assert all(receipt.is_new for receipt in append)
    for what, work in works.items():
        rate_row(f"{name}: {what}", work)
    with tempfile.TemporaryDirectory() as folder:
        for format in ("jsonl", "parquet"):
            out = Path(folder) / format
            rate_row(
                f"{name}: rows exported to {format}",
                lambda out=out, format=format: sum(  # type: ignore[misc]
                    export(journal, out, format).values()
                ),
            )


def rate_row(name: str, work: Callable[[], int]) -> None:
    """Print one line of the second table."""
    start = time.perf_counter()
    count = work()
    print(f"| {name} | {count / (time.perf_counter() - start):.0f} |", flush=True)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=400)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; else the system's own")
    parser.add_argument("--postgres", help="URL of an empty database to measure too; it is filled")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        journals = {"SQLite": Journal(f"sqlite:///{folder}/journal.db")}
        if options.postgres:
            journals["PostgreSQL"] = Journal(options.postgres)
        print(f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}")
        print("\n| append | p50, ms | p95, ms | p99, ms | processor, ms | a second |")
        print("|---|---|---|---|---|---|")
        time_floor(Path(folder), options.repeats)
        records = {
            name: time_appends(name, journal, options.repeats) for name, journal in journals.items()
        }
        print("\n| behind the reply and later | a second |\n|---|---|")
        for name, journal in journals.items():
            time_reading(name, journal, records[name])
            journal.close()


if __name__ == "__main__":
    main()
