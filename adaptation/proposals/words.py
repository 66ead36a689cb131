"""Generators that look for what a text names, through `transformers` (the extra `hub`).

GroundingDINO (Liu et al. 2023, arXiv 2303.05499) gives boxes, as SAA+ uses it; CLIPSeg (Lueddecke
and Ecker, CVPR 2022, arXiv 2112.10003) gives a map.  The texts are the context's words.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from adaptation.errors import ModelError
from adaptation.models.hub.fetching import fetch_model
from adaptation.models.hub.folder import load_complete
from adaptation.models.hub.place import HubModel
from adaptation.proposals.interface import Context, Generated, Generator, Place, ProposalImage
from adaptation.types import Box

MODELS: Mapping[str, str] = {
    "grounding-dino": "IDEA-Research/grounding-dino-tiny",
    "clipseg": "CIDAS/clipseg-rd64-refined",
}
"""Names of the models and their ids on the hub; any other of the two families goes by its own."""

BOX_THRESHOLD = 0.1
"""Boxes that the detector is less sure of are not even drawn."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GroundingDinoGenerator:
    """Boxes around what a text names, by a detector.

    Args:
        model: `GroundingDinoForObjectDetection`, in evaluation mode.
        processor: Its `GroundingDinoProcessor`.
        count: Boxes at most, the surest.
    """

    model: Any
    processor: Any
    count: int = 50

    @property
    def name(self) -> str:
        """What users call it."""
        return "grounding-dino"

    def generate(self, image: ProposalImage, context: Context) -> Generated:
        """See `Generator.generate`; a place's score is the detector's, in [0, 1]."""
        if not context.words:
            return Generated()
        # The model was trained on phrases that end with a full stop each.
        text = " ".join(f"{word.strip().rstrip('.').lower()}." for word in context.words)
        given = self.processor(images=_pixels(image), text=text, return_tensors="pt")
        with torch.inference_mode():
            answer = self.model(**given)
        (found,) = self.processor.post_process_grounded_object_detection(
            answer,
            given.input_ids,
            threshold=BOX_THRESHOLD,
            text_threshold=1.0,  # which words a box is about is not asked
            target_sizes=[image.size],
        )
        places = [
            Place(score=float(score), box=box)
            for score, corners in zip(found["scores"], found["boxes"], strict=True)
            if (box := _inside(corners.tolist(), image)) is not None
        ]
        places.sort(key=lambda place: -place.score)
        return Generated(places=tuple(places[: self.count]))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClipSegGenerator:
    """A map of what a text names; of several texts, the highest.

    Args:
        model: `CLIPSegForImageSegmentation`, in evaluation mode.
        processor: Its `CLIPSegProcessor`.
    """

    model: Any
    processor: Any

    @property
    def name(self) -> str:
        """What users call it."""
        return "clipseg"

    def generate(self, image: ProposalImage, context: Context) -> Generated:
        """See `Generator.generate`; the map is a probability, over the image as a square."""
        words = [word.strip() for word in context.words]
        if not words:
            return Generated()
        pictures = [_pixels(image)] * len(words)
        given = self.processor(text=words, images=pictures, padding=True, return_tensors="pt")
        with torch.inference_mode():
            logits = self.model(**given).logits
        side = logits.shape[-1]
        highest = logits.reshape(-1, side, side).amax(dim=0).sigmoid()
        return Generated(score_map=np.asarray(highest.numpy(), dtype=np.float32))


def load_word_generator(
    name: str, models_dir: Path, *, may_download: bool = True, show_progress: bool = False
) -> Generator:
    """Load a generator that reads words.

    Args:
        name: Of :data:`MODELS`, a folder that `save_pretrained` wrote (model and processor), or
            an id on the hub (OWNER/NAME).
        models_dir: Where downloaded models are kept.
        may_download: Whether the network may be used.
        show_progress: Draw a progress bar on standard error while downloading.

    Raises:
        ModelError: The extra is not installed, a file is missing or damaged, or the model is of
            another family.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        place = HubModel(hub_id=MODELS.get(name, name), reads_text=True)
        folder = fetch_model(
            place, models_dir, may_download=may_download, show_progress=show_progress
        )
    kind = _kind(folder)
    model, processor = _loaded(folder, kind)
    if kind == "clipseg":
        return ClipSegGenerator(model=model, processor=processor)
    return GroundingDinoGenerator(model=model, processor=processor)


_CLASSES = {
    "grounding-dino": "GroundingDinoForObjectDetection",
    "clipseg": "CLIPSegForImageSegmentation",
}


def _kind(folder: Path) -> str:
    try:
        kind = str(json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ModelError(
            f"{folder.name} has no config.json that tells its model_type: give a folder that "
            "transformers' save_pretrained wrote."
        ) from error
    if kind not in _CLASSES:
        raise ModelError(
            f"{folder.name} holds a model of the type {kind!r}, which reads no words here. Choose "
            f"one of the families {', '.join(_CLASSES)}."
        )
    return kind


def _loaded(folder: Path, kind: str) -> tuple[Any, Any]:
    """Model and processor; only safetensors are read."""
    try:
        package = importlib.import_module("transformers")
    except ImportError as error:
        raise ModelError(
            "Words need packages that are not installed: pip install 'strop[hub]'."
        ) from error
    try:
        processor = package.AutoProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError, LookupError, TypeError) as error:
        said = " ".join(str(error).split())[:300]
        raise ModelError(
            f"The processor of {folder.name} cannot be loaded: {said}. Fetch it again."
        ) from error
    model = load_complete(getattr(package, _CLASSES[kind]), folder, kind)
    return model.eval().requires_grad_(False), processor


def _pixels(image: ProposalImage) -> NDArray[np.uint8]:
    """Pixels that the library may call its own: it refuses to read what it may not write to."""
    return np.array(image.read())


def _inside(corners: list[float], image: ProposalImage) -> Box | None:
    """A detector's box within the image, or None where nothing of it is left."""
    height, width = image.size
    x0, x1 = (min(max(x, 0.0), float(width)) for x in (corners[0], corners[2]))
    y0, y1 = (min(max(y, 0.0), float(height)) for y in (corners[1], corners[3]))
    return Box(x0=x0, y0=y0, x1=x1, y1=y1) if x1 - x0 >= 1 and y1 - y0 >= 1 else None
