"""What is left to do behind the replies: another answer whenever there is something new."""

from __future__ import annotations

from adaptation.journal import Journal, Waiting
from tests.adaptation.journal.samples import submission


def test_the_answer_changes_with_everything_that_has_to_be_done(journal: Journal) -> None:
    assert journal.waiting("asked") == Waiting(0, 0, 0, 0)
    first, second = journal.keep_delivery("one"), journal.keep_delivery("two")
    assert journal.waiting("asked") == Waiting(2, second, 0, 0)
    journal.finish_delivery(first)
    assert journal.waiting("asked") == Waiting(1, second, 0, 0)
    journal.finish_delivery(second)
    journal.append_submission(submission())
    assert journal.waiting("asked").n_unlinked == 1
    journal.link_pending()
    event = journal.append_event("asked")
    journal.append_event("another")
    assert journal.waiting("asked") == Waiting(0, 0, 0, event.seq)
