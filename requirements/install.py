"""Install a lock file into the environment of the Python that runs this, step by step.

    .venv/bin/python requirements/install.py requirements/serve.lock [--torch-index ADDRESS]

A lock is complete, so that nothing is resolved: no pip can find anything to refuse.  Each step is
a call of pip, and what a step has brought stays: after a Ctrl-C or a broken line the next call goes
on with the step that failed, even where pip may not cache what it fetches.

With another index for torch, torch and torchvision come from there in the locked version, without
hashes (another build has others), and nothing comes that only the registry's build needs.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

TORCH = re.compile(r"(torch|torchvision)==")
TORCH_ALONE_NEEDS = re.compile(r"(nvidia|cuda)-|cuda-toolkit\[|triton==")
PACKAGES_PER_STEP = 4  # of the large ones


def entries(lock: str) -> Iterator[str]:
    """The locked packages of a file, each with its hashes and comments."""
    for entry in re.split(r"^(?=[A-Za-z0-9])", lock, flags=re.MULTILINE)[1:]:
        yield entry.rstrip()


def steps(lock: str, torch_index: str | None) -> Iterator[tuple[list[str], list[str]]]:
    """What is installed after what.

    Args:
        lock: Content of a lock file.
        torch_index: Address of the index that torch is taken from; None is pip's own.

    Yields:
        Options of pip, and requirements.
    """
    locked = list(entries(lock))
    torch = [entry for entry in locked if TORCH.match(entry)]
    large = [entry for entry in locked if TORCH_ALONE_NEEDS.match(entry)]
    small = [entry for entry in locked if entry not in torch and entry not in large]
    yield ["--require-hashes"], small
    if torch_index:
        yield ["--index-url", torch_index], [entry.partition("\\\n")[0] for entry in torch]
        return
    for start in range(0, len(large), PACKAGES_PER_STEP):
        yield ["--require-hashes"], large[start : start + PACKAGES_PER_STEP]
    if torch:
        yield ["--require-hashes"], torch


def pip_install(options: list[str], requirements: list[str]) -> int:
    """Call pip; returns its exit code."""
    # Unpacked beside where it goes: many a machine has little room in /tmp.
    with tempfile.TemporaryDirectory(prefix=".pip-", dir=sys.prefix) as folder:
        path = Path(folder) / "requirements.txt"
        path.write_text("\n".join(requirements) + "\n", encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-deps"]
        environment = {**os.environ, "TMPDIR": folder}
        return subprocess.call([*pip, *options, "-r", str(path)], env=environment)


def main() -> int:
    """Install; returns the exit code of the step that failed, or 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lock", type=Path)
    parser.add_argument("--torch-index", default=None)
    arguments = parser.parse_args()
    wanted = list(steps(arguments.lock.read_text(encoding="utf-8"), arguments.torch_index))
    for number, (options, requirements) in enumerate(wanted, 1):
        names = [re.split(r"[=\[ ]", requirement)[0] for requirement in requirements]
        some = names[:PACKAGES_PER_STEP] + ["..."] * (len(names) > PACKAGES_PER_STEP)
        print(f"\nStep {number} of {len(wanted)}: {', '.join(some)}", flush=True)
        code = pip_install(options, requirements)
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
