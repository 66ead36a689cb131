"""What a pretraining run ships: averaged weights, written with their digest, and its curves."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from adaptation.storage.digests import write_digest
from adaptation.storage.tensors import write_tensors
from training.runtime.checkpoints import read_log
from training.runtime.curves import Panels, plot_curves


class WeightAverage:
    """Exponential moving average of a model's weights; what is evaluated and shipped.

    Args:
        model: The model to follow.
        decay: Weight of the past at each step; smaller during the first steps, so that the
            start is forgotten: min(decay, (1 + n) / (10 + n)).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self.weights = {name: t.detach().clone() for name, t in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the model's weights after optimiser step number `step`."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            average = self.weights[name]
            if average.is_floating_point():
                average.lerp_(value, 1 - decay)
            else:
                average.copy_(value)


_PANELS: Panels = {
    "IoU after so many clicks": lambda name: "iou@" in name,
    "loss, and share of clicks obeyed": lambda name: name in ("loss", "obeyed"),
}


def plot_log(path: Path, target: Path) -> None:
    """Draw the curves of a log: IoU by number of clicks, obedience and loss."""
    plot_curves(read_log(path), _PANELS, target, validation="val_")


def digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and values, in the order of the names."""
    state = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        state.update(tensor.numpy().tobytes())
    return state.hexdigest()


def export_weights(weights: Mapping[str, Tensor], target: Path, metadata: Mapping[str, str]) -> str:
    """Write weights as fp16 safetensors, and the file's digest beside them.

    Returns:
        The digest of the fp16 weights.
    """
    halves = {
        name: (t.half() if t.is_floating_point() else t).contiguous() for name, t in weights.items()
    }
    value = digest(halves)
    write_tensors(target, halves, {**metadata, "sha256": value}, durable=True, mode=0o644)
    write_digest(target)
    return value
