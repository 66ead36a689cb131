"""One pass of any mask decoder, SAM's or the compact model's, with the features it reads from."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import torch
from segment_anything.modeling import MaskDecoder
from torch import Tensor, nn

from adaptation.errors import ModelError

_SCORE_LAYER = re.compile(r"iou_prediction_head\.(?:layers\.(\d+)|proj_out)\.weight")


def score_layer(parameters: Iterable[str]) -> str:
    """Name of the IoU head's last layer, without ``.weight``, among a decoder's parameters.

    Raises:
        ModelError: The decoder has no such head.
    """
    found = [(int(m[1] or 0), name) for name in parameters if (m := _SCORE_LAYER.fullmatch(name))]
    if not found:
        raise ModelError("This decoder has no iou_prediction_head: its scores stay as they are.")
    return max(found)[1].removesuffix(".weight")


@runtime_checkable
class FeatureDecoder(Protocol):
    """A mask decoder that returns the features its masks are read from, as the compact one does."""

    def predict_with_features(
        self, features: Tensor, image_pe: Tensor, sparse: Tensor, dense: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits, predicted IoU, features and readouts; arguments as of :class:`DecoderCall`."""
        ...


class DecoderCall(nn.Module):
    """One pass of a mask decoder that also returns the features its masks are read from.

    A :class:`FeatureDecoder` answers itself; for SAM's own :class:`MaskDecoder` the pass is spelled
    out here, because its ``predict_masks`` keeps the upscaled features to itself and repeats one
    image for all prompts.
    """

    def __init__(self, decoder: MaskDecoder) -> None:
        super().__init__()
        self.decoder = decoder
        self._returns_features = isinstance(decoder, FeatureDecoder)

    def forward(
        self, features: Tensor, image_pe: Tensor, sparse: Tensor, dense: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Low-res logits ``[B, T, h, w]``, predicted IoU ``[B, T]``, features ``[B, c, h, w]``.

        Args:
            features: Image embeddings, ``[B, C, h, w]``.
            image_pe: Positional encoding, ``[1, C, h, w]``.
            sparse: Embedded clicks and boxes, ``[B, N, C]``.
            dense: Embedded masks, ``[B, C, h, w]``.
        """
        if self._returns_features:
            answer = self.decoder.predict_with_features(features, image_pe, sparse, dense)
            logits, predicted_iou, upscaled, _ = answer
            return logits, predicted_iou, upscaled
        return self._predict_masks(features, image_pe, sparse, dense)

    def _predict_masks(
        self, features: Tensor, image_pe: Tensor, sparse: Tensor, dense: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        decoder, batch = self.decoder, sparse.shape[0]
        # Output tokens in front of the prompt's own
        output_tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight], dim=0)
        tokens = torch.cat([output_tokens.expand(batch, -1, -1), sparse], dim=1)
        # Prompt and image look at each other
        hidden, source = decoder.transformer(
            features + dense, image_pe.expand(batch, -1, -1, -1), tokens
        )
        # Each mask token becomes a linear readout of the upscaled image
        upscaled = decoder.output_upscaling(source.transpose(1, 2).reshape(features.shape))
        readouts = torch.stack(
            [mlp(hidden[:, 1 + t]) for t, mlp in enumerate(decoder.output_hypernetworks_mlps)],
            dim=1,
        )
        logits = torch.einsum("btc,bchw->bthw", readouts, upscaled)
        return logits, decoder.iou_prediction_head(hidden[:, 0]), upscaled
