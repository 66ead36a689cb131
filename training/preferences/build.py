"""The job: a journal and an album in, a preferences folder out.

Objects are read, turned into rows and written one after the other, so that memory does not grow
with the journal.  The same journal and the same config give the same tables, byte for byte.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from adaptation.errors import InputError
from adaptation.journal import FinishedObject, Journal
from adaptation.storage.album import Album
from adaptation.storage.digests import file_sha256
from adaptation.storage.provenance import command_line, provenance
from training.preferences import sources
from training.preferences.evidence import LeftOutCounts, ObjectEvidence, gather
from training.preferences.files import EXAMPLES, PAIRS, RANKINGS, SCHEMAS, TableWriter
from training.preferences.folder import REPORT, preferences_folder
from training.preferences.rankings import EVENT, ranking_of_answer, ranking_pairs
from training.preferences.rows import (
    FORMAT,
    SPLITS,
    PreferencePair,
    Prompted,
    RankedList,
    Split,
    split_of,
)
from training.preferences.settings import PreferencesConfig
from training.preferences.sheet import PairSample, write_sheet
from training.runtime.config import as_dict

SHEET = "sheet.html"

Progress = Callable[[int], object]


def make_preferences(
    config: PreferencesConfig, follow: Callable[[int], Progress] | None = None
) -> dict[str, Any]:
    """Make a preferences folder.

    Args:
        config: What is asked for.
        follow: Called once with the number of submitted regions; gives what is then called with
            how many objects were done since.

    Returns:
        The report, as it lies in the folder.

    Raises:
        InputError: The folder exists, or there is no album.
        StoreError: The journal cannot be read, or the folder cannot be written.
    """
    if not config.album.is_dir():
        raise InputError(
            f"There is no album at {config.album}: name the folder where the server keeps the "
            "images it is clicked on (album.folder, or images in its data_dir)."
        )
    with preferences_folder(config.out, replace=config.replace) as folder:
        with Journal(config.journal, create=False) as journal:
            journal.link_pending()
            job = _Job(config, journal)
            step = follow(journal.counts(config.project)["links"]) if follow else None
            job.fill(folder, step or (lambda _: None))
            title = f"Preferences: {config.out.name}"
            write_sheet(folder / SHEET, job.sample.pairs(), job.album, title)
            report = job.report(folder)
        (folder / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


class _Job:
    """One making of a folder, with its counts.

    Args:
        config: What is asked for.
        journal: Linked as far as it can be.
    """

    def __init__(self, config: PreferencesConfig, journal: Journal) -> None:
        self._config, self._journal = config, journal
        self.album = Album(config.album)
        self.sample = PairSample(config.sheet_pairs, config.seed)
        self._limits = config.limits.as_guard()
        self._tally = LeftOutCounts()
        self._images: dict[str, str | None] = {}
        self._used: dict[str, Split] = {}
        self._rows: Counter[tuple[str, str, Split]] = Counter()

    # Rows ----------------------------------------------------------------------------------------

    def fill(self, folder: Path, progress: Progress) -> None:
        """Write all tables."""
        with ExitStack() as stack:
            tables = {name: stack.enter_context(TableWriter(folder, name)) for name in SCHEMAS}
            for finished in self._journal.objects(self._config.project):
                self._write_object(finished, tables)
                progress(1)
            self._write_rankings(tables)
        self._count_left_out()

    def _write_object(self, finished: FinishedObject, tables: dict[str, TableWriter]) -> None:
        image_id = finished.interactions[-1].image_id
        split = split_of(image_id, self._config.seed, self._config.val_share)
        evidence = gather(finished, split, self._limits, self._reason_against, self._tally)
        if evidence is None:
            return
        self._count("objects", "submitted", evidence.example)
        tables[EXAMPLES].write(evidence.example)
        self._write_lists(self._outcome_lists(evidence), tables)
        self._write_pairs(self._without_repetition(self._pairs(evidence)), tables)

    def _write_rankings(self, tables: dict[str, TableWriter]) -> None:
        settings = self._config.ranking
        if not settings.is_on:
            return
        for ranking in self._ranked_by_people():
            self._write_lists([ranking], tables)
            self._write_pairs(ranking_pairs(ranking, settings), tables)

    def _ranked_by_people(self) -> Iterator[RankedList]:
        """The newest event of each ranking."""
        last: dict[str, int] = {}
        for place, event in enumerate(self._journal.events(self._config.project, EVENT)):
            last[str(event.payload.get("ranking_id"))] = place
        for place, event in enumerate(self._journal.events(self._config.project, EVENT)):
            newest = last.get(str(event.payload.get("ranking_id")), place)
            if place < newest:
                self._tally.add("rankings", "a newer version of the same ranking is there")
            elif place == newest:
                found = ranking_of_answer(event, self._config, self._reason_against, self._tally)
                yield from [] if found is None else [found]

    def _outcome_lists(self, evidence: ObjectEvidence) -> Iterator[RankedList]:
        settings = self._config.outcome
        for step in evidence.steps if settings.is_on else ():
            ranking = sources.outcome_ranking(evidence, step, settings, self._tally)
            yield from [] if ranking is None else [ranking]

    def _pairs(self, evidence: ObjectEvidence) -> Iterator[PreferencePair]:
        """All pairs of an object, from the surest source to the least sure."""
        config = self._config
        if config.choice.is_on:
            yield from sources.choice_pairs(evidence, config.choice, self._tally)
        if config.correction.is_on:
            yield from sources.correction_pairs(evidence, config.correction, self._tally)
        for step in evidence.steps if config.outcome.is_on else ():
            yield from sources.outcome_pairs(evidence, step, config.outcome, self._tally)

    def _without_repetition(self, pairs: Iterable[PreferencePair]) -> Iterator[PreferencePair]:
        """The same two masks for the same prompt count once, for the first source."""
        seen = set()
        for pair in pairs:
            key = (pair.clicks, pair.box, pair.chosen.counts, pair.rejected.counts)
            if key in seen:
                self._tally.add(f"{pair.source} pairs", "the same pair has another source")
            else:
                seen.add(key)
                yield pair

    def _write_pairs(self, pairs: Iterable[PreferencePair], tables: dict[str, TableWriter]) -> None:
        for pair in pairs:
            tables[PAIRS].write(pair)
            self.sample.offer(pair)
            self._count("pairs", pair.source, pair)

    def _write_lists(self, lists: Iterable[RankedList], tables: dict[str, TableWriter]) -> None:
        for ranking in lists:
            tables[RANKINGS].write(ranking)
            self._count("rankings", ranking.source, ranking)

    def _count(self, kind: str, source: str, row: Prompted) -> None:
        self._rows[kind, source, row.split] += 1
        self._used[row.image_id] = row.split

    # Left out ------------------------------------------------------------------------------------

    def _reason_against(self, image_id: str) -> str | None:
        """Why an image cannot be trained on; each is looked at once."""
        if image_id not in self._images:
            self._images[image_id] = self.album.problem(image_id)
        return self._images[image_id]

    def _count_left_out(self) -> None:
        """What never became an object: skipped, drawn without clicks, or not taken at all."""
        journal, project = self._journal, self._config.project
        skipped = set()
        for submission in journal.submissions(project, current_only=True):
            if submission.was_cancelled:
                skipped.add(submission.annotation_id)
        self._tally.add("tasks", "skipped by the annotator", len(skipped))
        for link in journal.links(project):
            if link.annotation_id in skipped:
                continue
            if link.how == "none":
                self._tally.add("objects", "drawn without a click that made it")
            elif link.iou is None:
                self._tally.add("objects", "the submitted region has no mask")
        for offer in journal.rejected_offers(project):
            if not offer.was_superseded:
                self._tally.add("offers", "nothing was taken in their place")
        self._tally.add("submissions", "not linked yet", journal.counts(project)["unlinked"])

    # Report --------------------------------------------------------------------------------------

    def report(self, folder: Path) -> dict[str, Any]:
        """What was made of what."""
        config = as_dict(self._config)
        config["journal"] = self._journal.location
        asked = {
            key: config[key] for key in ("journal", "project", "seed") if config[key] is not None
        }
        command = command_line(
            "strop-train preferences",
            {**asked, "album": self._config.album, "out": self._config.out},
        )
        images = Counter(self._used.values())
        return {
            "format": FORMAT,
            **provenance(command),
            "journal": self._journal.location,
            "seed": self._config.seed,
            "config": config,
            "images": {split: images[split] for split in SPLITS},
            **{kind: self._by_source(kind) for kind in ("objects", "pairs", "rankings")},
            "left_out": self._tally.as_dict(),
            "files": {name: _describe(folder / name) for name in SCHEMAS},
        }

    def _by_source(self, kind: str) -> dict[str, dict[str, int]]:
        found = sorted({source for name, source, _ in self._rows if name == kind})
        return {
            source: {split: self._rows[kind, source, split] for split in SPLITS} for source in found
        }


def _describe(path: Path) -> dict[str, Any]:
    return {"n_bytes": path.stat().st_size, "sha256": file_sha256(path)}


def render_counts(report: dict[str, Any]) -> str:
    """The report as text."""
    lines = [f"{'':<22}{'train':>8}{'val':>8}", _line("images", report["images"])]
    for kind in ("objects", "pairs", "rankings"):
        for source, counts in report[kind].items():
            lines.append(_line(f"{kind}, {source}", counts))
    left_out = [
        f"  {count:>6}  {kind}: {reason}"
        for kind, reasons in report["left_out"].items()
        for reason, count in reasons.items()
    ]
    return "\n".join([*lines, *(["left out:", *left_out] if left_out else [])])


def _line(name: str, counts: dict[str, int]) -> str:
    return f"{name:<22}{counts['train']:>8}{counts['val']:>8}"
