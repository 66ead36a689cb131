"""Stand-ins for the evaluation's tests: a folder of discs, a scripted model, a small learner."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adaptation.models.sam import PromptableSam
from adaptation.predictor.interactive import Answer, Encode
from adaptation.types import Embedding, MaskPrediction, Prompt, Size
from tests.adaptation.conftest import tiny_vit_sam, upscaled

SIZE = 64
Mask = NDArray[np.bool_]


def disc(x: int, y: int, radius: int, size: int = SIZE) -> Mask:
    rows, columns = np.mgrid[:size, :size]
    return np.asarray((columns - x) ** 2 + (rows - y) ** 2 <= radius**2)


def write_discs(root: Path, n_images: int = 4, *, n_groups: int = 2) -> Path:
    """Two bright discs on dark noise in every image; image i belongs to group i mod n_groups."""
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    rng = np.random.default_rng(0)
    for i in range(n_images):
        labels = np.zeros((SIZE, SIZE), np.uint8)
        labels[disc(16 + i, 18, 9)] = 1
        labels[disc(44, 40 + i, 12)] = 2
        image = rng.integers(0, 60, (SIZE, SIZE, 3)) + 150 * (labels > 0)[..., None]
        cv2.imwrite(str(root / "images" / f"im{i}.png"), image.astype(np.uint8))
        cv2.imwrite(str(root / "masks" / f"im{i}.png"), labels)
    groups = {f"im{i}": f"g{i % n_groups}" for i in range(n_images)}
    (root / "groups.json").write_text(json.dumps(groups))
    return root


def tiny_model() -> PromptableSam:
    return PromptableSam(tiny_vit_sam(), "tiny")


class ScriptedSam:
    """A model whose mask after n clicks is what a function says, at the image's own resolution."""

    encoder_id = "scripted"
    decoder_id = "scripted"
    model_id = "scripted"
    input_size = SIZE
    low_res_size = SIZE

    def __init__(self, mask_after: Callable[[int], Mask]) -> None:
        self._mask_after = mask_after
        self.prompts: list[Prompt] = []

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def embed(self, image: NDArray[np.uint8], image_id: str | None = None) -> Embedding:
        return Embedding(
            features=torch.zeros(1, 1, 1, 1),
            original_size=(image.shape[0], image.shape[1]),
            input_size=(SIZE, SIZE),
            image_id="image",
            encoder_id=self.encoder_id,
            guide=torch.zeros(1, 1, 3, dtype=torch.uint8),
        )

    def decode_region(
        self, embedding: Embedding, prompt: Prompt, *, weights: object = None
    ) -> MaskPrediction:
        return self.decode(embedding, [prompt])

    def decode(
        self,
        embeddings: Embedding,
        prompts: Sequence[Prompt],
        *,
        weights: Mapping[str, Tensor] | None = None,
    ) -> MaskPrediction:
        self.prompts += prompts
        mask = torch.from_numpy(self._mask_after(len(prompts[0].clicks)))
        logits = torch.where(mask, 8.0, -8.0)
        return MaskPrediction(
            low_res_logits=logits.expand(1, 4, -1, -1),
            predicted_iou=torch.zeros(1, 4),
            is_ambiguous=torch.tensor([prompts[0].is_ambiguous]),
            upscaled=torch.zeros(1, 1, SIZE, SIZE),
        )

    def binary_mask(
        self, low_res_logits: Tensor, embedding: Embedding, size: Size | None = None
    ) -> Mask:
        return np.asarray(low_res_logits.numpy() > 0)


class OneStepLearner:
    """The simplest learner that learns: Adam steps of cross-entropy on each finished mask."""

    corrector = None

    def __init__(self, sam: PromptableSam, seed: int, n_steps: int = 4) -> None:
        self._sam = sam
        self._n_steps = n_steps
        base = sam.decoder_parameters()
        self._weights = {n: v.detach().clone().requires_grad_() for n, v in base.items()}
        self._optimiser = torch.optim.Adam(self._weights.values(), lr=3e-3)
        self.seed = seed
        self.n_clicks = 0
        self.masks: list[Mask] = []

    def weights(self, n_clicks: int) -> Mapping[str, Tensor]:
        return {name: value.detach() for name, value in self._weights.items()}

    def observe_click(self, answer: Answer) -> None:
        self.n_clicks += 1

    def observe_mask(self, answers: Sequence[Answer], mask: Mask, encode: Encode) -> None:
        self.masks.append(mask)
        answer = answers[0]
        view = answer.view
        target = torch.from_numpy(mask[view.y0 : view.y1, view.x0 : view.x1]).float()[None, None]
        for _ in range(self._n_steps):
            prediction = self._sam.decode(
                encode(view), [answer.prompt], weights=dict(self._weights)
            )
            logits = upscaled(self._sam, prediction.low_res_logits, answer.embedding)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                logits, target.expand_as(logits)
            )
            self._optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimiser.step()


class OneStepLearners:
    """Makes `OneStepLearner`s; picklable."""

    def __init__(self, n_steps: int = 4) -> None:
        self._n_steps = n_steps

    def __call__(self, sam: PromptableSam, seed: int) -> OneStepLearner:
        return OneStepLearner(sam, seed, self._n_steps)

    def identity(self) -> Mapping[str, object]:
        return {"learner": "one step", "n_steps": self._n_steps}
