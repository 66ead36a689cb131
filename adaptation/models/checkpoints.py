"""Weights in files: read safely, loaded strictly."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from adaptation.errors import ModelError

_N_NAMED = 3
"""How many keys of a kind an error names; it counts the rest."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a .safetensors file, or from a file of `torch.save`.

    Code in the file is never run: pickles are read with ``weights_only=True``.

    Returns:
        Parameter name -> tensor on the CPU, in the file's dtype.

    Raises:
        ModelError: The file cannot be read, is damaged, or holds more than named tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about formats that the next line may then refuse
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelError(f"There is no checkpoint {path.name} in {path.parent}.") from error
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path.name} is no plain state dict: it is damaged or holds Python objects, which "
            "may run code and are never loaded. Save it again with "
            "torch.save(model.state_dict(), ...) or as safetensors."
        ) from error
    except (OSError, EOFError, RuntimeError, ValueError, SafetensorError) as error:
        raise ModelError(
            f"{path.name} cannot be read as a checkpoint; it is probably truncated or of another "
            f"format ({_first_line(error)}). Fetch it again."
        ) from error
    return _as_state_dict(content, path.name)


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Give a module exactly these weights; its own may still be on the meta device.

    The tensors become the module's parameters without a copy where their dtype already agrees.

    Args:
        module: The module to fill.
        tensors: A complete state dict.
        source: Name of the file, for the error.

    Raises:
        ModelError: Keys are missing, unexpected, or of another shape; the message names some.
    """
    wanted = module.state_dict()
    mismatch = describe_mismatch(wanted, tensors)
    if mismatch:
        raise ModelError(f"{source} is of another model than the chosen one: {mismatch}.")
    cast = {name: tensors[name].to(wanted[name].dtype) for name in wanted}
    module.load_state_dict(cast, assign=True)


def describe_mismatch(wanted: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> str:
    """Say how a state dict differs from the wanted one in keys and shapes; empty if it does not."""
    misshapen = [
        f"{name} {list(got[name].shape)} instead of {list(wanted[name].shape)}"
        for name in sorted(wanted.keys() & got.keys())
        if got[name].shape != wanted[name].shape
    ]
    kinds = {
        "missing": sorted(wanted.keys() - got.keys()),
        "unexpected": sorted(got.keys() - wanted.keys()),
        "of another shape": misshapen,
    }
    return "; ".join(
        f"{len(names)} {kind} ({_some(names)})" for kind, names in kinds.items() if names
    )


def _some(names: Sequence[str]) -> str:
    rest = len(names) - _N_NAMED
    return ", ".join(names[:_N_NAMED]) + (f", and {rest} more" if rest > 0 else "")


def _as_state_dict(content: object, name: str) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        raise ModelError(
            f"{name} holds a {type(content).__name__}, not a state dict. "
            "Save model.state_dict() into it."
        )
    strangers = [str(key) for key, value in content.items() if not isinstance(value, Tensor)]
    if strangers:
        raise ModelError(
            f"{name} holds more than tensors ({_some(strangers)}): it looks like a training "
            "checkpoint. Save the model's state dict alone."
        )
    return {str(key): value for key, value in content.items()}


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
