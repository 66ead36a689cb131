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

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.mask_decoder import MLP
from torch import Tensor, nn
from torch.nn import functional as F

from adaptation.errors import ModelError
from adaptation.trunk import TAP_CHANNELS, EfficientNetLite0

Points = tuple[Tensor, Tensor]
"""Coordinates [B, N, 2] as (x, y) in frame pixels, and labels [B, N]: 1, 0, or -1 for padding."""

STRIDE = 8
LOGIT_STRIDE = 2
FRAME_MULTIPLE = 32
PIXEL_MEAN, PIXEL_STD = 127.0, 128.0
DEFAULT_WEIGHTS = Path(__file__).parent / "weights" / "compact.safetensors"

N_HINTS = 4
"""Stride-2 maps in the dense embedding: previous mask, positive clicks, negative clicks, box."""
N_TAIL = 3
"""Channels at the end of a sparse token: x and y in [-1, 1], and the label (-1: not a click)."""

_DISK_SIGMA = 2.0
_MASK_LOGIT_SCALE = 4.0
_SIMILARITY_SHARPNESS = 6.0
_PROXIMITY_CELLS = 8.4
_N_PRIORS = 6
_UPSCALED_CHANNELS = (32, 32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A part of the model's frame that is encoded on its own, in frame pixels.

    Prompts are given relative to the window; positional encodings are those of the whole frame.
    Training on windows is cheaper than on frames and agrees with them.
    """

    x: int
    y: int
    width: int
    height: int

    def __post_init__(self) -> None:
        if any(v % STRIDE for v in (self.x, self.y, self.width, self.height)):
            raise ValueError(f"A window's edges must be multiples of {STRIDE}, got {self}.")

    @property
    def grid(self) -> tuple[slice, slice]:
        """Rows and columns of the stride-8 grid that the window covers."""
        top, left = self.y // STRIDE, self.x // STRIDE
        return slice(top, top + self.height // STRIDE), slice(left, left + self.width // STRIDE)


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
            top = self.lateral[str(stride)](taps[stride]) + _resize(top, 2.0)
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
        if boxes is not None:
            corners = boxes.reshape(-1, 2, 2)
            token = self._embed_boxes(boxes + offset.repeat(2))
            tokens.append(_with_tail(token, corners, -torch.ones_like(corners[..., 0]), window))
        return torch.cat(tokens, dim=1)

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


class CompactMaskDecoder(MaskDecoder):  # type: ignore[misc]
    """SAM's mask decoder with click similarity as a prior and fine features in its upscaling.

    A decoder trained from nothing finds the object slowly; told how similar each pixel is to the
    clicked ones, and how near, it only has to refine that guess.
    """

    def __init__(self, *, dim: int, transformer: nn.Module) -> None:
        super().__init__(transformer_dim=dim, transformer=transformer, iou_head_hidden_dim=dim)
        wide, fine = _UPSCALED_CHANNELS
        c4, c2 = TAP_CHANNELS[4], TAP_CHANNELS[2]
        self.output_upscaling = nn.ModuleDict(
            {
                "to4": nn.ConvTranspose2d(dim, wide, 2, stride=2),
                "norm4": LayerNorm2d(wide),
                "to2": nn.ConvTranspose2d(wide, fine, 2, stride=2),
            }
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLP(dim, dim, fine, 3) for _ in range(self.num_mask_tokens)
        )
        self.skip4, self.skip2 = nn.Conv2d(c4, wide, 1), nn.Conv2d(c2, fine, 1)
        self.refine = nn.Sequential(
            nn.Conv2d(fine, fine, 3, padding=1, groups=fine), nn.Conv2d(fine, fine, 1), nn.ReLU()
        )
        self.click_token = nn.Linear(dim, dim)
        self.similar8, self.similar4 = nn.Conv2d(dim, 32, 1), nn.Conv2d(c4, 24, 1)
        self.prior8 = nn.Sequential(
            nn.Conv2d(_N_PRIORS, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, dim, 1)
        )
        self.prior4 = nn.Conv2d(_N_PRIORS, wide, 3, padding=1)
        self.hint2 = nn.Conv2d(N_HINTS, fine, 3, padding=1)
        self.prior_logit = nn.Conv2d(_N_PRIORS, self.num_mask_tokens, 1)
        self.hint_logit = nn.Conv2d(N_HINTS, self.num_mask_tokens, 1)
        self._start_from_priors()

    @torch.no_grad()
    def _start_from_priors(self) -> None:
        """Begin with masks that follow clicks, similarity and the previous mask."""
        similarity_and_distance = torch.tensor([3.0, -3.0, 1.5, -1.5, 3.0, -3.0])
        self.prior_logit.weight.copy_(similarity_and_distance.view(1, -1, 1, 1))
        self.prior_logit.bias.fill_(-4.0)
        self.hint_logit.weight.copy_(torch.tensor([1.0, 2.0, -2.0, 4.0]).view(1, -1, 1, 1))
        self.hint_logit.bias.zero_()
        nn.init.normal_(self.hint2.weight, std=0.02)
        nn.init.zeros_(self.hint2.bias)

    def predict_masks(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """As SAM's: all candidate logits [B, M, H, W] and predicted IoUs [B, M]."""
        logits, predicted_iou, _, _ = self.predict_with_features(
            image_embeddings, image_pe, sparse_prompt_embeddings, dense_prompt_embeddings
        )
        return logits, predicted_iou

    def predict_with_features(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Decode the prompts of B objects.

        Args:
            image_embeddings: [1 or B, C, h, w] from the encoder.
            image_pe: [1, dim, h, w] positional encoding.
            sparse_prompt_embeddings: [B, T, dim + 3] from the prompt encoder.
            dense_prompt_embeddings: [B, dim + 64, h, w] from the prompt encoder.

        Returns:
            Low-resolution logits [B, M, 4h, 4w], predicted IoUs [B, M], the upscaled features
            [B, c, 4h, 4w] that the logits are read from, and the readout weights [B, M, c].
        """
        coarse, fine4, fine2 = self._unpack_image(image_embeddings)
        batch, dim = sparse_prompt_embeddings.shape[0], self.transformer_dim
        if image_embeddings.shape[0] not in (1, batch):
            raise ValueError(
                f"{batch} prompts need 1 or {batch} embeddings, got {image_embeddings.shape[0]}"
            )
        sparse, tail = sparse_prompt_embeddings[..., :dim], sparse_prompt_embeddings[..., dim:]
        grid, labels = tail[..., :2].float(), tail[..., 2].round()
        dense = dense_prompt_embeddings[:, :dim]
        hints = F.pixel_shuffle(dense_prompt_embeddings[:, dim:], 4)

        prior8, prior4 = self._priors(coarse, fine4, grid, labels)
        under_click = sample_at(coarse.float(), grid)
        is_click = (labels >= 0)[..., None].to(sparse.dtype)
        sparse = sparse + self.click_token(under_click) * is_click

        source = coarse + dense + self.prior8(prior8)
        tokens = torch.cat([self._output_tokens(batch), sparse], dim=1)
        decoded, source = self.transformer(source, image_pe.expand(batch, -1, -1, -1), tokens)
        source = source.transpose(1, 2).reshape(batch, dim, *coarse.shape[-2:])
        upscaled = self._upscale(source, fine4, fine2, prior4, hints)
        hyper = self._hyper(decoded)
        logits = torch.einsum("bmc,bchw->bmhw", hyper, upscaled)
        logits = logits + self.hint_logit(hints) + _resize(self.prior_logit(prior4), 2.0)
        return logits, self.iou_prediction_head(decoded[:, 0]), upscaled, hyper

    def _unpack_image(self, embeddings: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split into stride-8, stride-4 and stride-2 features."""
        dim, c4, c2 = self.transformer_dim, TAP_CHANNELS[4] * 4, TAP_CHANNELS[2] * 16
        coarse, fine4, fine2 = embeddings.split([dim, c4, c2], dim=1)
        return coarse, F.pixel_shuffle(fine4, 2), F.pixel_shuffle(fine2, 4)

    def _output_tokens(self, batch: int) -> Tensor:
        tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        return tokens.expand(batch, -1, -1)

    def _hyper(self, decoded: Tensor) -> Tensor:
        rows = [mlp(decoded[:, 1 + i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)]
        return torch.stack(rows, dim=1)

    def _priors(
        self, coarse: Tensor, fine4: Tensor, grid: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Similarity (strides 8 and 4) and nearness to clicks: [B, 6, h, w], [B, 6, 2h, 2w]."""
        similar8 = click_similarity(self.similar8(coarse), grid, labels)
        similar4 = click_similarity(self.similar4(fine4), grid, labels)
        near = click_proximity(grid, labels, (coarse.shape[-2], coarse.shape[-1]))
        at8 = torch.cat([similar8, F.avg_pool2d(similar4, 2), near], dim=1)
        at4 = torch.cat([_resize(similar8, 2.0), similar4, _resize(near, 2.0)], dim=1)
        return at8, at4

    def _upscale(
        self, source: Tensor, fine4: Tensor, fine2: Tensor, prior4: Tensor, hints: Tensor
    ) -> Tensor:
        """Bring the coarse features to stride 2, adding finer ones on the way: [B, c, 4h, 4w]."""
        up = self.output_upscaling
        x = up["to4"](_channels_last(source))
        x = x + self.skip4(_channels_last(fine4)) + self.prior4(_channels_last(prior4))
        x = F.relu(_layer_norm(x, up["norm4"]))
        x = up["to2"](x) + self.skip2(_channels_last(fine2)) + self.hint2(_channels_last(hints))
        x = F.relu(x)
        return x + self.refine(x)


def draw_clicks(coords: Tensor, labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Gaussian disks around positive and negative clicks at stride 2, [B, 2, H, W] in [0, 1].

    Args:
        coords: [B, N, 2] as (x, y) in pixels at stride 1.
        labels: [B, N]; 1 positive, 0 negative, anything else is not drawn.
        size: (H, W) of the map.
    """
    centres = (coords.float() + 0.5) / LOGIT_STRIDE - 0.5
    rows = torch.arange(size[0], device=coords.device)[:, None]
    columns = torch.arange(size[1], device=coords.device)
    squared = (columns - centres[..., 0, None, None]) ** 2 + (
        rows - centres[..., 1, None, None]
    ) ** 2
    return torch.exp(-_nearest(squared, labels) / (2 * _DISK_SIGMA**2))


def draw_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """How much of each stride-2 cell lies in the box, [B, 1, H, W] in [0, 1]."""
    edges = (boxes.float() + 0.5) / LOGIT_STRIDE
    covered = []
    for axis, length in ((0, size[1]), (1, size[0])):
        cells = torch.arange(length, device=boxes.device)
        low, high = edges[:, axis, None], edges[:, axis + 2, None]
        inside = torch.minimum(high, cells + 1) - torch.maximum(low, cells)
        covered.append(inside.clamp(0, 1))
    return (covered[1][:, :, None] * covered[0][:, None, :])[:, None]


def sample_at(features: Tensor, grid: Tensor) -> Tensor:
    """Features [1 or B, C, h, w] at positions [B, N, 2] in [-1, 1], as [B, N, C]."""
    maps = features.expand(grid.shape[0], -1, -1, -1)
    at = F.grid_sample(maps, grid[:, :, None], align_corners=False, padding_mode="border")
    return at[..., 0].transpose(1, 2)


def click_similarity(features: Tensor, grid: Tensor, labels: Tensor) -> Tensor:
    """Cosine similarity to the most similar positive and negative click, [B, 2, h, w] in [0, 1].

    Args:
        features: [1 or B, C, h, w].
        grid: Clicks [B, N, 2] in [-1, 1].
        labels: [B, N]; 1 positive, 0 negative.
    """
    unit = F.normalize(features.float(), dim=1)
    clicked = F.normalize(sample_at(unit, grid), dim=2)
    maps = unit.expand(grid.shape[0], -1, -1, -1)
    similarity = torch.einsum("bnc,bchw->bnhw", clicked, maps)
    return torch.exp(-_SIMILARITY_SHARPNESS * _nearest(1 - similarity.float(), labels))


def click_proximity(grid: Tensor, labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearness to the closest positive and negative click, [B, 2, h, w] in [0, 1]."""
    height, width = size
    rows = torch.arange(height, device=grid.device)[:, None] + 0.5
    columns = torch.arange(width, device=grid.device) + 0.5
    x = (grid[..., 0, None, None] + 1) * width / 2
    y = (grid[..., 1, None, None] + 1) * height / 2
    squared = _nearest((columns - x) ** 2 + (rows - y) ** 2, labels)
    return torch.exp(-squared.sqrt() / _PROXIMITY_CELLS)


def _nearest(distances: Tensor, labels: Tensor) -> Tensor:
    """The smallest distance [B, N, h, w] to a positive and to a negative click, inf for none."""
    smallest = [
        distances.masked_fill((labels != label)[..., None, None], torch.inf).amin(dim=1)
        for label in (1, 0)
    ]
    return torch.stack(smallest, dim=1)


def _with_tail(tokens: Tensor, coords: Tensor, labels: Tensor, window: Window) -> Tensor:
    """Append position and label to each token; tokens past the coordinates are padding."""
    size = torch.tensor([window.width, window.height], dtype=torch.float32, device=tokens.device)
    position = (coords.float() + 0.5) / size * 2 - 1
    tail = torch.cat([position, labels[..., None].float()], dim=-1)
    missing = tokens.shape[1] - tail.shape[1]
    return torch.cat([tokens, F.pad(tail, (0, 0, 0, missing), value=-1.0)], dim=-1)


def _channels_last(x: Tensor) -> Tensor:
    """The same values in the layout in which convolutions on a CPU are fastest."""
    return x.contiguous(memory_format=torch.channels_last)


def _layer_norm(x: Tensor, norm: LayerNorm2d) -> Tensor:
    """What `norm` computes, in one pass over a tensor that lies channels last."""
    rows = x.permute(0, 2, 3, 1)
    return F.layer_norm(rows, rows.shape[-1:], norm.weight, norm.bias, norm.eps).permute(0, 3, 1, 2)


def _resize(x: Tensor, scale: float) -> Tensor:
    return F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)


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
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
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
