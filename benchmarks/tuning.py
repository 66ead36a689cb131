"""What an epoch of `strop-train sft` costs with everything cached, beside loops that encode.

    python -m benchmarks.tuning --data FOLDER/mtd

An image visit is one turn of one object: its view's embedding, its prompt, a decode, the gradient.
All loops train on the same visits in the same order and end with the same losses, or the benchmark
fails.  The naive loop keeps nothing: each visit reads the image, answers the object's clicks again
to get the prompt, encoding a view for each, and trains on one object at a time.  "Encode anew"
keeps the prompts, and encodes the one view that is trained on.  Seconds are CPU seconds of one
thread, so that what else runs on the machine does not count.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch

from adaptation.errors import StropError
from adaptation.models.sam import PromptableSam
from adaptation.storage.provenance import command_line, provenance
from training.finetune.prompt_cache import PromptCache
from training.finetune.sft import SftConfig, SftRecipe
from training.finetune.trainer import Trainer, open_model, open_replayer
from training.runtime.distributed import Rank
from training.runtime.embedding_cache import CachedEncoder, EncodingStore

RESULTS = Path(__file__).parent / "results"


class ForgetfulReplayer(PromptCache):
    """Keeps no replay: every one is made again."""

    def forget(self) -> None:
        """Drop what was kept."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._latest = None


def forgetful(sam: PromptableSam, config: SftConfig, folder: Path) -> ForgetfulReplayer:
    """A replayer that encodes every view whenever it is asked for one."""
    return ForgetfulReplayer(
        sam, CachedEncoder(sam, n_in_memory=0), folder / "replays", config.zoom
    )


def epoch(tuning: Trainer, before_step: Callable[[], None]) -> tuple[list[float], float]:
    """One epoch's losses, and the CPU seconds that it took."""
    losses: list[float] = []
    started = time.process_time()
    for _ in range(tuning.n_steps):
        before_step()
        losses.append(tuning.step().means()["loss"])
    return losses, time.process_time() - started


def seconds_per_view(sam: PromptableSam, config: SftConfig, recipe: SftRecipe) -> dict[str, float]:
    """CPU seconds for an embedding from the encoder and from the cache."""
    items = recipe.items[:20]
    store = EncodingStore(config.cache, int(config.cache_gb * 1e9))
    seconds = {}
    for name, encoder in {
        "encoder": CachedEncoder(sam, n_in_memory=0),
        "cache": CachedEncoder(sam, store, n_in_memory=0),
    }.items():
        replayer = PromptCache(sam, encoder, config.cache / "replays", config.zoom)
        asked = [(recipe.replay(item), item) for item in items]
        started = time.process_time()
        for replay, item in asked:
            replayer.encode(replay, item.read, item.name)(replay.asked[0].view)
        seconds[name] = (time.process_time() - started) / len(items)
    return seconds


@click.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="One data set.")
@click.option("--objects", default=40, help="Objects of the sample.")
@click.option("--batch", default=8, help="Objects of a step.")
@click.option("--micro-batch", default=4, help="Objects that are decoded together.")
@click.option("--simulated-share", default=0.5, help="As in configs/sft.yaml.")
@click.option("--windows", is_flag=True, help="As in configs/sft.yaml.")
def main(
    data: Path,
    objects: int,
    batch: int,
    micro_batch: int,
    simulated_share: float,
    windows: bool,
) -> None:
    """Print the table; write benchmarks/results/tuning.json."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = SftConfig(
            data=data.resolve().parent,
            sets=(data.resolve().name,),
            objects=objects,
            epochs=1.0,
            batch=batch,
            micro_batch=micro_batch,
            simulated_share=simulated_share,
            windows=windows,
            cache=folder / "cache",
        )
        sam = open_model(config, Rank())
        recipe = SftRecipe(config, open_replayer(config, sam), Rank())  # fills the caches
        rates = visits_per_second(config, sam, recipe, folder)
        views = seconds_per_view(sam, config, recipe)
    options = {"data": data, "objects": objects, "batch": batch, "micro-batch": micro_batch}
    options |= {"simulated-share": simulated_share, "windows": windows}
    report(command_line("python -m benchmarks.tuning", options), sam, rates, views)


def visits_per_second(
    config: SftConfig, sam: PromptableSam, recipe: SftRecipe, folder: Path
) -> dict[str, float]:
    """Image visits of an epoch per CPU second, by the name of the loop.

    Raises:
        StropError: The loops end with different losses.
    """
    anew = PromptCache(
        sam, CachedEncoder(sam, n_in_memory=0), config.cache / "replays", config.zoom
    )
    naive = forgetful(sam, config, folder)
    one_by_one = dataclasses.replace(config, micro_batch=1)
    loops = {
        "naive": (naive, one_by_one, naive.forget),
        "encode anew": (anew, one_by_one, lambda: None),
        "sft": (open_replayer(config, sam), config, lambda: None),
    }
    rates: dict[str, float] = {}
    seen: list[list[float]] = []
    for title, (replayer, settings, before_step) in loops.items():
        run = dataclasses.replace(settings, run=folder / title)
        loop = Trainer(run, sam, recipe.with_replayer(replayer), Rank(), "")
        losses, seconds = epoch(loop, before_step)
        seen.append(losses)
        rates[title] = loop.n_steps * config.batch / seconds
        print(f"{title}: {rates[title]:.2f} image visits per CPU second", flush=True)
    if any(not _alike(losses, seen[0]) for losses in seen):
        raise StropError(f"The loops do not agree; a cache changes losses: {seen}")
    return rates


def report(
    command: str, sam: PromptableSam, rates: dict[str, float], views: dict[str, float]
) -> None:
    """Print the ratios and write the result file."""
    ratios = {title: rates["sft"] / rate for title, rate in rates.items()}
    for title, ratio in ratios.items():
        print(f"sft / {title}: {ratio:.2f}")
    print(
        f"a view: {1000 * views['encoder']:.1f} ms encoded, {1000 * views['cache']:.1f} ms cached"
    )
    content = {
        **provenance(command),
        "model": sam.model_id,
        "visits_per_cpu_second": rates,
        "sft_over": ratios,
        "seconds_per_view": views,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "tuning.json").write_text(json.dumps(content, indent=2) + "\n")


def _alike(losses: list[float], others: list[float]) -> bool:
    pairs = zip(losses, others, strict=True)
    return all(abs(a - b) <= 0.02 * abs(b) for a, b in pairs)


if __name__ == "__main__":
    try:
        main(standalone_mode=False)
    except (StropError, click.ClickException) as error:
        raise SystemExit(f"benchmarks.tuning: {error}") from None
