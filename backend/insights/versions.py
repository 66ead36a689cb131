"""The base decoders of the registry: how each came to be, what the gate measured; and roll back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptation.errors import InputError, ModelError, StoreError, StropError
from adaptation.models.base_decoder import Registry, read_card
from adaptation.models.registry import CARD, HISTORY, RegistryWriter

N_HISTORY = 20
"""Lines of the history that are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One metric of a version beside the decoder that was in use, on the same objects.

    Args:
        set_name: Of the set.
        role: "gate": it had to be better; "guard": it must not be worse.
        metric: Its name.
        current, candidate: Means in the metric's unit.
        gain: Mean paired difference; positive is better.
        low, high: 95 % interval of the gain.
    """

    set_name: str
    role: str
    metric: str
    current: float
    candidate: float
    gain: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseVersion:
    """A version of the base decoder.

    Args:
        name: Its name.
        is_current: Whether it is in use.
        stage: What made it: sft, dpo.
        decoder_id, parent: Digests of it and of the decoder that it was tuned from.
        replaces: The version that was in use before it; None: the model's own decoder.
        made_at: When the gate measured it, ISO 8601; empty where no card says.
        measured: What the gate measured.
        problem: Why it cannot be read; None where it can.
    """

    name: str
    is_current: bool
    stage: str = ""
    decoder_id: str = ""
    parent: str = ""
    replaces: str | None = None
    made_at: str = ""
    measured: Sequence[Measured] = ()
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """One change of the version in use.

    Args:
        at: When, ISO 8601.
        action: promote, rollback or undone.
        before, now: Versions.
        reason: In the words of who asked for it.
    """

    at: str
    action: str
    before: str
    now: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionsPanel:
    """The registry as it is.

    Args:
        current: Name of the version in use, or "embedded".
        before: The one that a roll-back brings back; None where nothing was in use before.
        versions: All of them, the one in use first, then the newest.
        switches: The last ones, newest first.
    """

    current: str
    before: str | None
    versions: Sequence[BaseVersion]
    switches: Sequence[Switch]


def versions_of(folder: Path) -> VersionsPanel:
    """Read a registry's folder; it need not exist.

    Raises:
        ModelError: The file that names the version in use is damaged.
        StoreError: The history cannot be read.
    """
    writer = RegistryWriter(folder)
    registry = writer.reader
    try:
        *earlier, current = writer.in_use()
    except OSError as error:
        raise StoreError(f"The registry's history cannot be read: {error.strerror}.") from error
    versions = [
        _version(registry, name, is_current=name == current) for name in registry.versions()
    ]
    versions.sort(key=lambda version: (version.is_current, version.made_at), reverse=True)
    return VersionsPanel(
        current=current,
        before=earlier[-1] if earlier else None,
        versions=versions,
        switches=list(reversed(list(_switches(folder / HISTORY))))[:N_HISTORY],
    )


def roll_back(folder: Path, current: str, to: str, reason: str) -> None:
    """Bring back the version that was in use before, as `strop-train rollback` does.

    Args:
        folder: Of the registry.
        current: The version that is to go; whoever asked saw it in use.
        to: The one that was in use before it.
        reason: For the history.

    Raises:
        InputError: Another version came into use meanwhile.
        ModelError: The one before is missing or damaged.
        StoreError: Another process writes to the registry, or it cannot be written.
    """
    writer = RegistryWriter(folder)
    try:
        with writer.locked("a roll-back on the insights page"):
            if writer.in_use()[-2:] != [to, current]:
                raise InputError(
                    f"Not {current} but {writer.in_use()[-1]} is in use now, so nothing was "
                    "changed: look at the versions again."
                )
            writer.roll_back(to, reason)
    except OSError as error:
        raise StoreError(f"The registry cannot be written: {error.strerror}.") from error
    except ModelError as error:
        raise ModelError(
            f"The file of version {to} is missing or damaged, so {current} stays in use."
        ) from error


def _version(registry: Registry, name: str, *, is_current: bool) -> BaseVersion:
    path = registry.path(name)
    try:
        base = read_card(path)
    except StropError as error:
        return BaseVersion(name=name, is_current=is_current, problem=str(error))
    card = _json(path.with_name(CARD))
    gate = card.get("gate")
    return BaseVersion(
        name=name,
        is_current=is_current,
        stage=base.stage,
        decoder_id=base.decoder_id,
        parent=base.parent,
        replaces=card.get("replaces"),
        made_at=str(gate.get("created_at", "")) if isinstance(gate, dict) else "",
        measured=list(_measured(card)),
    )


def _measured(card: Mapping[str, Any]) -> Iterator[Measured]:
    metrics = card.get("metrics")
    for set_name, found in metrics.items() if isinstance(metrics, dict) else ():
        for metric, numbers in found.items():
            if not isinstance(numbers, dict):
                continue  # the set's role
            low, high = numbers["interval"]
            yield Measured(
                set_name=set_name,
                role=str(found.get("role", "")),
                metric=metric,
                current=numbers["current"],
                candidate=numbers["candidate"],
                gain=numbers["gain"],
                low=low,
                high=high,
            )


def _switches(path: Path) -> Iterator[Switch]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        try:
            said = json.loads(line)
            names = ("at", "action", "before", "now", "reason")
            yield Switch(**{name: str(said.get(name, "")) for name in names})
        except (ValueError, AttributeError):
            continue  # cut off by a crash


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
