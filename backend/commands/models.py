"""`strop models`: what can click, what is here already, and whether it works."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from adaptation.models.entries import CATALOG, Checkpoint, where
from backend.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from adaptation.models.sam import PromptableSam

# What brings torch along is imported where it is used: a list needs none.

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"}
MAX_CALIBRATION = 64
"""Images to calibrate int8 on; more change little."""

MAX_PIXELS = 200_000_000
SAMPLE = Path(__file__).parent / "demo" / "samples" / "5-cat.jpg"


def list_models(settings: Settings) -> Iterator[str]:
    """A line for each model of the catalog, under a heading."""
    yield f"{'name':<14}{'parameters':>11}  {'on disk':<9}{'licence':<22}what it is"
    for entry in CATALOG.values():
        yield _line(entry, settings.models_dir)
    yield ""
    yield f"Downloaded models are kept in {settings.models_dir}. A folder that transformers'"
    yield "save_pretrained wrote (./NAME) and any SAM, HQ-SAM, SAM 2 or EdgeTAM of the Hugging Face"
    yield "hub (OWNER/NAME) can be named in a model's place."


def _line(entry: Checkpoint, models_dir: Path) -> str:
    size = f"{(entry.n_parameters or 0) / 1e6:.1f} M"
    licence = entry.licence.partition(";")[0].partition(",")[0]
    disk = _on_disk(entry, models_dir)
    return f"{entry.name:<14}{size:>11}  {disk:<9}{licence:<22}{entry.title}"


def _on_disk(entry: Checkpoint, models_dir: Path) -> str:
    """The megabytes that its weights take, or that they are not there."""
    path = where(entry, models_dir)
    files = path.glob("*.safetensors") if path.is_dir() else [path] if path.is_file() else []
    n_bytes = sum(file.stat().st_size for file in files)
    return f"{n_bytes / 1e6:.0f} MB" if n_bytes else "-"


def get_model(settings: Settings, name: str, *, accepts_licence: bool) -> Iterator[str]:
    """Download a model, unless it is there, and say what it is and under which licence.

    Raises:
        ModelError: It cannot be had; with what to do.
    """
    from adaptation.models.catalog import fetch, find_checkpoint
    from adaptation.models.hub.fetching import source_of

    entry = find_checkpoint(name)
    yield f"{entry.name}: {entry.title}"
    yield f"Licence: {entry.licence}"
    if entry.hub is not None and entry.hub.terms is not None:
        yield f"Its terms: {entry.hub.terms}"
    path = fetch(entry, settings.models_dir, show_progress=True, accepts_terms=accepts_licence)
    source = source_of(path) if path.is_dir() else {}
    if source:
        commit, licence = source["commit"][:12], source["licence"]
        yield f"From {source['hub_id']} at {commit}, licence there: {licence}"
    yield f"It is in {path}. Serve it with: strop serve --model {name}"


def check_model(settings: Settings, name: str, out: Path, image: Path | None) -> Iterator[str]:
    """Click on a sample image and write what the model answers.

    Args:
        settings: Where models are, and the device.
        name: The model; it is not downloaded.
        out: The picture that is written: the image with the mask and the click.
        image: An image of your own, clicked in its middle, in the sample's place.

    Raises:
        ModelError: The model is not there, or does not load.
        ImageError: The image cannot be read.
    """
    from adaptation.models.catalog import load_model

    pixels = _read(image or SAMPLE)
    began = time.perf_counter()
    sam = load_model(name, settings.models_dir, device=settings.model.device, download=False)
    yield f"{sam.model_id} loads in {time.perf_counter() - began:.1f} s: encoder {sam.encoder_id}"
    _answer(sam, pixels)  # the first time everywhere is slower
    mask, score, seconds = _answer(sam, pixels)
    yield f"one encode takes {seconds[0]:.2f} s, one decode {seconds[1]:.3f} s"
    share = 100 * float(mask.mean())
    yield f"a click in the middle: {share:.1f} % of the image, predicted IoU {score:.2f}"
    _draw(pixels, mask, out)
    yield f"see {out}"


def export_model(settings: Settings, name: str, out: Path, images: Path | None) -> Iterator[str]:
    """Write a model's image encoder for ONNX Runtime, and say what it gains and loses.

    Args:
        settings: Where models are.
        name: The model; it is not downloaded.
        out: The file.
        images: Folder of images to calibrate int8 on; None keeps float32.

    Raises:
        ModelError: The model is not there, or its encoder cannot be written.
        ImageError: An image cannot be read.
        InputError: Too few images.
    """
    from adaptation.models.catalog import load_model
    from adaptation.models.onnx_encoder import with_encoder
    from adaptation.models.onnx_export import export_encoder

    sam = load_model(name, settings.models_dir, download=False)
    given = None if images is None else [_read(path) for path in _images_in(images)]
    path = export_encoder(sam, out, given)
    other = with_encoder(sam, path)
    yield f"{path}: encoder {other.encoder_id}, made from {sam.encoder_id} of {sam.model_id}"
    sample = given[0] if given else _read(SAMPLE)
    answers = [(_answer(sam, sample), _answer(other, sample)) for _ in range(5)]
    seconds, seconds_there = (min(pair[i][2][0] for pair in answers) for i in (0, 1))
    (mask, _, _), (mask_there, _, _) = answers[0]
    ratio = seconds_there / seconds
    yield f"an encode takes {seconds_there:.3f} s in place of {seconds:.3f} s ({ratio:.2f} times)"
    differing = 100 * float((mask != mask_there).mean())
    yield f"the mask of a click in the middle differs in {differing:.2f} % of the pixels"
    yield f"Serve it with: strop serve --model {name} --set model.encoder={path}"
    if images is not None:
        yield f"What it costs in clicks: strop-train evaluate --data FOLDER --encoder {path}"


def _images_in(folder: Path) -> list[Path]:
    """Up to MAX_CALIBRATION images of a folder, spread over it by name."""
    from adaptation.errors import InputError

    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise InputError(f"There is no image in {folder}: give a folder of .png or .jpg files.")
    step = max(1, len(found) // MAX_CALIBRATION)
    return found[::step][:MAX_CALIBRATION]


def _answer(
    sam: PromptableSam, pixels: NDArray[np.uint8]
) -> tuple[NDArray[np.bool_], float, tuple[float, float]]:
    """The mask of a click in the middle, its score, and what encode and decode took."""
    import torch

    from adaptation.types import Click, Prompt

    height, width = pixels.shape[:2]
    prompt = Prompt(clicks=(Click(x=width // 2, y=height // 2, is_positive=True),))
    began = time.perf_counter()
    embedding = sam.embed(pixels)
    encoded = time.perf_counter()
    with torch.no_grad():
        found = sam.decode(embedding, [prompt])
    decoded = time.perf_counter()
    score = float(found.predicted_iou[0, int(found.shown_token()[0])])
    mask = sam.binary_mask(found.shown_logits()[0, 0], embedding)
    return mask, score, (encoded - began, decoded - encoded)


def _read(path: Path) -> NDArray[np.uint8]:
    from adaptation.errors import ImageError
    from adaptation.storage.images import decode_image

    try:
        content = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path} cannot be read ({error.strerror}).") from error
    return decode_image(content, max_pixels=MAX_PIXELS).pixels


def _draw(pixels: NDArray[np.uint8], mask: NDArray[np.bool_], out: Path) -> None:
    """The image with its mask in colour, and the click."""
    import cv2
    import numpy as np

    from adaptation.errors import StoreError

    picture = pixels.astype(np.float32)
    picture[mask] = 0.5 * picture[mask] + 0.5 * np.array([255.0, 60.0, 60.0], np.float32)
    drawn = np.ascontiguousarray(picture.astype(np.uint8)[..., ::-1])
    height, width = mask.shape
    radius = max(3, min(height, width) // 80)
    cv2.circle(drawn, (width // 2, height // 2), radius, (255, 255, 255), -1)
    cv2.circle(drawn, (width // 2, height // 2), max(2, radius - 2), (40, 160, 40), -1)
    encoded = cv2.imencode(out.suffix or ".png", drawn)[1] if _is_picture(out) else None
    if encoded is None:
        raise StoreError(f"{out} is no name of a picture: let it end in .png or .jpg.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(encoded.tobytes())
    except OSError as error:
        raise StoreError(f"{out} cannot be written ({error.strerror}).") from error


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in {".png", ".jpg", ".jpeg"}
