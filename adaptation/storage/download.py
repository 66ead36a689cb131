"""Fetching a large file once: resumed where it broke off, checked by its digest, put down whole.

While a download goes on, its bytes lie in ``<name>.part`` and what the server said about them in
``<name>.part.json``; the file itself appears only when its digest is right. Resuming follows
RFC 9110: `Range` with `If-Range`, so that a file which changed meanwhile is fetched from the start.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import requests
from filelock import FileLock, Timeout
from tqdm import tqdm

from adaptation.errors import ModelError
from adaptation.storage.digests import file_sha256
from adaptation.storage.files import move_whole

logger = logging.getLogger(__name__)

_BLOCK_BYTES = 1 << 16  # what a broken connection may lose
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """One file to fetch.

    Args:
        url: Its public address.
        path: Where it goes.
        sha256: The digest that it must have, 64 lower-case hex digits.
        n_bytes: Its size where it is known.
        timeout_s: How long the server may stay silent.
        max_failures: Broken connections in a row, without a byte in between, before giving up.
        pause_s: Pause after a broken connection; doubled after each further one.
        show_progress: Draw a progress bar on standard error.
        token: Sent to the address as a bearer's, and to no other host; None for none.
    """

    url: str
    path: Path
    sha256: str
    n_bytes: int | None = None
    timeout_s: float = 30.0
    max_failures: int = 5
    pause_s: float = 1.0
    show_progress: bool = False
    token: str | None = field(default=None, repr=False)

    @property
    def partial(self) -> Path:
        """Where the bytes lie until all are there."""
        return self.path.with_name(self.path.name + ".part")

    @property
    def by_hand(self) -> str:
        """What a user can do where this machine cannot fetch the file."""
        return (
            f"Or fetch {self.url} by hand, for instance on another machine, and put it into "
            f"{self.path.parent} as {self.path.name}; its sha256 must be {self.sha256}."
        )


class _BrokenError(Exception):
    """The connection broke; what has arrived is kept."""


@dataclass(slots=True)
class _Partial:
    """The bytes that have arrived so far and the validator that the server gave for them."""

    path: Path
    url: str
    validator: str | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            note = json.loads(self._note.read_text(encoding="utf-8"))
            if note["url"] == self.url:
                self.validator = note["validator"]
                return
        self.drop()

    @property
    def _note(self) -> Path:
        return self.path.with_name(self.path.name + ".json")

    @property
    def n_bytes(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def restart(self, validator: str | None) -> None:
        """Forget the bytes; note the validator of those to come."""
        self.validator = validator
        self.path.write_bytes(b"")
        note = {"url": self.url, "validator": validator}
        self._note.write_text(json.dumps(note), encoding="utf-8")

    def drop(self) -> None:
        """Remove the bytes and the note."""
        self.validator = None
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def finish(self, destination: Path) -> None:
        """Put the complete file in its place, at once for everyone who looks."""
        move_whole(self.path, destination, durable=True)
        self._note.unlink(missing_ok=True)


def download(job: Download) -> Path:
    """Fetch a file, unless it is there; processes that want the same one fetch it together once.

    Returns:
        The file's path.

    Raises:
        ModelError: No network, a refusing server, a full disk, a wrong digest; with what to do.
    """
    try:
        job.path.parent.mkdir(parents=True, exist_ok=True)
        with _only_process(job):
            if not job.path.exists():
                _fetch(job)
    except OSError as error:
        raise _disk_error(error, job) from error
    return job.path


@contextlib.contextmanager
def _only_process(job: Download) -> Iterator[None]:
    """Hold the file's lock; the operating system frees it should the process die."""
    lock = FileLock(job.path.with_name(job.path.name + ".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("Another process is fetching %s; waiting for it.", job.path.name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _fetch(job: Download) -> None:
    partial = _Partial(job.partial, job.url)
    was_resumed = partial.n_bytes > 0
    _fetch_all(job, partial)
    digest = file_sha256(partial.path)
    if digest != job.sha256 and was_resumed:
        logger.warning("%s did not fit together after resuming; starting over.", job.path.name)
        partial.drop()
        _fetch_all(job, partial)
        digest = file_sha256(partial.path)
    if digest != job.sha256:
        partial.drop()
        raise ModelError(
            f"What {_host(job.url)} sent for {job.path.name} has the sha256 {digest}, expected "
            f"{job.sha256}; it was removed. Try again. {job.by_hand}"
        )
    partial.finish(job.path)


def _fetch_all(job: Download, partial: _Partial) -> None:
    """Ask for the rest until all is there, as long as something arrives now and then."""
    failures = 0
    while True:
        before = partial.n_bytes
        try:
            _fetch_rest(job, partial)
            return
        except (requests.RequestException, _BrokenError) as error:
            failures = 0 if partial.n_bytes > before else failures + 1
            if failures >= job.max_failures:
                raise _network_error(error, job) from error
            logger.info("%s broke off at byte %d; resuming.", job.path.name, partial.n_bytes)
            time.sleep(job.pause_s * 2 ** max(0, failures - 1))


def _fetch_rest(job: Download, partial: _Partial) -> None:
    """One request for the bytes that are missing."""
    offset = partial.n_bytes
    headers = {"Accept-Encoding": "identity"}
    if job.token is not None:
        headers["Authorization"] = f"Bearer {job.token}"
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if partial.validator:
            headers["If-Range"] = partial.validator
    with requests.get(job.url, headers=headers, stream=True, timeout=job.timeout_s) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            _settle_unsatisfiable(response, partial)
            return
        _check_status(response, job)
        if response.status_code != requests.codes.partial_content:
            partial.restart(_validator(response))
            offset = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
            partial.drop()
            raise _BrokenError("the server resumed at another byte than it was asked to")
        _append(response, job, partial, offset)


def _append(response: requests.Response, job: Download, partial: _Partial, offset: int) -> None:
    length = response.headers.get("Content-Length")
    total = offset + int(length) if length else job.n_bytes
    _check_space(job, (total or 0) - offset)
    with (
        partial.path.open("ab") as file,
        tqdm(
            desc=job.path.name,
            total=total,
            initial=offset,
            unit="B",
            unit_scale=True,
            disable=not job.show_progress,
        ) as bar,
    ):
        for block in response.iter_content(_BLOCK_BYTES):
            file.write(block)
            bar.update(len(block))
    if total is not None and partial.n_bytes < total:
        raise _BrokenError("the connection was closed early")


def _settle_unsatisfiable(response: requests.Response, partial: _Partial) -> None:
    """The server has no byte at our offset: either all are here, or the file has changed."""
    _, _, size = response.headers.get("Content-Range", "").partition("*/")
    if size != str(partial.n_bytes):
        partial.drop()
        raise _BrokenError("the file on the server has changed")


def _check_status(response: requests.Response, job: Download) -> None:
    """Refuse what a second try would not mend; a server's own trouble (5xx) may pass."""
    if response.status_code >= requests.codes.internal_server_error:
        raise _BrokenError(f"the server answered {response.status_code}")
    if not response.ok:
        raise ModelError(
            f"{_host(job.url)} answered {response.status_code} for {job.path.name}. {job.by_hand}"
        )


def _check_space(job: Download, n_bytes: int) -> None:
    free = shutil.disk_usage(job.path.parent).free
    if n_bytes > free:
        raise ModelError(
            f"The disk of {job.path.parent} is too full for {job.path.name}: {n_bytes:,} more "
            f"bytes are needed, {free:,} are free. Make room, or choose another models folder."
        )


def _validator(response: requests.Response) -> str | None:
    """What If-Range may name: a strong entity tag, else the date of the last change."""
    tag = response.headers.get("ETag")
    if tag and not tag.startswith("W/"):
        return tag
    return response.headers.get("Last-Modified")


def _network_error(error: Exception, job: Download) -> ModelError:
    host = _host(job.url)
    if isinstance(error, requests.Timeout):
        what = f"{host} did not answer within {job.timeout_s:g} s"
    elif isinstance(error, requests.ConnectionError):
        what = f"Cannot reach {host}: no network, or a proxy or firewall in between"
    else:
        what = f"{host} kept breaking off ({error})"
    return ModelError(f"{what}, while fetching {job.path.name}. Try again later. {job.by_hand}")


def _disk_error(error: OSError, job: Download) -> ModelError:
    if error.errno in _DISK_FULL:
        what = f"The disk of {job.path.parent} is full; what has arrived is kept. Make room"
    else:
        what = f"Cannot write {job.path.name} into {job.path.parent} ({error.strerror}). Allow it"
    return ModelError(f"{what}, or choose another models folder.")


def _host(url: str) -> str:
    return urlsplit(url).netloc
