"""The weights that sessions answer with: a bounded number in memory, all of them on the disk.

A session that nobody clicks in costs its adapter (two bytes a parameter) until it leaves the
memory, and a file afterwards.  Only the sessions used last are kept ready to answer (four bytes a
parameter more); any other one is made ready at its next click, in about two milliseconds.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from safetensors import SafetensorError, safe_open

from adaptation.errors import ModelError
from adaptation.learning.adapter import Adapter, load_adapter, save_adapter
from adaptation.models.sam import PromptableSam, Weights
from adaptation.predictor.interactive import WeightsAt, base_weights
from backend.learning.events import Start

logger = logging.getLogger(__name__)

MAX_NAME = 150
"""Characters of a session's name that its file's name holds."""

READY = 16
"""Sessions whose weights are kept ready to answer."""


@dataclass(slots=True, eq=False)
class _Held:
    adapter: Adapter
    version: str
    used_at: float


class AdapterStore:
    """Adapters by the name of their session.  Thread-safe.

    Args:
        sam: The model that they belong to.
        folder: Where they are kept between runs.
        max_sessions: Adapters in memory; the least recently used leave.
        ttl_s: Seconds after which an adapter that nobody uses leaves the memory.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        sam: PromptableSam,
        folder: Path,
        *,
        max_sessions: int,
        ttl_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sam, self._folder = sam, folder
        self._max_sessions, self._ttl_s, self._clock = max_sessions, ttl_s, clock
        self._lock = threading.Lock()
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._ready: OrderedDict[tuple[str, float], Weights | None] = OrderedDict()

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
        key = held.version, held.adapter.share(n_clicks)
        with self._lock:
            if key in self._ready:
                self._ready.move_to_end(key)
                return self._ready[key]
        weights = held.adapter.weights(self._sam, key[1])
        with self._lock:
            self._ready[key] = weights
            while len(self._ready) > READY:
                self._ready.popitem(last=False)
        return weights

    def adapter(self, name: str) -> Adapter | None:
        """What a session has learned; None where there is nothing."""
        held = self._get(name)
        return None if held is None else held.adapter

    def origin(self, name: str, start: str) -> tuple[Adapter, Start]:
        """Where a session that wakes up goes on."""
        own, merged = self.adapter(name), self.adapter(start)
        if own is not None:
            return own, "saved"
        if merged is not None:
            return merged, "merged"
        return Adapter(decoder_id=self._sam.decoder_id), "base"

    def used_at(self, name: str) -> float:
        """When a session was used last; long ago where it is not in memory."""
        with self._lock:
            held = self._held.get(name)
            return float("-inf") if held is None else held.used_at

    def publish(self, name: str, adapter: Adapter) -> None:
        """Let the next click be answered with an adapter, and keep it on the disk."""
        version = adapter.version
        with self._lock:
            self._hold(name, _Held(adapter.packed(), version, self._clock()))
        try:
            save_adapter(adapter, self._path(name), {"session": name, "version": version})
        except OSError as error:
            logger.error("session %s is not saved: %s", name, error.strerror)

    def drop(self, name: str) -> None:
        """Forget an adapter, on the disk too."""
        with self._lock:
            self._held.pop(name, None)
        self._path(name).unlink(missing_ok=True)

    def saved_version(self, name: str) -> str | None:
        """Version of what a session's file holds; None where nothing of this base decoder can be
        read, or it is not what was saved."""
        try:
            return self._read(name).version
        except ModelError:
            return None

    def _read(self, name: str) -> Adapter:
        """What a session's file holds.

        Raises:
            ModelError: It cannot be read, or does not match its digest.
        """
        path = self._path(name)
        adapter = load_adapter(path, self._sam)
        try:
            with safe_open(path, framework="pt") as file:
                said = (file.metadata() or {}).get("version")
        except (OSError, SafetensorError) as error:
            raise ModelError(f"The adapter {path.name} cannot be read ({error}).") from error
        if said != adapter.version:
            raise ModelError(f"The adapter {path.name} is damaged: its digest is another one.")
        return adapter

    def _get(self, name: str) -> _Held | None:
        with self._lock:
            self._expire()
            held = self._held.get(name)
            if held is not None:
                held.used_at = self._clock()
                self._held.move_to_end(name)
                return held
        loaded = self._load(name)
        if loaded is None:
            return None
        with self._lock:
            held = self._held.get(name) or loaded  # published meanwhile
            self._hold(name, held)
        return held

    def _load(self, name: str) -> _Held | None:
        path = self._path(name)
        if not path.exists():
            return None
        try:
            adapter = self._read(name)
        except ModelError as error:
            logger.warning("what session %s had learned is left out: %s", name, error)
            adapter = Adapter(decoder_id=self._sam.decoder_id)
        return _Held(adapter.packed(), adapter.version, self._clock())

    def _hold(self, name: str, held: _Held) -> None:
        self._held[name] = held
        self._held.move_to_end(name)
        while len(self._held) > self._max_sessions:
            self._held.popitem(last=False)

    def _expire(self) -> None:
        oldest_allowed = self._clock() - self._ttl_s
        while self._held and next(iter(self._held.values())).used_at < oldest_allowed:
            self._held.popitem(last=False)

    def _path(self, name: str) -> Path:
        """A file's name may be 255 bytes long; a label may be longer."""
        safe = "".join(
            c if c.isascii() and (c.isalnum() or c in "-_") else f"%{ord(c):x}" for c in name
        )
        if len(safe) > MAX_NAME:
            digest = hashlib.sha256(name.encode()).hexdigest()[:16]
            safe = f"{safe[:MAX_NAME]}-{digest}"
        return self._folder / f"{safe}.safetensors"
