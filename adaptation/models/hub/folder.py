"""Reading a folder that `save_pretrained` wrote, strictly: no parameter is left to chance."""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from adaptation.errors import ModelError
from adaptation.models.hub.families import FAMILIES, Family, HubSam
from adaptation.models.hub.files import CONFIG, is_model_folder, no_weights

_PREPROCESSORS = ("preprocessor_config.json", "processor_config.json")


def load_folder(folder: Path) -> HubSam:
    """Load a model of any family that Strop knows.

    Only safetensors are read: no code in a file is ever run.

    Args:
        folder: With ``config.json``, ``model.safetensors`` (or its parts) and, where the
            normalisation is not the family's usual one, ``preprocessor_config.json``.

    Returns:
        The model on the CPU, in float32 and evaluation mode.

    Raises:
        ModelError: A package or a file is missing, the family is not known, or the weights are
            not complete.
    """
    family = family_of(folder)
    mean, std = _normalisation(folder, family)
    return HubSam(_load(folder, family), family, mean, std).eval()


def family_of(folder: Path) -> Family:
    """Which family a folder's model is of.

    Raises:
        ModelError: There is no ``config.json`` that says so, or it is none that Strop knows.
    """
    kind = str(_read_json(folder / CONFIG).get("model_type"))
    if kind not in FAMILIES:
        known = ", ".join(sorted({family.name for family in FAMILIES.values()}))
        raise ModelError(
            f"{folder.name} holds a model of the type {kind!r}, which Strop cannot click with. "
            f"Choose one of the families {known}."
        )
    return FAMILIES[kind]


def _load(folder: Path, family: Family) -> Any:
    if not is_model_folder(folder):
        raise ModelError(no_weights(folder))
    return load_complete(model_class(family), folder, family.name)


def load_complete(kind: Any, folder: Path, name: str) -> Any:
    """Load a folder's weights as a class of `transformers`, every parameter of it.

    Args:
        kind: The class.
        folder: With ``config.json`` and safetensors; nothing else is read.
        name: What users call such a model.

    Returns:
        The model on the CPU, in float32.

    Raises:
        ModelError: The weights cannot be read, are of another model, or are not complete.
    """
    try:
        with _quiet():
            model, report = kind.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                dtype="float32",
            )
    except (OSError, ValueError, RuntimeError, LookupError, TypeError, SafetensorError) as error:
        said = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{folder.name} cannot be loaded as a model of {name}: {said}. Fetch it again."
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"{folder.name} lacks {len(missing)} parameters of {name}, first "
            f"{missing[0]!r}: its weights are of another model than its {CONFIG} says, or not "
            "complete. Fetch it again."
        )
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's progress bar, and without its remark that a model is one of videos."""
    logging = importlib.import_module("transformers").utils.logging
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def model_class(family: Family) -> Any:
    """The family's class in `transformers`.

    Raises:
        ModelError: The extra is not installed, or its version does not have the class.
    """
    try:
        package = importlib.import_module("transformers")
    except ImportError as error:
        raise ModelError(
            f"{family.name} needs packages that are not installed: pip install 'strop[hub]'."
        ) from error
    found = getattr(package, family.class_name, None)
    if found is None:
        raise ModelError(
            f"transformers {package.__version__} has no {family.class_name}, which {family.name} "
            "needs: pip install --upgrade 'strop[hub]'."
        )
    return found


def _normalisation(folder: Path, family: Family) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the pixels, 0 to 255, by channel."""
    said: Mapping[str, Any] = {}
    for name in _PREPROCESSORS:
        if (folder / name).is_file():
            content = _read_json(folder / name)
            said = content.get("image_processor", content)
            break
    mean, std = said.get("image_mean"), said.get("image_std")
    if mean is None or std is None:
        mean, std = family.normal
    return [_scaled(each, folder) for each in (mean, std)]  # type: ignore[return-value]


def _scaled(values: Sequence[float], folder: Path) -> list[float]:
    if len(values) != 3:
        raise ModelError(
            f"{folder.name} normalises {len(values)} channels; Strop gives a model RGB images."
        )
    return [255.0 * float(value) for value in values]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(
            f"{path.parent} holds no {path.name}: it is no folder that transformers' "
            "save_pretrained wrote, or not complete."
        ) from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON; fetch it again.") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds no JSON object; fetch it again.")
    return content
