"""Writing a model's image encoder for ONNX Runtime: as it is, or in int8.

Int8 is static quantisation (Jacob et al. 2018, arXiv 1712.05877): the range of every activation is
taken from images of the user's own, weights are scaled by channel.
"""

from __future__ import annotations

import importlib
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from adaptation.errors import InputError, ModelError
from adaptation.models.onnx_encoder import FORMAT, INPUT, OUTPUT
from adaptation.models.sam import PromptableSam
from adaptation.storage.files import move_whole

OPSET = 17
QUANTISED = ("Conv", "ConvTranspose", "MatMul", "Gemm")
"""Operators whose inputs are rounded; the others stay in float32."""

LEAST_IMAGES = 8
"""Fewer tell too little about the range of activations."""

Image = NDArray[np.uint8]


def export_encoder(sam: PromptableSam, path: Path, images: Sequence[Image] | None = None) -> Path:
    """Write an encoder, whole or not at all.

    Args:
        sam: The model; its encoder runs in torch.
        path: The file, ``.onnx``.
        images: ``[H, W, 3]`` uint8 RGB, to calibrate int8 on; None keeps float32.

    Raises:
        InputError: Too few images.
        ModelError: The extra is not installed, or ONNX cannot express the encoder.
    """
    if images is not None and len(images) < LEAST_IMAGES:
        raise InputError(
            f"Int8 needs at least {LEAST_IMAGES} images to calibrate on, got {len(images)}; a "
            "hundred of those that will be labeled are better."
        )
    onnx = _onnx()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / "encoder.onnx"
        _trace(sam, made)
        if images is not None:
            made = _quantise(made, [sam.frame_of(image) for image in images])
        model = onnx.load(str(made))
        about = {
            "format": FORMAT,
            "encoder_id": sam.encoder_id,
            "model_id": sam.model_id,
            "precision": "float32" if images is None else "int8",
        }
        onnx.helper.set_model_props(model, about)
        onnx.save(model, str(made))
        move_whole(made, path, durable=True)
    return path


def _trace(sam: PromptableSam, path: Path) -> None:
    frame = torch.zeros(1, 3, sam.input_size, sam.input_size, device=sam.device)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # It remarks on every size that is fixed; all are: the frame has one size.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                sam.sam.image_encoder,
                (frame,),
                str(path),
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=OPSET,
                dynamo=False,
            )
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        said = " ".join(str(error).split())[:200]
        raise ModelError(
            f"The encoder of {sam.model_id} cannot be written as ONNX ({said}). Serve it in torch."
        ) from error


def _quantise(path: Path, frames: Sequence[NDArray[np.float32]]) -> Path:
    tools = _package("onnxruntime.quantization")
    shapes = _package("onnxruntime.quantization.shape_inference")
    prepared, made = path.with_suffix(".prepared.onnx"), path.with_suffix(".int8.onnx")
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)  # it remarks on every bias that it widens
    try:
        shapes.quant_pre_process(str(path), str(prepared))
        tools.quantize_static(
            str(prepared),
            str(made),
            _Reader(frames),
            quant_format=tools.QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTISED),
            per_channel=True,
            activation_type=tools.QuantType.QUInt8,
            weight_type=tools.QuantType.QInt8,
        )
    finally:
        logging.getLogger().setLevel(level)
    return made


class _Reader:
    """Frames one after the other, as `onnxruntime.quantization` asks for them."""

    def __init__(self, frames: Sequence[NDArray[np.float32]]) -> None:
        self._left: Iterator[NDArray[np.float32]] = iter(frames)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        frame = next(self._left, None)
        return None if frame is None else {INPUT: frame}


def _onnx() -> Any:
    try:
        return importlib.import_module("onnx")
    except ImportError as error:
        raise ModelError(_NOT_INSTALLED) from error


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ModelError(_NOT_INSTALLED) from error


_NOT_INSTALLED = "Writing ONNX needs packages that are not installed: pip install 'strop[onnx]'."
