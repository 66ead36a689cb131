"""What a simulation depends on, checked as a whole, and the command that asks for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adaptation.errors import SettingsError
from adaptation.simulation.annotator import Rules
from backend.settings import Settings

GIVE_UP = ("paint", "keep", "leave")
"""What becomes of an object whose mask is not good enough after the last click."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """A simulation.

    Args:
        data: Data sets, or folders that hold some; see `backend.commands.simulate.plan.open_data`.
        url: Address of the Strop to label with; unused where `serving` is given.
        serving: Settings of a Strop to start and to stop again.
        objects: Objects in all, shared evenly among the sets; None for every one.
        annotators: Who work side by side, each on an image of their own.
        clicker: "central" or "noisy".
        clicks: On one object at most.
        target: IoU at which a mask is accepted.
        give_up: One of `GIVE_UP`.
        sloppy: Share of the objects whose painted masks have a wrong border.
        think_s: Seconds before every click.
        seed: Of the choice of objects, the noisy clicks and the sloppy borders.
        project: Number of the first set's project; the other sets' follow.
        headers: Sent along with every request; their values are never told.
        local_files: The Strop at `url` reads the images itself, from a folder it was allowed.
        patience_s: How long a server that has gone is waited for.
        out: File of the results; None to keep none.
    """

    data: tuple[Path, ...]
    url: str = "http://localhost:9090"
    serving: Settings | None = None
    objects: int | None = None
    annotators: int = 1
    clicker: str = "central"
    clicks: int = 20
    target: float = 0.9
    give_up: str = "paint"
    sloppy: float = 0.0
    think_s: float = 0.0
    seed: int = 0
    project: int = 900_001
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    local_files: bool = False
    patience_s: float = 60.0
    out: Path | None = None

    def check(self) -> None:
        """Raise SettingsError with everything that makes no sense."""
        mistakes = []
        if not self.data:
            mistakes.append("--data names a folder with data sets; none was given.")
        if not 0 < self.target <= 1:
            mistakes.append(f"--target-iou is an IoU above 0 and at most 1, got {self.target}.")
        if not 0 <= self.sloppy <= 1:
            mistakes.append(f"--sloppy is a share between 0 and 1, got {self.sloppy}.")
        if self.think_s < 0 or self.patience_s < 0:
            mistakes.append("--think and --patience are seconds, 0 or more.")
        if self.out is not None and self.out.suffix == ".jsonl":
            mistakes.append("--out is the .json file; a .jsonl file beside it holds the objects.")
        if mistakes:
            raise SettingsError("\n".join(mistakes))

    @property
    def rules(self) -> Rules:
        """How the annotators click."""
        return Rules(
            clicker=self.clicker, max_clicks=self.clicks, target=self.target, seed=self.seed
        )

    @property
    def n_offered(self) -> int | None:
        """Masks offered at a first click; None where another server decides."""
        return None if self.serving is None else self.serving.answers.alternatives

    def told(self) -> dict[str, Any]:
        """Command-line options that differ from their defaults and may be told."""
        names = {"think_s": "think", "target": "target-iou"}
        kept_back = {"data", "url", "serving", "headers", "patience_s", "out"}
        plain = Options(data=self.data)
        told: dict[str, Any] = {}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if item.name not in kept_back and value != getattr(plain, item.name):
                told[names.get(item.name, item.name).replace("_", "-")] = value
        return told
