"""The names of the models, apart from the models: settings are checked without loading torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

MODEL_NAMES = (
    "compact",
    "compact-1",
    "edgetam",
    "mobile_sam",
    "sam2.1-tiny",
    "sam2.1-small",
    "sam2.1-base+",
    "vit_b",
    "sam-vit-b",
    "medsam",
    "sam-hq-vit-b",
    "sam2.1-large",
    "vit_l",
    "sam-vit-l",
    "sam-hq-vit-l",
    "sam3",
    "vit_h",
    "sam-vit-h",
    "sam-hq-vit-h",
)
"""As in `adaptation.models.catalog.CATALOG`, the lightest first."""


def is_place(name: str) -> bool:
    """Whether a name is a folder's path or a model's id on the hub, not a name of the catalog."""
    return name not in MODEL_NAMES and ("/" in name or "\\" in name or name.startswith(("~", ".")))


def check_model_name(name: str) -> str:
    """Refuse a name that is none of the catalog, nor a folder's path, nor an id on the hub.

    Raises:
        ValueError: With the names that there are.
    """
    if name not in MODEL_NAMES and not is_place(name):
        raise ValueError(
            f"must be one of {', '.join(MODEL_NAMES)}, a folder (./NAME) or a model of the Hugging "
            "Face hub (OWNER/NAME)"
        )
    return name


ModelName = Annotated[str, AfterValidator(check_model_name)]
"""A name of the catalog, the path of a folder (with a slash in it), or an id on the hub."""
