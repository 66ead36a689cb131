"""The writing side of the registry: a base becomes a version, a version comes into use.

One process at a time writes (a lock that the system drops with its owner).  A version appears
whole or not at all; which one is in use changes in one replacement of a small file; the line in the
history is written before it.  So whenever a process is killed, what was in use still is, and the
same command run again finishes the work.  A line whose switch did not come about is followed by
one that says so.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from adaptation.errors import InputError
from adaptation.models.base_decoder import EMBEDDED, BaseCard, Registry, check_name, read_card
from adaptation.storage.files import whole_folder, write_json, write_text
from adaptation.storage.locks import only_one

DEFAULT_FOLDER = Path(".strop/registry")
"""Of the registry, where nobody names another one."""

CARD = "card.json"
HISTORY = "history.jsonl"
LOCK = "lock"

Action = Literal["promote", "rollback", "undone"]


@dataclass(frozen=True, kw_only=True)
class RegistryEntry:
    """One line of the history.

    Args:
        at: When, ISO 8601, UTC.
        action: What was done; "undone": the line before it did not come about.
        before, now: The versions in use; "embedded" for the model's own decoder.
        decoder_id: Digest of the decoder in use from now on; empty for the model's own.
        reason: In the words of who asked for it.
    """

    at: str
    action: Action
    before: str
    now: str
    decoder_id: str = ""
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Version:
    """A version as it is listed.

    Args:
        name: Its folder's name.
        base: What the file says of itself.
        card: What was written beside it: data, digests, metrics; empty where that is missing.
        is_current: Whether it is in use.
    """

    name: str
    base: BaseCard
    card: Mapping[str, Any] = field(default_factory=dict)
    is_current: bool = False


class RegistryWriter:
    """Adds versions and switches between them.

    Args:
        folder: Of the registry; made when something is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reader = Registry(folder)

    @contextlib.contextmanager
    def locked(self, purpose: str) -> Iterator[None]:
        """Be the only process that writes; the lock falls when this one ends, however it ends.

        Args:
            purpose: What for, as others are told.

        Raises:
            StoreError: Another process writes; the message says which and since when.
        """
        with only_one(self.folder / LOCK, f"The registry {self.folder.name}", purpose):
            self._settle()
            yield

    # Inside of the lock --------------------------------------------------------------------------

    def add(self, name: str, source: Path, card: Mapping[str, Any]) -> None:
        """Make a base a version; the same base under the same name is left as it is.

        Raises:
            InputError: Another base has that name.
            ModelError: The file is no base.
        """
        wanted, target = read_card(source), self.reader.path(name).parent
        if target.exists():
            known = read_card(self.reader.path(name))
            if known.decoder_id == wanted.decoder_id:
                return
            raise InputError(
                f"There is a version {name} already, decoder {known.decoder_id}; this one is "
                f"{wanted.decoder_id}. Choose another name with --name."
            )
        with whole_folder(target, durable=True) as draft:
            shutil.copyfile(source, draft / "decoder.safetensors")
            write_json(draft / CARD, card)

    def promote(self, name: str, reason: str) -> None:
        """Bring a version into use."""
        self._switch("promote", name, reason)

    def roll_back(self, to: str | None = None, reason: str = "") -> str:
        """Bring the version back that was in use before, or an earlier one.

        Args:
            to: One that was in use before; None: the one before the current.
            reason: For the history.

        Returns:
            What is in use now.

        Raises:
            InputError: Nothing was in use before, or that one was not.
            ModelError: Its file is missing or damaged.
        """
        *earlier, current = self.in_use()
        if not earlier:
            raise InputError(
                f"There is nothing to roll back to: {current} is the first that was in use."
            )
        target = earlier[-1] if to is None else to
        if target not in earlier:
            raise InputError(f"{target!r} was not in use before {current}; {_some(earlier)} were.")
        self._switch("rollback", target, reason)
        return target

    # The history ---------------------------------------------------------------------------------

    def history(self) -> list[RegistryEntry]:
        """Every line, oldest first; a last one that a crash cut off is left out."""
        path = self.folder / HISTORY
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        found = []
        for line in lines:
            with contextlib.suppress(ValueError, TypeError):
                found.append(RegistryEntry(**json.loads(line)))
        return found

    def in_use(self) -> list[str]:
        """What was in use, one upon the other, the current one last: a roll-back takes from it."""
        stack = [EMBEDDED]
        for entry in self.history():
            if entry.action == "promote" or entry.now not in stack:
                stack.append(entry.now)
            else:
                del stack[_last_index(stack, entry.now) + 1 :]
        current = self.reader.current() or EMBEDDED
        if stack[-1] != current:  # a switch that was cut off, or a file that was edited by hand
            if current in stack:
                del stack[_last_index(stack, current) + 1 :]
            else:
                stack.append(current)
        return stack

    def versions(self) -> list[Version]:
        """Every version that can be read, sorted by name."""
        current = self.reader.current()
        return [
            Version(
                name=name,
                base=read_card(self.reader.path(name)),
                card=_read_json(self.reader.path(name).with_name(CARD)),
                is_current=name == current,
            )
            for name in self.reader.versions()
        ]

    def _switch(self, action: Action, name: str, reason: str) -> None:
        before = self.reader.current() or EMBEDDED
        decoder_id = "" if name == EMBEDDED else read_card(self.reader.path(name)).decoder_id
        self._append(
            RegistryEntry(
                at=_now(),
                action=action,
                before=before,
                now=name,
                decoder_id=decoder_id,
                reason=reason,
            )
        )
        write_text(self.folder / "current", f"{name}\n", durable=True)

    def _settle(self) -> None:
        """Say of a switch that was announced and cut off that it did not come about."""
        history = self.history()
        current = self.reader.current() or EMBEDDED
        if history and history[-1].now != current:
            self._append(
                RegistryEntry(at=_now(), action="undone", before=history[-1].now, now=current)
            )

    def _append(self, entry: RegistryEntry) -> None:
        path = self.folder / HISTORY
        is_torn = path.is_file() and path.stat().st_size and path.read_bytes()[-1:] != b"\n"
        with path.open("a", encoding="utf-8") as file:
            file.write("\n" * bool(is_torn) + json.dumps(asdict(entry)) + "\n")
            file.flush()
            os.fsync(file.fileno())


def default_name(card: BaseCard) -> str:
    """A name that says when and what: ``20260102-sft-0a1b2c3d``."""
    day = datetime.now(timezone.utc).strftime("%Y%m%d")
    stage = "".join(c for c in card.stage if c.isalnum() or c in "._-") or "base"
    return check_name(f"{day}-{stage}-{card.decoder_id[:8]}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _last_index(names: list[str], name: str) -> int:
    return max(i for i, known in enumerate(names) if known == name)


def _some(names: list[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
