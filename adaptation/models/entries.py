"""What is known of the models that can be named: where their weights come from, how large they are.

Sizes and digests are those of the files at the addresses given; the hexadecimal part of SAM's file
names is no part of their sha256.  Parameter counts include what is frozen, but not what a
checkpoint holds for videos or words, which is not read.  Nothing here needs torch before a model is
loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from adaptation.models.hub.place import HubModel
from adaptation.models.names import MODEL_NAMES

_SAM_FILES = "https://dl.fbaipublicfiles.com/segment_anything"
_MOBILE_SAM_COMMIT = "f706ad9c4eb7f219c00d9050e46328518ffb65d2"

_EMBEDDED = Path(__file__).parents[1] / "weights"

SamParts = Any
"""segment_anything's `Sam`, or a model of the hub in its shape."""


def _load_compact(path: Path) -> SamParts:
    from adaptation.models.compact.model import load_compact

    return load_compact(path)


def _load_mobile_sam(path: Path) -> SamParts:
    from adaptation.models.loaders import load_mobile_sam

    return load_mobile_sam(path)


def _load_published(path: Path, name: str) -> SamParts:
    from adaptation.models.loaders import SAM_BUILDERS, load_published

    return load_published(path, SAM_BUILDERS[name])


def _load_folder(path: Path) -> SamParts:
    from adaptation.models.hub.folder import load_folder

    return load_folder(path)


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
    load: Callable[[Path], SamParts]
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


def where(entry: Checkpoint, models_dir: Path) -> Path:
    """Where a model's weights are, or will be once they are downloaded."""
    if entry.is_embedded:
        return _EMBEDDED / entry.file_name
    return models_dir / entry.file_name


def in_folder(folder: Path) -> Checkpoint:
    """An entry for a folder that `save_pretrained` wrote."""
    where = folder.resolve()
    return Checkpoint(
        name=where.name,
        title=f"the model in {folder}",
        load=_load_folder,
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
        load=_load_folder,
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

_CHECKPOINTS = (
    Checkpoint(
        name="compact",
        title="the embedded compact model: for CPUs, and where nothing can be downloaded",
        load=_load_compact,
        file_name="compact.safetensors",
        url=None,
        sha256=None,
        n_bytes=None,
        licence="Apache-2.0; the licences of its training data are in its model card",
        input_size=384,
        n_parameters=4_138_168,
    ),
    Checkpoint(
        name="compact-1",
        title="the embedded model before this one: to replay what was clicked and learned with it",
        load=_load_compact,
        file_name="compact-1.safetensors",
        url=None,
        sha256=None,
        n_bytes=None,
        licence="Apache-2.0; the licences of its training data are in its model card",
        input_size=384,
        n_parameters=4_138_168,
    ),
    Checkpoint(
        name="mobile_sam",
        title="MobileSAM: SAM's decoder on a TinyViT encoder",
        load=_load_mobile_sam,
        file_name="mobile_sam.pt",
        url="https://raw.githubusercontent.com/ChaoningZhang/MobileSAM/"
        f"{_MOBILE_SAM_COMMIT}/weights/mobile_sam.pt",
        sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
        n_bytes=40_728_226,
        licence="Apache-2.0",
        input_size=1024,
        n_parameters=10_130_092,
    ),
    Checkpoint(
        name="vit_b",
        title="Segment Anything, ViT-B encoder",
        load=partial(_load_published, name="vit_b"),
        file_name="sam_vit_b_01ec64.pth",
        url=f"{_SAM_FILES}/sam_vit_b_01ec64.pth",
        sha256="ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
        n_bytes=375_042_383,
        licence="Apache-2.0",
        input_size=1024,
        n_parameters=93_735_472,
    ),
    Checkpoint(
        name="vit_l",
        title="Segment Anything, ViT-L encoder",
        load=partial(_load_published, name="vit_l"),
        file_name="sam_vit_l_0b3195.pth",
        url=f"{_SAM_FILES}/sam_vit_l_0b3195.pth",
        sha256="3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        n_bytes=1_249_524_607,
        licence="Apache-2.0",
        input_size=1024,
        n_parameters=312_342_832,
    ),
    Checkpoint(
        name="vit_h",
        title="Segment Anything, ViT-H encoder",
        load=partial(_load_published, name="vit_h"),
        file_name="sam_vit_h_4b8939.pth",
        url=f"{_SAM_FILES}/sam_vit_h_4b8939.pth",
        sha256="a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        n_bytes=2_564_550_879,
        licence="Apache-2.0",
        input_size=1024,
        n_parameters=641_090_608,
    ),
)

_BY_NAME = {entry.name: entry for entry in (*_CHECKPOINTS, *ON_HUB)}
CATALOG: Mapping[str, Checkpoint] = MappingProxyType({name: _BY_NAME[name] for name in MODEL_NAMES})
"""The models by name, the lightest first."""
