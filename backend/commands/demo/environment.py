"""Label Studio's own Python environment: its pinned packages fit no other program's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from backend.commands.demo.errors import DemoError

VERSION = "1.23.2"
"""The version that Strop is tested with; ``requirements/label-studio.lock`` holds the same."""

LOCK_NAME = "label-studio.lock"
"""Every package of that version with its hash; it comes with Strop."""


def label_studio_command(environment: Path, echo: Callable[[str], None]) -> Path:
    """The command ``label-studio`` of an environment that is made where it is missing.

    Args:
        environment: Folder of the environment.
        echo: Tells the user that it takes a while.

    Raises:
        DemoError: It cannot be made.
    """
    command = environment.absolute() / "bin" / "label-studio"
    if not command.exists():
        echo(f"Installing Label Studio into {environment}: 0.3 GB to fetch, 1 GB on disk.")
        _make(environment)
    if not command.exists():
        raise DemoError(
            f"{environment} holds no Label Studio: remove it, and `strop demo` makes it anew."
        )
    return command


def _make(environment: Path) -> None:
    python = environment / "bin" / "python"
    _call([sys.executable, "-m", "venv", str(environment)])
    # The lock is complete: without looking at dependencies no pip finds anything to refuse.
    options = ["--disable-pip-version-check", "--no-deps", "--require-hashes"]
    _call([str(python), "-m", "pip", "install", *options, "-r", str(lock_file())])


def lock_file() -> Path:
    """Where the lock is: beside this file in an installed Strop, else in the repository."""
    installed = Path(__file__).with_name(LOCK_NAME)
    return installed if installed.exists() else _REQUIREMENTS / LOCK_NAME


_REQUIREMENTS = Path(__file__).resolve().parents[3] / "requirements"


def _call(command: list[str]) -> None:
    """Run a command whose output people see: an installation takes minutes."""
    if subprocess.call(command) != 0:
        raise DemoError(
            f"Label Studio cannot be installed; `{' '.join(command[1:4])}` says why above.\n"
            "Mend that and start again, or name an environment that has label-studio with "
            "--environment."
        )


def label_studio_variables(
    inherited: Mapping[str, str], *, folder: Path, url: str, login: tuple[str, str, str]
) -> dict[str, str]:
    """The environment of the demo's Label Studio process.

    Args:
        inherited: The environment to start from.
        folder: Where Label Studio keeps its database and uploads.
        url: The address that browsers use.
        login: E-mail, password and legacy token of its user, made at the first start.
    """
    email, password, token = login
    kept = {name: value for name, value in inherited.items() if name not in _NOT_INHERITED}
    return kept | {
        "LABEL_STUDIO_BASE_DATA_DIR": str(folder.absolute()),
        "LABEL_STUDIO_HOST": url,
        "LABEL_STUDIO_USERNAME": email,
        "LABEL_STUDIO_PASSWORD": password,
        "LABEL_STUDIO_USER_TOKEN": token,
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
        # Label Studio refuses backends and webhooks on this machine unless told otherwise.
        "ML_BLOCK_LOCAL_IP": "false",
        "SSRF_PROTECTION_ENABLED": "false",
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
    }


_NOT_INHERITED = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "DJANGO_SETTINGS_MODULE")
