"""The record of every interaction, and of what became of it: the truth that all else is made from.

::

    records.py      what is written: frozen, validated, exact
    schema.py       the tables          migrations.py  from one version of them to the next
    database.py     transactions on SQLite and PostgreSQL       failures.py  their errors in words
    rows.py         records <-> rows    append.py, read.py     the two directions
    matching.py     which mask became which region              linking.py   stored, and kept up
    objects.py      clicks with their submitted mask, and masks that were turned down
    store.py        Journal             spool.py       what it does not take, until it does
    leases.py       who alone may do a thing, over all processes
    postgres.py     connections with a time limit       sqlite_file.py a file that is taken away
    export.py, parquet.py  to JSON lines and Parquet
"""

from __future__ import annotations

from adaptation.journal.leases import Lease, LeaseLostError
from adaptation.journal.read import Waiting
from adaptation.journal.records import (
    BoxRecord,
    CandidateRecord,
    ClickRecord,
    Delivery,
    Entry,
    EventRecord,
    FinishedObject,
    InteractionRecord,
    Link,
    PromptRecord,
    Receipt,
    Record,
    RejectedOffer,
    SubmissionRecord,
    SubmittedRegion,
    utc_now,
)
from adaptation.journal.spool import SpoolingJournal
from adaptation.journal.store import Journal

__all__ = [
    "BoxRecord",
    "CandidateRecord",
    "ClickRecord",
    "Delivery",
    "Entry",
    "EventRecord",
    "FinishedObject",
    "InteractionRecord",
    "Journal",
    "Lease",
    "LeaseLostError",
    "Link",
    "PromptRecord",
    "Receipt",
    "Record",
    "RejectedOffer",
    "SpoolingJournal",
    "SubmissionRecord",
    "SubmittedRegion",
    "Waiting",
    "utc_now",
]
