"""Where a model is on the Hugging Face hub, and where it is kept here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from adaptation.errors import ModelError

HUB = "https://huggingface.co"

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubModel:
    """A model on the hub.

    Args:
        hub_id: OWNER/NAME.
        terms: Address of a licence that its user has to accept; None where none has to be.
        reads_text: Whether its tokenizer belongs to it.
        hub: The hub's address.
    """

    hub_id: str
    terms: str | None = None
    reads_text: bool = False
    hub: str = HUB

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.hub_id):
            raise ModelError(
                f"{self.hub_id!r} is neither a folder that is there nor a model's id on the "
                "Hugging Face hub (OWNER/NAME). Check the spelling."
            )

    @property
    def page(self) -> str:
        """Where a person reads about it."""
        return f"{self.hub}/{self.hub_id}"

    def folder(self, models_dir: Path) -> Path:
        """Where its files are kept."""
        return models_dir / self.hub_id.replace("/", "--")
