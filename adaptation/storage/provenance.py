"""Where a result comes from: the command, the commit, the versions, the date."""

from __future__ import annotations

import platform
import shlex
import subprocess
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("strop", "torch", "numpy", "opencv-python-headless", "segment-anything")


def provenance(command: str) -> dict[str, Any]:
    """What a result file says about its origin; no machine's paths or names."""
    return {
        "command": command,
        "commit": commit(),
        "created_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def command_line(program: str, options: Mapping[str, Any]) -> str:
    """A command that does the same again; of paths only the last part is told.

    Args:
        program: The command before its options.
        options: Long option (without dashes) -> value; None and False leave it out, True gives
            the bare option.
    """
    words = shlex.split(program)
    for name, value in options.items():
        if value is None or value is False:
            continue
        words.append(f"--{name}")
        if value is not True:
            words.append(value.name if isinstance(value, Path) else str(value))
    return shlex.join(words)


def commit() -> str:
    """The commit of the working tree, with "+changes" when files differ from it; else "unknown"."""
    head = _git("rev-parse", "HEAD")
    if head is None:
        return "unknown"
    return head + ("+changes" if _git("status", "--porcelain", "--untracked-files=no") else "")


def _git(*arguments: str) -> str | None:
    """Output of a git command on this source tree, None where that is no repository."""
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).resolve().parent), *arguments],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def rounded(value: Any) -> Any:
    """A result with its floats cut to six places, so that equal figures make equal files."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, Mapping):
        return {str(key): rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return value
