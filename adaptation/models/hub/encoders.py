"""Image encoders of the hub's families: a normalised frame in, one tensor out.

What a family keeps in its mask decoder but computes from the image alone (SAM 2's projections of
its finer maps, HQ-SAM's fusion of early and late features) belongs to the encoder here: it runs
once an image, and does not learn, so that learning never invalidates an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adaptation.models.hub.packing import pack


class HubEncoder(nn.Module):
    """The vision encoder of SAM (MedSAM is one).

    The normalisation lies in buffers: it is part of what the encoder's digest stands for.

    Args:
        model: A model of `transformers`.
        frame_size: Side of its square frame in pixels.
        mean: Of the pixels, 0 to 255, by channel.
        std: Likewise.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self, model: Any, frame_size: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        self.img_size = frame_size
        self.vision_encoder = model.vision_encoder
        self.register_buffer("pixel_mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("pixel_std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, frame: Tensor) -> Tensor:
        """Embed ``[B, 3, S, S]``: ``[B, C, h, w]``."""
        embedding: Tensor = self.vision_encoder(frame).last_hidden_state
        return embedding


class HqEncoder(HubEncoder):
    """HQ-SAM's (Ke et al. 2023, arXiv 2306.01567): beside the embedding the fused features.

    They are what section 3.2 of the paper calls global-local fusion, without the decoder's share.
    """

    PARTS = (
        "compress_vit_conv1",
        "compress_vit_norm",
        "compress_vit_conv2",
        "encoder_conv1",
        "encoder_norm",
        "encoder_conv2",
    )
    """Parts of the mask decoder that see the image alone."""

    def __init__(
        self, model: Any, frame_size: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__(model, frame_size, mean, std)
        self.fusion = nn.ModuleDict(
            {part: getattr(model.mask_decoder, part) for part in self.PARTS}
        )

    def forward(self, frame: Tensor) -> Tensor:
        """Embed ``[B, 3, S, S]``: ``[B, C + 16 * C / 8, h, w]``."""
        found = self.vision_encoder(frame)
        early = found.intermediate_embeddings[0].permute(0, 3, 1, 2)
        late = found.last_hidden_state
        fused = self._upscaled("compress_vit", early) + self._upscaled("encoder", late)
        return pack(late, [fused])

    def _upscaled(self, name: str, features: Tensor) -> Tensor:
        """Two doublings of the resolution: ``[B, C / 8, 4h, 4w]``."""
        first, norm, second = (self.fusion[f"{name}_{part}"] for part in ("conv1", "norm", "conv2"))
        upscaled: Tensor = second(nn.functional.gelu(norm(first(features))))
        return upscaled


class PyramidEncoder(HubEncoder):
    """SAM 2's (Ravi et al. 2024, arXiv 2408.00714), and those of the families made like it.

    Beside the embedding at stride 16 come the maps at strides 8 and 4 that its decoder adds.
    """

    PARTS = ("conv_s0", "conv_s1")
    """Parts of the mask decoder that see the image alone."""

    def __init__(
        self, model: Any, frame_size: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__(model, frame_size, mean, std)
        self.project4 = model.mask_decoder.conv_s0
        self.project8 = model.mask_decoder.conv_s1
        self.no_memory = nn.Parameter(model.no_memory_embedding.detach().clone())

    def forward(self, frame: Tensor) -> Tensor:
        """Embed ``[B, 3, S, S]``: ``[B, C + 4 * C / 4 + 16 * C / 8, h, w]``."""
        fine4, fine8, image = self.vision_encoder(frame).fpn_hidden_states[:3]
        image = image + self.no_memory.view(1, -1, 1, 1)
        return pack(image, [self.project8(fine8), self.project4(fine4)])
