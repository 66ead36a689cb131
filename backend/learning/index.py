"""Which sessions there are, and which events of the journal each knows."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field

from backend.learning.events import RECENT, Began, Ended, Forgot, Learned, Merged, SessionEvent
from backend.learning.names import start_of


@dataclass(slots=True, eq=False)
class SessionIndex:
    """What the events add up to, kept in memory.

    Args:
        decoder_id: Digest of the base decoder; versions and tallies are of its sessions only.
        versions: Project and version of every session, as its last event left it.
        tallies: By project, the objects that each session learned from; the session that was
            trained last comes last.
        recent: By project, the objects that were learned from last.
        standing: Project and submission entry of every annotation that sessions know.
        settled: By submission entry, the positions of its regions that were trained on or can
            never be: each object is remembered by itself, so that one that failed is found again.
        ended: Sessions that were to begin anew and have not yet: nothing of them answers.
    """

    decoder_id: str
    versions: dict[str, tuple[str, str]] = field(default_factory=dict)
    tallies: defaultdict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    recent: defaultdict[str, deque[Learned]] = field(
        default_factory=lambda: defaultdict(lambda: deque(maxlen=RECENT))
    )
    standing: dict[str, tuple[str, int]] = field(default_factory=dict)
    settled: defaultdict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    ended: set[str] = field(default_factory=set)
    _learned_by: dict[str, set[str]] = field(default_factory=dict)
    _elsewhere: set[str] = field(default_factory=set)

    def clear(self) -> None:
        """Know nothing any more: all events will be noted again."""
        for known in (self.versions, self.tallies, self.recent, self.standing, self.settled):
            known.clear()
        for names in (self.ended, self._learned_by, self._elsewhere):
            names.clear()

    def note(self, project_id: str, event: SessionEvent) -> None:
        """Take one more event into account."""
        if isinstance(event, Merged):
            self._note_merged(project_id, event)
            return
        if isinstance(event, Ended):
            self._note_ended(project_id, event)
            return
        if isinstance(event, Began):
            self._note_began(project_id, event)
        elif isinstance(event, Learned):
            self._note_learned(project_id, event)
        elif isinstance(event, Forgot):
            self._note_forgot(project_id, event)
        if event.session not in self._elsewhere:
            self.versions[event.session] = (project_id, event.version)

    def settle(self, submission_seq: int, position: int) -> None:
        """A region needs no more training."""
        self.settled[submission_seq].add(position)

    def knows(self, submission_seq: int, position: int) -> bool:
        """Whether a region was trained on, or can never be."""
        return position in self.settled.get(submission_seq, ())

    def _note_began(self, project_id: str, event: Began) -> None:
        if event.decoder_id != self.decoder_id:
            self._elsewhere.add(event.session)
            return
        self._elsewhere.discard(event.session)
        self.ended.discard(event.session)
        if event.start != "saved":
            self.tallies[project_id].pop(event.session, None)

    def _note_merged(self, project_id: str, event: Merged) -> None:
        if self._elsewhere.intersection(event.sessions):
            return
        self.versions.pop(start_of(project_id), None)
        if event.is_used:
            self.versions[start_of(project_id)] = (project_id, event.version)

    def _note_learned(self, project_id: str, event: Learned) -> None:
        self.settle(event.submission_seq, event.position)
        self.standing[event.annotation_id] = (project_id, event.submission_seq)
        self._learned_by.setdefault(event.session, set()).add(event.annotation_id)
        if event.skipped is None and event.session not in self._elsewhere:
            tally = self.tallies[project_id]
            tally[event.session] = tally.pop(event.session, 0) + 1
            self.recent[project_id].append(event)

    def _note_ended(self, project_id: str, event: Ended) -> None:
        self.versions.pop(event.session, None)
        self.tallies[project_id].pop(event.session, None)
        for annotation_id in self._learned_by.pop(event.session, set()):
            self.standing.pop(annotation_id, None)
        kept = [e for e in self.recent[project_id] if e.session != event.session]
        self.recent[project_id].clear()
        self.recent[project_id].extend(kept)
        self.ended.add(event.session)

    def _note_forgot(self, project_id: str, event: Forgot) -> None:
        self.standing.pop(event.annotation_id, None)
        tally = self.tallies[project_id]
        if event.session in tally and event.session not in self._elsewhere:
            tally[event.session] = max(0, tally[event.session] - event.n_objects)
        kept = [e for e in self.recent[project_id] if e.annotation_id != event.annotation_id]
        self.recent[project_id].clear()
        self.recent[project_id].extend(kept)
