"""What came of each image, kept in a file as it comes.

``<out>.jsonl`` begins with a line that says what the simulation is, and grows by one line for each
image that was submitted.  A simulation that was killed goes on behind the last of them; the image
it was at is begun again, as after a browser that crashed: its clicks stay in the server's journal,
and belong to no submission.
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

from adaptation.errors import SettingsError, StoreError

Outcome = Literal["accepted", "painted", "kept", "left", "failed"]
"""How an object ended: its mask was good; was painted by hand; was kept although it was not good;
nothing was submitted for it; the server refused it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedObject:
    """How one object went.  Tuples have one entry for each click.

    Args:
        dataset: Its set.
        stem: Its image.
        label: Its number on the image.
        group: Its group in the set.
        area: Its pixels.
        clicks: (x, y, is_positive) in whole original pixels.
        ious: IoU with the truth of the mask shown; of several, the best one's.
        seconds: From the request to the whole answer.
        outcome: How it ended.
        region_id: Under which it was submitted; empty where it was not.
        choice: Which of the masks offered it came from, counted from 0.
        submitted_iou: IoU of what was submitted with the truth; 0 where nothing was.
        is_sloppy: Whether its painted border is wrong.
        mask_digest: First 16 hex digits of the SHA-256 of the submitted mask's run lengths.
        error: What the server said, where it failed.
    """

    dataset: str
    stem: str
    label: int
    group: str
    area: int
    clicks: tuple[tuple[int, int, bool], ...]
    ious: tuple[float, ...]
    seconds: tuple[float, ...]
    outcome: Outcome
    region_id: str = ""
    choice: int = 0
    submitted_iou: float = 0.0
    is_sloppy: bool = False
    mask_digest: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureResult:
    """How one image went.

    Args:
        key: The image.
        annotator: Who labelled it, from 1.
        annotation_id: Of what was submitted.
        model_version: Of the model that answered.
        objects: In the order of their drawing.
    """

    key: str
    annotator: int
    annotation_id: int
    model_version: str
    objects: tuple[SimulatedObject, ...]

    @property
    def has_failed(self) -> bool:
        """Whether it was not submitted."""
        return any(item.outcome == "failed" for item in self.objects)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a simulation is.

    Args:
        identity: Everything that its results depend on, as plain values.
        run: A number of its own, from which its annotations' numbers are made.
    """

    identity: Mapping[str, Any]
    run: int

    def annotation_id(self, index: int) -> int:
        """The number of the annotation of the image at an index of the plan.

        Annotations of two simulations have different ones, as those of two people have.
        """
        return self.run * 1_000_000 + index + 1


class Notebook:
    """The results of one simulation.  Not thread-safe.

    Args:
        path: The file; None to keep results in memory only.
        identity: What the simulation depends on.

    Raises:
        SettingsError: The file holds another simulation; the message names what differs.
        StoreError: It cannot be read or written.
    """

    def __init__(self, path: Path | None, identity: Mapping[str, Any]) -> None:
        self._path = path
        self.header = Header(
            identity=json.loads(json.dumps(identity)), run=secrets.randbelow(2**31)
        )
        self._results: dict[str, PictureResult] = {}
        self._file: TextIO | None = None
        if path is not None:
            self._open(path)

    @property
    def results(self) -> list[PictureResult]:
        """The newest result of each image."""
        return list(self._results.values())

    def is_done(self, key: str) -> bool:
        """Whether an image was submitted; one that failed is worth another attempt."""
        result = self._results.get(key)
        return result is not None and not result.has_failed

    def check_model(self, model_version: str) -> None:
        """Raise SettingsError where another model answered before."""
        others = {r.model_version for r in self.results} - {model_version, ""}
        if others:
            raise SettingsError(
                f"{self._path} holds answers of {', '.join(sorted(others))}, and the server now "
                f"answers with {model_version}: choose another --out."
            )

    def add(self, result: PictureResult) -> None:
        """Keep a result; it is on the disk when this returns."""
        self._results[result.key] = result
        self._write(dataclasses.asdict(result))

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _open(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            n_whole = self._read(path) if path.exists() else 0
            self._file = path.open("a", encoding="utf-8")
            self._file.truncate(n_whole)
        except OSError as error:
            raise StoreError(f"{path} cannot be written: {error.strerror}.") from error
        if n_whole == 0:
            self._write(dataclasses.asdict(self.header))

    def _read(self, path: Path) -> int:
        """Take up an earlier run; returns the bytes of its whole lines: a last one may be cut."""
        content = path.read_bytes()
        n_whole = content.rfind(b"\n") + 1
        lines = content[:n_whole].splitlines()
        if not lines:
            return 0
        try:
            header, *results = [json.loads(line) for line in lines]
            self._refuse_change(path, header["identity"])
            self.header = Header(**header)
            self._results = {line["key"]: _picture_result(line) for line in results}
        except (ValueError, TypeError, KeyError) as error:
            raise SettingsError(
                f"{path} is not the file of a simulation: choose another --out."
            ) from error
        return n_whole

    def _refuse_change(self, path: Path, known: Mapping[str, Any]) -> None:
        wanted = self.header.identity
        names = sorted(k for k in {*known, *wanted} if known.get(k, ...) != wanted.get(k, ...))
        if names:
            changes = [f"{name} was {known.get(name)!r}, is {wanted.get(name)!r}" for name in names]
            raise SettingsError(
                f"{path} holds another simulation ({'; '.join(changes)}): choose another --out, or "
                "give the same options to go on with it."
            )

    def _write(self, content: Mapping[str, Any]) -> None:
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(content) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise StoreError(f"{self._path} cannot be written: {error.strerror}.") from error


def _picture_result(line: Mapping[str, Any]) -> PictureResult:
    objects = tuple(
        SimulatedObject(
            **{
                **item,
                "clicks": tuple((x, y, is_positive) for x, y, is_positive in item["clicks"]),
                "ious": tuple(item["ious"]),
                "seconds": tuple(item["seconds"]),
            }
        )
        for item in line["objects"]
    )
    return PictureResult(**{**line, "objects": objects})


def all_objects(results: Sequence[PictureResult]) -> list[SimulatedObject]:
    """The objects of all images."""
    return [item for result in results for item in result.objects]
