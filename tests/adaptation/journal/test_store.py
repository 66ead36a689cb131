from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptation.errors import InputError, StoreError
from adaptation.journal import EventRecord, InteractionRecord, Journal, SubmissionRecord
from adaptation.journal.read import PAGE
from tests.adaptation.journal.samples import (
    at,
    candidate,
    deletion,
    interaction,
    region,
    square,
    submission,
    unique_names,
)


def test_appending_the_same_request_again_changes_nothing(journal: Journal) -> None:
    record = interaction("r1")
    first = journal.append_interaction(record)
    again = journal.append_interaction(record)
    assert first.is_new
    assert not again.is_new
    assert again.seq == first.seq
    assert list(journal.interactions()) == [record]
    assert journal.counts()["candidates"] == 1


def test_further_masks_come_behind_those_that_an_interaction_has(journal: Journal) -> None:
    shown = interaction("r1")
    later = [candidate(f"r1-{i}", square(i, i, 6), was_shown=False, token=i) for i in (1, 2)]
    assert not journal.append_candidates("r1", later)
    journal.append_interaction(shown)
    assert journal.append_candidates("r1", later[:1])
    for _ in range(2):
        assert journal.append_candidates("r1", later)
    (found,) = journal.interactions()
    assert found.candidates == (*shown.candidates, *later)
    assert len(list(journal.entries())) == 1


def test_further_masks_have_the_size_of_their_image(journal: Journal) -> None:
    journal.append_interaction(interaction("r1"))
    with pytest.raises(InputError, match="must have its image's size"):
        journal.append_candidates("r1", [candidate("r1-1", square(1, 1, 2, (9, 9)), token=1)])
    assert journal.counts()["candidates"] == 1


def test_one_order_runs_through_all_kinds(journal: Journal) -> None:
    click, event, done = interaction(), EventRecord(kind="guard", payload={"n": 1}), submission()
    receipts = [
        journal.append_interaction(click),
        journal.append_event(event.kind, event.project_id, event.payload),
        journal.append_submission(done),
    ]
    entries = list(journal.entries())
    assert [e.seq for e in entries] == [r.seq for r in receipts] == sorted(r.seq for r in receipts)
    assert [type(e.record) for e in entries] == [InteractionRecord, EventRecord, SubmissionRecord]
    assert [e.record for e in journal.entries(after=receipts[0].seq)][-1] == done


def test_entries_of_one_project(journal: Journal) -> None:
    journal.append_interaction(interaction(project_id="1"))
    journal.append_interaction(interaction(project_id="2"))
    journal.append_event("saved", "2")
    journal.append_event("started")
    assert len(list(journal.entries())) == 4
    assert len(list(journal.entries("2"))) == 2


def test_interactions_are_found_by_all_that_names_them(journal: Journal) -> None:
    records = {
        "plain": interaction("a"),
        "project": interaction("b", project_id="2"),
        "task": interaction("c", task_id="8"),
        "label": interaction("d", label="Dent"),
        "object": interaction("e", object_id="click-b"),
        "late": interaction("f", created_at=at(100)),
    }
    for record in records.values():
        journal.append_interaction(record)
    assert list(journal.interactions()) == list(records.values())
    assert list(journal.interactions(project_id="2")) == [records["project"]]
    assert list(journal.interactions("1", "8")) == [records["task"]]
    assert list(journal.interactions(label="Dent")) == [records["label"]]
    assert list(journal.interactions(object_id="click-b")) == [records["object"]]
    assert list(journal.interactions(request_id="a")) == [records["plain"]]
    assert list(journal.interactions(region_id="d-0")) == [records["label"]]
    assert list(journal.interactions(since=at(100))) == [records["late"]]
    assert list(journal.interactions(project_id="9")) == []


def test_submissions_are_found_by_all_that_names_them(journal: Journal) -> None:
    first, gone = submission(region("a"), received_at=at(1)), deletion(received_at=at(3))
    other = submission(annotation_id="41", task_id="8", received_at=at(2))
    foreign_deletion = deletion(annotation_id="99")
    for record in (first, other, gone, foreign_deletion):
        journal.append_submission(record)
    assert list(journal.submissions(annotation_id="41")) == [other]
    assert list(journal.submissions(since=at(3))) == [gone, foreign_deletion]
    assert list(journal.submissions(current_only=True)) == [other]
    # A deletion does not say its task; its annotation's other news does.
    assert list(journal.submissions(task_id="7")) == [first, gone]


def test_events_are_found_by_kind_and_project(journal: Journal) -> None:
    journal.append_event("saved", "1", {"bytes": 3})
    journal.append_event("saved", "2")
    journal.append_event("guard", "1")
    assert [e.payload for e in journal.events("1", "saved")] == [{"bytes": 3}]
    assert [e.kind for e in journal.events("1")] == ["saved", "guard"]
    assert len(list(journal.events(kind="saved"))) == 2


def test_a_reader_crosses_pages_without_loss(journal: Journal) -> None:
    records = [interaction(step=i) for i in range(2 * PAGE + 3)]
    for i, record in enumerate(records):
        journal.append_interaction(record)
        if i % 10 == 0:
            journal.append_event("tick")
    assert list(journal.interactions()) == records
    assert [
        e.record.step for e in journal.entries() if isinstance(e.record, InteractionRecord)
    ] == [r.step for r in records]


def test_a_reader_sees_what_was_there_when_it_began(journal: Journal) -> None:
    journal.append_interaction(interaction("a"))
    reader = journal.interactions()
    assert next(reader).request_id == "a"
    journal.append_interaction(interaction("b"))
    assert list(reader) == []


def test_an_abandoned_reader_holds_nothing(journal: Journal) -> None:
    journal.append_interaction(interaction("before"))
    readers = [journal.interactions() for _ in range(20)]  # more than the pool has connections
    for reader in readers:
        next(reader)
    journal.append_interaction(interaction("after"))
    assert sum(1 for _ in journal.interactions()) == 2


def test_a_journal_is_there_after_reopening(journal_url: str) -> None:
    record = interaction(masks=[square(0, 0, 3), square(5, 5, 9)], view=(0, 1, 20, 21))
    with Journal(journal_url) as journal:
        journal.append_interaction(record)
    with Journal(journal_url, create=False) as journal:
        assert list(journal.interactions()) == [record]
        assert journal.schema_version >= 1


def test_checking_that_it_is_writable_leaves_no_trace(journal: Journal) -> None:
    journal.check_writable()
    assert list(journal.entries()) == []
    assert journal.counts()["events"] == 0


def test_counts_by_project(journal: Journal) -> None:
    journal.append_interaction(interaction("a", masks=[square(0, 0, 3), square(5, 5, 9)]))
    journal.append_interaction(interaction("b", project_id="2"))
    journal.append_submission(submission(region("a-0"), region("zzz", label="Other")))
    expected = {
        "interactions": 1,
        "candidates": 2,
        "submissions": 1,
        "regions": 2,
        "links": 0,
        "events": 0,
        "unlinked": 1,
        "deliveries": 0,
    }
    assert journal.counts("1") == expected
    assert journal.counts()["interactions"] == 2
    journal.link_pending()
    assert journal.counts("1") == expected | {"links": 2, "unlinked": 0}


def test_a_delivery_waits_until_it_is_finished(journal: Journal) -> None:
    bodies = ['{"action": "ANNOTATION_CREATED", "x": "ü"}', "{}"]
    ids = [journal.keep_delivery(body) for body in bodies]
    assert [(d.id, d.body) for d in journal.deliveries()] == list(zip(ids, bodies, strict=True))
    journal.finish_delivery(ids[0])
    journal.finish_delivery(ids[0])
    assert [d.body for d in journal.deliveries()] == ["{}"]
    assert journal.keep_delivery("third") > ids[1]


# Versions of an annotation

CREATED = submission(region("a"), updated_at=at(10), received_at=at(11))
UPDATED = submission(region("b"), event="updated", updated_at=at(20), received_at=at(21))
LATEST = submission(region("c"), event="updated", updated_at=at(30), received_at=at(31))
GONE = deletion(received_at=at(41))


def in_force(journal: Journal) -> list[str]:
    versions = journal.submissions(current_only=True)
    return [version.regions[0].region_id for version in versions]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journal]:
    with Journal(f"sqlite:///{tmp_path_factory.mktemp('many')}/journal.db") as opened:
        yield opened


@settings(max_examples=30)
@given(
    news=st.lists(st.sampled_from([CREATED, UPDATED, LATEST]), min_size=1, max_size=6),
    project=unique_names,
)
def test_the_newest_version_is_in_force_in_whatever_order_it_came(
    many: Journal, news: list[SubmissionRecord], project: str
) -> None:
    for record in news:
        many.append_submission(dataclasses.replace(record, project_id=project))
    newest = max(news, key=lambda record: record.updated_at or at(0))
    [found] = many.submissions(project_id=project, current_only=True)
    assert found.updated_at == newest.updated_at
    n_different = len({record.idempotency_key for record in news})
    assert many.counts(project)["submissions"] == n_different


def test_a_creation_and_an_update_of_one_time(journal: Journal) -> None:
    update = submission(region("b"), event="updated", updated_at=CREATED.updated_at)
    journal.append_submission(update)
    journal.append_submission(CREATED)
    assert in_force(journal) == ["b"]


def test_a_deletion_is_final_even_when_it_comes_first(journal: Journal) -> None:
    journal.append_submission(GONE)
    receipt = journal.append_submission(CREATED)
    assert receipt.is_new
    assert in_force(journal) == []
    assert len(list(journal.submissions())) == 2


def test_a_deletion_of_another_projects_annotation_of_that_number(journal: Journal) -> None:
    journal.append_submission(CREATED)
    journal.append_submission(deletion(project_id="2"))
    assert in_force(journal) == ["a"]


def test_the_same_news_twice_is_noticed(journal: Journal) -> None:
    assert journal.append_submission(CREATED).needs_link
    again = journal.append_submission(CREATED)
    assert not again.is_new
    assert not again.needs_link


def test_opening_without_creating_refuses_an_empty_database(journal_url: str) -> None:
    with pytest.raises(StoreError, match="There is no journal"):
        Journal(journal_url, create=False)
