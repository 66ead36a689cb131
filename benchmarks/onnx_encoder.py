"""What an encoder through ONNX Runtime saves, and what int8 costs in clicks.

    python -m benchmarks.onnx_encoder --data FOLDER [--sets mtd dsb2018]

The embedded model's encoder in torch, in ONNX in float32, and in int8 calibrated on 64 images of
the set itself, as a user would.  Times are processor time of one thread, the three in turn; clicks
are those of `strop-train evaluate` on the same objects, frozen, at most 20 an object.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from adaptation.models.catalog import load_model
from adaptation.models.onnx_encoder import with_encoder
from adaptation.models.onnx_export import export_encoder
from adaptation.models.sam import PromptableSam
from benchmarks.environment import environment, load

RESULTS = Path(__file__).parent / "results" / "onnx_encoder.json"
N_CALIBRATION = 64
METRICS = ("NoC20@85", "NoC20@90", "FR20@90", "mIoU@1")


def images_of(folder: Path) -> list[NDArray[np.uint8]]:
    """Images of a set, spread over it by name, RGB."""
    paths = sorted(path for path in (folder / "images").iterdir() if path.is_file())
    chosen = paths[:: max(1, len(paths) // N_CALIBRATION)][:N_CALIBRATION]
    return [np.ascontiguousarray(cv2.imread(str(path))[..., ::-1]) for path in chosen]


def encode_ms(
    models: Mapping[str, PromptableSam], image: NDArray[np.uint8], repeats: int
) -> dict[str, float]:
    """Median milliseconds of processor time of an encode, the models in turn."""
    taken: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(repeats + 1):
        for name, sam in models.items():
            taken[name].append(_thread_ms(lambda sam=sam: sam.embed(image, image_id="image")))
    return {name: round(float(np.median(values[1:])), 1) for name, values in taken.items()}


def _thread_ms(call: Callable[[], object]) -> float:
    began = time.thread_time()
    call()
    return 1000 * (time.thread_time() - began)


def relative_error(sam: PromptableSam, other: PromptableSam, image: NDArray[np.uint8]) -> float:
    """Root of the mean squared difference of two embeddings, beside the size of the first."""
    wanted, got = sam.embed(image).features, other.embed(image).features
    return float((got - wanted).square().mean().sqrt() / wanted.square().mean().sqrt())


def evaluate(data: Path, encoder: Path | None, objects: int, folder: Path) -> dict[str, float]:
    """What `strop-train evaluate` says of one encoder."""
    command = [sys.executable, "-m", "training.cli", "evaluate", "--data", str(data)]
    command += ["--objects", str(objects), "--max-clicks", "20", "--out", str(folder), "--no-cache"]
    command += [] if encoder is None else ["--encoder", str(encoder)]
    subprocess.run(command, check=True, capture_output=True)
    found = json.loads((folder / "result.json").read_text())["metrics"]
    return {name: found[name]["frozen"]["mean"] for name in METRICS if name in found}


def row_of(data: Path, sam: PromptableSam, objects: int, repeats: int) -> dict[str, Any]:
    """One set: times, differences and clicks of the three encoders."""
    images = images_of(data)
    with tempfile.TemporaryDirectory() as kept:
        folder = Path(kept)
        files = {
            "float32": export_encoder(sam, folder / "float32.onnx"),
            "int8": export_encoder(sam, folder / "int8.onnx", images),
        }
        others = {name: with_encoder(sam, path) for name, path in files.items()}
        return {
            "set": data.name,
            "objects": objects,
            "encode_ms": encode_ms({"torch": sam, **others}, images[0], repeats),
            "relative_error": {
                name: round(relative_error(sam, other, images[0]), 4)
                for name, other in others.items()
            },
            "clicks": {
                name: evaluate(data, path, objects, folder / f"run-{name}")
                for name, path in {"torch": None, **files}.items()
            },
        }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table and write it down."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=["mtd", "dsb2018"])
    parser.add_argument("--objects", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    sam = load_model("compact", Path(".strop/models"))
    report: dict[str, Any] = {**environment("python -m benchmarks.onnx_encoder", sam), "rows": []}
    print(f"| set | encoder | encode ms | {' | '.join(METRICS)} |")
    print("|---|---|---|" + "---|" * len(METRICS))
    for name in args.sets:
        row = row_of(args.data / name, sam, args.objects, args.repeats)
        report["rows"].append(row)
        for encoder, clicks in row["clicks"].items():
            ratio = row["encode_ms"][encoder] / row["encode_ms"]["torch"]
            values = " | ".join(f"{clicks[m]:.1f}" if m in clicks else "" for m in METRICS)
            ms = row["encode_ms"][encoder]
            print(f"| {name} | {encoder} | {ms:.0f} ({ratio:.2f}x) | {values} |", flush=True)
        report["load_after"] = load()
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
