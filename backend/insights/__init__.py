"""What the journal says of a team's work: figures, charts, a page, a report.

::

    facts.py     one row an object: clicks, IoU after each, how it was finished, seconds
    store.py     the rows, derived from the journal, kept in a small file, brought up to date
    row_file.py  that file's tables      shown.py  what a page shows, added up before it is opened
    figures.py   rows -> NoC, failure rates, shares, curves, with intervals; pure
    charts.py    figures -> SVG        thumbnails.py   worst objects as small pictures
    sessions.py  what sessions know, from their events        versions.py  the base decoders
    calibration.py  what a score is worth      scores.py  the scores that Label Studio is told
    keeper.py    a thread that keeps the rows up to date
    page.py      figures -> HTML; `strop report` writes the same page into one file

Everything here is derived: the file may be deleted at any time and is made again from the journal.
Locks: one in `store` (who brings the rows up to date).  Threads: one in `keeper`, which brings them
up to date every few seconds; whoever opens a page counts what is left, for a moment.
"""
