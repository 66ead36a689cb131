"""The prompt encoder of a model of the hub, called as segment_anything's is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class HubPromptEncoder(nn.Module):
    """One prompt encoder for all families: `transformers` gives them one signature.

    Args:
        model: A model of `transformers`.
    """

    dense_pe: Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder = model.prompt_encoder
        with torch.no_grad():
            self.register_buffer("dense_pe", model.get_image_wide_positional_embeddings())

    @property
    def embed_dim(self) -> int:
        """Channels of the embedding that prompts are compared with."""
        return int(self.dense_pe.shape[1])

    @property
    def image_embedding_size(self) -> tuple[int, int]:
        """(h, w) of the embedding's grid."""
        return int(self.dense_pe.shape[2]), int(self.dense_pe.shape[3])

    def get_dense_pe(self) -> Tensor:
        """Positional encoding of the grid, ``[1, C, h, w]``."""
        return self.dense_pe

    def forward(
        self, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, masks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Embed B prompts.

        Args:
            points: ``[B, N, 2]`` (x, y) in the frame, and ``[B, N]`` labels: 1, 0, -1 for padding.
            boxes: ``[B, 4]`` in the frame.
            masks: ``[B, 1, 4h, 4w]`` logits.

        Returns:
            Sparse ``[B, N', C]`` and dense ``[1 or B, C, h, w]`` embeddings.
        """
        coordinates, labels = (None, None) if points is None else (p[:, None] for p in points)
        sparse, dense = self.encoder(
            input_points=coordinates,
            input_labels=labels,
            input_boxes=None if boxes is None else boxes[:, None],
            input_masks=masks,
        )
        return sparse[:, 0], dense
