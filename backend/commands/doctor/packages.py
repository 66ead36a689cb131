"""Check of the environment: whether another distribution installs packages of Strop's names."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import packages_distributions

from backend.commands.doctor.findings import Finding, warn

NAMES = ("adaptation", "backend", "training")
"""Strop's top-level packages."""


def check_packages() -> Iterator[Finding]:
    """Whether a package of the same name lies beside Strop's, as sam2's `training` does."""
    installed = packages_distributions()
    for name in NAMES:
        others = sorted({owner for owner in installed.get(name, ()) if owner.lower() != "strop"})
        for other in others:
            yield warn(
                f"{other} installs a package named {name} too, and one hides the other",
                f"install Strop and {other} in environments of their own",
            )
