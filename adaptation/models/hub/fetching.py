"""Bringing a model from the Hugging Face hub into the models folder, whole or not at all.

The hub is asked which files a model has, their sizes and digests; each is fetched by
:mod:`adaptation.storage.download` (resumed, verified) from the commit that was named then.  What
came from where, and whose licence was accepted, is written beside the files, in ``source.json``.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests

from adaptation.errors import ModelError
from adaptation.models.hub.files import CONFIG, is_model_folder
from adaptation.models.hub.place import HubModel
from adaptation.storage.digests import verify_file
from adaptation.storage.download import Download, download
from adaptation.storage.files import write_text

SOURCE = "source.json"

_WANTED = re.compile(
    r"config\.json|preprocessor_config\.json|processor_config\.json"
    r"|model\.safetensors(\.index\.json)?|model-\d+-of-\d+\.safetensors"
)
_TOKENIZER = re.compile(
    r"tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json|vocab\.txt|vocab\.json"
    r"|merges\.txt"
)
_TIMEOUT_S = 30.0
_MAX_SMALL_BYTES = 32_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """One file: its name, its size, and the digest that the hub says it has."""

    name: str
    n_bytes: int
    sha256: str | None
    blob_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listing:
    """What the hub says of a model."""

    commit: str
    licence: str
    files: Sequence[_File] = field(default_factory=tuple)


def fetch_model(
    model: HubModel,
    models_dir: Path,
    *,
    may_download: bool = True,
    accepts_terms: bool = False,
    show_progress: bool = False,
) -> Path:
    """Find a model in the models folder, else download it.

    Args:
        model: Which one.
        models_dir: Where models are kept.
        may_download: Whether the network may be used.
        accepts_terms: Whether the user has read and accepted the model's licence.
        show_progress: Draw a progress bar on standard error.

    Returns:
        Its folder.  Files that came from the hub are those of their digests.

    Raises:
        ModelError: It is missing, gated, damaged, or its licence was not accepted; with what to do.
    """
    folder = model.folder(models_dir)
    if is_model_folder(folder):
        _verify(folder)
        return folder
    if model.terms is not None and not accepts_terms:
        raise ModelError(
            f"{model.hub_id} may be used under terms that each user accepts for themselves: read "
            f"{model.terms}, then run `strop models get` with --accept-licence."
        )
    if not may_download:
        raise ModelError(
            f"{model.hub_id} is not in {models_dir}, and downloading is switched off. Switch it "
            f"on. {_by_hand(model, folder)}"
        )
    _download(model, folder, show_progress=show_progress)
    return folder


def source_of(folder: Path) -> Mapping[str, Any]:
    """What is written beside a model's files; empty where they were put there by hand."""
    try:
        content = json.loads((folder / SOURCE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _verify(folder: Path) -> None:
    for name, sha256 in source_of(folder).get("sha256", {}).items():
        verify_file(folder / name, sha256=str(sha256))


def _download(model: HubModel, folder: Path, *, show_progress: bool) -> None:
    token = _token()
    listing = _ask(model, folder, token)
    small = {
        file.name: _fetch_small(model, listing.commit, file, folder, token)
        for file in listing.files
        if file.sha256 is None
    }
    large = {file.name: file.sha256 for file in listing.files if file.sha256 is not None}
    for file in listing.files:
        if file.sha256 is not None:
            job = Download(
                url=_address(model, listing.commit, file.name),
                path=folder / file.name,
                sha256=file.sha256,
                n_bytes=file.n_bytes,
                show_progress=show_progress,
                token=token,
            )
            download(job)
    about = {
        "hub_id": model.hub_id,
        "commit": listing.commit,
        "licence": listing.licence,
        "accepted_terms": model.terms,
        "sha256": large,
    }
    write_text(folder / SOURCE, json.dumps(about, indent=1) + "\n")
    # The description comes last: a folder without one is no model yet.
    for name in sorted(small, key=lambda name: name == CONFIG):
        write_text(folder / name, small[name])


def _ask(model: HubModel, folder: Path, token: str | None) -> _Listing:
    url = f"{model.hub}/api/models/{model.hub_id}/revision/main"
    content = json.loads(_get(model, url, folder, token, {"blobs": "true"}))
    files = tuple(
        _File(
            name=str(entry["rfilename"]),
            n_bytes=int(entry.get("size") or 0),
            sha256=(entry.get("lfs") or {}).get("sha256"),
            blob_id=entry.get("blobId"),
        )
        for entry in content.get("siblings", ())
        if _is_wanted(model, str(entry["rfilename"]))
    )
    names = {file.name for file in files}
    if CONFIG not in names or not any(name.endswith(".safetensors") for name in names):
        raise ModelError(
            f"{model.page} has no {CONFIG} with weights in safetensors, which Strop needs: "
            "choose a model that transformers loads."
        )
    licence = (content.get("cardData") or {}).get("license", "not named")
    return _Listing(commit=str(content["sha"]), licence=str(licence), files=files)


def _is_wanted(model: HubModel, name: str) -> bool:
    return bool(_WANTED.fullmatch(name) or (model.reads_text and _TOKENIZER.fullmatch(name)))


def _fetch_small(model: HubModel, commit: str, file: _File, folder: Path, token: str | None) -> str:
    """A text file, checked against the digest that git gives it."""
    if file.n_bytes > _MAX_SMALL_BYTES:
        raise ModelError(f"{file.name} of {model.page} is too large to be a description.")
    content = _get(model, _address(model, commit, file.name), folder, token)
    digest = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
    if file.blob_id not in (None, digest.hexdigest()):
        raise ModelError(f"{file.name} of {model.page} did not arrive whole. Try again.")
    return content.decode("utf-8")


def _address(model: HubModel, commit: str, name: str) -> str:
    return f"{model.hub}/{model.hub_id}/resolve/{commit}/{quote(name)}"


def _get(
    model: HubModel,
    url: str,
    folder: Path,
    token: str | None,
    params: Mapping[str, str] | None = None,
) -> bytes:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    try:
        reply = requests.get(url, params=params, headers=headers, timeout=_TIMEOUT_S)
    except requests.RequestException as error:
        raise ModelError(
            f"Cannot reach {model.hub}: no network, or a proxy or firewall in between. Try again "
            f"later. {_by_hand(model, folder)}"
        ) from error
    if reply.status_code in (401, 403, 404):
        raise ModelError(_refused(model, reply.status_code, token))
    if not reply.ok:
        raise ModelError(
            f"{model.hub} answered {reply.status_code} for {model.hub_id}. Try again later. "
            f"{_by_hand(model, folder)}"
        )
    return reply.content


def _refused(model: HubModel, status: int, token: str | None) -> str:
    login = (
        "log in with `hf auth login`, with a token of your account there"
        if token is None
        else "check that the token of `hf auth login` is of the account that was let in"
    )
    if status == 404:
        return f"There is no model {model.hub_id} on {model.hub}. Check the spelling."
    return (
        f"{model.hub} does not give {model.hub_id} to everyone ({status}): it is gated or private, "
        f"or not there. Open {model.page}, accept its conditions, and {login}."
    )


def _by_hand(model: HubModel, folder: Path) -> str:
    return (
        f"Or fetch {CONFIG}, preprocessor_config.json and the .safetensors files of "
        f"{model.page}/tree/main by hand, for instance on another machine, and put them into "
        f"{folder}."
    )


def _token() -> str | None:
    """The token of `hf auth login`, where huggingface_hub is installed and has one."""
    try:
        package = importlib.import_module("huggingface_hub")
    except ImportError:
        return None
    token = package.get_token()
    return None if token is None else str(token)
