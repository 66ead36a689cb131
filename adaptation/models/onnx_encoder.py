"""A model's image encoder through ONNX Runtime, in float32 or int8 (the extra `onnx`).

Such an encoder is another one: it has a digest of its own, so that its embeddings never mix with
those of torch's.  Decoders are shared: what was tuned or learned upon the one answers on the other.
"""

from __future__ import annotations

import copy
import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adaptation.errors import ModelError
from adaptation.models.sam import PromptableSam
from adaptation.storage.digests import file_sha256

FORMAT = "strop-encoder-1"
"""What a file's metadata says it is."""

INPUT, OUTPUT = "frame", "features"
_ID_DIGITS = 16


class OnnxEncoder(nn.Module):
    """An encoder without parameters of torch.  Thread-safe: ONNX Runtime is.

    Args:
        session: Of ONNX Runtime.
        like: The encoder that it was made from: gives frame and normalisation.
    """

    def __init__(self, session: Any, like: nn.Module) -> None:
        super().__init__()
        self.img_size = like.img_size
        self._session = session
        for name in ("pixel_mean", "pixel_std"):
            if hasattr(like, name):
                self.register_buffer(name, getattr(like, name))

    def forward(self, frame: Tensor) -> Tensor:
        """Embed ``[1, 3, S, S]``: ``[1, C, h, w]`` float32."""
        given = {INPUT: frame.detach().cpu().numpy()}
        return torch.from_numpy(self._session.run([OUTPUT], given)[0]).to(frame.device)


def with_encoder(sam: PromptableSam, path: Path) -> PromptableSam:
    """A model with the image encoder of a file, which shares all else with the given one.

    Args:
        sam: The model that the file was made from.
        path: As `adaptation.models.onnx_export` writes it.

    Raises:
        ModelError: The extra is not installed, or the file is missing, damaged or of another model.
    """
    session = _open(path)
    about = session.get_modelmeta().custom_metadata_map
    if about.get("format") != FORMAT:
        raise ModelError(
            f"{path.name} is no encoder for Strop: make one with `strop models export`."
        )
    if about.get("encoder_id") != sam.encoder_id:
        raise ModelError(
            f"{path.name} was made from the encoder {about.get('encoder_id')} "
            f"({about.get('model_id')}), this model is {sam.model_id} with encoder "
            f"{sam.encoder_id}: choose that model, or export this one's encoder."
        )
    old = sam.sam.image_encoder
    kept = (sam.sam.prompt_encoder, sam.sam.mask_decoder)
    memo: dict[int, object] = {id(part): part for part in kept}
    memo[id(old)] = OnnxEncoder(session, old)
    encoder_id = file_sha256(path)[:_ID_DIGITS]
    found = copy.deepcopy(sam.sam, memo)
    return PromptableSam(found, sam.model_id, encoder_id, imitates=sam.encoder_id)


def _open(path: Path) -> Any:
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise ModelError(
            "An encoder in ONNX needs packages that are not installed: pip install 'strop[onnx]'."
        ) from error
    if not path.is_file():
        raise ModelError(f"There is no encoder {path.name} in {path.parent}.")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own kinds derive from nothing narrower
        said = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{path.name} cannot be read as ONNX ({said}). Export it again."
        ) from error
