"""What a session's scores are worth at first clicks: the decoder frozen, nothing else learned.

Every object is clicked once, in its middle, by the evaluation's annotator.  Its three candidates
and their IoU with the true mask are noted; then the objects are played through in seeded orders,
and the candidate that is shown is compared with the one that the session's scores show: always, and
where they have won by the rules of trust (`adaptation.learning.adapter_scale`).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adaptation.learning.adapter import Adapter
from adaptation.learning.adapter_scale import ScaleSelector, TrustSettings
from adaptation.learning.examples import StoredPrompt, examples_of
from adaptation.learning.scale_evidence import SHARES, LoneClick
from adaptation.learning.trial import Examiner
from adaptation.models.catalog import load_model
from adaptation.models.sam import PromptableSam
from adaptation.predictor.interactive import InteractivePredictor
from adaptation.predictor.settings import ZoomSettings
from adaptation.simulation.annotator import Annotator, Rules
from adaptation.storage import files
from adaptation.storage.datasets import FolderSet, ObjectRef, open_sets
from adaptation.storage.provenance import provenance, rounded
from training.evaluation.streams import choose_objects, digest_of_objects
from training.runtime.embedding_cache import CachedEncoder, EncodingStore

RESULT = Path(__file__).parent / "results" / "first_clicks.json"
N_ORDERS = 20
CACHE_BYTES = 4_000_000_000
TRIED = {"trust": TrustSettings(), "without errors": TrustSettings(n_errors=0.0)}


def lone_click(
    sam: PromptableSam, data: FolderSet, encoder: CachedEncoder, ref: ObjectRef
) -> LoneClick:
    """What the frozen decoder offers for a click in the middle of an object."""
    image, truth = data.image(ref.stem), data.labels(ref.stem) == ref.label
    encode = encoder.of(image)
    annotator = Annotator(truth, Rules(), name=f"{ref.stem}/{ref.label}")
    annotator.begin()
    size = (truth.shape[0], truth.shape[1])
    answer = InteractivePredictor(sam, ZoomSettings()).answer(encode, size, annotator.clicks)
    asked = StoredPrompt.of(answer)
    examples = examples_of([asked], truth, encode, sam, share=0.0, most=1)
    return Examiner(sam).try_all(Adapter(decoder_id=sam.decoder_id), examples).offered[0]


def played(clicks: Sequence[LoneClick], trust: TrustSettings) -> tuple[float, float, float]:
    """Mean IoU of a stream: as the decoder scores, always by the session's scores, by trust."""
    selector, found = ScaleSelector(trust, Adapter()), []
    for click in clicks:
        adapter = selector.applied(Adapter())
        change = adapter.score_change(0.0)
        plain = float(click.ious[int(np.argmax(click.scores))])
        scores = click.scores if change is None else change.applied(click.scores)
        scored = float(click.ious[int(np.argmax(scores))])
        found.append((plain, scored, scored if adapter.part(1)[1] else plain))
        if change is not None:
            selector.observe([1], np.array([[plain]] + [[scored]] * len(SHARES)))
        selector.observe_lone_click([click] * len(SHARES))
    plain, scored, trusted = np.mean(found, axis=0)
    return float(plain), float(scored), float(trusted)


def measured(clicks: Sequence[LoneClick], seed: int) -> dict[str, Any]:
    """Means over the orders, in percent of IoU."""
    rng = np.random.default_rng(seed)
    orders = [[clicks[i] for i in rng.permutation(len(clicks))] for _ in range(N_ORDERS)]
    found: dict[str, Any] = {"best": 100 * float(np.mean([c.ious.max() for c in clicks]))}
    for name, trust in TRIED.items():
        rows = 100 * np.array([played(order, trust) for order in orders])
        found["shown"], found["scored"] = float(rows[:, 0].mean()), float(rows[:, 1].mean())
        gains = rows[:, 2] - rows[:, 0]
        found[name] = {"gain": float(gains.mean()), "range": [gains.min(), gains.max()]}
    return found


def measure(
    sam: PromptableSam, data: FolderSet, n_objects: int, seed: int, cache: Path | None
) -> dict[str, Any]:
    """One set."""
    refs = choose_objects(data, n_objects, seed)
    store = None if cache is None else EncodingStore(cache, CACHE_BYTES)
    encoder = CachedEncoder(sam, store)
    clicks = [lone_click(sam, data, encoder, ref) for ref in refs]
    return {"n_objects": len(refs), "digest": digest_of_objects(refs), **measured(clicks, seed)}


def main() -> None:
    """Measure, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="Folder of data sets.")
    parser.add_argument("--sets", required=True, help="Their names, with commas.")
    parser.add_argument("--objects", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cache", type=Path, help="Folder of cached embeddings.")
    given = parser.parse_args()
    torch.set_num_threads(1)
    sam = load_model("compact", Path("models"))
    sets = {}
    for data in open_sets(given.data, given.sets.split(",")):
        sets[data.name] = found = measure(sam, data, given.objects, given.seed, given.cache)
        gains = ", ".join(f"by {name} {found[name]['gain']:+.1f}" for name in TRIED)
        print(
            f"{data.name}: shown {found['shown']:.1f}, best {found['best']:.1f}, always by scores "
            f"{found['scored'] - found['shown']:+.1f}, {gains}",
            flush=True,
        )
    command = (
        f"python -m benchmarks.first_clicks --data FOLDER --sets {given.sets} "
        f"--objects {given.objects} --seed {given.seed}"
    )
    report = {
        **provenance(command),
        "model": {"model_id": sam.model_id, "decoder_id": sam.decoder_id},
        "orders": N_ORDERS,
        "sets": sets,
    }
    files.write_json(RESULT, rounded(report))


if __name__ == "__main__":
    main()
