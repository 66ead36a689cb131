"""What decoding only the part of the frame that an object needs saves, by the object's size.

    python -m benchmarks.region_decode

Disks on a busy ground, 288 x 384 pixels, clicked twice; the second click's decode is timed on the
whole frame and on the part that it needs, in turn, as processor time of one thread.  `share` is the
part of the frame that the square around the disk covers, `IoU` how alike both masks are.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from adaptation.masks import iou
from adaptation.models.catalog import load_model
from adaptation.models.regions import region_of
from adaptation.models.sam import PromptableSam
from adaptation.types import Click, Prompt
from benchmarks.environment import environment, load

RESULTS = Path(__file__).parent / "results" / "region_decode.json"
RADII = (20, 40, 60, 80, 96, 120)


def scene(radius: int, seed: int) -> NDArray[np.uint8]:
    """An image with one disk, [288, 384, 3]."""
    rng = np.random.default_rng(seed)
    small = rng.normal(120, 30, (36, 48, 3)).astype(np.float32)
    ground = cv2.resize(small, (384, 288))
    stencil = np.zeros((288, 384), np.uint8)
    cv2.circle(stencil, (192, 144), radius, (1,), -1)
    ground[stencil > 0] = rng.uniform(40, 220, 3)
    return np.clip(ground + rng.normal(0, 6, ground.shape), 0, 255).astype(np.uint8)


def second_prompt(sam: PromptableSam, image: NDArray[np.uint8], radius: int) -> Prompt:
    """A click in the middle, its mask fed back, and a negative click beside the disk."""
    first = Click(x=192.0, y=144.0, is_positive=True)
    shown = sam.decode(sam.embed(image), [Prompt(clicks=(first,))]).shown_logits()
    beside = Click(x=min(380.0, 192.0 + radius + 8), y=144.0, is_positive=False)
    return Prompt(clicks=(first, beside), mask_input=shown[0])


def cpu_ms(call: Callable[[], object]) -> float:
    """Milliseconds of processor time of this thread."""
    began = time.thread_time()
    call()
    return 1000 * (time.thread_time() - began)


def measure(sam: PromptableSam, radius: int, repeats: int) -> dict[str, Any]:
    """One row of the table."""
    whole_ms, region_ms, alike, parts = [], [], [], []
    for seed in range(repeats):
        image = scene(radius, seed)
        embedding = sam.embed(image)
        prompt = second_prompt(sam, image, radius)
        whole_ms.append(cpu_ms(partial(sam.decode, embedding, [prompt])))
        region_ms.append(cpu_ms(partial(sam.decode_region, embedding, prompt)))
        answers = sam.decode(embedding, [prompt]), sam.decode_region(embedding, prompt)
        masks = [sam.binary_mask(a.shown_logits()[0, 0], embedding) for a in answers]
        alike.append(iou(masks[0], masks[1]))
        window = region_of(prompt, embedding, sam.input_size)
        area = sam.input_size**2 if window is None else window.width * window.height
        parts.append(area / sam.input_size**2)
    return {
        "radius": radius,
        "share": round((2 * radius) ** 2 / sam.input_size**2, 3),
        "decoded_share": round(float(np.median(parts)), 3),
        "whole_ms": round(float(np.median(whole_ms)), 1),
        "region_ms": round(float(np.median(region_ms)), 1),
        "ratio": round(float(np.median(region_ms) / np.median(whole_ms)), 2),
        "least_iou": round(min(alike), 3),
        "mean_iou": round(float(np.mean(alike)), 3),
    }


def main() -> None:
    """Print the table and write it down."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    sam = load_model("compact", Path(".strop/models"))
    before = environment("python -m benchmarks.region_decode", sam)
    print("| share of the frame | decoded | whole ms | region ms | ratio | IoU mean / least |")
    print("|---|---|---|---|---|---|")
    rows = []
    with torch.no_grad():
        measure(sam, RADII[0], 2)
        for radius in RADII:
            row = measure(sam, radius, args.repeats)
            rows.append(row)
            print(
                f"| {row['share']:.2f} | {row['decoded_share']:.2f} | {row['whole_ms']:.1f} | "
                f"{row['region_ms']:.1f} | {row['ratio']:.2f} | "
                f"{row['mean_iou']:.3f} / {row['least_iou']:.3f} |",
                flush=True,
            )
    report = {**before, "load_after": load(), "rows": rows}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
