"""Takes up another base decoder while clicks go on.

The registry folder says which base is in use (`adaptation.models.base_decoder`); offline jobs
write it.  A small thread looks at one small file every few seconds (under a millisecond) and loads
a base when it has changed.  A base that cannot be used is said once in the log, and the one before
goes on serving.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from adaptation.errors import StropError
from adaptation.models.base_decoder import EMBEDDED, Registry
from adaptation.models.sam import PromptableSam

logger = logging.getLogger(__name__)

Stamp = tuple[int, int, int] | None


class BaseWatcher:
    """Keeps what is served in step with the registry.

    Args:
        registry: Where the base in use is named.
        model: The model with its own decoder; bases share its encoder.
        poll_s: Seconds between two looks; 0 looks only when asked.
    """

    def __init__(self, registry: Registry, model: PromptableSam, poll_s: float) -> None:
        self._registry, self._model, self._poll_s = registry, model, poll_s
        self._served = model
        self._seen: tuple[Stamp, Stamp] | None = None
        self._is_stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def look(self) -> PromptableSam | None:
        """The model to serve from now on; None where that has not changed, or cannot be loaded."""
        seen = self._stamps()
        if seen == self._seen:
            return None
        self._seen = seen
        try:
            name = self._registry.current()
            found = self._registry.load_current(self._model)
        except StropError as error:
            logger.error(
                "the registry's base is not taken, decoder %s goes on: %s",
                self._served.decoder_id,
                error,
            )
            return None
        if found.decoder_id == self._served.decoder_id:
            return None
        logger.info(
            "base %s: decoder %s, before it %s",
            name or EMBEDDED,
            found.decoder_id,
            self._served.decoder_id,
        )
        self._served = found
        return found

    def start(self, serve: Callable[[PromptableSam], None]) -> None:
        """Look every few seconds from now on, on a thread of its own.

        Args:
            serve: Called with every new model; when it raises, the one before goes on.
        """
        if self._poll_s > 0:
            self._thread = threading.Thread(
                target=self._run, args=(serve,), name="bases", daemon=True
            )
            self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Look no more."""
        self._is_stopping.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _run(self, serve: Callable[[PromptableSam], None]) -> None:
        while not self._is_stopping.wait(self._poll_s):
            before = self._served
            try:
                found = self.look()
                if found is not None:
                    serve(found)
            except Exception:
                self._served = before
                logger.exception("the registry's base is not taken; the one before goes on")

    def _stamps(self) -> tuple[Stamp, Stamp]:
        """When `current` and the file that it leads to were last written."""
        try:
            name = self._registry.current()
        except StropError:
            name = None
        path = None if name is None else self._registry.path(name)
        return _stamp(self._registry.folder / "current"), None if path is None else _stamp(path)


def _stamp(path: Path) -> Stamp:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
