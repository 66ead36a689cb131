"""How fast the evaluation is: objects per second, beside a plain loop.

    python -m benchmarks.evaluate --data FOLDER/mtd

The plain loop encodes every view of every object anew, in one process.  The others do what
`strop-train evaluate` does: an empty cache of embeddings, a filled one, and several processes on a
filled one.  All of them give the same IoUs, or the benchmark fails.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch

from adaptation.errors import StropError
from adaptation.storage.provenance import command_line, provenance
from training.evaluation.config import EvaluateConfig
from training.evaluation.evaluate import Evaluation, load_evaluated_model, open_dataset
from training.evaluation.harness import Harness, Slot
from training.runtime.embedding_cache import CachedEncoder

RESULTS = Path(__file__).parent / "results"
SLOT = Slot(mode="frozen", order=0, session=0, position=0)

Ious = dict[str, tuple[float, ...]]


def plain_loop(config: EvaluateConfig) -> Callable[[], Ious]:
    """One object after the other; nothing is kept, not even between two clicks."""
    sam, dataset = load_evaluated_model(config), open_dataset(config)
    refs = Evaluation(config, sam).refs

    def run() -> Ious:
        ious = {}
        for ref in refs:
            encoder = CachedEncoder(sam, None, n_in_memory=0)
            harness = Harness(sam, dataset, encoder, config.rules(), config.zoom)
            ious[f"{ref.stem}/{ref.label}"] = harness.run_object(ref, SLOT, None).ious
        return ious

    return run


def evaluation(config: EvaluateConfig) -> Callable[[], Ious]:
    """The evaluation itself, in a run folder of its own."""
    sam = load_evaluated_model(config)

    def run() -> Ious:
        made = Evaluation(config, sam)
        return {f"{r.ref.stem}/{r.ref.label}": r.ious for r in made.go_on(made.jobs([]))}

    return run


@click.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="One data set.")
@click.option("--objects", default=40, help="Objects of the sample.")
@click.option("--workers", default=2, help="Processes of the last row.")
def main(data: Path, objects: int, workers: int) -> None:
    """Print the table; write benchmarks/results/evaluate.json."""
    torch.set_num_threads(1)
    rates: dict[str, float] = {}
    seen: list[Ious] = []
    with tempfile.TemporaryDirectory() as folder:
        base = EvaluateConfig(
            data=data, objects=objects, max_clicks=20, cache=Path(folder) / "embeddings"
        )
        runs = {
            "plain loop": plain_loop,
            "evaluate, empty cache": evaluation,
            "evaluate, filled cache": evaluation,
            f"evaluate, filled cache, {workers} processes": evaluation,
        }
        for index, (name, make) in enumerate(runs.items()):
            n_workers = workers if index == len(runs) - 1 else 1
            config = dataclasses.replace(base, out=Path(folder) / str(index), workers=n_workers)
            run = make(config)
            started = time.perf_counter()
            seen.append(run())
            rates[name] = len(seen[-1]) / (time.perf_counter() - started)
            print(f"{name}: {rates[name]:.2f} objects per second", flush=True)
    if any(ious != seen[0] for ious in seen):
        raise StropError("The runs do not agree; a cache or a process changes results.")
    command = command_line("python -m benchmarks.evaluate", {"data": data, "objects": objects})
    content = {**provenance(command), "objects_per_second": rates}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "evaluate.json").write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    try:
        main(standalone_mode=False)
    except (StropError, click.ClickException) as error:
        raise SystemExit(f"benchmarks.evaluate: {error}") from None
