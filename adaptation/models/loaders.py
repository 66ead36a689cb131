"""Making a model from a file of weights that were published with segment_anything or MobileSAM."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from segment_anything import build_sam_vit_b, build_sam_vit_h, build_sam_vit_l
from segment_anything.modeling import Sam
from torch import nn

from adaptation.errors import ModelError
from adaptation.models.checkpoints import describe_mismatch, load_strictly, read_tensors


def load_published(path: Path, build: Callable[[], nn.Module]) -> Sam:
    """Load a published SAM, without initialising the weights that the file replaces.

    Args:
        path: A state dict of the whole model.
        build: Assembles the model; called with the meta device as default.

    Raises:
        ModelError: The file does not fit; where it fits another model, the message says which.
    """
    tensors = read_tensors(path)
    with torch.device("meta"):
        sam = build()
    fits = [name for name, other in SAM_BUILDERS.items() if _fits(other, tensors)]
    if fits and describe_mismatch(sam.state_dict(), tensors):
        raise ModelError(f"{path.name} holds weights of {fits[0]}: choose that model for it.")
    load_strictly(sam, tensors, source=path.name)
    return sam.eval()


def load_mobile_sam(path: Path) -> Sam:
    """Load MobileSAM (Zhang et al. 2023, arXiv 2306.14289): SAM's decoder on a TinyViT encoder.

    Raises:
        ModelError: The extra is not installed, or the file does not fit.
    """
    encoder = _build_tiny_vit()
    with torch.device("meta"):
        sam = build_sam_vit_b()
    sam.image_encoder = encoder
    load_strictly(sam, read_tensors(path), source=path.name)
    # The attention biases are gathered anew whenever TinyViT is put in evaluation mode.
    return sam.eval()


def build_mobile_sam() -> Sam:
    """MobileSAM with random weights, as segment_anything's builders make SAM."""
    sam = build_sam_vit_b()
    sam.image_encoder = _build_tiny_vit()
    return sam.eval()


def _build_tiny_vit() -> nn.Module:
    try:
        with warnings.catch_warnings():
            # It asks timm by the names of older versions, and registers under names timm has too.
            warnings.simplefilter("ignore")
            package = importlib.import_module("mobile_sam")
    except ImportError as error:
        raise ModelError(
            "mobile_sam needs packages that are not installed: pip install 'strop[mobile-sam]'."
        ) from error
    encoder: nn.Module = package.build_sam_vit_t().image_encoder
    return encoder


def _fits(build: Callable[[], nn.Module], tensors: Mapping[str, torch.Tensor]) -> bool:
    with torch.device("meta"):
        return not describe_mismatch(build().state_dict(), tensors)


SAM_BUILDERS: dict[str, Callable[[], Sam]] = {
    "vit_b": build_sam_vit_b,
    "vit_l": build_sam_vit_l,
    "vit_h": build_sam_vit_h,
}
"""The builders of segment_anything, by the catalog's names."""
