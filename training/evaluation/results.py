"""The folder of an evaluation run: what was asked, and every object's result as it comes.

`run.json` holds what the results depend on; a run goes on only where that has not changed.
`results.jsonl` grows by one line for each object, so that a run that was stopped loses little: a
frozen object is never done twice, an adapted stream is done again from its first object (what the
learner knew is not kept on disk).
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from adaptation.errors import SettingsError, StoreError
from adaptation.storage.datasets import ObjectRef
from adaptation.storage.files import write_json, write_text
from training.evaluation.harness import ObjectResult, Slot

logger = logging.getLogger(__name__)

RUN_FILE = "run.json"
RESULTS_FILE = "results.jsonl"


class RunFolder:
    """One run on disk.

    Args:
        path: The folder; made if it is not there.
        identity: Everything that the results depend on, as plain values.
        commit: Of the code; kept beside the identity, and a warning is logged where it changes.

    Raises:
        SettingsError: The folder holds a run of another identity; the message names the keys.
        StoreError: The folder cannot be written.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], commit: str) -> None:
        self.path = path
        content = json.loads(json.dumps({"identity": identity, "commit": commit}))
        try:
            path.mkdir(parents=True, exist_ok=True)
            known = self._read()
            if known is None:
                write_json(path / RUN_FILE, content)
        except OSError as error:
            raise StoreError(
                f"The run folder {path.name} cannot be written: {error.strerror}."
            ) from error
        if known is not None:
            _refuse_change(path.name, known["identity"], content["identity"])
            if known["commit"] != commit:
                logger.warning("%s was begun by the code of %s", path.name, known["commit"])

    def results(self) -> list[ObjectResult]:
        """Results so far; a last line that was cut off by a crash is left out."""
        path = self.path / RESULTS_FILE
        if not path.is_file():
            return []
        found = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                found.append(result_from_json(json.loads(line)))
            except (ValueError, KeyError, TypeError):
                logger.warning("a broken line in %s is left out", RESULTS_FILE)
        return found

    def keep(self, results: Iterable[ObjectResult]) -> None:
        """Write these results in place of what is there, whole or not at all."""
        lines = [json.dumps(result_to_json(result)) + "\n" for result in results]
        write_text(self.path / RESULTS_FILE, "".join(lines))

    def append(self, result: ObjectResult) -> None:
        """Add one result."""
        with (self.path / RESULTS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(result_to_json(result)) + "\n")

    def _read(self) -> dict[str, Any] | None:
        path = self.path / RUN_FILE
        if not path.is_file():
            if (self.path / RESULTS_FILE).exists():
                raise SettingsError(
                    f"The folder {self.path.name} holds results but no {RUN_FILE}; "
                    "choose another folder."
                )
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return {"identity": dict(content["identity"]), "commit": str(content["commit"])}
        except (ValueError, KeyError, TypeError) as error:
            raise SettingsError(
                f"{RUN_FILE} in {self.path.name} is damaged; choose another folder or remove it."
            ) from error


def _refuse_change(name: str, known: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    before, now = _flat(known), _flat(asked)
    changed = [
        f"  {key}: {before.get(key, 'not set')} before, {now.get(key, 'not set')} now"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise SettingsError(
            f"The run in {name} was started differently and cannot be resumed:\n"
            + "\n".join(changed)
            + "\nRun the old command to resume it, or choose another folder with --out."
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def result_to_json(result: ObjectResult) -> dict[str, Any]:
    """A result as plain values, seconds rounded to the microsecond."""
    content = dataclasses.asdict(result)
    content["click_s"] = [round(value, 6) for value in content["click_s"]]
    for key in ("encode_s", "learn_click_s", "learn_mask_s"):
        content[key] = round(content[key], 6)
    return content


def result_from_json(content: Mapping[str, Any]) -> ObjectResult:
    """The inverse of `result_to_json`."""
    values = dict(content)
    values["ref"] = ObjectRef(**values["ref"])
    values["slot"] = Slot(**values["slot"])
    values["clicks"] = tuple((int(x), int(y), bool(p)) for x, y, p in values["clicks"])
    for key in ("ious", "dices", "contradicted", "disobeyed", "click_s"):
        values[key] = tuple(values[key])
    return ObjectResult(**values)
