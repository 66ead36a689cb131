"""Base decoders in files, and the registry folder that says which one is in use.

A base is everything of a model that offline training may change: the parameters of its mask
decoder.  The image encoder and the prompt encoder stay what they are, so embeddings outlive every
base, and any number of bases share one encoder in memory.

The registry folder is written by offline jobs and read by servers::

    versions/<name>/decoder.safetensors   one base
    versions/<name>/card.json             where it comes from and how it was measured
    current                               the name of the one in use; replaced atomically
    history.jsonl                         promotions and roll-backs, oldest first
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from adaptation.errors import InputError, ModelError
from adaptation.storage.tensor_files import read_metadata

if TYPE_CHECKING:
    from torch import Tensor

    from adaptation.models.sam import PromptableSam

# What brings torch along is imported where it is used: to list and to switch versions needs none.

FORMAT = "strop-base-1"
"""What a base file's metadata says it is; another number where the names would mean otherwise."""

EMBEDDED = "embedded"
"""What `current` holds after a roll-back to the model's own decoder; never a version's name."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_TEXTS = ("model_id", "encoder_id", "parent", "decoder_id", "stage")


@dataclass(frozen=True, kw_only=True)
class BaseCard:
    """What a base file says of itself.

    Args:
        model_id: The catalog's name of the model that it was tuned from.
        encoder_id: Digest of the image encoder that it reads embeddings of.
        parent: Digest of the decoder that it was tuned from.
        decoder_id: Its own digest, with the prompt encoder, as `PromptableSam.decoder_id`.
        stage: ``base``, ``sft``, ``dpo``: what made it.
        details: Settings and digests of what it was made with, as plain JSON values.
    """

    model_id: str
    encoder_id: str
    parent: str
    decoder_id: str
    stage: str
    details: Mapping[str, Any] = field(default_factory=dict)


# One file --------------------------------------------------------------------------------------


def save_base(
    path: Path,
    sam: PromptableSam,
    tensors: Mapping[str, Tensor],
    stage: str,
    details: Mapping[str, Any],
) -> BaseCard:
    """Write a base as safetensors, whole or not at all.

    Args:
        path: Its file; an existing one is replaced atomically.
        sam: The model that it was tuned from.
        tensors: All parameters of the decoder, named as in `PromptableSam.decoder_parameters`.
        stage: What made it.
        details: Rides with the weights, as JSON.

    Returns:
        The card that the file carries.

    Raises:
        ModelError: The tensors are not this model's decoder, or not finite.
    """
    import torch

    from adaptation.storage.tensors import write_tensors

    _check_tensors(tensors, sam, path.name)
    card = BaseCard(
        model_id=sam.model_id,
        encoder_id=sam.encoder_id,
        parent=sam.decoder_id,
        decoder_id=sam.with_decoder(tensors).decoder_id,
        stage=stage,
        details=details,
    )
    plain = {n: t.detach().to("cpu", torch.float32).contiguous() for n, t in tensors.items()}
    write_tensors(path, plain, _metadata(card), durable=True)
    return card


def read_card(path: Path) -> BaseCard:
    """What a base file says of itself; its weights are not read.

    Raises:
        ModelError: No such file, a damaged one, or one that is no base.
    """
    try:
        return _card(read_metadata(path), path)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def load_base(path: Path, sam: PromptableSam) -> PromptableSam:
    """A model with the decoder of a base file.

    It shares image encoder and prompt encoder with the given model, which stays as it is: both
    answer, at once if need be, on the same embeddings.

    Raises:
        ModelError: No such file, a damaged one, one that is no base, one of another encoder, or
            with parameters that this decoder does not have.
    """
    card = read_card(path)
    if card.encoder_id not in (sam.encoder_id, sam.imitates):
        raise ModelError(
            f"The base {path.name} was tuned for encoder {card.encoder_id} ({card.model_id}), "
            f"this model is {sam.model_id} with encoder {sam.encoder_id}; use the model that it "
            "was tuned from."
        )
    tensors = _read_tensors(path)
    _check_tensors(tensors, sam, path.name)
    found = sam.with_decoder(tensors)
    if found.decoder_id != card.decoder_id:
        raise ModelError(
            f"The base {path.name} says that it is decoder {card.decoder_id}, with this model it "
            f"is {found.decoder_id}: the file was changed, or the model's prompt encoder is "
            "another one. Fetch it again, or use the model that it was tuned from."
        )
    return found


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def _check_tensors(tensors: Mapping[str, Tensor], sam: PromptableSam, name: str) -> None:
    import torch

    from adaptation.models.checkpoints import describe_mismatch

    mismatch = describe_mismatch(sam.decoder_parameters(), tensors)
    if mismatch:
        raise ModelError(
            f"The base {name} is of another decoder than {sam.model_id}'s: {mismatch}."
        )
    broken = sorted(n for n, t in tensors.items() if not bool(torch.isfinite(t).all()))
    if broken:
        raise ModelError(
            f"The base {name} has {len(broken)} parameters that are not finite, first "
            f"{broken[0]!r}: its training went wrong. Train it again, with a lower rate."
        )


def _metadata(card: BaseCard) -> dict[str, str]:
    texts = {name: str(getattr(card, name)) for name in _TEXTS}
    return {"format": FORMAT, **texts, "config": json.dumps(dict(card.details), sort_keys=True)}


def _card(metadata: Mapping[str, str], path: Path) -> BaseCard:
    if metadata.get("format") != FORMAT:
        raise ModelError(
            f"{path.name} is no base decoder: its format is {metadata.get('format', 'not named')}, "
            f"expected {FORMAT}. Bases are made by strop-train sft and strop-train dpo; an "
            "adapter of a session is none."
        )
    missing = [name for name in (*_TEXTS, "config") if name not in metadata]
    if missing:
        raise ModelError(f"The base {path.name} does not say its {missing[0]}; make it again.")
    try:
        details = json.loads(metadata["config"])
    except json.JSONDecodeError as error:
        raise ModelError(
            f"The config in the base {path.name} is no JSON; make it again."
        ) from error
    return BaseCard(**{name: metadata[name] for name in _TEXTS}, details=details)


def _unreadable(path: Path, error: Exception) -> ModelError:
    if not path.exists():
        return ModelError(f"There is no base {path.name} in {path.parent}.")
    return ModelError(
        f"The base {path.name} cannot be read; it is probably truncated or no safetensors "
        f"({str(error)[:120]}). Make it or copy it again."
    )


# The registry ----------------------------------------------------------------------------------


class Registry:
    """The versions of the base decoder in a folder, and the one in use.  Reads only.

    Args:
        folder: Of the registry; it need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def versions(self) -> list[str]:
        """Names of the versions that are there, sorted."""
        found = (self.folder / "versions").glob("*/decoder.safetensors")
        return sorted(p.parent.name for p in found if _NAME.fullmatch(p.parent.name))

    def current(self) -> str | None:
        """Name of the version in use; None: the model's own decoder.

        Raises:
            ModelError: The file that says so cannot be read, or holds no name.
        """
        try:
            text = (self.folder / "current").read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"{self.folder / 'current'} cannot be read ({error}).") from error
        if text == EMBEDDED:
            return None
        return check_name(text)

    def path(self, name: str) -> Path:
        """Where the base of a version lies, whether it is there or not.

        Raises:
            InputError: That is no name of a version.
        """
        return self.folder / "versions" / check_name(name) / "decoder.safetensors"

    def load_current(self, sam: PromptableSam) -> PromptableSam:
        """A model with the decoder in use; the given one where that is the model's own.

        Raises:
            ModelError: The version in use is missing, damaged or of another model.
        """
        name = self.current()
        return sam if name is None else load_base(self.path(name), sam)


def check_name(name: str) -> str:
    """A version's name, which is a folder's name too.

    Raises:
        InputError: It is empty, taken, or has characters that a folder's name should not have.
    """
    if not _NAME.fullmatch(name) or name == EMBEDDED:
        raise InputError(
            f"{name[:100]!r} is no name of a version: use letters, digits, '.', '_' and '-', 100 "
            f"at most, the first a letter or digit; {EMBEDDED!r} is taken."
        )
    return name
