"""Strop's model beside two classical tools, on the same objects, clicked by the same annotator.

    python -m benchmarks.classical --data FOLDER                  all that is not cached yet
    python -m benchmarks.classical --data FOLDER --tools model    the model's rows alone
    python -m benchmarks.classical --data FOLDER --tools served   of them, as people meet it

The annotator is the one of `strop-train evaluate`: the middle of the larger error, at most 20
clicks, stop at IoU 0.90; every tool is clicked according to its own errors.  Each object's result
is cached beside the table, so that the slow classical tools run once; a changed tool or model is
run anew.  Seconds per click are those of one processor core (CPU time, one thread), so that other
work on the machine changes them little; the model's hold its encoder, once for every view of an
object.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import click
import cv2
import torch
from tqdm import tqdm

from adaptation.errors import StropError
from adaptation.masks import iou
from adaptation.models.catalog import load_model
from adaptation.models.regions import LARGEST_WINDOW, MARGIN_CELLS
from adaptation.models.sam import PromptableSam
from adaptation.predictor.click_correction import ClickCorrection, CorrectionSettings
from adaptation.predictor.settings import EdgeSettings, ZoomSettings
from adaptation.simulation.annotator import Annotator, Rules
from adaptation.simulation.metrics import Metric, carried_forward
from adaptation.storage.datasets import FolderSet, ObjectRef, open_sets
from adaptation.storage.provenance import command_line, provenance
from benchmarks.classical_tools import GrabCut, RandomWalker, Tool
from training.evaluation.harness import Harness, Slot
from training.evaluation.statistics import bootstrap_interval
from training.evaluation.streams import choose_objects, digest_of_objects
from training.runtime.embedding_cache import CachedEncoder

RESULTS = Path(__file__).parent / "results"
SETS = ("bsds500/test", "mtd", "dsb2018")
RULES = Rules(max_clicks=20, target=0.90)
METRICS = (
    *(Metric("noc", 20, t) for t in (0.80, 0.85, 0.90)),
    *(Metric("fr", 20, t) for t in (0.80, 0.85, 0.90)),
    *(Metric("iou", n) for n in (1, 3, 5, 10, 20)),
)

Outcome = dict[str, list[float]]
"""One object's `ious` and `cpu_s`, a value for every click."""


class Player(Protocol):
    """Something that objects can be clicked with."""

    name: str

    def identity(self) -> dict[str, Any]:
        """What its results depend on."""
        ...

    def play(self, dataset: FolderSet, ref: ObjectRef) -> Outcome:
        """Click one object to its end."""
        ...


class ToolPlayer:
    """Objects clicked with a classical tool."""

    def __init__(self, tool: Tool) -> None:
        self.name = tool.name
        self._tool = tool
        self._settings = dict(vars(tool))

    def identity(self) -> dict[str, Any]:
        """The tool's settings."""
        return self._settings

    def play(self, dataset: FolderSet, ref: ObjectRef) -> Outcome:
        """Click until the target is reached or the clicks are used up."""
        image, truth = dataset.image(ref.stem), dataset.mask(ref)
        annotator = Annotator(truth, RULES, name=f"{ref.stem}/{ref.label}")
        outcome: Outcome = {"ious": [], "cpu_s": []}
        annotator.begin()
        self._tool.start(image)
        while True:
            started = time.process_time()
            mask = self._tool.segment(annotator.clicks)
            outcome["cpu_s"].append(time.process_time() - started)
            outcome["ious"].append(iou(mask, truth))
            if outcome["ious"][-1] >= RULES.target or not annotator.reply(mask):
                return outcome


class ModelPlayer:
    """Objects clicked with the frozen embedded model, and with what is put around its decoder.

    Args:
        sam: The model.
        zoom: Small objects are decoded on a crop around them.
        edges: Masks are drawn at the image's edges.
        correction: Clicks that a mask contradicts are corrected.
    """

    def __init__(
        self,
        sam: PromptableSam,
        zoom: bool = False,
        edges: bool = False,
        correction: CorrectionSettings | None = None,
    ) -> None:
        parts = ["zoom"] * zoom + ["edges"] * edges + ["clicks obeyed"] * bool(correction)
        self.name = ", ".join(["compact", *(parts or ["alone"])])
        self._sam = sam
        self._zoom = ZoomSettings(is_on=zoom)
        self._edges = EdgeSettings(is_on=edges)
        self._correction = correction
        self.is_as_served = zoom and edges and correction is not None

    def identity(self) -> dict[str, Any]:
        """The model's digests and the settings of all that is around it."""
        sam = self._sam
        return {
            "model_id": sam.model_id,
            "encoder_id": sam.encoder_id,
            "decoder_id": sam.decoder_id,
            "zoom": dataclasses.asdict(self._zoom),
            "edges": dataclasses.asdict(self._edges),
            "regions": {"margin": MARGIN_CELLS, "largest": LARGEST_WINDOW},
            **({"correction": dataclasses.asdict(self._correction)} if self._correction else {}),
        }

    def play(self, dataset: FolderSet, ref: ObjectRef) -> Outcome:
        """Click through the harness, nothing known from other objects."""
        clock = time.process_time
        encoder = CachedEncoder(self._sam, clock=clock)
        corrector = None
        if self._correction is not None:
            corrector = ClickCorrection(self._correction, self._sam.input_size)
        harness = Harness(
            self._sam,
            dataset,
            encoder,
            RULES,
            self._zoom,
            edges=self._edges,
            corrector=corrector,
            clock=clock,
        )
        slot = Slot(mode="frozen", order=0, session=0, position=0)
        result = harness.run_object(ref, slot, None)
        encode_s = result.encode_s / len(result.ious)
        return {"ious": list(result.ious), "cpu_s": [s + encode_s for s in result.click_s]}


class Cache:
    """Outcomes of one player on one set, a line each, behind a line that says whose they are."""

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self._path = path
        self._header = json.dumps(identity, sort_keys=True)
        lines = path.read_text().splitlines() if path.is_file() else []
        self._is_begun = bool(lines) and lines[0] == self._header
        kept = lines[1:] if self._is_begun else []
        self.outcomes: dict[str, Outcome] = dict(json.loads(line) for line in kept)

    def add(self, name: str, outcome: Outcome) -> None:
        """Keep an outcome."""
        rounded = {key: [round(v, 5) for v in values] for key, values in outcome.items()}
        self.outcomes[name] = rounded
        if not self._is_begun:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(self._header + "\n")
            self._is_begun = True
        with self._path.open("a") as file:
            file.write(json.dumps([name, rounded]) + "\n")


def outcomes_of(
    player: Player, dataset: FolderSet, refs: Sequence[ObjectRef], may_run: bool
) -> list[Outcome]:
    """Outcomes of the objects, cached or fresh; without `may_run` only those that are cached."""
    words = f"{dataset.name} {player.name}"
    for separator in ("/", ", ", " "):
        words = words.replace(separator, "-")
    identity = {"player": player.identity(), "rules": dataclasses.asdict(RULES)}
    cache = Cache(RESULTS / "classical" / f"{words}.jsonl", identity)
    named = {f"{ref.stem}/{ref.label}": ref for ref in refs}
    todo = [name for name in named if may_run and name not in cache.outcomes]
    for name in tqdm(todo, desc=words, unit="object", disable=not todo):
        cache.add(name, player.play(dataset, named[name]))
    return [cache.outcomes[name] for name in named if name in cache.outcomes]


def summarise(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Metrics with their bootstrap intervals, and CPU seconds per click."""
    ious = carried_forward([o["ious"] for o in outcomes], RULES.max_clicks)
    seconds = [s for o in outcomes for s in o["cpu_s"]]
    row: dict[str, Any] = {"cpu_s_per_click": sum(seconds) / len(seconds)}
    for metric in METRICS:
        values = metric.scale * metric.per_object(ious, ious)
        interval = bootstrap_interval(values, seed=0)
        row[metric.name] = {
            "mean": float(values.mean()),
            "interval": [interval.low, interval.high],
        }
    return row


def render(table: dict[str, dict[str, dict[str, Any]]]) -> str:
    """The table as Markdown."""
    names = [metric.name for metric in METRICS]
    lines = [
        "| set | tool | " + " | ".join(names) + " | CPU s per click |",
        "|---|---|" + "---|" * (len(names) + 1),
    ]
    for set_name, rows in table.items():
        for tool, row in rows.items():
            cells = [f"{row[name]['mean']:.1f}" for name in names]
            seconds = f"{row['cpu_s_per_click']:.3f}"
            lines.append(f"| {set_name} | {tool} | {' | '.join(cells)} | {seconds} |")
    return "\n".join(lines)


def make_players() -> list[Player]:
    """Everyone in the table."""
    sam = load_model("compact", Path("models"))
    return [
        ToolPlayer(RandomWalker()),
        ToolPlayer(GrabCut()),
        ModelPlayer(sam),
        ModelPlayer(sam, zoom=True),
        ModelPlayer(sam, zoom=True, edges=True),
        ModelPlayer(sam, zoom=True, edges=True, correction=CorrectionSettings()),
    ]


def is_asked_for(player: Player, tools: str) -> bool:
    """Whether a player shall run what it has not run yet; "served": the model as people meet it."""
    if tools == "served":
        return isinstance(player, ModelPlayer) and player.is_as_served
    kind = "model" if isinstance(player, ModelPlayer) else "classical"
    return tools in ("all", kind, player.name)


TOOLS = ("all", "classical", "model", "served", "random_walker", "grabcut")


@click.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, envvar="STROP_DATA",
              help="Folder that holds the data sets.")  # fmt: skip
@click.option("--tools", default="all", type=click.Choice(TOOLS), help="Who runs.")
@click.option("--sets", multiple=True, default=SETS, type=click.Choice(SETS), help="Which sets.")
@click.option("--objects", default=100, help="Objects of each set.")
@click.option("--seed", default=0, help="Of the sample.")
def main(data: Path, tools: str, sets: tuple[str, ...], objects: int, seed: int) -> None:
    """Print the table; with all sets, write benchmarks/results/classical.json."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    players = make_players()
    table: dict[str, dict[str, dict[str, Any]]] = {}
    digests = {}
    for dataset in open_sets(data, sets):
        refs = choose_objects(dataset, objects, seed)
        digests[dataset.name] = digest_of_objects(refs)
        rows = table.setdefault(dataset.name, {})
        for player in players:
            outcomes = outcomes_of(player, dataset, refs, is_asked_for(player, tools))
            if len(outcomes) == len(refs):
                rows[player.name] = {**summarise(outcomes), "identity": player.identity()}
            else:
                print(f"{dataset.name}, {player.name}: {len(outcomes)} of {len(refs)}, left out")
    command = command_line("python -m benchmarks.classical", {"data": data, "tools": tools})
    sample = {"objects": objects, "seed": seed, "digests": digests}
    content = {**provenance(command), "sample": sample, "table": table}
    print(render(table))
    if set(sets) == set(SETS):
        (RESULTS / "classical.json").write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    try:
        main(standalone_mode=False)
    except (StropError, click.ClickException) as error:
        raise SystemExit(f"benchmarks.classical: {error}") from None
