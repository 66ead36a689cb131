"""What every model of the catalog costs on this machine, beside the embedded one in the same run.

    python -m benchmarks.models [--models NAME ...]

Models whose weights are not in the models folder get random ones: their masks mean nothing, but
they take the same time.  Times are processor seconds of one thread.  One image of 768 x 1024 pixels
is encoded, a second click with the mask before it is decoded whole, and a learning step changes the
whole decoder on one object.  Before and after each model the embedded one does the same, so that
what else the machine does meanwhile falls on both: in brackets the ratio to it.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from adaptation.learning import losses
from adaptation.models.catalog import load_model
from adaptation.models.entries import CATALOG, where
from adaptation.models.hub.architectures import ARCHITECTURES, random_model
from adaptation.models.loaders import SAM_BUILDERS, build_mobile_sam
from adaptation.models.sam import PromptableSam
from adaptation.types import Click, Embedding, Prompt
from benchmarks.environment import environment, load

RESULTS = Path(__file__).parent / "results" / "models.json"
MODELS_DIR = Path(".strop/models")
LONG_S = 4.0
"""What takes longer than this is measured once."""

CLICKS = (Click(x=500.0, y=380.0, is_positive=True), Click(x=700.0, y=600.0, is_positive=False))


def open_any(name: str) -> tuple[PromptableSam, bool]:
    """A model of the catalog, and whether its weights are the published ones."""
    entry = CATALOG[name]
    if where(entry, MODELS_DIR).exists():
        return load_model(name, MODELS_DIR, download=False), True
    if name in ARCHITECTURES:
        return PromptableSam(random_model(name), name, encoder_id=name), False
    build = build_mobile_sam if name == "mobile_sam" else SAM_BUILDERS[name]
    return PromptableSam(build(), name, encoder_id=name), False


def picture() -> NDArray[np.uint8]:
    """A bright disk on a busy ground, [768, 1024, 3]."""
    rng = np.random.default_rng(0)
    ground = cv2.resize(rng.normal(110, 40, (24, 32, 3)).astype(np.float32), (1024, 768))
    cv2.circle(ground, (500, 380), 150, (200.0, 190.0, 60.0), -1)
    return np.clip(ground + rng.normal(0, 8, ground.shape), 0, 255).astype(np.uint8)


def seconds(call: Callable[[], object], repeats: int) -> float:
    """Median processor time of a call, after one that does not count; a long one is called once."""
    first = _thread_s(call)
    if first > LONG_S:
        return first
    return float(np.median([_thread_s(call) for _ in range(repeats)]))


def _thread_s(call: Callable[[], object]) -> float:
    began = time.thread_time()
    call()
    return time.thread_time() - began


def learning_step(sam: PromptableSam, embedding: Embedding, prompt: Prompt) -> Callable[[], None]:
    """One step of Adam on the whole decoder, for one object."""
    weights = {n: v.clone().requires_grad_() for n, v in sam.decoder_parameters().items()}
    optimiser = torch.optim.Adam(list(weights.values()), lr=1e-4)
    side = sam.low_res_size
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    target = ((rows - side // 2) ** 2 + (columns - side // 2) ** 2 < (side // 6) ** 2).float()

    def step() -> None:
        optimiser.zero_grad()
        found = sam.decode(embedding, [prompt], weights=weights).low_res_logits[:, 0]
        loss = losses.focal_loss(found, target).mean() + losses.dice_loss(found, target).mean()
        torch.autograd.backward(loss)
        optimiser.step()

    return step


def measure(sam: PromptableSam, repeats: int) -> dict[str, float]:
    """Seconds of one encode, one decode and one learning step."""
    image = picture()
    encode_s = seconds(lambda: sam.embed(image, image_id="picture"), repeats)
    embedding = sam.embed(image, image_id="picture")
    with torch.no_grad():
        shown = sam.decode(embedding, [Prompt(clicks=CLICKS[:1])]).shown_logits()
        prompt = Prompt(clicks=CLICKS, mask_input=shown[0].clamp(-32, 32))
        decode_s = seconds(lambda: sam.decode(embedding, [prompt]), repeats)
    step_s = seconds(learning_step(sam, embedding, prompt), repeats)
    return {"encode_s": encode_s, "decode_s": decode_s, "step_s": step_s}


def sizes(sam: PromptableSam) -> dict[str, float]:
    """Megabytes of an embedding as it is cached, and of what one session learns."""
    embedding = sam.embed(picture(), image_id="picture")
    n_bytes = 2 * embedding.features.nelement() + embedding.guide.nelement()
    learned = 2 * sum(value.nelement() for value in sam.decoder_parameters().values())
    return {"embedding_mb": n_bytes / 1e6, "session_mb": learned / 1e6}


def row_of(name: str, embedded: PromptableSam, repeats: int) -> dict[str, Any]:
    """One row of the table."""
    before = measure(embedded, repeats)
    sam, has_weights = open_any(name)
    own = measure(sam, repeats)
    row = {**own, **sizes(sam)}
    del sam
    after = measure(embedded, repeats)
    ratios = {
        f"{key.removesuffix('_s')}_ratio": own[key] / (0.5 * (before[key] + after[key]))
        for key in own
    }
    rounded = {key: round(float(value), 4) for key, value in {**row, **ratios}.items()}
    n_parameters = CATALOG[name].n_parameters
    return {"model": name, "published": has_weights, "n_parameters": n_parameters, **rounded}


def as_line(row: dict[str, Any]) -> str:
    """A row of the table in Markdown."""
    cells = [
        row["model"] + ("" if row["published"] else " (random)"),
        f"{row['n_parameters'] / 1e6:.1f}",
        f"{row['encode_s']:.2f} ({row['encode_ratio']:.1f}x)",
        f"{1000 * row['decode_s']:.0f} ({row['decode_ratio']:.1f}x)",
        f"{1000 * row['step_s']:.0f} ({row['step_ratio']:.1f}x)",
        f"{row['embedding_mb']:.1f}",
        f"{row['session_mb']:.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table and write it down."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--models", nargs="+", default=list(CATALOG), choices=list(CATALOG))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    embedded = load_model("compact", MODELS_DIR)
    report: dict[str, Any] = {**environment("python -m benchmarks.models", embedded), "rows": []}
    print("| model | M parameters | encode s | decode ms | step ms | embedding MB | session MB |")
    print("|---|---|---|---|---|---|---|")
    for name in args.models:
        row = row_of(name, embedded, args.repeats)
        report["rows"].append(row)
        print(as_line(row), flush=True)
        report["load_after"] = load()
        report["peak_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 1)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
