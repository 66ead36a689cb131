"""Install a lock file into the environment of the Python that runs this, step by step.

    .venv/bin/python requirements/install.py requirements/serve.lock [--torch-index ADDRESS]

A lock is complete, so that nothing is resolved: no pip can find anything to refuse.  Each step is
a call of pip, and what a step has brought stays: after a Ctrl-C or a broken line the next call goes
on with what is missing, even where pip may not cache what it fetches.

With another index for torch, torch and torchvision come from there in the locked version, without
hashes (another build has others), and nothing comes that only the registry's build needs.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement

TORCH = re.compile(r"(torch|torchvision)==")
TORCH_ALONE_NEEDS = re.compile(r"(nvidia|cuda)-|triton==")
PACKAGES_PER_STEP = 4  # of the large ones
UNPACKING = ".unpacking-"


def missing(lock: str) -> Iterator[str]:
    """The locked packages that this machine needs and lacks, each with its hashes.

    Args:
        lock: Content of a lock file.
    """
    for entry in re.split(r"^(?=[A-Za-z0-9])", lock, flags=re.MULTILINE)[1:]:
        requirement = Requirement(entry.partition("\\\n")[0].strip())
        is_for_us = requirement.marker is None or requirement.marker.evaluate()
        if is_for_us and not is_complete(requirement):
            yield entry.rstrip()


def is_complete(requirement: Requirement) -> bool:
    """Whether the package is installed in the locked version."""
    try:
        return metadata.version(requirement.name) in requirement.specifier
    except metadata.PackageNotFoundError:
        return False


def forget_what_was_broken_off(site_packages: Path, prefix: Path) -> None:
    """Remove what an installation left that did not end.

    pip takes such a package for installed, or cannot remove it.  It names itself when the last
    file is in its place.
    """
    for record in site_packages.glob("*.dist-info"):
        if not (record / "INSTALLER").exists():
            shutil.rmtree(record)
    for folder in prefix.glob(f"{UNPACKING}*"):
        shutil.rmtree(folder)


def steps(packages: list[str], torch_index: str | None) -> Iterator[tuple[list[str], list[str]]]:
    """What is installed after what.

    Args:
        packages: Entries of a lock file.
        torch_index: Address of the index that torch is taken from; None is pip's own.

    Yields:
        Options of pip, and requirements; neither step nor requirement twice.
    """
    torch = [entry for entry in packages if TORCH.match(entry)]
    large = [entry for entry in packages if TORCH_ALONE_NEEDS.match(entry)]
    small = [entry for entry in packages if entry not in torch and entry not in large]
    with_hashes = ["--require-hashes"]
    found = [(with_hashes, small)]
    if torch_index:
        unhashed = [entry.partition("\\\n")[0].strip() for entry in torch]
        found.append((["--index-url", torch_index], unhashed))
    else:
        starts = range(0, len(large), PACKAGES_PER_STEP)
        found += [(with_hashes, large[start : start + PACKAGES_PER_STEP]) for start in starts]
        found.append((with_hashes, torch))
    yield from ((options, requirements) for options, requirements in found if requirements)


def pip_install(options: list[str], requirements: list[str]) -> int:
    """Call pip; returns its exit code."""
    # Unpacked beside where it goes: many a machine has little room in /tmp.
    with tempfile.TemporaryDirectory(prefix=UNPACKING, dir=sys.prefix) as folder:
        path = Path(folder) / "requirements.txt"
        path.write_text("\n".join(requirements) + "\n", encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-deps"]
        environment = {**os.environ, "TMPDIR": folder}
        return subprocess.call([*pip, *options, "-r", str(path)], env=environment)


def install(lock: Path, torch_index: str | None, announcement: str) -> int:
    """Install what is missing; returns the exit code of the step that failed, or 0."""
    forget_what_was_broken_off(Path(sysconfig.get_path("purelib")), Path(sys.prefix))
    wanted = list(steps(list(missing(lock.read_text(encoding="utf-8"))), torch_index))
    if wanted:
        print(announcement)
    for number, (options, requirements) in enumerate(wanted, 1):
        names = [re.split(r"[=\[ ]", requirement)[0] for requirement in requirements]
        some = names[:PACKAGES_PER_STEP] + ["..."] * (len(names) > PACKAGES_PER_STEP)
        print(f"\nStep {number} of {len(wanted)}: {', '.join(some)}", flush=True)
        code = pip_install(options, requirements)
        if code:
            print(f"\nStep {number} failed. The same command goes on from here.", file=sys.stderr)
            return code
    return 0


def main() -> int:
    """Install as the command line says; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lock", type=Path)
    parser.add_argument("--torch-index", metavar="ADDRESS", help="Take torch from this index.")
    parser.add_argument("--announce", default="", help="What to say if something is missing.")
    arguments = parser.parse_args()
    try:
        return install(arguments.lock, arguments.torch_index or None, arguments.announce)
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from here.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
