"""The embedded compact SAM: segment_anything's own parts behind a light encoder.

The model keeps SAM's interfaces (Kirillov et al. 2023, arXiv 2304.02643), so that `SamPredictor`
and everything written for SAM runs on it, but its tensors carry more than SAM's do:

* The image embedding, at stride 8, carries the stride-4 and stride-2 features of the encoder as
  extra channels; the decoder unpacks them while it upscales (as HQ-SAM, arXiv 2306.01567, and
  SAM 2, arXiv 2408.00714, do with separate tensors).
* Each sparse token carries its position and label, so that the decoder can look up the feature
  under a click and compare the whole image with it.
* The dense embedding carries four maps at stride 2: previous mask, positive clicks, negative
  clicks, box. The decoder sees every prompt at the resolution at which it draws.

No module keeps state between calls: parameters may be swapped by `torch.func.functional_call`.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from segment_anything.modeling import PromptEncoder, Sam, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from adaptation.errors import ModelError
from adaptation.models.compact.click_maps import draw_boxes, draw_clicks, resize
from adaptation.models.compact.decoder import N_HINTS, CompactMaskDecoder
from adaptation.models.compact.trunk import TAP_CHANNELS, EfficientNetLite0
from adaptation.types import LOGIT_STRIDE, STRIDE, Window

Points = tuple[Tensor, Tensor]
"""Coordinates [B, N, 2] as (x, y) in frame pixels, and labels [B, N]: 1, 0, or -1 for padding."""

FRAME_MULTIPLE = 32
PIXEL_MEAN, PIXEL_STD = 127.0, 128.0
DEFAULT_WEIGHTS = Path(__file__).parents[2] / "weights" / "compact.safetensors"

_MASK_LOGIT_SCALE = 4.0


class CompactEncoder(nn.Module):
    """EfficientNet-Lite0 with a small top-down path to stride 8, fine features packed beside it."""

    def __init__(self, input_size: int, dim: int) -> None:
        super().__init__()
        self.img_size = input_size
        self.trunk = EfficientNetLite0()
        self.lateral = nn.ModuleDict(
            {str(stride): nn.Conv2d(TAP_CHANNELS[stride], dim, 1) for stride in (8, 16, 32)}
        )
        self.context = nn.Sequential(
            nn.Conv2d(dim, dim, 5, padding=2, groups=dim),
            nn.Conv2d(dim, dim, 1),
            LayerNorm2d(dim),
            nn.GELU(),
        )
        self.output = nn.Sequential(
            nn.Conv2d(dim, dim, 3, padding=1, bias=False),
            LayerNorm2d(dim),
            nn.GELU(),
            nn.Conv2d(dim, dim, 3, padding=1, bias=False),
            LayerNorm2d(dim),
        )
        self.norm4 = LayerNorm2d(TAP_CHANNELS[4])
        self.norm2 = LayerNorm2d(TAP_CHANNELS[2])

    def forward(self, x: Tensor) -> Tensor:
        """Encode normalised images [B, 3, H, W] to [B, dim + 352, H / 8, W / 8]."""
        taps = self.trunk(x)
        top = self.lateral["32"](taps[32])
        top = top + self.context(top)
        for stride in (16, 8):
            top = self.lateral[str(stride)](taps[stride]) + resize(top, 2.0)
        fine4 = F.pixel_unshuffle(self.norm4(taps[4]), 2)
        fine2 = F.pixel_unshuffle(self.norm2(taps[2]), 4)
        return torch.cat([self.output(top), fine4, fine2], dim=1)


class CompactPromptEncoder(PromptEncoder):  # type: ignore[misc]
    """SAM's prompt encoder, with every prompt also drawn as a map at stride 2."""

    def __init__(self, input_size: int, dim: int) -> None:
        grid = input_size // STRIDE
        super().__init__(dim, (grid, grid), (input_size, input_size), mask_in_chans=16)
        self.hint_embed = nn.Sequential(
            nn.Conv2d(N_HINTS - 1, 16, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(16, dim, 3, stride=2, padding=1),
        )

    @property
    def frame(self) -> Window:
        """The whole frame."""
        height, width = self.input_image_size
        return Window(x=0, y=0, width=width, height=height)

    def forward(
        self, points: Points | None, boxes: Tensor | None, masks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Encode prompts on the whole frame; arguments and results as in `encode`."""
        return self.encode(points, boxes, masks, self.frame)

    def encode(
        self, points: Points | None, boxes: Tensor | None, masks: Tensor | None, window: Window
    ) -> tuple[Tensor, Tensor]:
        """Encode the prompts of B objects in one window.

        Args:
            points: Coordinates [B, N, 2] in pixels of the window (centres at whole numbers) and
                labels [B, N]: 1 positive, 0 negative, -1 padding.
            boxes: [B, 4] as (x0, y0, x1, y1) in pixels of the window.
            masks: [B, 1, height / 2, width / 2], the logits shown last.
            window: Where the prompts lie in the frame.

        Returns:
            Sparse embeddings [B, T, dim + 3] and dense embeddings [B, dim + 64, h, w].
        """
        boxes = None if boxes is None else boxes.reshape(-1, 4)  # SamPredictor sends [1, 1, 4]
        batch = self._get_batch_size(points, boxes, masks)
        device = self._get_device()
        if points is None and boxes is None:
            points = torch.zeros(batch, 1, 2, device=device), -torch.ones(batch, 1, device=device)
        hints = self._draw_hints(points, boxes, masks, batch, window)
        dense = self.hint_embed(hints[:, 1:])
        if masks is None:
            dense = dense + self.no_mask_embed.weight.reshape(1, -1, 1, 1)
        else:
            dense = dense + self._embed_masks(masks)
        sparse = self._embed_sparse(points, boxes, window)
        return sparse, torch.cat([dense, F.pixel_unshuffle(hints, 4)], dim=1)

    def dense_pe(self, window: Window) -> Tensor:
        """The frame's positional encoding inside the window, [1, dim, h, w]."""
        rows, columns = window.grid
        encoding: Tensor = self.get_dense_pe()
        return encoding[:, :, rows, columns]

    def _embed_sparse(self, points: Points | None, boxes: Tensor | None, window: Window) -> Tensor:
        tokens = []
        offset = torch.tensor([window.x, window.y], dtype=torch.float32, device=self._get_device())
        if points is not None:
            coords, labels = points
            token = self._embed_points(coords + offset, labels, pad=boxes is None)
            tokens.append(_with_tail(token, coords, labels, window))
        elif boxes is not None:
            tokens.append(self._embed_centres(boxes, window))
        if boxes is not None:
            corners = boxes.view(-1, 2, 2)
            token = self._embed_boxes(boxes + offset.repeat(2))
            tokens.append(_with_tail(token, corners, -torch.ones_like(corners[..., 0]), window))
        return torch.cat(tokens, dim=1)

    def _embed_centres(self, boxes: Tensor, window: Window) -> Tensor:
        """What a box without clicks is compared with: the feature in its middle, [B, 1, dim + 3].

        The token is SAM's padding, so that the middle is only a guess and no click to obey.
        """
        centres = boxes.view(-1, 2, 2).mean(dim=1, keepdim=True)
        token = self._embed_points(centres, -torch.ones_like(centres[..., 0]), pad=False)
        return _with_tail(token, centres, torch.ones_like(centres[..., 0]), window)

    def _draw_hints(
        self,
        points: Points | None,
        boxes: Tensor | None,
        masks: Tensor | None,
        batch: int,
        window: Window,
    ) -> Tensor:
        size = (window.height // LOGIT_STRIDE, window.width // LOGIT_STRIDE)
        empty = torch.zeros(batch, 1, *size, device=self._get_device())
        previous = empty if masks is None else torch.tanh(masks / _MASK_LOGIT_SCALE)
        disks = empty.expand(-1, 2, -1, -1) if points is None else draw_clicks(*points, size)
        box = empty if boxes is None else draw_boxes(boxes, size)
        return torch.cat([previous, disks, box], dim=1)


def _with_tail(tokens: Tensor, coords: Tensor, labels: Tensor, window: Window) -> Tensor:
    """Append position and label to each token; tokens past the coordinates are padding."""
    size = torch.tensor([window.width, window.height], dtype=torch.float32, device=tokens.device)
    position = (coords.float() + 0.5) / size * 2 - 1
    tail = torch.cat([position, labels[..., None].float()], dim=-1)
    missing = tokens.shape[1] - tail.shape[1]
    return torch.cat([tokens, F.pad(tail, (0, 0, 0, missing), value=-1.0)], dim=-1)


def build_compact(
    *, input_size: int = 384, dim: int = 128, depth: int = 2, mlp_dim: int = 512, n_heads: int = 8
) -> Sam:
    """Assemble the compact model with fresh weights.

    Args:
        input_size: Side of the square frame in pixels, a multiple of 32.
        dim: Channels of the stride-8 embedding and of the tokens, a multiple of 2 * `n_heads`.
        depth: Layers of the two-way transformer.
        mlp_dim: Hidden width of its MLPs.
        n_heads: Its attention heads.

    Returns:
        A segment_anything `Sam` in evaluation mode, whose logits are input_size / 2 on a side.
    """
    if input_size % FRAME_MULTIPLE or dim % (2 * n_heads):
        raise ValueError(
            f"input_size must be a multiple of {FRAME_MULTIPLE} and dim of {2 * n_heads}, "
            f"got {input_size} and {dim}"
        )
    transformer = TwoWayTransformer(
        depth=depth, embedding_dim=dim, mlp_dim=mlp_dim, num_heads=n_heads
    )
    sam = Sam(
        image_encoder=CompactEncoder(input_size, dim),
        prompt_encoder=CompactPromptEncoder(input_size, dim),
        mask_decoder=CompactMaskDecoder(dim=dim, transformer=transformer),
        pixel_mean=[PIXEL_MEAN] * 3,
        pixel_std=[PIXEL_STD] * 3,
    )
    return sam.eval()


def load_compact(path: Path | None = None) -> Sam:
    """Build the compact model with the weights in a safetensors file.

    Args:
        path: The file; None for the embedded one.

    Returns:
        The model in float32 and evaluation mode.

    Raises:
        ModelError: The file is missing, unreadable, or its tensors do not fit the model.
    """
    path = DEFAULT_WEIGHTS if path is None else path
    if not path.is_file():
        raise ModelError(
            f"The compact model's weights {path.name} are missing; install them again."
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"Cannot read the compact weights {path.name}: {error}") from error
    sam = build_compact(
        input_size=int(metadata.get("input_size", 384)), dim=int(metadata.get("dim", 128))
    )
    load_strictly(sam, tensors)
    return sam


def load_strictly(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Load a complete state dict, or say which names are missing, unexpected or misshapen.

    Raises:
        ModelError: The names or the shapes differ.
    """
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    missing = sorted(wanted.keys() - tensors.keys())
    unexpected = sorted(tensors.keys() - wanted.keys())
    misshapen = sorted(n for n in wanted.keys() & tensors.keys() if wanted[n] != tensors[n].shape)
    if missing or unexpected or misshapen:
        raise ModelError(
            "These weights are of another model: "
            f"missing {missing}, unexpected {unexpected}, of another shape {misshapen}."
        )
    model.load_state_dict(tensors)
