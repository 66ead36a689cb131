"""From the day's work to a better decoder: preferences, SFT, DPO, scores, gate, promotion.

A night has a dated folder.  Every step leaves a small file there that says what it depended on and
what came of it; run again, a night goes on with the first step that is not done, or whose settings
changed.  What was not done is said in the report, with the reason: too few new objects, no pairs to
learn from, a candidate that did not pass.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from adaptation.errors import StropError
from adaptation.models.base_decoder import Registry, read_card
from adaptation.storage.album import Album
from adaptation.storage.digests import file_sha256
from adaptation.storage.locks import only_one
from training.finetune.calibration import CalibrationConfig
from training.finetune.calibration import run as run_calibration
from training.finetune.config import SourceConfig
from training.finetune.dpo import DpoConfig
from training.finetune.dpo import run as run_dpo
from training.finetune.report import DECODER
from training.finetune.report import REPORT as TUNING_REPORT
from training.finetune.report import summary as tuning_summary
from training.finetune.sft import SftConfig
from training.finetune.sft import run as run_sft
from training.nightly.config import NightlyConfig
from training.nightly.state import (
    PREFERENCES,
    NightlyState,
    Outcome,
    count_new,
    digest_of,
    night_folder,
)
from training.preferences.build import make_preferences
from training.preferences.files import EXAMPLES, read_examples, read_pairs, read_rankings
from training.preferences.settings import PreferencesConfig
from training.promotion.config import GateConfig
from training.promotion.gate import Progress
from training.promotion.held_out import write_held_out
from training.promotion.promote import promote
from training.promotion.report import render_gate
from training.runtime.config import ConfigT, as_dict, load_config

TuningT = TypeVar("TuningT", bound=SourceConfig)


def run(config: NightlyConfig, command: str, progress: Progress) -> Outcome:
    """Do what is left of this night, or begin one.

    Args:
        config: What a night does.
        command: As it was asked for, for the reports.
        progress: Follows the gate, see `Gate.run`.

    Returns:
        The report, as it lies in the night's folder.

    Raises:
        StropError: Something failed; the report says what, and the same command goes on.
    """
    with only_one(config.work / "lock", f"The work folder {config.work.name}", "a night"):
        night = NightlyState(night_folder(config.work, date.today()))
        try:
            _Steps(night, config, command, progress).do()
        except StropError as error:
            night.report(command, str(error))
            raise
        return night.report(command)


class _Steps:
    """What a night consists of."""

    def __init__(
        self, night: NightlyState, config: NightlyConfig, command: str, progress: Progress
    ) -> None:
        self._night, self._config = night, config
        self._command, self._progress = command, progress
        self._folder = night.folder / PREFERENCES

    def do(self) -> None:
        """All of it, in order."""
        self._make_preferences()
        n_new = count_new(self._night.folder, self._config.work)
        if n_new < self._config.min_new_objects:
            self._leave_out_all(n_new)
            return
        self._night.has_trained = True
        held_out = self._write_held_out()
        tuned = {"sft": self._tune_with_masks()}
        with_preferences = self._tune_with_preferences(tuned["sft"])
        if with_preferences is not None:
            tuned["dpo"] = with_preferences
        candidates = {
            name: self._calibrate(name, tuned[name])
            for name in self._config.candidates
            if name in tuned
        }
        self._promote_first(candidates, held_out)

    def _leave_out_all(self, n_new: int) -> None:
        why = (
            f"{n_new} objects are new since the last night that trained, at least "
            f"{self._config.min_new_objects} are asked for (min_new_objects)"
        )
        for name in ("held-out", "sft", "dpo", "gate"):
            self._night.leave_out(name, why)

    def _make_preferences(self) -> None:
        config, folder = self._config, self._folder
        given = {"journal": config.journal, "album": config.album, "out": folder, "replace": True}
        asked = _load(PreferencesConfig, config.preferences, given)

        def work() -> Outcome:
            make_preferences(asked)
            n_train, n_val = (len(read_examples(folder, split)) for split in ("train", "val"))
            n_pairs = len(read_pairs(folder))
            says = f"{n_train} objects to train on and {n_val} held out, {n_pairs} pairs"
            return {"says": says}

        # The journal's address may hold a password.
        without_journal = {k: v for k, v in as_dict(asked).items() if k != "journal"}
        self._night.step(PREFERENCES, without_journal, work)

    def _write_held_out(self) -> Path | None:
        folder = self._night.folder / "held-out"

        def work() -> Outcome:
            counts = write_held_out(self._folder, Album(self._config.album), folder)
            left_out = f", {counts['left_out']} without an image" * bool(counts["left_out"])
            says = f"{counts['objects']} objects in {counts['images']} images{left_out}"
            return {"says": says, "n_objects": counts["objects"]}

        outcome = self._night.step("held-out", self._examples(), work)
        return folder if outcome["n_objects"] else None

    def _tune_with_masks(self) -> Path:
        base = self._start()
        asked = _load(SftConfig, self._config.sft, self._tuning(base))
        return self._tune("sft", asked, base, run_sft)

    def _tune_with_preferences(self, base: Path) -> Path | None:
        if "dpo" not in self._config.candidates:
            self._night.leave_out("dpo", "dpo is not among the candidates")
            return None
        if not read_pairs(self._folder, "train") and not read_rankings(self._folder, "train"):
            self._night.leave_out("dpo", "nobody preferred one mask to another yet")
            return None
        asked = _load(DpoConfig, self._config.dpo, self._tuning(base))
        return self._tune("dpo", asked, base, run_dpo)

    def _calibrate(self, name: str, base: Path) -> Path:
        """The same decoder with better scores, if that is wanted."""
        if not self._config.calibrated:
            return base
        asked = _load(CalibrationConfig, self._config.calibrate, self._tuning(base))
        return self._tune(f"calibrate-{name}", asked, base, run_calibration)

    def _tune(
        self, name: str, asked: TuningT, base: Path | None, recipe: Callable[[TuningT], None]
    ) -> Path:
        """Run a recipe, in a folder of its own for each way to ask for it."""
        depends_on = {**as_dict(asked), **self._examples(), "start": _decoder_of(base)}
        folder = self._night.folder / f"{name}-{digest_of(depends_on)[:8]}"

        def work() -> Outcome:
            recipe(dataclasses.replace(asked, run=folder))
            report = json.loads((folder / TUNING_REPORT).read_text(encoding="utf-8"))
            decoder_id = _decoder_of(folder / DECODER)
            return {"says": f"decoder {decoder_id}\n{tuning_summary(report)}"}

        self._night.step(name, depends_on, work)
        return folder / DECODER

    def _promote_first(self, candidates: Mapping[str, Path], held_out: Path | None) -> None:
        """Bring the first candidate into use that passes the gate."""
        sets = [*([str(held_out)] if self._config.use_held_out and held_out else [])]
        sets += self._config.gate_sets
        if not sets:
            self._night.leave_out("gate", "nothing is held out yet, and gate_sets names no folder")
            return
        given = {
            **self._model(),
            "gate_sets": sets,
            "guard_sets": list(self._config.guard_sets),
            "registry": self._config.registry,
        }
        asked = _load(GateConfig, self._config.gate, given)
        for name, candidate in candidates.items():
            depends_on = {**as_dict(asked), "candidate": _decoder_of(candidate)}
            work = partial(self._gated, asked, candidate)
            outcome = self._night.step(f"gate-{name}", depends_on, work)
            if outcome["promoted"] is not None:
                self._night.promoted = outcome["promoted"]
                return

    def _gated(self, asked: GateConfig, candidate: Path) -> Outcome:
        done = promote(asked, candidate, command=self._command, progress=self._progress)
        if not done.is_new:
            return {"says": f"in use already, as {done.name}", "promoted": done.name}
        return {"says": f"as follows\n{render_gate(done.report)}", "promoted": done.name}

    # What the steps are given

    def _tuning(self, base: Path | None) -> dict[str, Any]:
        return {
            **self._model(),
            "preferences": [str(self._folder)],
            "album": self._config.album,
            "base": base,
        }

    def _model(self) -> dict[str, Any]:
        config = self._config
        return {
            "model": config.model,
            "checkpoint": config.checkpoint,
            "models_dir": config.models_dir,
        }

    def _start(self) -> Path | None:
        """The base that tuning starts from; None for the model's own decoder."""
        registry = Registry(self._config.registry)
        name = registry.current() if self._config.start == "current" else None
        return None if name is None else registry.path(name)

    def _examples(self) -> dict[str, Any]:
        return {"examples": file_sha256(self._folder / EXAMPLES)}


def _decoder_of(base: Path | None) -> str:
    return "" if base is None else read_card(base).decoder_id


def _load(schema: type[ConfigT], path: Path | None, given: Mapping[str, Any]) -> ConfigT:
    """A step's own config file, with what the night decides."""
    plain = {k: str(v) if isinstance(v, Path) else v for k, v in given.items()}
    return load_config(schema, path, [f"{k}={json.dumps(v)}" for k, v in plain.items()])
