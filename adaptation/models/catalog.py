"""The models that can be named: where their weights come from, and how they are loaded.

Sizes and digests are those of the files at the addresses given; the hexadecimal part of SAM's file
names is no part of their sha256. Parameter counts include what is frozen.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

import torch
from segment_anything import build_sam_vit_b, build_sam_vit_h, build_sam_vit_l
from segment_anything.modeling import Sam
from torch import nn

from adaptation.errors import ModelError
from adaptation.models.checkpoints import describe_mismatch, load_strictly, read_tensors
from adaptation.models.compact.model import DEFAULT_WEIGHTS, load_compact
from adaptation.models.entries import ON_HUB, Checkpoint, from_hub, in_folder
from adaptation.models.hub.fetching import fetch_model
from adaptation.models.hub.folder import folder_digest
from adaptation.models.names import MODEL_NAMES, is_place
from adaptation.models.sam import PromptableSam
from adaptation.storage.digests import file_sha256, read_digest, verify_file
from adaptation.storage.download import Download, download

_SAM_FILES = "https://dl.fbaipublicfiles.com/segment_anything"
_MOBILE_SAM_COMMIT = "f706ad9c4eb7f219c00d9050e46328518ffb65d2"
_ID_DIGITS = 8


def load_model(
    name: str,
    models_dir: Path,
    *,
    device: str | torch.device = "cpu",
    checkpoint: Path | None = None,
    download: bool = True,
    show_progress: bool = False,
) -> PromptableSam:
    """Load a model by its name, fetching its weights first where they are not there yet.

    Args:
        name: One of `CATALOG`, a folder that `save_pretrained` wrote, or an id on the hub.
        models_dir: Where downloaded weights are kept.
        device: Where the model runs, for instance "cpu" or "cuda:0".
        checkpoint: A file (a folder, for models of the hub) with weights of your own for that
            model, instead of the published ones.
        download: Whether the network may be used.
        show_progress: Draw a progress bar on standard error while downloading.

    Returns:
        The model, frozen, in float32 and evaluation mode. Its `model_id` is the name and the
        first hex digits of the digest of the file that it was loaded from.

    Raises:
        ModelError: Unknown name, no weights, wrong digest, weights of another model, no such
            device; the message says what to do.
    """
    entry = find_checkpoint(name)
    target = as_device(device)
    if checkpoint is None:
        path = fetch(entry, models_dir, may_download=download, show_progress=show_progress)
    else:
        path = checkpoint
    sam = entry.load(path).to(target)
    digest = entry.sha256 if checkpoint is None else None
    called = entry.name if is_place(name) else name
    return PromptableSam(sam, model_id=f"{called}-{(digest or _digest(path))[:_ID_DIGITS]}")


def find_checkpoint(name: str) -> Checkpoint:
    """Look a model up by its name; a folder's path or an id on the hub makes an entry of its own.

    Raises:
        ModelError: There is none; the message lists the names.
    """
    if name in CATALOG:
        return CATALOG[name]
    if not is_place(name):
        raise ModelError(
            f"There is no model {name!r}. Choose one of: {', '.join(CATALOG)}; or give a folder "
            "that transformers' save_pretrained wrote (./NAME), or a model of the Hugging Face hub "
            "(OWNER/NAME)."
        )
    folder = Path(name).expanduser()
    return in_folder(folder) if folder.is_dir() else from_hub(name)


def fetch(
    entry: Checkpoint, models_dir: Path, *, may_download: bool = True, show_progress: bool = False
) -> Path:
    """Find a model's published weights in the models folder, else download them.

    Returns:
        The file or folder, its digest verified.

    Raises:
        ModelError: It is missing, or not the published file.
    """
    if entry.hub is not None:
        return fetch_model(
            entry.hub, models_dir, may_download=may_download, show_progress=show_progress
        )
    if entry.is_embedded:
        return _embedded(entry)
    path = models_dir / entry.file_name
    if entry.url is None or entry.sha256 is None:
        return path
    job = Download(
        url=entry.url,
        path=path,
        sha256=entry.sha256,
        n_bytes=entry.n_bytes,
        show_progress=show_progress,
    )
    if path.exists():
        verify_file(path, sha256=entry.sha256, n_bytes=entry.n_bytes)
    elif may_download:
        download(job)
    else:
        raise ModelError(
            f"The weights of {entry.name} are not in {models_dir}, and downloading is switched "
            f"off. Switch it on. {job.by_hand}"
        )
    return path


def where(entry: Checkpoint, models_dir: Path) -> Path:
    """Where a model's weights are, or will be once they are downloaded."""
    if entry.is_embedded:
        return DEFAULT_WEIGHTS.with_name(entry.file_name)
    return models_dir / entry.file_name


def as_device(device: str | torch.device) -> torch.device:
    """Check that a device is there.

    Raises:
        ModelError: It is not.
    """
    try:
        target = torch.device(device)
        torch.empty(1, device=target)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(
            f"The device {str(device)!r} cannot be used here. Choose cpu, or cuda where there is "
            "a GPU that this installation of torch supports."
        ) from error
    return target


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
    fits = [name for name, other in _SAM_BUILDERS.items() if _fits(other, tensors)]
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


def _embedded(entry: Checkpoint) -> Path:
    path = DEFAULT_WEIGHTS.with_name(entry.file_name)
    digest = read_digest(path)
    if digest is not None:
        verify_file(path, sha256=digest)
    elif not path.exists():
        raise ModelError(
            f"The weights of {entry.name} are missing from this installation of Strop. "
            "Install it again, or choose another model."
        )
    return path


def _digest(path: Path) -> str:
    return folder_digest(path) if path.is_dir() else file_sha256(path)


def _fits(build: Callable[[], nn.Module], tensors: Mapping[str, torch.Tensor]) -> bool:
    with torch.device("meta"):
        return not describe_mismatch(build().state_dict(), tensors)


_SAM_BUILDERS: dict[str, Callable[[], Sam]] = {
    "vit_b": build_sam_vit_b,
    "vit_l": build_sam_vit_l,
    "vit_h": build_sam_vit_h,
}

_CHECKPOINTS = (
    Checkpoint(
        name="compact",
        title="the embedded compact model: for CPUs, and where nothing can be downloaded",
        load=load_compact,
        file_name=DEFAULT_WEIGHTS.name,
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
        load=load_compact,
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
        load=load_mobile_sam,
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
        load=partial(load_published, build=build_sam_vit_b),
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
        load=partial(load_published, build=build_sam_vit_l),
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
        load=partial(load_published, build=build_sam_vit_h),
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
