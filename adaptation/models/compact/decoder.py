"""The compact model's mask decoder: SAM's, told where to look and what the fine features are.

A decoder trained from nothing finds the object slowly; told how similar each pixel is to the
clicked ones, and how near, it only has to refine that guess.
"""

from __future__ import annotations

import torch
from segment_anything.modeling import MaskDecoder
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.mask_decoder import MLP
from torch import Tensor, nn
from torch.nn import functional as F

from adaptation.models.compact.click_maps import (
    click_proximity,
    click_similarity,
    resize,
    sample_at,
)
from adaptation.models.compact.trunk import TAP_CHANNELS

N_HINTS = 4
"""Stride-2 maps in the dense embedding: previous mask, positive clicks, negative clicks, box."""

_N_PRIORS = 6
_UPSCALED_CHANNELS = (32, 32)


class CompactMaskDecoder(MaskDecoder):  # type: ignore[misc]
    """SAM's mask decoder with click similarity as a prior and fine features in its upscaling."""

    def __init__(self, *, dim: int, transformer: nn.Module) -> None:
        super().__init__(transformer_dim=dim, transformer=transformer, iou_head_hidden_dim=dim)
        wide, fine = _UPSCALED_CHANNELS
        c4, c2 = TAP_CHANNELS[4], TAP_CHANNELS[2]
        self.output_upscaling = nn.ModuleDict(
            {
                "to4": nn.ConvTranspose2d(dim, wide, 2, stride=2),
                "norm4": LayerNorm2d(wide),
                "to2": nn.ConvTranspose2d(wide, fine, 2, stride=2),
            }
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLP(dim, dim, fine, 3) for _ in range(self.num_mask_tokens)
        )
        self.skip4, self.skip2 = nn.Conv2d(c4, wide, 1), nn.Conv2d(c2, fine, 1)
        self.refine = nn.Sequential(
            nn.Conv2d(fine, fine, 3, padding=1, groups=fine), nn.Conv2d(fine, fine, 1), nn.ReLU()
        )
        self.click_token = nn.Linear(dim, dim)
        self.similar8, self.similar4 = nn.Conv2d(dim, 32, 1), nn.Conv2d(c4, 24, 1)
        self.prior8 = nn.Sequential(
            nn.Conv2d(_N_PRIORS, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, dim, 1)
        )
        self.prior4 = nn.Conv2d(_N_PRIORS, wide, 3, padding=1)
        self.hint2 = nn.Conv2d(N_HINTS, fine, 3, padding=1)
        self.prior_logit = nn.Conv2d(_N_PRIORS, self.num_mask_tokens, 1)
        self.hint_logit = nn.Conv2d(N_HINTS, self.num_mask_tokens, 1)
        self._start_from_priors()

    @torch.no_grad()
    def _start_from_priors(self) -> None:
        """Begin with masks that follow clicks, similarity and the previous mask."""
        similarity_and_distance = torch.tensor([3.0, -3.0, 1.5, -1.5, 3.0, -3.0])
        self.prior_logit.weight.copy_(similarity_and_distance.view(1, -1, 1, 1))
        nn.init.constant_(self._bias(self.prior_logit), -4.0)
        self.hint_logit.weight.copy_(torch.tensor([1.0, 2.0, -2.0, 4.0]).view(1, -1, 1, 1))
        nn.init.zeros_(self._bias(self.hint_logit))
        nn.init.normal_(self.hint2.weight, std=0.02)
        nn.init.zeros_(self._bias(self.hint2))

    @staticmethod
    def _bias(conv: nn.Conv2d) -> Tensor:
        assert conv.bias is not None
        return conv.bias

    def predict_masks(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """As SAM's: all candidate logits [B, M, H, W] and predicted IoUs [B, M]."""
        logits, predicted_iou, _, _ = self.predict_with_features(
            image_embeddings, image_pe, sparse_prompt_embeddings, dense_prompt_embeddings
        )
        return logits, predicted_iou

    def predict_with_features(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Decode the prompts of B objects.

        Args:
            image_embeddings: [1 or B, C, h, w] from the encoder.
            image_pe: [1, dim, h, w] positional encoding.
            sparse_prompt_embeddings: [B, T, dim + 3] from the prompt encoder.
            dense_prompt_embeddings: [B, dim + 64, h, w] from the prompt encoder.

        Returns:
            Low-resolution logits [B, M, 4h, 4w], predicted IoUs [B, M], the upscaled features
            [B, c, 4h, 4w] that the logits are read from, and the readout weights [B, M, c].
        """
        coarse, fine4, fine2 = self._unpack_image(image_embeddings)
        batch, dim = sparse_prompt_embeddings.shape[0], self.transformer_dim
        if image_embeddings.shape[0] not in (1, batch):
            raise ValueError(
                f"{batch} prompts need 1 or {batch} embeddings, got {image_embeddings.shape[0]}"
            )
        sparse, tail = sparse_prompt_embeddings[..., :dim], sparse_prompt_embeddings[..., dim:]
        grid, labels = tail[..., :2].float(), tail[..., 2].round()
        dense = dense_prompt_embeddings[:, :dim]
        hints = F.pixel_shuffle(dense_prompt_embeddings[:, dim:], 4)

        prior8, prior4 = self._priors(coarse, fine4, grid, labels)
        under_click = sample_at(coarse.float(), grid)
        is_click = (labels >= 0)[..., None].to(sparse.dtype)
        sparse = sparse + self.click_token(under_click) * is_click

        source = coarse + dense + self.prior8(prior8)
        tokens = torch.cat([self._output_tokens(batch), sparse], dim=1)
        decoded, source = self.transformer(source, image_pe.expand(batch, -1, -1, -1), tokens)
        source = source.transpose(1, 2).reshape(batch, dim, *coarse.shape[-2:])
        upscaled = self._upscale(source, fine4, fine2, prior4, hints)
        hyper = self._hyper(decoded)
        logits = torch.einsum("bmc,bchw->bmhw", hyper, upscaled)
        logits = logits + self.hint_logit(hints) + resize(self.prior_logit(prior4), 2.0)
        return logits, self.iou_prediction_head(decoded[:, 0]), upscaled, hyper

    def _unpack_image(self, embeddings: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split into stride-8, stride-4 and stride-2 features."""
        dim, c4, c2 = self.transformer_dim, TAP_CHANNELS[4] * 4, TAP_CHANNELS[2] * 16
        coarse, fine4, fine2 = torch.split(embeddings, [dim, c4, c2], dim=1)
        return coarse, F.pixel_shuffle(fine4, 2), F.pixel_shuffle(fine2, 4)

    def _output_tokens(self, batch: int) -> Tensor:
        tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        return tokens.expand(batch, -1, -1)

    def _hyper(self, decoded: Tensor) -> Tensor:
        rows = [mlp(decoded[:, 1 + i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)]
        return torch.stack(rows, dim=1)

    def _priors(
        self, coarse: Tensor, fine4: Tensor, grid: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Similarity (strides 8 and 4) and nearness to clicks: [B, 6, h, w], [B, 6, 2h, 2w]."""
        similar8 = click_similarity(self.similar8(coarse), grid, labels)
        similar4 = click_similarity(self.similar4(fine4), grid, labels)
        near = click_proximity(grid, labels, (coarse.shape[-2], coarse.shape[-1]))
        at8 = torch.cat([similar8, F.avg_pool2d(similar4, 2), near], dim=1)
        at4 = torch.cat([resize(similar8, 2.0), similar4, resize(near, 2.0)], dim=1)
        return at8, at4

    def _upscale(
        self, source: Tensor, fine4: Tensor, fine2: Tensor, prior4: Tensor, hints: Tensor
    ) -> Tensor:
        """Bring the coarse features to stride 2, adding finer ones on the way: [B, c, 4h, 4w]."""
        up = self.output_upscaling
        x = up["to4"](_channels_last(source))
        x = x + self.skip4(_channels_last(fine4)) + self.prior4(_channels_last(prior4))
        x = F.relu(_layer_norm(x, up["norm4"]))
        x = up["to2"](x) + self.skip2(_channels_last(fine2)) + self.hint2(_channels_last(hints))
        x = F.relu(x)
        refined: Tensor = x + self.refine(x)
        return refined


def _channels_last(x: Tensor) -> Tensor:
    """The same values in the layout in which convolutions on a CPU are fastest."""
    return x.contiguous(memory_format=torch.channels_last)


def _layer_norm(x: Tensor, norm: LayerNorm2d) -> Tensor:
    """What `norm` computes, in one pass over a tensor that lies channels last."""
    rows = x.permute(0, 2, 3, 1)
    normal: Tensor = F.layer_norm(rows, rows.shape[-1:], norm.weight, norm.bias, norm.eps)
    return normal.permute(0, 3, 1, 2)
