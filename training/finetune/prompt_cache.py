"""Prompts to train on, made once and kept on disk: an object's clicks are answered again.

Neither a journal nor a data set holds what the decoder was really asked: the view that was zoomed
to, and the logits of the mask before, fed back.  Both are made again by answering the clicks one
by one on the base decoder, through the very code that serves them.  Views are encoded once, ever.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from adaptation.errors import ImageError, InputError
from adaptation.learning.examples import UNLABELLED, DecodedPrompt, StoredPrompt, low_res_mask
from adaptation.models.sam import PromptableSam, digest_of_pixels
from adaptation.predictor.interactive import Answer, Encode, InteractivePredictor
from adaptation.predictor.settings import ZoomSettings
from adaptation.predictor.zoom import View
from adaptation.storage.tensors import write_tensors
from adaptation.types import Box, Click, Prompt, Size
from training.runtime.embedding_cache import CachedEncoder

logger = logging.getLogger(__name__)

FORMAT = "strop-replay-1"

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CachedPrompts:
    """What an object's clicks asked the decoder, and what the answers are compared with.

    Args:
        image_id: Digest of the image's pixels, under which its views are cached.
        asked: The prompts that are trained on.
        planes: Masks on the grid of the low-resolution logits, by name; see `plane`.
    """

    image_id: str
    asked: tuple[StoredPrompt, ...]
    planes: Mapping[str, Tensor]


class Unusable(InputError):
    """An item that cannot be trained on; the run goes on without it if there are few of them."""


def plane(mask: Mask, view: View, input_size: Size, sam: PromptableSam) -> Tensor:
    """A mask on the grid of the logits of a view.

    Args:
        mask: `[H, W]`, of the whole image.
        view: Of the image.
        input_size: (H, W) of the view in the model's frame, without the padding.
        sam: Gives the sizes.

    Returns:
        `[h, w]` int8: 1 object, 0 background, -1 padding.
    """
    inside = mask[view.y0 : view.y1, view.x0 : view.x1]
    small = low_res_mask(inside, input_size, sam.low_res_size, sam.input_size)
    labels = np.full((sam.low_res_size, sam.low_res_size), UNLABELLED, dtype=np.int8)
    labels[: small.shape[0], : small.shape[1]] = small
    return torch.from_numpy(labels)


def answered_in_turn(
    interaction: InteractivePredictor,
    encode: Encode,
    size: Size,
    clicks: Sequence[Click],
    box: Box | None,
) -> list[Answer]:
    """Clicks that were made, answered one after the other; a box without a click has one answer."""
    answers: list[Answer] = []
    for n in range(min(1, len(clicks)), len(clicks) + 1):
        state = answers[-1].state if answers else None
        answers.append(interaction.answer(encode, size, tuple(clicks[:n]), box, state))
    return answers


def float_prompt(prompt: Prompt) -> Prompt:
    """A kept prompt as the decoder wants it, with float32 logits."""
    if prompt.mask_input is None:
        return prompt
    return replace(prompt, mask_input=prompt.mask_input.float())


class PromptCache:
    """Answers clicks again on the base decoder, and keeps what was asked.

    Args:
        sam: The base model.
        encoder: Of the same model.
        folder: Where replays are kept; any number of runs and processes may share it.
        zoom: As served.
    """

    def __init__(
        self, sam: PromptableSam, encoder: CachedEncoder, folder: Path, zoom: ZoomSettings
    ) -> None:
        self.sam = sam
        self.interaction = InteractivePredictor(sam, zoom)
        self._encoder = encoder
        self._folder = folder
        self._latest: tuple[str, Image, str] | None = None

    def replay(
        self,
        key: str,
        image_key: str,
        read: Callable[[], Image],
        make: Callable[[Encode, Size], tuple[Sequence[DecodedPrompt], Mapping[str, Tensor]]],
    ) -> CachedPrompts:
        """A replay from the disk, else made and kept there.

        Args:
            key: Of everything that the replay depends on besides the model and the zoom.
            image_key: Names the image among those of the run; the latest one stays at hand.
            read: Gives its pixels.
            make: Gives the prompts and planes.

        Raises:
            Unusable: `make` found nothing to train on.
            ImageError: The image cannot be read.
        """
        settings = f"{self.sam.decoder_id} {self.sam.encoder_id} {self.interaction.zoom} {FORMAT}"
        digest = hashlib.sha256(f"{key} {settings}".encode()).hexdigest()[:40]
        path = self._folder / digest[:2] / f"{digest}.replay"
        found = load_replay(path)
        if found is None:
            image, image_id = self._image(image_key, read)
            encode = self._encoder.of_id(image_id, lambda: image)
            asked, planes = make(encode, (image.shape[0], image.shape[1]))
            kept = tuple(StoredPrompt.of(a) for a in asked)
            found = CachedPrompts(image_id=image_id, asked=kept, planes=planes)
            save_replay(path, found)
        return found

    def encode(self, replay: CachedPrompts, read: Callable[[], Image], name: str) -> Encode:
        """Embeddings of a replay's views; the image is read only where one is in no cache.

        Raises:
            ImageError: When asked for an embedding: the image is not the one of the replay.
        """

        def read_same() -> Image:
            image = read()
            if digest_of_pixels(image) != replay.image_id:
                raise ImageError(
                    f"The image of {name} was changed while it was trained on; start again, with "
                    "a new run folder."
                )
            return image

        return self._encoder.of_id(replay.image_id, read_same)

    def _image(self, image_key: str, read: Callable[[], Image]) -> tuple[Image, str]:
        if self._latest is None or self._latest[0] != image_key:
            image = read()
            self._latest = image_key, image, digest_of_pixels(image)
        return self._latest[1:]


# On disk -----------------------------------------------------------------------------------------


def save_replay(path: Path, replay: CachedPrompts) -> None:
    """Write a replay whole or not at all; a full disk is logged and costs speed only."""
    tensors = {f"plane.{name}": value.contiguous() for name, value in replay.planes.items()}
    for index, asked in enumerate(replay.asked):
        if asked.prompt.mask_input is not None:
            tensors[f"mask_input.{index}"] = asked.prompt.mask_input.cpu().half().contiguous()
    fields = {"image_id": replay.image_id, "asked": [_asked_row(a) for a in replay.asked]}
    try:
        write_tensors(path, tensors, {"replay": json.dumps(fields)})
    except OSError as error:
        logger.warning("a replay could not be kept: %s", error)


def load_replay(path: Path) -> CachedPrompts | None:
    """Read a replay; None where there is none, or a damaged one."""
    try:
        with safe_open(path, framework="pt") as file:
            fields = json.loads(file.metadata()["replay"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        logger.warning("the replay %s is damaged and is made again", path.name)
        return None
    rows = enumerate(fields["asked"])
    planes = {n.removeprefix("plane."): t for n, t in tensors.items() if n.startswith("plane.")}
    asked = tuple(_read_asked(row, tensors.get(f"mask_input.{i}")) for i, row in rows)
    return CachedPrompts(image_id=fields["image_id"], asked=asked, planes=planes)


def _asked_row(asked: StoredPrompt) -> dict[str, Any]:
    prompt = asked.prompt
    return {
        "view": asdict(asked.view),
        "input_size": asked.input_size,
        "clicks": [asdict(click) for click in prompt.clicks],
        "box": None if prompt.box is None else asdict(prompt.box),
    }


def _read_asked(row: Mapping[str, Any], mask_input: Tensor | None) -> StoredPrompt:
    height, width = row["input_size"]
    prompt = Prompt(
        clicks=tuple(Click(**click) for click in row["clicks"]),
        box=None if row["box"] is None else Box(**row["box"]),
        mask_input=mask_input,
    )
    return StoredPrompt(view=View(**row["view"]), prompt=prompt, input_size=(height, width))
