"""What tuning is worth: SFT, preferences after it and without it, calibration, and controls.

    python -m benchmarks.preferences --data FOLDER --sets mtd,cvc_clinicdb,potholes \
        --preferences FOLDER --album FOLDER --out FOLDER

Every decoder is made by the command that a user would call, in a folder of its own below `--out`,
and measured on the same held-out objects.  What is there already is not made again, so the command
goes on where it was stopped.  `--data` must hold no image that the preferences are about.

The control of everything that goes on from SFT is as many steps of more SFT.  For the question
what preferences are worth where nobody painted a mask, the journal is cut in two by image: masks
are known for a third, of the rest only which of the decoder's candidates was the best.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import cv2
import torch
from tqdm import tqdm

from adaptation.errors import StropError
from adaptation.models.base_decoder import load_base
from adaptation.models.catalog import load_model
from adaptation.storage.digests import file_sha256
from adaptation.storage.provenance import command_line, provenance
from benchmarks.preferences_measure import MeasurePlan, Row, compare, measure, summary
from training.preferences.files import (
    EXAMPLES,
    PAIRS,
    SCHEMAS,
    TableWriter,
    read_examples,
    read_pairs,
)
from training.preferences.rows import PreferencePair, split_of

RESULTS = Path(__file__).parent / "results"
DECODER, MEASURES = "decoder.safetensors", "measures.json"
SFT = "steps=120 batch=8 lr=5e-5 eval_every=60 log_every=10"
SECOND = "steps=50 batch=8 lr=5e-5 eval_every=50 log_every=10"
DPO = "objects=120 most_per_object=4"
PAINTED_SHARE, UNPAINTED_CLICKS = 1 / 3, 3
"""Share of the images whose masks are known, and clicks on the others at most."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One decoder.

    Args:
        stage: Command that makes it; "" for the model as it came.
        base: Variant that it starts from, and is compared with.
        control: Another one that it is compared with.
        settings: KEY=VALUE of the command.
        untuned: Starts from the model as it came, which has to be allowed.
        source: Which part of the preferences: all, painted or unpainted.
    """

    stage: str
    base: str = ""
    control: str = ""
    settings: tuple[str, ...] = ()
    untuned: bool = False
    source: str = "all"


def _dpo(loss_type: str, *more: str) -> tuple[str, ...]:
    return (f"loss_type={loss_type}", *more)


_LONE_CLICKS = ("most_clicks=1", "objects=200", "ranking_weight=1")
_UNCALIBRATED = ("ranking_weight=0", "error_weight=0")

VARIANTS: Mapping[str, Variant] = {
    "base": Variant(stage=""),
    "sft": Variant(stage="sft", base="base"),
    "sft, windows": Variant(stage="sft", base="base", control="sft", settings=("windows=true",)),
    "sft+sft": Variant(stage="sft", base="sft", settings=("objects=120",)),
    "sft+dpo": Variant(stage="dpo", base="sft", control="sft+sft", settings=_dpo("dpo")),
    "sft+dpo, lone clicks": Variant(
        stage="dpo", base="sft", control="sft+sft", settings=_dpo("dpo", *_LONE_CLICKS)
    ),
    "sft+bce": Variant(stage="dpo", base="sft", control="sft+sft", settings=_dpo("bce")),
    "bce": Variant(stage="dpo", base="base", settings=_dpo("bce"), untuned=True),
    "sft+plackett-luce": Variant(
        stage="dpo", base="sft", control="sft+sft", settings=_dpo("plackett-luce")
    ),
    "sft, calibrated": Variant(stage="calibrate", base="sft"),
    "sft+dpo, calibrated": Variant(stage="calibrate", base="sft+dpo", control="sft, calibrated"),
    "sft+ipo, calibrated": Variant(stage="calibrate", base="sft+ipo", control="sft, calibrated"),
    "third: sft": Variant(stage="sft", base="base", source="painted"),
    "third: sft+choices": Variant(
        stage="dpo",
        base="third: sft",
        control="third: sft+sft",
        settings=_dpo("dpo"),
        source="unpainted",
    ),
    "third: sft+sft": Variant(stage="sft", base="third: sft", source="painted"),
    "sft+dpo, uncalibrated": Variant(
        stage="dpo", base="sft", control="sft+sft", settings=_dpo("dpo", *_UNCALIBRATED)
    ),
    "dpo": Variant(stage="dpo", base="base", settings=_dpo("dpo"), untuned=True),
    "sft+ipo": Variant(stage="dpo", base="sft", control="sft+sft", settings=_dpo("ipo")),
}


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where things are, and how long the stages are.

    Args:
        plan: What is measured.
        preferences: Folder of `strop-train preferences`.
        album: Images that it is about.
        out: Folder of the decoders.
        sft: KEY=VALUE of the first stage.
        second: KEY=VALUE of every second stage; the same steps and batch for all.
        dpo: More KEY=VALUE of preference training.
    """

    plan: MeasurePlan
    preferences: Path
    album: Path
    out: Path
    sft: tuple[str, ...]
    second: tuple[str, ...]
    dpo: tuple[str, ...]

    def folder(self, name: str) -> Path:
        """Of a variant."""
        return self.out / "".join(c if c.isalnum() else "-" for c in name)

    def make(self, name: str) -> None:
        """Train a variant, or go on with it.

        Raises:
            StropError: The command failed.
        """
        variant, folder = VARIANTS[name], self.folder(name)
        if not variant.stage or (folder / "report.json").is_file():
            return
        command = [sys.executable, "-m", "training.cli", *self.arguments(name), "--out", folder]
        print(f"{name}: {command_line('strop-train', {})} {' '.join(self.told(name))}", flush=True)
        if subprocess.run([str(word) for word in command], check=False).returncode:
            raise StropError(f"{name}: training failed, see above")

    def arguments(self, name: str) -> list[Any]:
        """Of the command that makes a variant, but for its folder."""
        variant = VARIANTS[name]
        is_first = variant.base == "base" and variant.stage == "sft"
        length = () if variant.stage == "calibrate" else self.sft if is_first else self.second
        stage = ["--config", Path("configs") / f"{variant.stage}.yaml", "--album", self.album]
        if variant.base and variant.base != "base":
            stage += ["--base", self.folder(variant.base) / DECODER]
        settings = [*length, *(self.dpo if variant.stage == "dpo" else ())]
        settings += variant.settings
        settings.append(f"preferences=[{self.source(variant.source)}]")
        return [variant.stage, *stage, *(["--allow-untuned"] if variant.untuned else []), *settings]

    def told(self, name: str) -> list[str]:
        """The same with paths by their last part only."""
        words = [word.name if isinstance(word, Path) else word for word in self.arguments(name)]
        return [f"preferences=[{_last(w)}]" if w.startswith("preferences=") else w for w in words]

    def source(self, name: str) -> Path:
        """A folder of preferences: all, or a part."""
        if name == "all":
            return self.preferences
        folder = self.out / name
        if not folder.is_dir():
            draft = self.out / f"{name}.draft"
            draft.mkdir(parents=True, exist_ok=True)
            write_part(self.preferences, draft, painted=name == "painted")
            draft.rename(folder)
        return folder

    def measured(self, name: str) -> list[Row]:
        """A variant's rows, made or read."""
        path = self.folder(name) / MEASURES
        base = self.folder(name) / DECODER
        about = {**dataclasses.asdict(self.plan), "cache": "", "data": self.plan.data.name}
        about["decoder"] = file_sha256(base) if base.is_file() else "embedded"
        if path.is_file():
            kept = json.loads(path.read_text())
            if kept["about"] == json.loads(json.dumps(about)):
                return list(kept["rows"])
        sam = load_model("compact", Path("models"), device="cpu")
        sam = load_base(base, sam) if base.is_file() else sam
        bar = tqdm(measure(self.plan, sam), desc=name, unit="object", mininterval=20)
        rows = json.loads(json.dumps(list(bar)))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"about": about, "rows": rows}))
        return list(rows)


def _last(setting: str) -> str:
    return Path(setting.removeprefix("preferences=[").removesuffix("]")).name


def write_part(source: Path, folder: Path, *, painted: bool) -> None:
    """A part of a preferences folder, by image.

    Args:
        source: The whole.
        folder: Where the tables are written.
        painted: The images whose masks are known, with all that belongs to them; else the others,
            with nothing but which candidate is better, after the first few clicks.
    """
    examples = [e for e in read_examples(source) if _is_painted(e.image_id)] if painted else []
    pairs = [pair for pair in read_pairs(source) if _is_painted(pair.image_id) == painted]
    with ExitStack() as stack:
        tables = {name: stack.enter_context(TableWriter(folder, name)) for name in SCHEMAS}
        for example in examples:
            tables[EXAMPLES].write(example)
        for pair in pairs if painted else _without_masks(pairs):
            tables[PAIRS].write(pair)


def _is_painted(image_id: str) -> bool:
    return split_of(image_id, 1, PAINTED_SHARE) == "val"


def _without_masks(rows: Iterable[PreferencePair]) -> list[PreferencePair]:
    pairs = [row for row in rows if row.source == "outcome" and len(row.clicks) <= UNPAINTED_CLICKS]
    return [
        dataclasses.replace(p, source="ranking", chosen_iou=None, rejected_iou=None) for p in pairs
    ]


# The table ---------------------------------------------------------------------------------------


def table(bench: Bench, rows: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    """Means of every variant that was measured, and paired gains."""
    most, seed = bench.plan.max_clicks, bench.plan.seed
    found: dict[str, Any] = {}
    for name, own in rows.items():
        variant = VARIANTS[name]
        others = [each for each in (variant.base, variant.control) if each in rows]
        found[name] = {
            "mean": summary(own, most),
            "against": {other: compare(own, rows[other], most, seed) for other in others},
            **({"command": " ".join(bench.told(name))} if variant.stage else {}),
        }
    return found


def render(found: Mapping[str, Any]) -> str:
    """The table as text."""
    names = ["IoU@1", "IoU@3", "IoU@5", "NoC@85", "NoC@90", "FR@90", "best scored highest"]
    names.append("calibration error")
    lines = [" " * 26 + "".join(f"{name[:12]:>13}" for name in names)]
    for name, each in found.items():
        values = "".join(f"{each['mean'][key]:>13.4f}" for key in names)
        lines.append(f"{name:<26}{values}")
        for other, gains in each["against"].items():
            cells = [
                f"{gains[k]['gain']:+.4f} [{gains[k]['low']:+.4f}, {gains[k]['high']:+.4f}]"
                for k in ("IoU@1", "IoU@3", "IoU@5", "best scored highest")
            ]
            lines.append(f"    against {other}: " + "  ".join(cells))
    return "\n".join(lines)


@click.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Held-out data sets.")
@click.option("--sets", required=True, help="Their names, with commas.")
@click.option("--preferences", type=click.Path(path_type=Path), required=True)
@click.option("--album", type=click.Path(path_type=Path), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="For the decoders.")
@click.option("--objects", default=34, help="Of each set.")
@click.option("--max-clicks", default=10, help="On one object.")
@click.option("--first-clicks", default=3, help="On one object, for the calibration.")
@click.option("--sft", default=SFT, help="Settings of the first stage.")
@click.option("--second", default=SECOND, help="Settings of every second stage.")
@click.option("--dpo", default=DPO, help="More settings of preference training.")
@click.option("--only", default="", help="Names of variants, with semicolons; empty: all.")
@click.option("--seed", default=0)
@click.option("--cache", type=click.Path(path_type=Path), default=Path("runs/embeddings"))
def main(data: Path, sets: str, only: str, **options: Any) -> None:
    """Make and measure all variants; write benchmarks/results/preferences.json after each."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    plan = MeasurePlan(
        data=data,
        sets=tuple(sets.split(",")),
        **{key: options[key] for key in ("objects", "max_clicks", "first_clicks", "seed", "cache")},
    )
    given: dict[str, Any] = {
        **{key: options[key] for key in ("preferences", "album", "out")},
        **{key: tuple(options[key].split()) for key in ("sft", "second", "dpo")},
    }
    bench = Bench(plan=plan, **given)
    told = {"data": data, "sets": sets, **{k.replace("_", "-"): v for k, v in options.items()}}
    command = command_line("python -m benchmarks.preferences", told)
    rows: dict[str, list[Row]] = {}
    for name in only.split(";") if only else VARIANTS:
        bench.make(name)
        rows[name] = bench.measured(name)
        found = table(bench, rows)
        write(bench, command, found, n_objects=len(rows[name]))
    print(render(found))


def write(bench: Bench, command: str, found: Mapping[str, Any], n_objects: int) -> None:
    """Write what is known so far."""
    tables = {name: file_sha256(bench.preferences / name) for name in SCHEMAS}
    content = {
        **provenance(command),
        "seed": bench.plan.seed,
        "objects": n_objects,
        "preferences_sha256": tables,
        "variants": found,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "preferences.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main(standalone_mode=False)
    except (StropError, click.ClickException) as error:
        raise SystemExit(f"benchmarks.preferences: {error}") from None
