"""Writes that outlive an outage of the journal: kept on this machine's disk, and moved over later.

What arrives from outside and is never sent again, clicks and webhooks, goes to the journal before
it is acknowledged.  Where the journal does not take it, it goes to a spool: a small SQLite journal
in a folder of its own, as durable as the real one.  A background thread tries the journal until it
answers, moves everything over in order, and removes the spool.  Every step may be repeated: a
record that arrives twice is known by its id.

Several processes of one server have a folder each, which they hold by a lock of the operating
system.  What lies in the folder of one that died is moved by the next that starts.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from adaptation.errors import StoreError
from adaptation.journal.leases import LeaseLostError
from adaptation.journal.records import InteractionRecord, Receipt, utc_now
from adaptation.journal.store import Journal

logger = logging.getLogger(__name__)

WAITS_S = (0.5, 15.0)
"""Between two tries of a journal that failed: at first, and at most."""

FILE = "spool.db"

OWNER = "owner.lock"
"""File that a process locks for as long as a spool's folder is its own."""

SHARE = "worker-"
"""Folders of the processes that share one spool folder are called so, with a number."""


T = TypeVar("T")


class UnreadableError(StoreError):
    """The spool's file cannot be read."""


def own_folder(folder: Path) -> tuple[Path, FileLock]:
    """A process's own folder below a spool folder that several processes share.

    Args:
        folder: The common one; made where it is missing.

    Returns:
        The free folder with the lowest number, so that a process that is started again most often
        finds what the one before it left; and the lock that holds it while the process lives.

    Raises:
        StoreError: It cannot be made.
    """
    try:
        for number in itertools.count(1):
            own = folder / f"{SHARE}{number}"
            held = _try_to_own(own)
            if held is not None:
                return own, held
    except OSError as error:
        raise StoreError(
            f"The spool's folder {folder} cannot be used ({error.strerror}): make it writable."
        ) from error
    raise AssertionError("numbers do not end")


def _try_to_own(folder: Path) -> FileLock | None:
    """Lock a folder, which is made where it is missing; None where another process has it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / OWNER, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock


def _left_behind(folder: Path) -> list[Path]:
    """Folders with a spool in and below a common one, whoever owns them."""
    return sorted(path.parent for path in (*folder.glob(FILE), *folder.glob(f"{SHARE}*/{FILE}")))


class Spool:
    """A file of clicks and messages that wait for the journal; there only while any wait.

    Several threads may add while one moves; nobody may while it is removed.

    Args:
        folder: Where the file lies; made when it is needed.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._opening = threading.Lock()
        self._file: Journal | None = None
        self._moved_upto = 0

    @property
    def is_there(self) -> bool:
        """Whether anything waits."""
        return self._file is not None or self._path.exists()

    def add_interaction(self, record: InteractionRecord) -> None:
        """Keep a click; StoreError where it cannot be."""
        self._opened().append_interaction(record)

    def add_delivery(self, body: str) -> None:
        """Keep a message; StoreError where it cannot be."""
        self._opened().keep_delivery(body)

    def move_to(self, journal: Journal) -> int:
        """Move what waits, clicks first, so that submissions find them; returns how much it was.

        Raises:
            StoreError: The journal fails; what was moved need not be moved again.
            UnreadableError: The spool fails.
        """
        file, n_moved = _readable(self._opened), 0
        for entry in _read(file.entries(after=self._moved_upto)):
            if isinstance(entry.record, InteractionRecord):
                journal.append_interaction(entry.record)
                n_moved += 1
            self._moved_upto = entry.seq
        for delivery in _read(file.deliveries()):
            journal.keep_delivery(delivery.body, delivery.received_at)
            file.finish_delivery(delivery.id)
            n_moved += 1
        return n_moved

    def remove(self) -> None:
        """Remove the file, after everything in it was moved."""
        self.close()
        for ending in ("", "-wal", "-shm"):
            Path(f"{self._path}{ending}").unlink(missing_ok=True)

    def set_aside(self) -> Path:
        """Rename a file that cannot be read, for a person to look at; StoreError where it stays."""
        self.close()
        aside = self._path.with_name(f"unreadable-{utc_now():%Y%m%dT%H%M%S%f}.db")
        try:
            self._path.replace(aside)
        except OSError as error:
            raise StoreError(f"The spool cannot be set aside ({error.strerror}).") from error
        return aside

    def close(self) -> None:
        """Close the file; it stays."""
        if self._file is not None:
            self._file.close()
        self._file, self._moved_upto = None, 0

    def _opened(self) -> Journal:
        with self._opening:
            if self._file is None:
                self._file = Journal(f"sqlite:///{self._path.absolute()}")
            return self._file


def _readable(read: Callable[[], T]) -> T:
    try:
        return read()
    except StoreError as error:
        raise UnreadableError(str(error)) from error


def _read(items: Iterable[T]) -> Iterator[T]:
    """The same items; that they cannot be read is told from what becomes of them."""
    iterator = iter(items)
    end = object()
    while (item := _readable(lambda: next(iterator, end))) is not end:
        yield item  # type: ignore[misc]


class SpoolingJournal:
    """Keeps clicks and messages, in the journal or else in a spool.  Safe to share by threads.

    While the journal is known to fail nobody waits for it: all goes to the spool at once.

    Args:
        journal: Where everything belongs.
        folder: Of the spool.
        is_shared: Whether other processes spool below the same folder.

    Raises:
        StoreError: It is shared, and nothing can be made in it.
    """

    def __init__(self, journal: Journal, folder: Path, *, is_shared: bool = False) -> None:
        own, held = own_folder(folder) if is_shared else (folder, None)
        self._held: FileLock | None = held
        self._journal, self._spool = journal, Spool(own)
        self._folder, self._own = folder, own
        self._lock = threading.Lock()  # guards the spool and the fields below
        self._recovered: list[Callable[[], None]] = []
        self._thread: threading.Thread | None = None
        self._is_stopping = threading.Event()

    @property
    def is_spooling(self) -> bool:
        """Whether the journal fails, or clicks and messages still wait for it."""
        return self._is_down() or self._spool.is_there

    def start(self, *recovered: Callable[[], None]) -> None:
        """Move what an earlier run left behind.

        Args:
            recovered: Called, on the thread that recovers, whenever an outage is over.
        """
        self._recovered.extend(recovered)
        with self._lock:
            if _left_behind(self._folder):
                self._begin_recovery()

    def append_interaction(self, record: InteractionRecord) -> Receipt:
        """Keep a click; it is durable when this returns.

        Raises:
            StoreError: Neither the journal nor the spool takes it.
        """
        if not self._is_down():
            try:
                return self._journal.append_interaction(record)
            except LeaseLostError:
                raise  # the journal does not fail: it refuses
            except StoreError as error:
                self._spooled(lambda: self._spool.add_interaction(record), error)
        else:
            self._spooled(lambda: self._spool.add_interaction(record), None)
        return Receipt(seq=0, is_new=True)

    def keep_delivery(self, body: str) -> bool:
        """Keep a message, behind those that wait already; it is durable when this returns.

        Returns:
            Whether it is in the journal; else it comes there when that answers again.

        Raises:
            StoreError: Neither the journal nor the spool takes it.
        """
        if not self._is_down():
            try:
                self._journal.keep_delivery(body)
                return True
            except LeaseLostError:
                raise
            except StoreError as error:
                self._spooled(lambda: self._spool.add_delivery(body), error)
        else:
            self._spooled(lambda: self._spool.add_delivery(body), None)
        return False

    def failed(self) -> None:
        """The journal failed elsewhere: those who wait for it are called when it answers."""
        with self._lock:
            self._begin_recovery()

    def close(self, timeout_s: float = 5.0) -> None:
        """End; what waits is moved at the next start."""
        self._is_stopping.set()
        thread = self._thread
        if thread is not None:
            thread.join(timeout_s)
        with self._lock:
            self._spool.close()
        if self._held is not None:
            self._held.release()

    def _is_down(self) -> bool:
        with self._lock:
            return self._thread is not None

    def _spooled(self, add: Callable[[], None], error: StoreError | None) -> None:
        with self._lock:
            try:
                add()
            except StoreError as second:
                logger.error("the spool cannot take what the journal did not take: %s", second)
                self._spool.close()
                if error is not None:
                    raise error from second
                raise
            if self._thread is None:
                logger.error("the journal fails, clicks and webhooks go to the spool: %s", error)
            self._begin_recovery()

    # Recovery ------------------------------------------------------------------------------------

    def _begin_recovery(self) -> None:
        if self._thread is None and not self._is_stopping.is_set():
            self._thread = threading.Thread(target=self._recover, name="spool", daemon=True)
            self._thread.start()

    def _recover(self) -> None:
        wait_s, most_s = WAITS_S
        while not self._is_stopping.is_set():
            try:
                self._move()
                break
            except StoreError as error:
                logger.debug("the journal does not answer yet: %s", error)
            except Exception:
                logger.exception("the spool could not be moved to the journal")
            self._is_stopping.wait(wait_s)
            wait_s = min(2 * wait_s, most_s)
        else:
            return
        for call in self._recovered:
            try:
                call()
            except Exception:
                logger.exception("after an outage of the journal")

    def _move(self) -> None:
        """Move everything; when this returns, the journal is written to again.

        Raises:
            StoreError: The journal does not take it yet.
        """
        self._journal.check_writable()
        n_moved = sum(map(self._move_others, _left_behind(self._folder)))
        n_moved += self._move_guarded(self._spool) if self._spool.is_there else 0
        with self._lock:  # nothing is added from here on
            if self._spool.is_there:
                n_moved += self._spool.move_to(self._journal)
                self._spool.remove()
            self._thread = None
        if n_moved:
            logger.info("the journal answers again: %d clicks and webhooks were moved", n_moved)

    def _move_others(self, folder: Path) -> int:
        """Move what a process left behind that ended; nothing where it lives."""
        held = _try_to_own(folder) if folder != self._own else None
        if held is None:
            return 0
        try:
            spool = Spool(folder)
            n_moved = self._move_guarded(spool)
            spool.remove()
            return n_moved
        finally:
            held.release()

    def _move_guarded(self, spool: Spool) -> int:
        """Move what is there; a spool that cannot be read is set aside and told."""
        try:
            return spool.move_to(self._journal)
        except UnreadableError as error:
            with self._lock:
                aside = spool.set_aside()
            logger.error("the spool cannot be read; it is kept as %s: %s", aside.name, error)
            return 0
