"""The models that can be named: found, fetched, verified, loaded."""

from __future__ import annotations

from pathlib import Path

import torch

from adaptation.errors import ModelError
from adaptation.models.compact.model import DEFAULT_WEIGHTS
from adaptation.models.entries import CATALOG, Checkpoint, from_hub, in_folder
from adaptation.models.hub.fetching import fetch_model
from adaptation.models.hub.files import folder_digest
from adaptation.models.names import is_place
from adaptation.models.onnx_encoder import with_encoder
from adaptation.models.sam import PromptableSam
from adaptation.storage.digests import file_sha256, read_digest, verify_file
from adaptation.storage.download import Download, download

_ID_DIGITS = 8


def load_model(
    name: str,
    models_dir: Path,
    *,
    device: str | torch.device = "cpu",
    checkpoint: Path | None = None,
    encoder: Path | None = None,
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
        encoder: Its image encoder for ONNX Runtime, as `strop models export` writes it.
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
    model_id = f"{called}-{(digest or _digest(path))[:_ID_DIGITS]}"
    found = PromptableSam(sam, model_id)
    return found if encoder is None else with_encoder(found, encoder)


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
    entry: Checkpoint,
    models_dir: Path,
    *,
    may_download: bool = True,
    accepts_terms: bool = False,
    show_progress: bool = False,
) -> Path:
    """Find a model's published weights in the models folder, else download them.

    Args:
        entry: The model.
        models_dir: Where downloaded weights are kept.
        may_download: Whether the network may be used.
        accepts_terms: Whether the user has read and accepted the licence of a model that asks for
            it; once is enough.
        show_progress: Draw a progress bar on standard error while downloading.

    Returns:
        The file or folder, its digest verified.

    Raises:
        ModelError: It is missing, or not the published file.
    """
    if entry.hub is not None:
        return fetch_model(
            entry.hub,
            models_dir,
            may_download=may_download,
            accepts_terms=accepts_terms,
            show_progress=show_progress,
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
