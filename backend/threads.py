"""What a thread may take of the machine: its priority, and how many cores torch uses in it."""

from __future__ import annotations

import os
import sys
import threading

import torch

_LOWEST_PRIORITY = 19


def limit_torch_threads(n: int) -> None:
    """Let torch use at most `n` threads for what the calling thread computes, and for it alone.

    `torch.set_num_threads` sets the calling thread's limit and, beside it, the one that threads
    to come start with; the latter is put back by a thread that does nothing else.
    """
    before = torch.get_num_threads()  # settles this thread's limit, which is then its own
    torch.set_num_threads(n)
    restore = threading.Thread(target=torch.set_num_threads, args=(before,))
    restore.start()
    restore.join()


def lower_priority(niceness: int) -> None:
    """Let the scheduler prefer all other threads; Linux has a niceness for each, others do not."""
    if sys.platform != "linux":
        return
    thread = threading.get_native_id()
    present = os.getpriority(os.PRIO_PROCESS, thread)
    os.setpriority(os.PRIO_PROCESS, thread, min(_LOWEST_PRIORITY, present + niceness))
