from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptation.errors import InputError
from adaptation.journal import (
    InteractionRecord,
    Journal,
    Link,
    Receipt,
    SubmissionRecord,
    SubmittedRegion,
    linking,
)
from adaptation.journal.matching import Offer, match, overlap_of
from adaptation.masks import Rle, decode_rle, encode_rle, iou
from tests.adaptation.journal.samples import (
    at,
    deletion,
    interaction,
    region,
    rles,
    square,
    submission,
    unique_names,
)

# The rule


def offer(region_id: str, rle: Rle, *, seq: int = 1, label: str = "Scratch") -> Offer:
    return Offer(seq=seq, request_id=f"request{seq}", region_id=region_id, label=label, rle=rle)


def origin(regions: list[SubmittedRegion], by_id: list[Offer], others: list[Offer]) -> list[object]:
    found = match(regions, by_id, others)
    return [(m.how, m.offer.region_id if m.offer else None) for m in found]


def test_an_id_is_a_proof_whatever_the_mask() -> None:
    offered = offer("a", square(0, 0, 4))
    [found] = match([region("a", square(10, 10, 4))], [offered], [offered])
    assert (found.how, found.offer, found.iou) == ("region_id", offered, 0.0)


def test_an_edited_mask_tells_how_much_was_kept() -> None:
    [found] = match([region("a", square(0, 0, 8))], [offer("a", square(0, 0, 4))], [])
    assert found.iou == pytest.approx(16 / 64)


def test_of_two_offers_with_one_id_the_newest_counts() -> None:
    old, new = offer("a", square(0, 0, 4), seq=1), offer("a", square(0, 0, 5), seq=2)
    [found] = match([region("a", square(0, 0, 5))], [new, old], [])
    assert found.offer is new


def test_a_lost_id_goes_to_the_mask_that_overlaps_most() -> None:
    good, fair = offer("good", square(0, 0, 10)), offer("fair", square(0, 0, 9))
    assert origin([region("x", square(0, 0, 10))], [], [fair, good]) == [("overlap", "good")]


def test_of_equal_overlaps_the_newest_counts() -> None:
    old, new = offer("old", square(0, 0, 9), seq=1), offer("new", square(0, 0, 9), seq=2)
    assert origin([region("x", square(0, 0, 10))], [], [new, old]) == [("overlap", "new")]


def test_half_is_enough_and_less_is_not() -> None:
    half, less = square(0, 0, 4), square(0, 0, 3)
    whole = Rle(size=half.size, counts=half.counts)
    twice = region("x", square(0, 0, 4))
    assert overlap_of(whole, less) == pytest.approx(9 / 16)
    assert origin([twice], [], [offer("less", less)]) == [("overlap", "less")]
    assert origin([region("x", square(0, 0, 5))], [], [offer("less", less)]) == [("none", None)]


def test_another_label_does_not_fit() -> None:
    dent = offer("dent", square(0, 0, 4), label="Dent")
    assert origin([region("x", square(0, 0, 4))], [], [dent]) == [("none", None)]


def test_a_mask_of_another_image_does_not_fit() -> None:
    other = offer("other", square(0, 0, 4, size=(9, 9)))
    assert origin([region("x", square(0, 0, 4))], [], [other]) == [("none", None)]


def test_a_mask_is_given_once() -> None:
    first, second = region("x", square(0, 0, 9)), region("y", square(0, 0, 10))
    offered = offer("a", square(0, 0, 10))
    assert origin([first, second], [], [offered]) == [("none", None), ("overlap", "a")]
    by_id = region("a", square(0, 0, 10))
    assert origin([second, by_id], [offered], [offered]) == [("none", None), ("region_id", "a")]


def test_a_region_without_a_mask_is_found_by_its_id_only() -> None:
    offered = offer("a", square(0, 0, 4))
    bare = SubmittedRegion(region_id="a", label="Scratch", kind="ellipse", rle=None)
    [found] = match([bare], [offered], [offered])
    assert (found.how, found.iou) == ("region_id", None)
    assert origin([dataclasses.replace(bare, region_id="x")], [], [offered]) == [("none", None)]


def test_an_empty_mask_is_like_no_other() -> None:
    empty = square(0, 0, 0)
    assert origin([region("x", empty)], [], [offer("a", empty)]) == [("none", None)]


def test_a_broken_mask_fits_nothing_and_stops_nothing() -> None:
    broken = Rle(size=(24, 32), counts=b"\x01\x02")
    good = region("y", square(0, 0, 4))
    offers = [offer("a", square(0, 0, 4))]
    assert origin([region("x", broken), good], [], offers) == [("none", None), ("overlap", "a")]
    [found] = match([region("a", broken)], offers, [])
    assert (found.how, found.iou) == ("region_id", None)


@given(
    pair=st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(
        lambda size: st.tuples(rles(size), rles(size))
    )
)
def test_the_overlap_of_runs_is_that_of_masks(pair: tuple[Rle, Rle]) -> None:
    expected = iou(decode_rle(pair[0]), decode_rle(pair[1]))
    assert overlap_of(*pair) == pytest.approx(expected, abs=1e-12)


def test_the_overlap_of_large_masks_counts_every_pixel() -> None:
    whole = np.ones((3000, 4000), dtype=np.bool_)
    holed = whole.copy()
    holed[1234, 2345] = False
    assert overlap_of(encode_rle(holed), encode_rle(whole)) == 1 - 1 / whole.size


# In the journal


def how(links: list[Link]) -> list[tuple[str, str | None]]:
    return [(link.how, link.request_id) for link in links]


def test_a_submission_is_joined_with_what_made_it(journal: Journal) -> None:
    journal.append_interaction(interaction("r1", masks=[square(0, 0, 4)]))
    journal.append_interaction(interaction("r2", masks=[square(10, 10, 9)], label="Dent"))
    done = submission(
        region("r1-0", square(0, 0, 4)),
        region("lost", square(10, 10, 8), label="Dent"),
        region("drawn", square(0, 0, 2)),
    )
    journal.append_submission(done)
    links = journal.link(done)
    assert how(links) == [("region_id", "r1"), ("overlap", "r2"), ("none", None)]
    assert links[0].iou == 1.0
    assert not links[0].was_edited
    assert links[1].iou == pytest.approx(64 / 81)
    assert links[1].was_edited
    assert links == list(journal.links("1", "7"))


def test_linking_again_changes_nothing(journal: Journal) -> None:
    journal.append_interaction(interaction("r1"))
    done = submission(region("r1-0"), region("lost", square(0, 0, 2)))
    journal.append_submission(done)
    assert journal.link(done) == journal.link(done) == list(journal.links())
    assert journal.link_pending() == 0


def test_what_was_never_submitted_cannot_be_linked(journal: Journal) -> None:
    with pytest.raises(InputError, match="append it first"):
        journal.link(submission())


def test_other_tasks_and_projects_are_not_looked_at(journal: Journal) -> None:
    journal.append_interaction(interaction("r1", task_id="8"))
    journal.append_interaction(interaction("r2", project_id="2"))
    done = submission(region("r1-0"), region("r2-0"))
    journal.append_submission(done)
    assert how(journal.link(done)) == [("none", None), ("none", None)]


def test_only_what_was_shown_before_can_have_been_redrawn(journal: Journal) -> None:
    mask = square(3, 3, 9)
    hidden = [square(20, 2, 2), mask]
    journal.append_interaction(interaction("hidden", masks=hidden, shown=1))
    journal.append_interaction(interaction("later", masks=[mask], created_at=at(61)))
    done = submission(region("lost", mask), received_at=at(60))
    journal.append_submission(done)
    assert how(journal.link(done)) == [("none", None)]


def test_an_update_is_linked_anew_and_the_old_links_are_history(journal: Journal) -> None:
    journal.append_interaction(interaction("r1", masks=[square(0, 0, 4)]))
    journal.append_interaction(interaction("r2", masks=[square(9, 9, 4)]))
    first = submission(region("r1-0", square(0, 0, 4)), updated_at=at(10))
    second = submission(region("r2-0", square(9, 9, 4)), event="updated", updated_at=at(20))
    for record in (first, second):
        journal.append_submission(record)
        journal.link(record)
    assert [link.request_id for link in journal.links()] == ["r2"]
    history = list(journal.links(current_only=False))
    assert [(link.request_id, link.standing) for link in history] == [
        ("r1", "replaced"),
        ("r2", "current"),
    ]


def test_a_deletion_keeps_the_links_and_marks_them(journal: Journal) -> None:
    journal.append_interaction(interaction("r1"))
    done = submission(region("r1-0"))
    journal.append_submission(done)
    journal.link(done)
    receipt = journal.append_submission(deletion())
    assert not receipt.needs_link
    assert journal.link(deletion()) == []
    assert list(journal.links()) == []
    [kept] = journal.links(current_only=False)
    assert (kept.request_id, kept.standing) == ("r1", "deleted")


def test_a_submission_that_overtook_its_interaction_is_linked_later(journal: Journal) -> None:
    done = submission(region("r1-0"), region("lost", square(10, 10, 8)))
    journal.append_submission(done)
    assert how(journal.link(done)) == [("none", None), ("none", None)]
    late = [
        interaction("r1", created_at=at(50)),
        interaction("r2", masks=[square(10, 10, 9)], created_at=at(55)),
    ]
    assert [journal.append_interaction(record).needs_link for record in late] == [True, True]
    assert not journal.append_interaction(late[0]).needs_link
    assert journal.link_pending() == 1
    assert how(list(journal.links())) == [("region_id", "r1"), ("overlap", "r2")]


def test_the_next_objects_clicks_wake_nothing(journal: Journal) -> None:
    done = submission(received_at=at(60))
    journal.append_submission(done)
    journal.link_pending()
    assert not journal.append_interaction(interaction(created_at=at(61))).needs_link
    assert not journal.append_interaction(interaction(task_id="8")).needs_link
    assert journal.link_pending() == 0


CREATED = submission(region("r1-0", square(0, 0, 4)), updated_at=at(10), received_at=at(11))
UPDATED = submission(
    region("r1-0", square(0, 0, 4)),
    region("r2-0", square(9, 9, 4)),
    event="updated",
    updated_at=at(20),
    received_at=at(21),
)
CLICKS = [
    interaction("r1", masks=[square(0, 0, 4)], created_at=at(1)),
    interaction("r2", masks=[square(9, 9, 4)], created_at=at(2)),
]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journal]:
    with Journal(f"sqlite:///{tmp_path_factory.mktemp('many')}/journal.db") as opened:
        yield opened


@settings(max_examples=15)
@given(news=st.permutations([*CLICKS, CREATED, UPDATED, CREATED]), project=unique_names)
def test_nothing_is_lost_or_doubled_in_any_order_of_arrival(
    many: Journal, news: list[InteractionRecord | SubmissionRecord], project: str
) -> None:
    for record in news:
        if append(many, record, project).needs_link:
            many.link_pending()
    assert [link.how for link in many.links(project)] == ["region_id", "region_id"]
    counts = many.counts(project)
    assert (counts["interactions"], counts["submissions"]) == (2, 2)
    assert (counts["regions"], counts["links"], counts["unlinked"]) == (3, 3, 0)
    assert {o.submitted.region_id for o in many.objects(project)} == {"r1-0", "r2-0"}


def append(journal: Journal, record: InteractionRecord | SubmissionRecord, project: str) -> Receipt:
    if isinstance(record, SubmissionRecord):
        return journal.append_submission(dataclasses.replace(record, project_id=project))
    request_id = f"{project}-{record.request_id}"
    moved = dataclasses.replace(record, project_id=project, request_id=request_id)
    return journal.append_interaction(moved)


def test_an_interaction_that_arrives_while_links_are_made_is_not_missed(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = submission(region("r1-0"))
    journal.append_submission(done)
    late = interaction("r1", created_at=at(1))

    real_match = match

    def slow_match(*arguments: object) -> object:
        if not list(journal.interactions()):
            journal.append_interaction(late)
        return real_match(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(linking, "match", slow_match)
    assert how(journal.link(done)) == [("none", None)]
    assert journal.counts()["unlinked"] == 1
    journal.link_pending()
    assert how(list(journal.links())) == [("region_id", "r1")]


def test_the_slower_of_two_linkers_does_not_undo_the_other(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = submission(region("r1-0"))
    journal.append_submission(done)
    real_match = match
    is_slow = True

    def slow_match(*arguments: object) -> object:
        nonlocal is_slow
        found = real_match(*arguments)  # type: ignore[arg-type]
        if is_slow:
            is_slow = False
            journal.append_interaction(interaction("r1", created_at=at(1)))
            journal.link_pending()
        return found

    monkeypatch.setattr(linking, "match", slow_match)
    assert how(journal.link(done)) == [("region_id", "r1")]
    assert journal.counts()["links"] == 1


def test_two_linkers_at_once_make_one_set_of_links(journal: Journal) -> None:
    journal.append_interaction(interaction("r1"))
    done = submission(*(region(f"r1-{i}") for i in range(10)))
    journal.append_submission(done)
    threads = [threading.Thread(target=journal.link, args=(done,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert journal.counts()["links"] == 10
