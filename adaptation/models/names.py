"""The names of the models, apart from the models: settings are checked without loading torch."""

from __future__ import annotations

from typing import Literal, get_args

ModelName = Literal["compact", "compact-1", "mobile_sam", "vit_b", "vit_l", "vit_h"]
MODEL_NAMES: tuple[ModelName, ...] = get_args(ModelName)
"""As in `adaptation.models.catalog.CATALOG`, the lightest first."""
