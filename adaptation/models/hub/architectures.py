"""The shapes of the published models: to tell their sizes, and to measure them without weights."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from adaptation.errors import ModelError
from adaptation.models.hub.families import FAMILIES, HubSam
from adaptation.models.hub.folder import model_class

_VIT = {
    "b": {"hidden_size": 768, "layers": 12, "heads": 12, "global": [2, 5, 8, 11]},
    "l": {"hidden_size": 1024, "layers": 24, "heads": 16, "global": [5, 11, 17, 23]},
    "h": {"hidden_size": 1280, "layers": 32, "heads": 16, "global": [7, 15, 23, 31]},
}
"""Kirillov et al. 2023, arXiv 2304.02643, appendix A; segment_anything's builder."""

_HIERA = {
    "tiny": {"dim": 96, "heads": 1, "blocks": [1, 2, 7, 2], "global": [5, 7, 9]},
    "small": {"dim": 96, "heads": 1, "blocks": [1, 2, 11, 2], "global": [7, 10, 13]},
    "base+": {"dim": 112, "heads": 2, "blocks": [2, 3, 16, 3], "global": [12, 16, 20]},
    "large": {"dim": 144, "heads": 2, "blocks": [2, 6, 36, 4], "global": [23, 33, 43]},
}
"""Ravi et al. 2024, arXiv 2408.00714; the configurations of the sam2 repository."""


def _vit(size: str) -> dict[str, Any]:
    shape = _VIT[size]
    return {
        "hidden_size": shape["hidden_size"],
        "num_hidden_layers": shape["layers"],
        "num_attention_heads": shape["heads"],
        "global_attn_indexes": shape["global"],
    }


def _sam(size: str) -> dict[str, Any]:
    return {"vision_config": _vit(size)}


def _sam_hq(size: str) -> dict[str, Any]:
    vision = _vit(size)
    return {
        "vision_config": vision,
        "mask_decoder_config": {"vit_dim": vision["hidden_size"]},
    }


def _sam2(size: str) -> dict[str, Any]:
    shape: Any = _HIERA[size]
    dims = [shape["dim"] * 2**stage for stage in range(4)]
    background = 14 if size == "base+" else 7
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": shape["dim"],
        "num_attention_heads": shape["heads"],
        "blocks_per_stage": shape["blocks"],
        "embed_dim_per_stage": dims,
        "num_attention_heads_per_stage": [shape["heads"] * 2**stage for stage in range(4)],
        "window_size_per_stage": [8, 4, 16, 8] if size == "large" else [8, 4, 14, 7],
        "window_positional_embedding_background_size": [background, background],
        "global_attention_blocks": shape["global"],
    }
    return {
        "vision_config": {"backbone_config": backbone, "backbone_channel_list": dims[::-1]},
    }


def _edgetam() -> dict[str, Any]:
    backbone = {
        "model_type": "timm_wrapper",
        "architecture": "repvit_m1",
        "num_classes": 1,
        "label_names": ["none"],
        "model_args": {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]},
    }
    return {"vision_config": {"backbone_config": backbone}}


ARCHITECTURES: Mapping[str, tuple[str, dict[str, Any]]] = MappingProxyType(
    {
        **{f"sam-vit-{size}": ("sam", _sam(size)) for size in _VIT},
        **{f"sam-hq-vit-{size}": ("sam_hq", _sam_hq(size)) for size in _VIT},
        "medsam": ("sam", _sam("b")),
        **{f"sam2.1-{size}": ("sam2", _sam2(size)) for size in _HIERA},
        "edgetam": ("edgetam", _edgetam()),
        "sam3": ("sam3_tracker", {}),
    }
)
"""Model type, and what differs from the defaults of its configuration, by the catalog's name."""


def random_model(name: str) -> HubSam:
    """A model of the catalog with random weights, to be measured; its masks mean nothing.

    Raises:
        ModelError: `transformers` is not installed, or there is no such name.
    """
    if name not in ARCHITECTURES:
        raise ModelError(
            f"No shape of {name!r} is known; choose one of: {', '.join(ARCHITECTURES)}."
        )
    kind, settings = ARCHITECTURES[name]
    family = FAMILIES[kind]
    build = model_class(family)
    model = build(build.config_class(**settings)).eval()
    mean, std = ([255 * value for value in values] for values in family.normal)
    return HubSam(model, family, mean, std).eval()
