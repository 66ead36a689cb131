from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from adaptation.journal import Journal, SubmissionRecord, SubmittedRegion
from adaptation.masks import Mask, encode_rle
from adaptation.proposals.refiner import Region
from backend.proposals.events import (
    JUDGED,
    PROPOSED,
    ProposedTask,
    judge,
    of_task,
    proposed_tasks,
    rejected_masks,
)
from backend.proposals.knowledge import Proposed


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(f"sqlite:///{tmp_path / 'journal.db'}") as opened:
        yield opened


def square(row: int, column: int, side: int = 10) -> Mask:
    mask = np.zeros((40, 60), dtype=np.bool_)
    mask[row : row + side, column : column + side] = True
    return mask


def offer(journal: Journal, *masks: Mask, task_id: str = "7") -> ProposedTask:
    found = [
        Proposed(
            label="Cell",
            region=Region(mask=m, score=0.9 - i / 10, predicted_iou=0.8, evidence={"map": 1.5}),
        )
        for i, m in enumerate(masks)
    ]
    record = ProposedTask.of(
        found,
        request_id="0123456789abcdef",
        task_id=task_id,
        image_id="digest",
        version="tiny-similar-3",
        look_for="similar",
        is_stored=True,
    )
    journal.append_event(PROPOSED, "1", record.payload())
    return record


def submitted(*regions: tuple[str, str, Mask], **changes: object) -> SubmissionRecord:
    return SubmissionRecord(
        event="created",
        annotation_id="4",
        project_id="1",
        task_id="7",
        regions=tuple(
            SubmittedRegion(region_id=name, label=label, kind="brush", rle=encode_rle(mask))
            for name, label, mask in regions
        ),
        **changes,  # type: ignore[arg-type]
    )


def test_what_was_proposed_reads_back_equal(journal: Journal) -> None:
    record = offer(journal, square(0, 0), square(20, 20))
    assert list(proposed_tasks(journal, "1")) == [record]
    assert of_task(journal, "1", "7") == record
    assert of_task(journal, "1", "8") is None
    assert record.score == 0.9


def test_accepted_corrected_and_rejected_are_told_apart(journal: Journal) -> None:
    offered = offer(journal, square(0, 0), square(20, 20), square(0, 40))
    names = [r.region_id for r in offered.regions]
    became = judge(
        journal,
        # Label Studio gives the copies of a prediction's regions new ids.
        submitted(
            ("new-1", "Cell", square(0, 0)),
            ("new-2", "Cell", square(20, 21)),
            ("new-3", "Cell", square(30, 0, 5)),
        ),
    )
    assert became == {names[0]: "accepted", names[1]: "corrected", names[2]: "rejected"}
    (event,) = journal.events(project_id="1", kind=JUDGED)
    assert event.payload["became"] == became
    assert event.payload["ious"][names[1]] == pytest.approx(90 / 110, abs=1e-6)
    assert event.payload["scores"][names[0]] == 0.9


def test_a_region_that_kept_its_id_is_the_proposal_however_much_it_changed(
    journal: Journal,
) -> None:
    (region,) = offer(journal, square(0, 0)).regions
    became = judge(journal, submitted((f"{region.region_id}.1", "Cell", square(25, 40))))
    assert became == {region.region_id: "corrected"}


def test_another_label_is_a_correction(journal: Journal) -> None:
    (region,) = offer(journal, square(0, 0)).regions
    assert judge(journal, submitted(("x", "Dust", square(0, 0)))) == {region.region_id: "corrected"}


def test_one_region_answers_for_one_proposal_only(journal: Journal) -> None:
    offered = offer(journal, square(0, 0), square(0, 1))
    became = judge(journal, submitted(("x", "Cell", square(0, 0))))
    assert [became[r.region_id] for r in offered.regions] == ["accepted", "rejected"]


def test_skipped_tasks_and_tasks_without_proposals_say_nothing(journal: Journal) -> None:
    assert judge(journal, submitted(("x", "Cell", square(0, 0)))) == {}
    offer(journal, square(0, 0))
    assert judge(journal, submitted(was_cancelled=True)) == {}
    assert list(journal.events(project_id="1", kind=JUDGED)) == []


def test_rejected_masks_are_found_again(journal: Journal) -> None:
    offer(journal, square(0, 0), square(20, 20))
    judge(journal, submitted(("x", "Cell", square(0, 0))))
    (mask,) = rejected_masks(journal, "1")["7"]
    assert (mask == square(20, 20)).all()
    assert rejected_masks(journal, "2") == {}
