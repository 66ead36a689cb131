"""What is remembered of the objects that are being clicked on, in bounded memory.

A click carries no user and no session, only points: an object is known by where it is (project,
task, image, label) and by the id of its first click.  Everything here is a shortcut: what was
forgotten is made again from the clicks of the next request.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from cachetools import LRUCache, TTLCache

from adaptation.predictor.interactive import ObjectState
from adaptation.types import Box, Click
from backend.service.request_queue import NewestWinsQueue, Turns

KEPT_STATES = 3
"""States kept of one object: the newest, and those that a moved or repeated click goes back to."""

NEAR_BOX = 0.25
"""A click belongs to a box when it lies within this share of the box's longer side around it."""

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Place:
    """Where objects are drawn: one label on one image of one task."""

    project_id: str
    task_id: str
    to_name: str
    label: str


@dataclass(frozen=True, slots=True)
class ObjectKey:
    """One object: its place, and the id of its first click or of its box."""

    place: Place
    object_id: str


class KeptStates(Protocol):
    """Where the newest states outlive the process: `backend.service.state_files.StateFiles`."""

    def save(self, key: ObjectKey, state: ObjectState, decoder_id: str) -> None:
        """Keep one; returns at once."""

    def load(self, key: ObjectKey) -> tuple[str, ObjectState] | None:
        """The decoder's id and the state of an object."""

    def forget_task(self, project_id: str, task_id: str) -> None:
        """Remove those of a task."""

    def close(self) -> None:
        """Write what waits."""


States = tuple[tuple[str, ObjectState], ...]
"""An object's, the newest first, each with the base decoder that made it."""


def most_advanced(
    states: States, clicks: tuple[Click, ...], box: Box | None, decoder_id: str
) -> ObjectState | None:
    """The state that these clicks go on from with the fewest new ones, or None."""
    fitting = [
        state for maker, state in states if maker == decoder_id and state.precedes(clicks, box)
    ]
    return max(fitting, key=lambda state: len(state.clicks), default=None)


class KnownStates(Protocol):
    """The last states of the objects in work; see :class:`ObjectStates`.  Thread-safe."""

    def before(
        self, key: ObjectKey, clicks: tuple[Click, ...], box: Box | None, decoder_id: str = ""
    ) -> ObjectState | None:
        """The most advanced state that these clicks go on from, or None."""

    def put(self, key: ObjectKey, state: ObjectState, decoder_id: str = "") -> None:
        """Remember the newest state of an object, and which base decoder made it."""

    def forget_task(self, project_id: str, task_id: str) -> None:
        """Forget all objects of a task."""

    def close(self) -> None:
        """Write what waits to be written."""


class ObjectStates:
    """The last states of the objects in work, least recently used ones forgotten.  Thread-safe.

    Args:
        max_objects: Objects remembered at most.
        ttl_s: Seconds after which an untouched object is forgotten.
        files: The newest states on the disk, for what is forgotten here; None: none.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        *,
        max_objects: int,
        ttl_s: float,
        files: KeptStates | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._kept: TTLCache[ObjectKey, States] = TTLCache(max_objects, ttl_s, clock)
        self._files = files
        self._lock = threading.Lock()

    def __len__(self) -> int:
        with self._lock:
            return len(self._kept)

    def before(
        self, key: ObjectKey, clicks: tuple[Click, ...], box: Box | None, decoder_id: str = ""
    ) -> ObjectState | None:
        """The most advanced state that these clicks go on from, or None.

        A state of another base decoder is none: its clicks are answered anew.
        """
        with self._lock:
            states = self._kept.get(key, ())
        if self._files is not None and not states:
            found = self._files.load(key)
            states = () if found is None else (found,)
        return most_advanced(states, clicks, box, decoder_id)

    def put(self, key: ObjectKey, state: ObjectState, decoder_id: str = "") -> None:
        """Remember the newest state of an object, and which base decoder made it."""
        with self._lock:
            states = ((decoder_id, state), *self._kept.get(key, ()))
            self._kept[key] = states[:KEPT_STATES]
        if self._files is not None:
            self._files.save(key, state, decoder_id)

    def forget_task(self, project_id: str, task_id: str) -> None:
        """Forget all objects of a task: it was submitted."""
        with self._lock:
            for key in [k for k in self._kept if _is_in_task(k.place, project_id, task_id)]:
                self._kept.pop(key, None)
        if self._files is not None:
            self._files.forget_task(project_id, task_id)

    def close(self) -> None:
        """Write what waits to be written."""
        if self._files is not None:
            self._files.close()


@dataclass(slots=True)
class DrawnBox:
    """A rectangle with the clicks that followed it.

    Args:
        box_id: Its id.
        box: Itself.
        touched_at: When it was drawn, or clicks came to it, by the clock of `DrawnBoxes`.
        clicks: Ids and clicks, oldest first.
    """

    box_id: str
    box: Box
    touched_at: float
    clicks: tuple[tuple[str, Click], ...] = field(default=())

    @property
    def click_ids(self) -> frozenset[str]:
        """The ids of the clicks."""
        return frozenset(name for name, _ in self.clicks)


@dataclass(slots=True)
class BoxSlot:
    """A place's rectangle, to be replaced or taken away (None)."""

    drawn: DrawnBox | None


class BoxKeeper(Protocol):
    """Where rectangles are kept; each change of a place's happens alone."""

    def editing(self, place: Place) -> AbstractContextManager[BoxSlot]:
        """What is kept of a place; how it is left is kept."""

    def forget_task(self, project_id: str, task_id: str) -> None:
        """Forget the rectangles of a task."""


class BoxesInMemory:
    """Rectangles in this process, the least recently used forgotten.  Thread-safe.

    Args:
        max_places: Places remembered at most.
    """

    def __init__(self, max_places: int = 4096) -> None:
        self._drawn: LRUCache[Place, DrawnBox] = LRUCache(max_places)
        self._lock = threading.Lock()

    @contextmanager
    def editing(self, place: Place) -> Iterator[BoxSlot]:
        """What is kept of a place; the lock is held inside."""
        with self._lock:
            slot = BoxSlot(self._drawn.get(place))
            yield slot
            if slot.drawn is None:
                self._drawn.pop(place, None)
            else:
                self._drawn[place] = slot.drawn

    def forget_task(self, project_id: str, task_id: str) -> None:
        """Forget the rectangles of a task."""
        with self._lock:
            for place in [p for p in self._drawn if _is_in_task(p, project_id, task_id)]:
                del self._drawn[place]


@dataclass(frozen=True, slots=True)
class CombinedPrompt:
    """All that is known of one object, whatever part of it the newest request carried.

    Args:
        object_id: Id of the box where there is one, else of the first click.
        clicks: Click ids and clicks, oldest first.
        box: Box id and box, or None.
    """

    object_id: str
    clicks: tuple[tuple[str, Click], ...]
    box: tuple[str, Box] | None = None

    @property
    def points(self) -> tuple[Click, ...]:
        """The clicks without their ids."""
        return tuple(click for _, click in self.clicks)

    @property
    def rectangle(self) -> Box | None:
        """The box without its id."""
        return None if self.box is None else self.box[1]

    @property
    def is_answerable(self) -> bool:
        """Whether it says where the object is: a box, or a click on it."""
        return self.box is not None or any(click.is_positive for _, click in self.clicks)

    @property
    def ids(self) -> frozenset[str]:
        """The ids of the clicks and of the box."""
        names = frozenset(name for name, _ in self.clicks)
        return names if self.box is None else names | {self.box[0]}


class DrawnBoxes:
    """Joins a rectangle with the clicks that follow it: they never arrive together.

    - A rectangle starts an object.  Drawn again under another id, it starts another one; moved
      under its own id, it keeps the clicks it has.
    - Clicks belong to the newest rectangle of their place when their first one lies inside or
      near it, and the rectangle was touched less than ``ttl_s`` ago.  They stay with it from then
      on: the later clicks of the object are known by the ids of the earlier ones.
    - Clicks none of which is known, after others were: the annotator has accepted or rejected the
      object (which deletes its points and tells nobody) and goes on to the next; the rectangle is
      dropped.  So it is when the task is submitted.

    What cannot be told apart: a rectangle whose mask was accepted without a single click, followed
    within ``ttl_s`` by a first click inside it that is meant for another object.

    Args:
        ttl_s: Seconds; 0 never joins.
        keeper: Where they are kept; None: in this process.
        clock: Seconds; monotonic, or of the day where several processes share a keeper.
    """

    def __init__(
        self, *, ttl_s: float, keeper: BoxKeeper | None = None, clock: Clock = time.monotonic
    ) -> None:
        self._ttl_s, self._clock = ttl_s, clock
        self._keeper = BoxesInMemory() if keeper is None else keeper

    def with_box(self, place: Place, box_id: str, box: Box) -> CombinedPrompt:
        """A rectangle arrived: remember it; its clicks come along if it only moved."""
        with self._keeper.editing(place) as slot:
            old, drawn = slot.drawn, DrawnBox(box_id, box, self._clock())
            if old is not None and old.box_id == box_id:
                drawn.clicks = old.clicks
            slot.drawn = drawn
            return CombinedPrompt(box_id, drawn.clicks, (box_id, box))

    def with_clicks(self, place: Place, clicks: tuple[tuple[str, Click], ...]) -> CombinedPrompt:
        """Clicks arrived: with the rectangle that they belong to, if there is one."""
        alone = CombinedPrompt(clicks[0][0], clicks)
        with self._keeper.editing(place) as slot:
            drawn = slot.drawn
            if drawn is None:
                return alone
            if not self._belong(drawn, clicks):
                slot.drawn = None
                return alone
            slot.drawn = DrawnBox(drawn.box_id, drawn.box, self._clock(), clicks)
            return CombinedPrompt(drawn.box_id, clicks, (drawn.box_id, drawn.box))

    def forget_task(self, project_id: str, task_id: str) -> None:
        """Forget the rectangles of a task: it was submitted."""
        self._keeper.forget_task(project_id, task_id)

    def _belong(self, drawn: DrawnBox, clicks: tuple[tuple[str, Click], ...]) -> bool:
        if drawn.click_ids:
            return any(name in drawn.click_ids for name, _ in clicks)
        is_recent = self._clock() - drawn.touched_at < self._ttl_s
        return is_recent and _is_near(clicks[0][1], drawn.box)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptState:
    """What is remembered of the objects in work.

    Args:
        states: Their last masks.
        boxes: Their boxes.
        turns: Who computes the next answer of an object.
    """

    states: KnownStates
    boxes: DrawnBoxes
    turns: Turns = field(default_factory=NewestWinsQueue)

    def forget_task(self, project_id: str, task_id: str) -> None:
        """Forget a task's objects."""
        self.states.forget_task(project_id, task_id)
        self.boxes.forget_task(project_id, task_id)


def _is_near(click: Click, box: Box) -> bool:
    margin = NEAR_BOX * max(box.width, box.height)
    return (
        box.x0 - margin <= click.x <= box.x1 + margin
        and box.y0 - margin <= click.y <= box.y1 + margin
    )


def _is_in_task(place: Place, project_id: str, task_id: str) -> bool:
    return (place.project_id, place.task_id) == (project_id, task_id)
