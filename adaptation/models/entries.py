"""What the catalog knows of a model, and the models that are on the Hugging Face hub.

Parameters are those that answer clicks: what a checkpoint holds for videos or words is not read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from segment_anything.modeling import Sam

from adaptation.models.hub.families import HubSam
from adaptation.models.hub.fetching import HubModel
from adaptation.models.hub.folder import load_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """One model of the catalog.

    Args:
        name: What users call it.
        title: What it is, in a few words.
        load: Makes the model from a file or folder of weights, on the CPU; raises `ModelError`.
        file_name: The file of its published weights, or their folder.
        url: Where they are published; None for weights that come with Strop or lie in a folder.
        sha256: The file's digest; None where it is written beside the file, or kept on the hub.
        n_bytes: The file's size; None where it may change.
        licence: Of the weights.
        input_size: Longest side of an image after resizing, in pixels; None where the folder says.
        n_parameters: Parameters that answer clicks; None where the folder says.
        hub: Where they are on the Hugging Face hub; None for all others.
    """

    name: str
    title: str
    load: Callable[[Path], Sam | HubSam]
    file_name: str
    url: str | None
    sha256: str | None
    n_bytes: int | None
    licence: str
    input_size: int | None
    n_parameters: int | None
    hub: HubModel | None = None

    @property
    def is_embedded(self) -> bool:
        """Whether its weights come with Strop."""
        return self.url is None and self.hub is None and not Path(self.file_name).is_absolute()


def in_folder(folder: Path) -> Checkpoint:
    """An entry for a folder that `save_pretrained` wrote."""
    where = folder.resolve()
    return Checkpoint(
        name=where.name,
        title=f"the model in {folder}",
        load=load_folder,
        file_name=str(where),
        url=None,
        sha256=None,
        n_bytes=None,
        licence="as its makers say",
        input_size=None,
        n_parameters=None,
    )


def from_hub(hub_id: str) -> Checkpoint:
    """An entry for any model of the hub.

    Raises:
        ModelError: That is no id.
    """
    hub = HubModel(hub_id=hub_id)
    return Checkpoint(
        name=hub_id.rpartition("/")[2],
        title=f"{hub_id} of the Hugging Face hub",
        load=load_folder,
        file_name=hub.folder(Path()).name,
        url=hub.page,
        sha256=None,
        n_bytes=None,
        licence=f"as {hub.page} says",
        input_size=None,
        n_parameters=None,
        hub=hub,
    )


def _published(
    name: str,
    title: str,
    hub_id: str,
    n_parameters: int,
    *,
    licence: str = "Apache-2.0",
    input_size: int = 1024,
    terms: str | None = None,
) -> Checkpoint:
    """An entry of the catalog whose weights are on the Hugging Face hub."""
    return replace(
        from_hub(hub_id),
        name=name,
        title=title,
        licence=licence,
        input_size=input_size,
        n_parameters=n_parameters,
        hub=HubModel(hub_id=hub_id, terms=terms),
    )


ON_HUB = (
    _published(
        "edgetam",
        "EdgeTAM: SAM 2 on a RepViT encoder, for small machines",
        "yonigozlan/EdgeTAM-hf",
        8_988_800,
    ),
    _published("sam2.1-tiny", "SAM 2.1, Hiera-T encoder", "facebook/sam2.1-hiera-tiny", 31_308_880),
    _published(
        "sam2.1-small", "SAM 2.1, Hiera-S encoder", "facebook/sam2.1-hiera-small", 38_406_736
    ),
    _published(
        "sam2.1-base+", "SAM 2.1, Hiera-B+ encoder", "facebook/sam2.1-hiera-base-plus", 73_196_560
    ),
    _published(
        "sam2.1-large", "SAM 2.1, Hiera-L encoder", "facebook/sam2.1-hiera-large", 216_793_024
    ),
    _published(
        "sam-vit-b",
        "Segment Anything, ViT-B encoder, of the hub",
        "facebook/sam-vit-base",
        93_735_728,
    ),
    _published(
        "sam-vit-l",
        "Segment Anything, ViT-L encoder, of the hub",
        "facebook/sam-vit-large",
        312_343_088,
    ),
    _published(
        "sam-vit-h",
        "Segment Anything, ViT-H encoder, of the hub",
        "facebook/sam-vit-huge",
        641_090_864,
    ),
    _published(
        "medsam",
        "MedSAM: ViT-B tuned on medical images, for boxes",
        "wanglab/medsam-vit-base",
        93_735_728,
    ),
    _published(
        "sam-hq-vit-b",
        "HQ-SAM, ViT-B encoder: finer borders",
        "syscv-community/sam-hq-vit-base",
        94_806_832,
    ),
    _published(
        "sam-hq-vit-l",
        "HQ-SAM, ViT-L encoder: finer borders",
        "syscv-community/sam-hq-vit-large",
        313_676_336,
    ),
    _published(
        "sam-hq-vit-h",
        "HQ-SAM, ViT-H encoder: finer borders",
        "syscv-community/sam-hq-vit-huge",
        642_686_256,
    ),
    _published(
        "sam3",
        "SAM 3's interactive head (gated)",
        "facebook/sam3",
        458_128_528,
        licence="SAM License, to be accepted by each user",
        input_size=1008,
        terms="https://huggingface.co/facebook/sam3/blob/main/LICENSE",
    ),
)
"""Licences, sizes and shapes as the projects publish them: docs/guide/models.md."""
