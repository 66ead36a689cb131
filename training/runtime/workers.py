"""Jobs that stream results, done here or in worker processes.

Every worker prepares itself once (loads the model) and then does whole jobs; what a job yields
reaches the caller at once, in the order of each job, and not when the job is finished.
"""

from __future__ import annotations

import multiprocessing
import queue
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing.queues import Queue
from typing import Any, TypeVar

JobT = TypeVar("JobT")
ResultT = TypeVar("ResultT")

_POLL_S = 0.2

# A worker process's own: what does jobs, and the way back to the caller.
_work: Callable[[Any], Iterable[Any]] | None = None
_outbox: Queue[Any] | None = None


def stream_jobs(
    jobs: Sequence[JobT],
    prepare: Callable[[], Callable[[JobT], Iterable[ResultT]]],
    n_workers: int = 1,
) -> Iterator[ResultT]:
    """Do jobs and yield their results as they come.

    Args:
        jobs: Picklable where there are several workers; each is done by one of them.
        prepare: Called once in every worker; gives the function that does a job.  Picklable where
            there are several workers.
        n_workers: 1 does everything in this process.

    Raises:
        Exception: What a job raised; the rest is cancelled.
    """
    if n_workers <= 1:
        work = prepare()
        for job in jobs:
            yield from work(job)
        return
    context = multiprocessing.get_context("spawn")
    inbox: Queue[ResultT] = context.Queue()
    others = set(multiprocessing.active_children())
    executor = ProcessPoolExecutor(
        n_workers, mp_context=context, initializer=_begin, initargs=(prepare, inbox)
    )
    try:
        futures = [executor.submit(_do, job) for job in jobs]
        yield from _collect(futures, inbox)
    except BaseException:  # also when the caller stops asking: nobody wants the rest
        executor.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    executor.shutdown()


def _collect(futures: Sequence[Future[int]], inbox: Queue[ResultT]) -> Iterator[ResultT]:
    """Yield until every job is done and everything that it sent has arrived."""
    waiting, announced, received = set(futures), 0, 0
    while waiting or received < announced:
        for future in [f for f in waiting if f.done()]:
            waiting.remove(future)
            announced += future.result()
        try:
            result = inbox.get(timeout=_POLL_S)
        except queue.Empty:
            continue
        received += 1
        yield result


def _begin(prepare: Callable[[], Callable[[Any], Iterable[Any]]], outbox: Queue[Any]) -> None:
    global _work, _outbox
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's to handle
    _work, _outbox = prepare(), outbox


def _do(job: Any) -> int:
    """Do one job in a worker; returns how many results were sent."""
    assert _work is not None and _outbox is not None
    n_sent = 0
    for result in _work(job):
        _outbox.put(result)
        n_sent += 1
    return n_sent
