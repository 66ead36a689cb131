"""A tiny SAM with random weights, assembled from segment_anything's own modules."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)
from torch import Tensor

from adaptation.models.sam import PromptableSam
from adaptation.types import Embedding


def tiny_vit_sam(seed: int = 0, input_size: int = 64, dim: int = 16) -> Sam:
    """SAM's own architecture at 64 pixels: its builder hard-codes 1024."""
    torch.manual_seed(seed)
    grid = input_size // 16
    sam = Sam(
        image_encoder=ImageEncoderViT(
            img_size=input_size,
            embed_dim=32,
            depth=1,
            num_heads=2,
            out_chans=dim,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            window_size=2,
            global_attn_indexes=(0,),
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=dim,
            image_embedding_size=(grid, grid),
            input_image_size=(input_size, input_size),
            mask_in_chans=8,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=1, embedding_dim=dim, mlp_dim=32, num_heads=2),
            transformer_dim=dim,
            iou_head_depth=2,
            iou_head_hidden_dim=16,
        ),
    )
    return sam.eval()


def upscaled(sam: PromptableSam, low_res_logits: Tensor, embedding: Embedding) -> Tensor:
    """Logits ``[B, T, h, w]`` at the image's size, as SAM's own `postprocess_masks` has them."""
    frame, (height, width) = (sam.input_size, sam.input_size), embedding.input_size
    framed = F.interpolate(low_res_logits, frame, mode="bilinear", align_corners=False)
    unpadded = framed[..., :height, :width]
    return F.interpolate(unpadded, embedding.original_size, mode="bilinear", align_corners=False)


@pytest.fixture(scope="session")
def sam() -> PromptableSam:
    return PromptableSam(tiny_vit_sam(), "tiny")


@pytest.fixture(scope="session")
def image() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)
