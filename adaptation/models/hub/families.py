"""The families of models that `transformers` has classes for, and how each is put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from adaptation.models.hub.decoders import HqDecoder, HubDecoder, PyramidDecoder
from adaptation.models.hub.encoders import HqEncoder, HubEncoder, PyramidEncoder
from adaptation.models.hub.prompts import HubPromptEncoder

_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One family.

    Args:
        name: What its papers call it.
        class_name: The class of `transformers` that segments images.
        encoder: Puts its image encoder together.
        decoder: Puts its mask decoder together.
        left_out: Parts of the mask decoder that the image encoder has taken, or that no mask
            depends on.
        stretches: Whether images are resized to a square whatever their sides; else the longest
            side is, and the rest is padded.
        normal: Mean and standard deviation of the pixels by channel, 0 to 1, where a folder does
            not say.
    """

    name: str
    class_name: str
    encoder: type[HubEncoder]
    decoder: type[HubDecoder]
    left_out: tuple[str, ...]
    stretches: bool
    normal: tuple[Sequence[float], Sequence[float]]


_SAM = Family(
    name="SAM",
    class_name="SamModel",
    encoder=HubEncoder,
    decoder=HubDecoder,
    left_out=(),
    stretches=False,
    normal=_IMAGENET,
)
_SAM_HQ = Family(
    name="HQ-SAM",
    class_name="SamHQModel",
    encoder=HqEncoder,
    decoder=HqDecoder,
    left_out=HqEncoder.PARTS,
    stretches=False,
    normal=_IMAGENET,
)


def _like_sam2(
    name: str, class_name: str, normal: tuple[Sequence[float], Sequence[float]] = _IMAGENET
) -> Family:
    return Family(
        name=name,
        class_name=class_name,
        encoder=PyramidEncoder,
        decoder=PyramidDecoder,
        left_out=(*PyramidEncoder.PARTS, "pred_obj_score_head"),
        stretches=True,
        normal=normal,
    )


_SAM2 = _like_sam2("SAM 2", "Sam2Model")
_EDGETAM = _like_sam2("EdgeTAM", "EdgeTamModel")
_SAM3 = _like_sam2("SAM 3", "Sam3TrackerModel", ((0.5,) * 3, (0.5,) * 3))

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "sam": _SAM,
        "sam_hq": _SAM_HQ,
        "sam2": _SAM2,
        "sam2_video": _SAM2,
        "edgetam": _EDGETAM,
        "edgetam_video": _EDGETAM,
        "sam3_tracker": _SAM3,
        "sam3_video": _SAM3,
    }
)
"""By the ``model_type`` in a folder's ``config.json``.  A model for videos holds one for images."""


class HubSam(nn.Module):
    """A model of `transformers` in the shape of segment_anything's `Sam`.

    Args:
        model: Of the family's class.
        family: How it is put together.
        mean: Of the pixels, 0 to 255, by channel.
        std: Likewise.
    """

    def __init__(
        self, model: Any, family: Family, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        self.stretches = family.stretches
        self.prompt_encoder = HubPromptEncoder(model)
        self.image_encoder = family.encoder(model, frame_size(model), mean, std)
        self.mask_decoder = family.decoder(model.mask_decoder, family.left_out)

    @property
    def pixel_mean(self) -> Tensor:
        """``[3, 1, 1]``, of pixels from 0 to 255."""
        return self.image_encoder.pixel_mean

    @property
    def pixel_std(self) -> Tensor:
        """``[3, 1, 1]``, of pixels from 0 to 255."""
        return self.image_encoder.pixel_std

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.pixel_mean.device


def frame_size(model: Any) -> int:
    """Side of a model's square frame in pixels."""
    size = model.prompt_encoder.input_image_size
    return int(size if isinstance(size, int) else size[0])
