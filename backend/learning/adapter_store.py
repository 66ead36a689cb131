"""The weights that sessions answer with: a bounded number in memory, all of them on the disk.

A session that nobody clicks in costs its adapter (two bytes a parameter) until it leaves the
memory, and a file afterwards.  Only the sessions used last are kept ready to answer (four bytes a
parameter more); any other one is made ready at its next click, in about two milliseconds.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cachetools import Cache, LRUCache, TTLCache

from adaptation.errors import ModelError
from adaptation.learning.adapter import Adapter, load_adapter, save_adapter
from adaptation.models.decoder import Weights
from adaptation.models.sam import PromptableSam
from adaptation.predictor.interactive import WeightsAt, base_weights
from backend.learning.events import Start
from backend.learning.saved_adapters import file_name, metadata_of

logger = logging.getLogger(__name__)


READY = 16
"""Sessions whose weights are kept ready to answer."""


Stamp = tuple[int, int, int]
"""What tells a file from the one that it replaced: time of the write, size, inode."""


@dataclass(slots=True, eq=False)
class _Held:
    adapter: Adapter
    version: str
    used_at: float
    n_learned: int = 0
    stamp: Stamp | None = None


class AdapterStore:
    """Adapters by the name of their session.  Thread-safe.

    Args:
        sam: The model that they belong to.
        folder: Where they are kept between runs.
        max_sessions: Adapters in memory; the least recently used leave.
        ttl_s: Seconds after which an adapter that nobody uses leaves the memory.
        writing: Surrounds every write to the folder; None: nobody else writes there.
        is_reader: Whether another process writes here, and this one only reads: each use looks at
            the file, and reads it again where it was replaced.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        sam: PromptableSam,
        folder: Path,
        *,
        max_sessions: int,
        ttl_s: float,
        writing: Callable[[], AbstractContextManager[None]] | None = None,
        is_reader: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sam, self._folder, self._is_reader = sam, folder, is_reader
        self._writing = nullcontext if writing is None else writing
        self._clock = clock
        self._lock = threading.Lock()
        self._held: TTLCache[str, _Held] = TTLCache(max_sessions, ttl_s, clock)
        self._ready: LRUCache[tuple[str, float, bool], Weights | None] = LRUCache(READY)

    def __len__(self) -> int:
        with self._lock:
            return len(self._held)

    def weights(self, name: str, start: str) -> tuple[WeightsAt, str]:
        """What a session answers with, and its version.

        Args:
            name: The session.
            start: Name of what it starts from while it has learned nothing.
        """
        held = self._get(name) or self._get(start)
        if held is None:
            return base_weights, "base"
        return partial(self._weights, held), held.version

    def _weights(self, held: _Held, n_clicks: int) -> Weights | None:
        """An adapter's weights for a click, made once."""
        share, is_scored = held.adapter.part(n_clicks)
        key = held.version, share, is_scored
        with self._lock:
            if key in self._ready:
                return self._ready[key]
        weights = held.adapter.weights(self._sam, share, is_scored)
        with self._lock:
            self._ready[key] = weights
        return weights

    def adapter(self, name: str) -> Adapter | None:
        """What a session has learned; None where there is nothing."""
        held = self._get(name)
        return None if held is None else held.adapter

    def n_learned(self, name: str) -> int:
        """Objects that a session has learned from, as its file says; 0 where it does not."""
        held = self._get(name)
        return 0 if held is None else held.n_learned

    def origin(self, name: str, start: str) -> tuple[Adapter, Start]:
        """What a session that is opened goes on from."""
        own, merged = self.adapter(name), self.adapter(start)
        if own is not None:
            return own, "saved"
        if merged is not None:
            return merged, "merged"
        return Adapter(decoder_id=self._sam.decoder_id), "base"

    def used_at(self, name: str) -> float:
        """When a session was used last; long ago where it is not in memory."""
        with self._lock:
            # To look is not to use: LRUCache.__getitem__ would put the session before others.
            return Cache.__getitem__(self._held, name).used_at if name in self._held else -math.inf

    def publish(self, name: str, adapter: Adapter, n_learned: int = 0) -> None:
        """Let the next click be answered with an adapter, and keep it on the disk.

        Args:
            name: The session.
            adapter: What it has learned.
            n_learned: Objects that it has learned from.

        Raises:
            StoreError: Another process may write here, and this one may not any more.
        """
        version = adapter.version
        about = {"session": name, "version": version, "n_learned": str(n_learned)}
        with self._lock:
            self._held[name] = _Held(adapter.packed(), version, self._clock(), n_learned)
        with self._writing():
            try:
                save_adapter(adapter, self._path(name), about)
            except OSError as error:
                logger.error("session %s is not saved: %s", name, error.strerror)

    def drop(self, name: str) -> None:
        """Remove an adapter, from the disk too; StoreError as for :meth:`publish`."""
        with self._lock:
            self._held.pop(name, None)
        with self._writing():
            self._path(name).unlink(missing_ok=True)

    def saved_version(self, name: str) -> str | None:
        """Version of what a session's file holds; None where that is of no use here.

        So it is where nothing of this base decoder can be read, or it is not what was saved.
        """
        try:
            return self._read(name).version
        except ModelError:
            return None

    def _fits(self, decoder_id: str | None) -> bool:
        return decoder_id == self._sam.decoder_id

    def _read(self, name: str) -> Adapter:
        """What a session's file holds.

        Raises:
            ModelError: It cannot be read, or does not match its digest.
        """
        path = self._path(name)
        adapter = load_adapter(path, self._sam)
        if metadata_of(path).get("version") != adapter.version:
            raise ModelError(f"The adapter {path.name} is damaged: its digest is another one.")
        return adapter

    def _get(self, name: str) -> _Held | None:
        stamp = _stamp(self._path(name)) if self._is_reader else None
        with self._lock:
            held = self._held.get(name)
            if held is not None and held.stamp == stamp:
                held.used_at = self._clock()
                self._held[name] = held  # its time begins anew
                return held
            if self._is_reader:
                self._held.pop(name, None)  # replaced, or dropped
        loaded = self._load(name, stamp)
        if loaded is None:
            return None
        with self._lock:
            held = self._held.get(name) or loaded  # published meanwhile
            self._held[name] = held
        return held

    def _load(self, name: str, stamp: Stamp | None) -> _Held | None:
        path = self._path(name)
        if not path.exists():
            return None
        if self._set_aside(name, path):
            return None
        try:
            adapter = self._read(name)
        except ModelError as error:
            logger.warning("what session %s had learned is left out: %s", name, error)
            adapter = Adapter(decoder_id=self._sam.decoder_id)
        n_learned = metadata_of(path).get("n_learned", "")
        count = int(n_learned) if n_learned.isdecimal() else 0
        return _Held(adapter.packed(), adapter.version, self._clock(), count, stamp)

    def _set_aside(self, name: str, path: Path) -> bool:
        """Keep what was learned upon another decoder in a folder of its own, as bases do.

        Who only reads leaves it where it is, for the process that writes.
        """
        decoder_id = _decoder_of(path)
        if decoder_id is None or self._fits(decoder_id):
            return False
        if self._is_reader:
            return True
        kept = path.parent / decoder_id / path.name
        logger.warning(
            "session %s learned upon decoder %s, this server has %s: what it learned is kept in "
            "%s/%s, and the session starts anew",
            name, decoder_id, self._sam.decoder_id, decoder_id, path.name,
        )  # fmt: skip
        try:
            with self._writing():
                kept.parent.mkdir(parents=True, exist_ok=True)
                path.replace(kept)
        except OSError as error:
            logger.error("%s cannot be kept aside: %s", path.name, error.strerror)
            return False
        return True

    def _path(self, name: str) -> Path:
        return self._folder / file_name(name)


def _stamp(path: Path) -> Stamp | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _decoder_of(path: Path) -> str | None:
    """Digest of the decoder that a file's weights belong to; None where it says none."""
    found = metadata_of(path).get("decoder_id", "")
    return found if found.isalnum() else None
