"""One pass of any mask decoder, SAM's or the compact model's, under any weights."""

from __future__ import annotations

import contextlib
import copy
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol, cast, runtime_checkable

import torch
from segment_anything.modeling import MaskDecoder
from torch import Tensor, nn

from adaptation.errors import ModelError

Weights = Mapping[str, Tensor]
"""Decoder parameters by name."""

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


class WeightedDecoder:
    """A mask decoder whose weights are given with every call; any number of threads may call it.

    Args:
        decoder: The base weights, which no call changes.
    """

    def __init__(self, decoder: MaskDecoder) -> None:
        self._module = decoder
        self._base = {f"decoder.{name}": p for name, p in decoder.named_parameters()}
        self._local = threading.local()

    def parameters(self) -> dict[str, Tensor]:
        """The base weights by name; do not write to them."""
        return {name.removeprefix("decoder."): value for name, value in self._base.items()}

    def predict(
        self,
        features: Tensor,
        image_pe: Tensor,
        sparse: Tensor,
        dense: Tensor,
        weights: Weights | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, predicted IoU and features, as :class:`DecoderCall` returns them.

        Args:
            features: See :class:`DecoderCall`, also for the next three.
            image_pe: Positional encoding.
            sparse: Embedded clicks and boxes.
            dense: Embedded masks.
            weights: Parameters that replace the base ones of the same names.

        Raises:
            ModelError: A weight's name is unknown.
        """
        inputs = (features, image_pe, sparse, dense)
        answer = torch.func.functional_call(self._shell(), self._with(weights), inputs)
        return cast(tuple[Tensor, Tensor, Tensor], answer)

    @contextlib.contextmanager
    def observing(self, layer: str) -> Iterator[list[Tensor]]:
        """Collect what a layer reads in this thread while the block runs."""
        seen: list[Tensor] = []
        found = self._shell().decoder.get_submodule(layer)
        hook = found.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            yield seen
        finally:
            hook.remove()

    def compile(self) -> None:
        """Compile this thread's decoder with `torch.compile`."""
        self._shell().compile(dynamic=True)

    def _with(self, weights: Weights | None) -> dict[str, Tensor]:
        if weights is None:
            return self._base
        own = {f"decoder.{name}": value for name, value in weights.items()}
        unknown = sorted(own.keys() - self._base.keys())
        if unknown:
            raise ModelError(
                f"The decoder has no parameter {unknown[0].removeprefix('decoder.')!r} "
                f"({len(unknown)} unknown names); the weights belong to another model."
            )
        return {**self._base, **own}

    def _shell(self) -> DecoderCall:
        """This thread's own decoder without weights.

        ``functional_call`` puts the given weights into the module for the time of the call, so
        two threads may never share a module.  A shell holds structure only (meta tensors).
        """
        shell = getattr(self._local, "shell", None)
        if shell is None:
            memo = {
                id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=False)
                for p in self._module.parameters()
            }
            shell = DecoderCall(copy.deepcopy(self._module, memo))
            self._local.shell = shell
        return shell
