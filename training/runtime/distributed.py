"""Processes that train together: started here, or by `torchrun` on one machine or several.

They talk through gloo, on the CPU: what is shared in a step are the gradients of a decoder, a few
megabytes, and a handful of numbers.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import ProcessExitedException, start_processes

from adaptation.errors import StoreError, StropError

T = TypeVar("T")
Job = Callable[[Any, "Rank"], None]

_PATIENCE = timedelta(minutes=30)
_REFUSED = 2


@dataclass(frozen=True, slots=True)
class Rank:
    """This process among those that train together.

    Args:
        index: From 0; the first one writes files.
        count: Of all.
        local_index: Among those on this machine; chooses the GPU.
    """

    index: int = 0
    count: int = 1
    local_index: int = 0

    @property
    def is_first(self) -> bool:
        """True for the one that writes."""
        return self.index == 0

    def turns(self, items: Sequence[T]) -> list[T]:
        """This rank's share: every item is one rank's."""
        return list(items[self.index :: self.count])

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all ranks, on every rank, where it was."""
        if self.count == 1:
            return values
        shared = values.detach().cpu().clone()
        dist.all_reduce(shared)
        return shared.to(values.device)

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace every gradient by its sum over all ranks; absent ones are zero."""
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = self.sum(torch.cat([grad.flatten() for grad in grads]))
        pieces = torch.split(flat, [p.numel() for p in parameters])
        for parameter, piece in zip(parameters, pieces, strict=True):
            parameter.grad = piece.view_as(parameter)

    def gather(self, value: T) -> list[T]:
        """Every rank's value, on every rank; picklable where there are several."""
        found: list[Any] = [None] * self.count
        if self.count == 1:
            return [value]
        dist.all_gather_object(found, value)
        return found


def is_first_process() -> bool:
    """Whether this process speaks for all that `torchrun` started; true without it."""
    return os.environ.get("RANK", "0") == "0" or not dist.is_torchelastic_launched()


def run_ranks(job: Job, config: Any, processes: int) -> None:
    """Run a job in the ranks that `torchrun` started, else in `processes` of our own.

    Args:
        job: Importable by name; called with the config and the process's rank.
        config: Picklable.
        processes: How many to start; 1 stays in this one.

    Raises:
        StropError: What a job raised, its message as it was.
    """
    if dist.is_torchelastic_launched():
        dist.init_process_group("gloo", timeout=_PATIENCE)
        local = int(os.environ["LOCAL_RANK"])
        _work(job, config, Rank(dist.get_rank(), dist.get_world_size(), local))
    elif processes == 1:
        job(config, Rank())
    else:
        _start(job, config, processes)


def _start(job: Job, config: Any, processes: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start: Callable[..., object] = start_processes
        try:
            start(_join, (job, config, folder, processes), nprocs=processes, start_method="spawn")
        except ProcessExitedException as error:
            said = sorted(folder.glob("refusal-*"))
            message = said[0].read_text(encoding="utf-8") if said else f"A rank ended: {error}"
            raise StoreError(message) from error


def _join(index: int, job: Job, config: Any, folder: Path, processes: int) -> None:
    """One of our own processes; leaves the message of a deliberate error for the one above."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    meeting = f"file://{folder}/meeting"
    dist.init_process_group(
        "gloo", init_method=meeting, rank=index, world_size=processes, timeout=_PATIENCE
    )
    try:
        _work(job, config, Rank(index, processes, index))
    except StropError as error:
        (folder / f"refusal-{index}").write_text(str(error), encoding="utf-8")
        sys.exit(_REFUSED)


def _work(job: Job, config: Any, rank: Rank) -> None:
    try:
        job(config, rank)
    finally:
        dist.destroy_process_group()
