"""EfficientNet-Lite0 up to its last stage, with every batch norm folded into its convolution.

Tan & Le 2019 (arXiv 1905.11946) describe the family; the Lite variant drops squeeze-and-excite and
uses ReLU6. The statistics of the batch norms are frozen here from the start, so folding them into
the convolutions changes nothing but the speed, and leaves no buffers to keep in step.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STEM_CHANNELS = 32

#: (blocks, kernel, stride of the first block, expansion, output channels), stage by stage.
STAGES: tuple[tuple[int, int, int, int, int], ...] = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)

#: Index of the last block at each stride, and the channels it gives.
TAPS: dict[int, int] = {2: 0, 4: 2, 8: 4, 16: 10, 32: 15}
TAP_CHANNELS: dict[int, int] = {2: 16, 4: 24, 8: 40, 16: 112, 32: 320}


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding, for inputs of even height and width."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(in_channels, out_channels, kernel, stride=stride, groups=groups)
        total = kernel - stride
        before = total // 2
        self._pads = (before, total - before, before, total - before)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve `x` [B, C, H, W] to [B, C', H / stride, W / stride]."""
        return super().forward(F.pad(x, self._pads) if any(self._pads) else x)


class InvertedResidual(nn.Module):
    """Expand, convolve each channel on its own, project; with a skip where the shapes agree."""

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel: int, stride: int, expansion: int
    ) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.expand = SameConv2d(in_channels, hidden, 1) if expansion != 1 else None
        self.depthwise = SameConv2d(hidden, hidden, kernel, stride=stride, groups=hidden)
        self.project = SameConv2d(hidden, out_channels, 1)
        self._has_skip = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` [B, C, H, W] to [B, C', H / stride, W / stride]."""
        hidden = x if self.expand is None else F.relu6(self.expand(x))
        out: Tensor = self.project(F.relu6(self.depthwise(hidden)))
        return x + out if self._has_skip else out


class EfficientNetLite0(nn.Module):
    """The convolutional trunk, giving a feature map at each of the strides 2 to 32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv2d(3, STEM_CHANNELS, 3, stride=2)
        self.blocks = nn.ModuleList(_blocks())

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        """Compute the pyramid of an image.

        Args:
            x: [B, 3, H, W], normalised as (RGB - 127) / 128; H and W multiples of 32.

        Returns:
            Stride -> features [B, TAP_CHANNELS[stride], H / stride, W / stride].
        """
        x = F.relu6(self.stem(x))
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        return {stride: outputs[index] for stride, index in TAPS.items()}


def _blocks() -> list[InvertedResidual]:
    blocks = []
    channels = STEM_CHANNELS
    for count, kernel, first_stride, expansion, width in STAGES:
        for index in range(count):
            stride = first_stride if index == 0 else 1
            blocks.append(
                InvertedResidual(channels, width, kernel=kernel, stride=stride, expansion=expansion)
            )
            channels = width
    return blocks


@torch.no_grad()
def fold_batch_norm(conv: nn.Conv2d, weight: Tensor, norm: nn.BatchNorm2d) -> None:
    """Write into `conv` the weights of a bias-free convolution followed by a frozen batch norm.

    Args:
        conv: The convolution to fill, with a bias.
        weight: The source's kernel, of the shape of `conv.weight`.
        norm: The batch norm behind it, with running statistics.
    """
    if conv.bias is None or norm.running_mean is None or norm.running_var is None:
        raise ValueError("folding needs a convolution with a bias and a norm with statistics")
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    conv.weight.copy_(weight * scale[:, None, None, None])
    conv.bias.copy_(norm.bias - norm.running_mean * scale)
