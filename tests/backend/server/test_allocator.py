"""What was freed goes back to the operating system, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from backend.server import allocator

PROGRAM = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
from backend.server import allocator

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

if "shared" in sys.argv:
    assert allocator.share_arenas()
barrier = threading.Barrier(16)

def work(_):
    barrier.wait()
    kept = [bytes(100_000) for _ in range(60)]  # 6 MB a thread, below the size of a mapping
    barrier.wait()
    last = kept[-1]
    del kept
    return last

with ThreadPoolExecutor(16) as threads:
    pins = list(threads.map(work, range(16)))
    before = resident()
    allocator.trim()
    print(before, resident())
"""


@pytest.mark.skipif(allocator._glibc() is None, reason="only glibc has these arenas")
def test_freed_memory_is_given_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "shared"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parents[3],
    )
    before, after = (int(number) for number in done.stdout.split())
    assert before - after > 20_000_000, "much of what nothing uses"
