"""Mask decoders of the hub's families: all tokens at once, a batch of prompts, features beside.

`transformers` chooses one mask or three before it returns; here every token's mask is wanted, and
the features that it is a linear readout of.  The parts are the library's own and keep the library's
names, which is what adapters and tuned decoders are saved under.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from adaptation.models.hub.packing import unpack


class HubDecoder(nn.Module):
    """SAM's mask decoder.

    Args:
        decoder: The mask decoder of a model of `transformers`; its parts are shared, not copied.
        left_out: Names of parts that are not called.
    """

    finer: tuple[tuple[int, int], ...] = ()
    """Channels and factor of the finer maps that are packed into an embedding."""

    tokens: tuple[str, ...] = ("iou_token", "mask_tokens")
    """The output tokens in the order in which the transformer sees them."""

    transformer: nn.Module
    activation: nn.Module
    upscale_conv1: nn.Module
    upscale_conv2: nn.Module
    upscale_layer_norm: nn.Module
    output_hypernetworks_mlps: nn.ModuleList
    iou_prediction_head: nn.Module

    def __init__(self, decoder: Any, left_out: Collection[str] = ()) -> None:
        super().__init__()
        for name, part in decoder.named_children():
            if name not in left_out:
                self.add_module(name, part)
        self.n_channels = int(decoder.hidden_size)
        self.n_masks = len(decoder.mask_tokens.weight)

    def predict_with_features(
        self, features: Tensor, image_pe: Tensor, sparse: Tensor, dense: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Decode B prompts.

        Args:
            features: ``[B, ..., h, w]``, as the family's encoder packs them.
            image_pe: ``[1, C, h, w]``, the positional encoding.
            sparse: ``[B, N, C]``, embedded clicks and boxes.
            dense: ``[1 or B, C, h, w]``, embedded masks.

        Returns:
            Logits ``[B, T, 4h, 4w]``, predicted IoUs ``[B, T]``, the features ``[B, c, 4h, 4w]``
            that the logits are read from, and the readouts ``[B, T, c]``.
        """
        image, *finer = unpack(features, self.n_channels, self.finer)
        hidden, source = self._attend(image + dense, image_pe, sparse)
        upscaled = self._upscale(source, finer)
        readouts = self._readouts(hidden)
        logits = torch.einsum("btc,bchw->bthw", readouts, upscaled)
        predicted_iou = self.iou_prediction_head(hidden["iou_token"][:, 0])
        return *self._offered(logits, predicted_iou), upscaled, readouts

    def _attend(
        self, image: Tensor, image_pe: Tensor, sparse: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Tokens ``[B, n, C]`` by name, and the image ``[B, C, h, w]``, after the transformer."""
        batch = len(sparse)
        own = [getattr(self, name).weight for name in self.tokens]
        tokens = torch.cat([torch.cat(own).expand(batch, -1, -1), sparse], dim=1)
        hidden, source = self.transformer(
            point_embeddings=tokens[:, None],
            image_embeddings=image,
            image_positional_embeddings=image_pe.expand(batch, -1, -1, -1),
            attention_similarity=None,
        )
        split = torch.split(hidden[:, 0, : sum(map(len, own))], [len(w) for w in own], dim=1)
        found = source[:, 0].transpose(1, 2).reshape(image.shape)
        return dict(zip(self.tokens, split, strict=True)), found

    def _upscale(self, source: Tensor, finer: list[Tensor]) -> Tensor:
        """The image at stride 4, ``[B, c, 4h, 4w]``."""
        half = self.activation(self.upscale_layer_norm(self.upscale_conv1(source)))
        upscaled: Tensor = self.activation(self.upscale_conv2(half))
        return upscaled

    def _readouts(self, hidden: dict[str, Tensor]) -> Tensor:
        """What each token reads from the features, ``[B, T, c]``."""
        tokens = hidden["mask_tokens"].unbind(1)
        pairs = zip(self.output_hypernetworks_mlps, tokens, strict=True)
        return torch.stack([mlp(token) for mlp, token in pairs], dim=1)

    def _offered(self, logits: Tensor, predicted_iou: Tensor) -> tuple[Tensor, Tensor]:
        """Masks and scores as the family offers them."""
        return logits, predicted_iou


class HqDecoder(HubDecoder):
    """HQ-SAM's: each mask is SAM's and the high-quality one added, as its predictor does it.

    As in the authors' code, masks are read from what the transformer made of the image;
    `transformers` up to 5.24 reads them from what went in, with rows and columns exchanged.
    """

    tokens = ("iou_token", "mask_tokens", "hq_token")

    hq_mask_mlp: nn.Module
    mask_conv1: nn.Module
    mask_conv2: nn.Module
    mask_norm: nn.Module

    def __init__(self, decoder: Any, left_out: Collection[str] = ()) -> None:
        super().__init__(decoder, left_out)
        self.finer = ((self.n_channels // 8, 4),)

    def _upscale(self, source: Tensor, finer: list[Tensor]) -> Tensor:
        plain = super()._upscale(source, finer)
        own = self.mask_conv2(self.activation(self.mask_norm(self.mask_conv1(plain))))
        return torch.cat([plain, own + finer[0]], dim=1)

    def _readouts(self, hidden: dict[str, Tensor]) -> Tensor:
        plain = super()._readouts(hidden)
        own = self.hq_mask_mlp(hidden["hq_token"][:, 0])[:, None]
        return torch.cat([plain, own.expand_as(plain)], dim=2)


class PyramidDecoder(HubDecoder):
    """SAM 2's: finer maps are added while it upscales, and an unstable single mask is replaced."""

    tokens = ("obj_score_token", "iou_token", "mask_tokens")

    def __init__(self, decoder: Any, left_out: Collection[str] = ()) -> None:
        super().__init__(decoder, left_out)
        self.finer = ((self.n_channels // 4, 2), (self.n_channels // 8, 4))
        self.replaces_unstable = bool(decoder.dynamic_multimask_via_stability)
        self.stability_delta = float(decoder.dynamic_multimask_stability_delta)
        self.least_stability = float(decoder.dynamic_multimask_stability_thresh)

    def _upscale(self, source: Tensor, finer: list[Tensor]) -> Tensor:
        fine8, fine4 = finer
        half = self.activation(self.upscale_layer_norm(self.upscale_conv1(source) + fine8))
        upscaled: Tensor = self.activation(self.upscale_conv2(half) + fine4)
        return upscaled

    def _offered(self, logits: Tensor, predicted_iou: Tensor) -> tuple[Tensor, Tensor]:
        """The best candidate in place of a single mask whose border the threshold decides.

        Stability is the IoU of the mask at a threshold a little above 0 and a little below.
        """
        if not self.replaces_unstable:
            return logits, predicted_iou
        single = logits.detach()[:, 0].flatten(1)
        above = (single > self.stability_delta).sum(1)
        below = (single > -self.stability_delta).sum(1)
        is_stable = (above >= self.least_stability * below)[:, None]
        best = 1 + predicted_iou[:, 1:].argmax(1, keepdim=True)
        first = torch.where(is_stable, torch.zeros_like(best), best)
        order = torch.arange(1, self.n_masks, device=logits.device).expand(len(logits), -1)
        order = torch.cat([first, order], dim=1)
        rows = torch.arange(len(logits), device=logits.device)[:, None]
        return logits[rows, order], predicted_iou[rows, order]
