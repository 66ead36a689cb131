from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from training.runtime.workers import stream_jobs


def prepare_counting() -> Callable[[int], Iterator[tuple[int, int, int]]]:
    """Yields (job, n, process) for n = 1..job."""

    def work(job: int) -> Iterator[tuple[int, int, int]]:
        for n in range(1, job + 1):
            yield job, n, os.getpid()

    return work


def prepare_failing() -> Callable[[int], Iterator[int]]:
    def work(job: int) -> Iterator[int]:
        yield job
        raise ValueError(f"job {job} is broken")

    return work


JOBS = [5, 3, 1, 4]
WANTED = sorted((job, n) for job in JOBS for n in range(1, job + 1))


@pytest.mark.parametrize("n_workers", [1, 2])
def test_every_result_arrives_once_and_each_jobs_in_order(n_workers: int) -> None:
    results = list(stream_jobs(JOBS, prepare_counting, n_workers))
    assert sorted((job, n) for job, n, _ in results) == WANTED
    for job in JOBS:
        assert [n for j, n, _ in results if j == job] == list(range(1, job + 1))
    is_elsewhere = {pid != os.getpid() for _, _, pid in results}
    assert is_elsewhere == {n_workers > 1}


@pytest.mark.parametrize("n_workers", [1, 2])
def test_what_a_job_raises_reaches_the_caller(n_workers: int) -> None:
    with pytest.raises(ValueError, match="is broken"):
        list(stream_jobs([1, 2], prepare_failing, n_workers))


def test_no_jobs_give_no_results() -> None:
    assert list(stream_jobs([], prepare_counting, 1)) == []
