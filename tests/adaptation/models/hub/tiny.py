"""Small models of the hub's families with random weights, of `transformers`' own classes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

SIDE = 64
"""Of the frame, in pixels; the grid of the embedding has 4 cells a side, that of the logits 16."""
CHANNELS = 32

_DECODER = {
    "hidden_size": CHANNELS,
    "mlp_dim": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "iou_head_hidden_dim": 16,
}


def _sam_config(kind: str, **decoder: Any) -> Any:
    return getattr(transformers, f"{kind}Config")(
        vision_config={
            "hidden_size": 24,
            "output_channels": CHANNELS,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": SIDE,
            "patch_size": 16,
            "window_size": 2,
            "global_attn_indexes": [1],
            "num_pos_feats": CHANNELS // 2,
            "mlp_dim": 32,
        },
        prompt_encoder_config={
            "hidden_size": CHANNELS,
            "image_size": SIDE,
            "patch_size": 16,
            "image_embedding_size": SIDE // 16,
        },
        mask_decoder_config={**_DECODER, **decoder},
    )


def _grids(side: int = SIDE) -> list[list[int]]:
    return [[side // stride] * 2 for stride in (4, 8, 16)]


_PROMPTS = {"hidden_size": CHANNELS, "image_size": SIDE, "patch_size": 16}


def _sam2_config() -> Any:
    backbone = transformers.Sam2HieraDetConfig(
        hidden_size=8,
        image_size=[SIDE, SIDE],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 2, 2],
        window_size_per_stage=[4, 2, 2, 2],
        window_positional_embedding_background_size=[4, 4],
        global_attention_blocks=[3],
    )
    return transformers.Sam2Config(
        vision_config={
            "backbone_config": backbone.to_dict(),
            "backbone_channel_list": [64, 32, 16, 8],
            "backbone_feature_sizes": _grids(),
            "fpn_hidden_size": CHANNELS,
        },
        prompt_encoder_config=_PROMPTS,
        mask_decoder_config=_DECODER,
    )


def _edgetam_config() -> Any:
    return transformers.EdgeTamConfig(
        vision_config={
            "backbone_config": {
                "model_type": "timm_wrapper",
                "architecture": "repvit_m1",
                "num_classes": 1,
                "label_names": ["none"],
                "model_args": {
                    "in_chans": 3,
                    "features_only": True,
                    "out_indices": [0, 1, 2, 3],
                    "embed_dim": [8, 16, 24, 32],
                    "depth": [1, 1, 1, 1],
                },
            },
            "backbone_channel_list": [32, 24, 16, 8],
            "backbone_feature_sizes": _grids(),
            "fpn_hidden_size": CHANNELS,
        },
        prompt_encoder_config=_PROMPTS,
        mask_decoder_config=_DECODER,
    )


def _sam3_config() -> Any:
    side = 14 * SIDE // 16  # 4 patches of 14 pixels
    return transformers.Sam3TrackerConfig(
        vision_config={
            "backbone_config": {
                "model_type": "sam3_vit_model",
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": side,
                "pretrain_image_size": side,
                "patch_size": 14,
                "window_size": 2,
                "global_attn_indexes": [1],
            },
            "fpn_hidden_size": CHANNELS,
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
            "scale_factors": [4.0, 2.0, 1.0],
        },
        prompt_encoder_config={"hidden_size": CHANNELS, "image_size": side, "patch_size": 14},
        mask_decoder_config=_DECODER,
    )


MAKERS: dict[str, tuple[str, Callable[[], Any]]] = {
    "sam": ("SamModel", lambda: _sam_config("Sam")),
    "sam_hq": ("SamHQModel", lambda: _sam_config("SamHQ", vit_dim=24)),
    "sam2": ("Sam2Model", _sam2_config),
    "edgetam": ("EdgeTamModel", _edgetam_config),
    "sam3_tracker": ("Sam3TrackerModel", _sam3_config),
}
"""The class and its small configuration, by family."""


def build(family: str, seed: int = 0) -> Any:
    """A model whose every parameter is random: those that start at zero would hide mistakes."""
    torch.manual_seed(seed)
    class_name, config = MAKERS[family]
    model = getattr(transformers, class_name)(config())
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any() or bool((parameter == 1).all()):
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


class Attended(torch.nn.Module):
    """A two-way transformer whose image reaches SAM-HQ's masks.

    `transformers` (4.57 to 5.24) drops what SAM-HQ's transformer made of the image and goes on with
    what went in, rows and columns exchanged; the authors' decoder
    (github.com/SysCV/sam-hq, segment_anything/modeling/mask_decoder_hq.py) goes on with the
    former, and their weights were trained so.  Here it is put where the library looks.
    """

    def __init__(self, transformer: torch.nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, **inputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        hidden, source = self.transformer(**inputs)
        image = inputs["image_embeddings"]
        image.copy_(source[:, 0].transpose(1, 2).reshape(image.shape).transpose(2, 3))
        return hidden, source


def as_the_authors_meant(model: Any) -> Any:
    """The library's model with SAM-HQ's decoder mended."""
    if type(model).__name__ == "SamHQModel":
        model.mask_decoder.transformer = Attended(model.mask_decoder.transformer)
    return model


def save(family: str, folder: Path, seed: int = 0) -> Path:
    """Write one with `save_pretrained`, and how pixels are normalised beside it."""
    build(family, seed).save_pretrained(folder)
    processor = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder
