"""The objects in work, as several workers know them: any worker answers the next click alike.

Each class here stands where one of `backend.service.prompt_state` or `request_queue` does with one
worker, and asks an `ObjectStore` first.  Where that fails, what this process knows itself answers.
"""

from __future__ import annotations

import json
import logging
import threading
import zlib
from collections.abc import Hashable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import cast

import numpy as np
import torch

from adaptation.errors import StoreError
from adaptation.predictor.interactive import ObjectState
from adaptation.types import Box, Click
from backend.service.object_store import EntryName, FolderStore, ObjectStore
from backend.service.prompt_state import (
    KEPT_STATES,
    BoxesInMemory,
    BoxSlot,
    DrawnBox,
    DrawnBoxes,
    ObjectKey,
    ObjectStates,
    Place,
    PromptState,
    States,
    most_advanced,
)
from backend.service.request_queue import Check, NewestWinsQueue
from backend.service.state_values import state_of, values_of

logger = logging.getLogger(__name__)

MAX_TICKETS = 8
"""Answered requests of an object that are remembered for those that still wait."""


class SharedStates:
    """The last states of objects, shared by all workers.  Thread-safe.

    Args:
        store: Where they are kept.
        local: What this worker made itself, for when the store fails.
    """

    def __init__(self, store: ObjectStore, local: ObjectStates) -> None:
        self._store, self._local = store, local
        self._read = threading.local()  # what a click read in its object's turn, until it writes

    def __len__(self) -> int:
        return len(self._local)

    def before(
        self, key: ObjectKey, clicks: tuple[Click, ...], box: Box | None, decoder_id: str = ""
    ) -> ObjectState | None:
        """The most advanced state that these clicks go on from, whichever worker made it."""
        try:
            states = self._load(key)
        except StoreError as error:
            _tell(error)
            return self._local.before(key, clicks, box, decoder_id)
        self._read.last = key, states
        return most_advanced(states, clicks, box, decoder_id)

    def put(self, key: ObjectKey, state: ObjectState, decoder_id: str = "") -> None:
        """Keep the newest state of an object; all workers see it when this returns.

        Called in the object's turn, after :meth:`before` there: nobody has written since.
        """
        self._local.put(key, state, decoder_id)
        last, states = getattr(self._read, "last", (None, ()))
        self._read.last = None, ()
        try:
            before = states if last == key else self._load(key)
            states = ((decoder_id, state), *before)[:KEPT_STATES]
            self._store.save(_name("states", key.place, key.object_id), packed(states))
        except StoreError as error:
            _tell(error)

    def forget_task(self, project_id: str, task_id: str) -> None:
        """Forget all objects of a task: it was submitted."""
        self._local.forget_task(project_id, task_id)
        _forget(self._store, project_id, task_id)

    def close(self) -> None:
        """Nothing waits."""
        self._local.close()

    def _load(self, key: ObjectKey) -> States:
        content = self._store.load(_name("states", key.place, key.object_id))
        return () if content is None else unpacked(content)


class SharedBoxes:
    """A `BoxKeeper` for all workers.  Thread-safe.

    Args:
        store: Where rectangles are kept.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store, self._local = store, BoxesInMemory()

    @contextmanager
    def editing(self, place: Place) -> Iterator[BoxSlot]:
        """What is kept of a place; no other worker changes it inside."""
        name = _name("box", place)
        with ExitStack() as stack:
            try:
                stack.enter_context(self._store.exclusive(name, lambda: None))
                before = self._store.load(name)
            except StoreError as error:
                _tell(error)
                yield stack.enter_context(self._local.editing(place))
                return
            slot = BoxSlot(None if before is None else _box_of(before))
            yield slot
            after = b"" if slot.drawn is None else json.dumps(asdict(slot.drawn)).encode()
            if after != (before or b""):
                self._save(name, after)

    def forget_task(self, project_id: str, task_id: str) -> None:
        """Forget the rectangles of a task."""
        self._local.forget_task(project_id, task_id)
        _forget(self._store, project_id, task_id)

    def _save(self, name: EntryName, content: bytes) -> None:
        try:
            self._store.save(name, content)
        except StoreError as error:
            _tell(error)


class SharedTurns:
    """Lets the requests of one object through one by one, over all workers.

    Within a worker the newest wins as in `NewestWinsQueue`.  A request of another worker that came
    later and was answered before makes this one unwanted, too.

    Args:
        store: Locks objects, and keeps the tickets of answered requests.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store, self._local = store, NewestWinsQueue()

    def __len__(self) -> int:
        return len(self._local)

    @contextmanager
    def take(
        self, key: Hashable, click_ids: frozenset[str], check: Check = lambda: None
    ) -> Iterator[bool]:
        """Wait for the object's turn; yields False where the answer is not wanted any more."""
        name = _name("turn", cast(ObjectKey, key).place, cast(ObjectKey, key).object_id)
        arrived_at = self._now()
        with self._local.take(key, click_ids, check) as is_wanted, ExitStack() as turn:
            if not is_wanted:
                yield False
                return
            answered = self._entered(turn, name, check)
            yield not any(at > arrived_at and ids >= click_ids for at, ids in answered)
            self._note(name, [*answered, (arrived_at, click_ids)])

    def _now(self) -> float:
        try:
            return self._store.now()
        except StoreError as error:
            _tell(error)
            return float("inf")  # nothing came later

    def _entered(
        self, turn: ExitStack, name: EntryName, check: Check
    ) -> list[tuple[float, frozenset[str]]]:
        """Take the turn over all workers, and read what was answered; none where that fails."""
        try:
            turn.enter_context(self._store.exclusive(name, check))
            return _tickets(self._store.load(name))
        except StoreError as error:
            _tell(error)
            return []

    def _note(self, name: EntryName, answered: list[tuple[float, frozenset[str]]]) -> None:
        kept = [[at, sorted(ids)] for at, ids in answered[-MAX_TICKETS:] if at < float("inf")]
        try:
            self._store.save(name, json.dumps(kept).encode())
        except StoreError as error:
            _tell(error)


ENTRIES_OF_AN_OBJECT = 3
"""Its states, the tickets of its requests, and the rectangle of its place."""


def shared_memory(folder: Path, max_objects: int, ttl_s: float, box_ttl_s: float) -> PromptState:
    """What several workers remember together of the objects in work, in a folder.

    Args:
        folder: Of the entries; made when it is needed.
        max_objects: Objects remembered.
        ttl_s: After this time a worker forgets what it made itself of an untouched object.
        box_ttl_s: A rectangle waits this long for clicks on the same object.
    """
    store = FolderStore(folder, ENTRIES_OF_AN_OBJECT * max_objects)
    return PromptState(
        states=SharedStates(store, ObjectStates(max_objects=max_objects, ttl_s=ttl_s)),
        boxes=DrawnBoxes(ttl_s=box_ttl_s, keeper=SharedBoxes(store), clock=store.now),
        turns=SharedTurns(store),
    )


def _name(kind: str, place: Place, *parts: str) -> EntryName:
    task = place.project_id, place.task_id
    return EntryName(task=task, kind=kind, parts=(place.to_name, place.label, *parts))


def _forget(store: ObjectStore, project_id: str, task_id: str) -> None:
    try:
        store.forget_task(project_id, task_id)
    except StoreError as error:
        _tell(error)


def _tell(error: StoreError) -> None:
    logger.warning("a click is answered by what this worker knows: %s", error)


def _tickets(content: bytes | None) -> list[tuple[float, frozenset[str]]]:
    try:
        return [(float(at), frozenset(ids)) for at, ids in json.loads(content or b"[]")]
    except (ValueError, TypeError):
        return []


def _box_of(content: bytes) -> DrawnBox | None:
    try:
        found = json.loads(content)
        return DrawnBox(
            box_id=found["box_id"],
            box=Box(**found["box"]),
            touched_at=float(found["touched_at"]),
            clicks=tuple((name, Click(**click)) for name, click in found["clicks"]),
        )
    except (ValueError, KeyError, TypeError):
        return None


# States as bytes: a line of JSON, then each state's logits in float32 ----------------------------


def packed(states: States) -> bytes:
    """States as bytes."""
    logits = [
        np.ascontiguousarray(state.low_res_logits.detach().cpu().float().numpy())
        for _, state in states
    ]
    about = [
        {**values_of(state), "decoder_id": maker, "shape": list(array.shape)}
        for (maker, state), array in zip(states, logits, strict=True)
    ]
    body = b"".join(array.tobytes() for array in logits)
    head = json.dumps({"states": about, "crc": zlib.crc32(body)}).encode()
    return head + b"\n" + body


def unpacked(content: bytes) -> States:
    """The states in bytes; none where they are damaged."""
    head, _, body = content.partition(b"\n")
    try:
        about = json.loads(head)
        if about["crc"] != zlib.crc32(body):
            raise ValueError("its content does not match its checksum")
        found, begin = [], 0
        for one in about["states"]:
            shape = tuple(map(int, one["shape"]))
            end = begin + 4 * int(np.prod(shape))
            array = np.frombuffer(body[begin:end], dtype=np.float32).reshape(shape)
            found.append((str(one["decoder_id"]), state_of(one, torch.from_numpy(array.copy()))))
            begin = end
        return tuple(found)
    except (ValueError, KeyError, TypeError) as error:
        logger.warning("an object's states are made again, they are damaged: %s", error)
        return ()
