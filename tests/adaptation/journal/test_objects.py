from __future__ import annotations

import dataclasses

from adaptation.journal import FinishedObject, Journal, RejectedOffer
from adaptation.journal.objects import PAGE
from tests.adaptation.journal.samples import at, deletion, interaction, region, square, submission

GOOD, POOR = square(4, 4, 8), square(4, 4, 5)


def label_one_object(journal: Journal) -> None:
    """Two clicks, of which the second's mask is accepted, edited and submitted."""
    journal.append_interaction(interaction("r1", masks=[POOR], created_at=at(1)))
    journal.append_interaction(
        interaction("r2", masks=[GOOD, POOR], created_at=at(2), step=1, adapter_version="v3")
    )
    journal.append_submission(submission(region("r2-0", square(4, 4, 9))))
    journal.link_pending()


def accepted(found: FinishedObject) -> tuple[list[str], str, str]:
    """(requests, the candidate that was taken, the region it became)."""
    requests = [step.request_id for step in found.interactions]
    return requests, found.accepted.region_id, found.submitted.region_id


def test_an_object_holds_its_clicks_and_its_submitted_mask(journal: Journal) -> None:
    label_one_object(journal)
    [found] = journal.objects()
    assert accepted(found) == (["r1", "r2"], "r2-0", "r2-0")
    assert found.interactions == tuple(journal.interactions())
    assert found.submitted.rle == square(4, 4, 9)
    assert found.accepted.rle == GOOD
    assert [candidate.region_id for candidate in found.rejected] == ["r1-0"]
    assert (found.link.how, found.link.was_edited) == ("region_id", True)
    assert (found.annotation_id, found.annotator) == ("40", "3")
    assert found.submitted_at == at(60)


def test_steps_come_in_the_order_of_their_requests(journal: Journal) -> None:
    # Two clicks overlap: the second is answered, and written, before the first.
    second = interaction("r2", created_at=at(2), step=1)
    first = interaction("r1", created_at=at(1))
    later = interaction("r3", created_at=at(3), step=2)
    for record in (second, first, later):
        journal.append_interaction(record)
    journal.append_submission(submission(region("r2-0")))
    journal.link_pending()
    [found] = journal.objects()
    assert found.interactions == (first, second)


def test_clicks_of_other_objects_labels_and_tasks_stay_out(journal: Journal) -> None:
    label_one_object(journal)
    for other in (
        interaction(created_at=at(1), object_id="b"),
        interaction(created_at=at(1), label="Dent"),
        interaction(created_at=at(1), task_id="8"),
        interaction(created_at=at(1), project_id="2"),
    ):
        journal.append_interaction(other)
    journal.link_pending()
    [found] = journal.objects()
    assert len(found.interactions) == 2


def test_only_what_is_in_force_linked_and_has_a_mask_is_finished(journal: Journal) -> None:
    for name in ("kept", "cancelled", "deleted", "bare", "drawn"):
        journal.append_interaction(interaction(name, task_id=name))
    bare = dataclasses.replace(region("bare-0"), rle=None)
    for news in (
        submission(region("kept-0"), annotation_id="1", task_id="kept"),
        submission(
            region("cancelled-0"), annotation_id="2", task_id="cancelled", was_cancelled=True
        ),
        submission(region("deleted-0"), annotation_id="3", task_id="deleted"),
        deletion(annotation_id="3"),
        submission(bare, annotation_id="4", task_id="bare"),
        submission(region("x", square(20, 20, 2)), annotation_id="5", task_id="drawn"),
    ):
        journal.append_submission(news)
    assert list(journal.objects()) == []
    journal.link_pending()
    assert [accepted(found)[1] for found in journal.objects()] == ["kept-0"]
    assert list(journal.objects(task_id="deleted")) == []


def test_an_update_replaces_the_object(journal: Journal) -> None:
    label_one_object(journal)
    journal.append_submission(
        submission(region("r1-0", POOR), event="updated", updated_at=at(70), received_at=at(71))
    )
    journal.link_pending()
    [found] = journal.objects()
    assert accepted(found) == (["r1"], "r1-0", "r1-0")
    assert found.submitted_at == at(71)


def test_objects_come_in_the_order_of_their_submissions_across_pages(journal: Journal) -> None:
    names = [f"task{i}" for i in range(PAGE + 2)]
    for name in names:
        journal.append_interaction(interaction(name, task_id=name, masks=[GOOD, POOR], shown=2))
    for name in reversed(names):
        regions = [region(f"{name}-1", POOR), region(f"{name}-0", GOOD)]
        journal.append_submission(submission(*regions, annotation_id=name, task_id=name))
    journal.link_pending()
    found = [accepted(one)[1] for one in journal.objects()]
    assert found == [f"{name}-{i}" for name in reversed(names) for i in (1, 0)]
    assert [accepted(one)[1] for one in journal.objects("1", "task3")] == ["task3-1", "task3-0"]


# Offers that were turned down


def turned_down(journal: Journal) -> list[tuple[str, bool]]:
    return [(r.candidate.region_id, r.was_superseded) for r in journal.rejected_offers()]


def test_what_was_shown_and_not_submitted_was_rejected(journal: Journal) -> None:
    label_one_object(journal)
    refused = interaction("r3", masks=[POOR, GOOD, POOR], shown=2, object_id="b", created_at=at(3))
    journal.append_interaction(refused)
    journal.link_pending()
    assert turned_down(journal) == [("r1-0", True), ("r3-0", False), ("r3-1", False)]
    offers: list[RejectedOffer] = list(journal.rejected_offers("1", "7"))
    assert offers[-1].interaction == refused


def test_of_several_suggestions_one_is_taken(journal: Journal) -> None:
    journal.append_interaction(interaction("r1", masks=[GOOD, POOR, GOOD], shown=3))
    journal.append_submission(submission(region("r1-1", POOR)))
    journal.link_pending()
    [found] = journal.objects()
    assert found.accepted.region_id == "r1-1"
    assert [candidate.region_id for candidate in found.rejected] == ["r1-0", "r1-2"]
    assert turned_down(journal) == [("r1-0", False), ("r1-2", False)]


def test_nothing_is_rejected_while_the_task_is_open_or_skipped(journal: Journal) -> None:
    journal.append_interaction(interaction("open", task_id="open"))
    journal.append_interaction(interaction("skipped", task_id="skipped"))
    journal.append_submission(submission(task_id="skipped", was_cancelled=True))
    journal.append_interaction(interaction("next", created_at=at(61)))
    journal.append_submission(submission(annotation_id="41", received_at=at(60)))
    journal.link_pending()
    assert turned_down(journal) == []


def test_nothing_is_rejected_before_the_links_are_known(journal: Journal) -> None:
    journal.append_interaction(interaction("r1"))
    journal.append_submission(submission(region("other", square(20, 20, 2))))
    assert turned_down(journal) == []
    journal.link_pending()
    assert turned_down(journal) == [("r1-0", False)]


def test_a_second_annotators_choice_is_no_longer_rejected(journal: Journal) -> None:
    journal.append_interaction(interaction("r1", object_id="a"))
    journal.append_interaction(interaction("r2", object_id="b", masks=[square(15, 10, 6)]))
    journal.append_submission(submission(region("r1-0")))
    journal.link_pending()
    assert turned_down(journal) == [("r2-0", False)]
    other = submission(region("r2-0", square(15, 10, 6)), annotation_id="41", annotator="4")
    journal.append_submission(other)
    journal.link_pending()
    assert turned_down(journal) == []
    assert [found.annotator for found in journal.objects()] == ["3", "4"]
