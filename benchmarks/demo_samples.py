"""What one sensible click brings on the demo's own samples: the first thing that a newcomer sees.

    python -m benchmarks.demo_samples [--model NAME] [--pictures FOLDER]

20 objects of the demo's eight samples, marked in `demo_objects.json`: an outline drawn by hand, or
along a threshold where that is all it takes, and the pixel where a person would click.  Each is
clicked once, on a frozen model, as the service answers it: zoom, edges, obeyed clicks.  A mask is
called a speck where it covers less than a tenth of the object.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from adaptation.masks import iou
from adaptation.masks.polygons import polygons_to_mask
from adaptation.models.catalog import load_model
from adaptation.models.sam import Embedding, PromptableSam
from adaptation.predictor.click_correction import ClickCorrection, CorrectionSettings
from adaptation.predictor.interactive import InteractivePredictor
from adaptation.predictor.settings import EdgeSettings, ZoomSettings
from adaptation.predictor.zoom import View
from adaptation.storage.images import decode_image
from adaptation.types import Click
from benchmarks.environment import environment

HERE = Path(__file__).parent
MARKED = HERE / "demo_objects.json"
SAMPLES = HERE.parent / "backend" / "commands" / "demo" / "samples"
RESULTS = HERE / "results" / "demo_samples.json"
GOOD_IOU, SPECK_SHARE = 0.75, 0.1

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class MarkedObject:
    """An object of a sample.

    Args:
        image: File name of the sample.
        what: What it is.
        click: (x, y) of the click, pixels.
        outline: (x, y) of its corners, pixels.
        marked: How the outline came about: by hand or by threshold.
    """

    image: str
    what: str
    click: tuple[int, int]
    outline: tuple[tuple[int, int], ...]
    marked: str


def marked_objects() -> list[MarkedObject]:
    """All of them, by image."""
    return [MarkedObject(**each) for each in json.loads(MARKED.read_text())]


def answer(sam: PromptableSam, image: NDArray[np.uint8], click: tuple[int, int]) -> Mask:
    """The mask of one click, as the service shows it."""
    predictor = InteractivePredictor(
        sam,
        ZoomSettings(),
        ClickCorrection(CorrectionSettings(), sam.input_size),
        edges=EdgeSettings(),
    )
    clicks = (Click(x=float(click[0]), y=float(click[1]), is_positive=True),)
    size = (image.shape[0], image.shape[1])

    def encode(view: View) -> Embedding:
        return sam.embed(image[view.y0 : view.y1, view.x0 : view.x1])

    return predictor.mask(predictor.answer(encode, size, clicks))


def measure(sam: PromptableSam, marked: MarkedObject, pictures: Path | None) -> dict[str, Any]:
    """One row of the table."""
    content = (SAMPLES / marked.image).read_bytes()
    image = decode_image(content, max_pixels=10**7).pixels
    size = (image.shape[0], image.shape[1])
    outline = np.asarray(marked.outline, np.float64)
    truth = polygons_to_mask([outline], size)
    shown = answer(sam, image, marked.click)
    if pictures is not None:
        name = f"{Path(marked.image).stem}-{marked.click[0]}-{marked.click[1]}.png"
        cv2.imwrite(str(pictures / name), drawn(image, truth, shown, marked.click))
    covered = float((shown & truth).sum() / truth.sum())
    return {
        "image": marked.image,
        "what": marked.what,
        "click": marked.click,
        "iou": round(iou(shown, truth), 3),
        "speck": covered < SPECK_SHARE,
    }


def drawn(
    image: NDArray[np.uint8], truth: Mask, shown: Mask, click: tuple[int, int]
) -> NDArray[np.uint8]:
    """The image, [H, W, 3] BGR: the object's outline green, the mask's red, the click a dot."""
    picture = np.ascontiguousarray(image[..., ::-1])
    for mask, colour in ((truth, (0, 200, 0)), (shown, (0, 0, 255))):
        found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, found, -1, colour, 1)
    cv2.circle(picture, click, 3, (255, 0, 0), -1)
    return picture


def main() -> None:
    """Print the table and write it down."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--model", default="compact")
    parser.add_argument("--pictures", type=Path, help="Folder for a picture of each answer.")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.pictures is not None:
        args.pictures.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    sam = load_model(args.model, Path(".strop/models"))
    rows = [measure(sam, marked, args.pictures) for marked in marked_objects()]
    for row in rows:
        print(f"| {row['image']} | {row['what']} | {row['iou']:.2f} |{' speck' * row['speck']}")
    good, specks = sum(row["iou"] >= GOOD_IOU for row in rows), sum(row["speck"] for row in rows)
    print(f"IoU >= {GOOD_IOU} on {good} of {len(rows)}, a speck on {specks}")
    report = {
        **environment("python -m benchmarks.demo_samples", sam),
        "objects": len(rows),
        "good": good,
        "specks": specks,
        "rows": rows,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
