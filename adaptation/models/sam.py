"""A promptable SAM without state: ``embed`` once per image, ``decode`` once per click.

The split is SAM's own (Kirillov et al. 2023): a heavy image encoder that is never trained here,
and a light prompt encoder and mask decoder.  Nothing is "current": any number of threads may embed
and decode on one model at once, each with decoder weights of its own.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from segment_anything.modeling import Sam
from torch import Tensor, nn

from adaptation.errors import InputError, ModelError
from adaptation.models.checkpoints import describe_mismatch
from adaptation.models.decoder import WeightedDecoder, Weights
from adaptation.models.drawing import draw, unpadded
from adaptation.models.prompts import (
    WindowEncoder,
    check_image,
    encode_prompts,
    guide_of,
    resize_image,
    resized,
    signature,
)
from adaptation.models.regions import framed, leaves, region_of, within
from adaptation.types import Embedding, MaskPrediction, Prompt, Size, Window


def digest_of(module: nn.Module) -> str:
    """First 16 hex digits of the SHA-256 of a module's parameters and buffers, in name order."""
    sha = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        value = tensor.detach().cpu().contiguous()
        sha.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        sha.update(value.view(torch.uint8).numpy().tobytes() if value.dim() else b"")
        if not value.dim():
            sha.update(repr(value.item()).encode())
    return sha.hexdigest()[:16]


def digest_of_pixels(image: NDArray[np.uint8]) -> str:
    """SHA-256 of an image's shape and pixels, in hex."""
    sha = hashlib.sha256(repr(image.shape).encode())
    sha.update(np.ascontiguousarray(image).data)
    return sha.hexdigest()


class PromptableSam:
    """One SAM in memory, shared by every thread and every session.

    Args:
        sam: segment_anything's model (any of ViT-B/L/H, MobileSAM, the compact one) or one of the
            hub in its shape; it is put into evaluation mode and its parameters are frozen.
        model_id: The catalog's name, kept in every record.
        encoder_id: Digest of the image encoder where it is known; None computes it.
        imitates: Digest of the encoder that this one stands for, in another arithmetic; decoders
            that were tuned for that one serve this one too.
    """

    def __init__(
        self,
        sam: Sam,
        model_id: str,
        encoder_id: str | None = None,
        imitates: str | None = None,
    ) -> None:
        self.sam = sam.eval().requires_grad_(False)
        self.model_id = model_id
        self.input_size = int(sam.image_encoder.img_size)
        self._stretches = bool(getattr(sam, "stretches", False))
        self.encoder_id = digest_of(sam.image_encoder) if encoder_id is None else encoder_id
        self.imitates = imitates
        self.decoder_id = digest_of(nn.ModuleList([sam.prompt_encoder, sam.mask_decoder]))
        self._decoder = WeightedDecoder(sam.mask_decoder)
        self._image_pe = sam.prompt_encoder.get_dense_pe().detach()

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return cast(torch.device, self.sam.device)

    @property
    def low_res_size(self) -> int:
        """Side of the square low-resolution logits (256 for SAM)."""
        return int(4 * self.sam.prompt_encoder.image_embedding_size[0])

    def decoder_parameters(self) -> dict[str, Tensor]:
        """The base mask decoder's parameters by name; do not write to them."""
        return self._decoder.parameters()

    def with_decoder(self, tensors: Weights) -> PromptableSam:
        """A model with other decoder weights, which shares both encoders with this one.

        Args:
            tensors: All parameters of the mask decoder; they are copied.

        Raises:
            ModelError: Names are missing, unknown or of another shape.
        """
        mismatch = describe_mismatch(self.decoder_parameters(), tensors)
        if mismatch:
            raise ModelError(
                f"The weights are of another decoder than {self.model_id}'s: {mismatch}."
            )
        memo: dict[int, object] = {
            id(module): module for module in (self.sam.image_encoder, self.sam.prompt_encoder)
        }
        for name, old in self.sam.mask_decoder.named_parameters():
            new = tensors[name].detach().to(old.device, old.dtype, copy=True).contiguous()
            memo[id(old)] = nn.Parameter(new, requires_grad=False)
        sam = copy.deepcopy(self.sam, memo)
        return PromptableSam(sam, self.model_id, self.encoder_id, self.imitates)

    # Encoding -------------------------------------------------------------------------------

    def embed(self, image: NDArray[np.uint8], image_id: str | None = None) -> Embedding:
        """Encode one image: slow, once.

        Args:
            image: ``[H, W, 3]`` uint8, RGB.
            image_id: The image's digest where the caller knows it already.

        Returns:
            The embedding, ``[1, C, h, w]`` float32, computed without gradients.
        """
        check_image(image)
        original_size = (int(image.shape[0]), int(image.shape[1]))
        input_size = self.framed(original_size)
        small = resize_image(image, input_size)
        frame = self._frame(small)
        with torch.no_grad():
            features = self.sam.image_encoder(frame).float()
        return Embedding(
            features=features,
            original_size=original_size,
            input_size=input_size,
            image_id=digest_of_pixels(image) if image_id is None else image_id,
            encoder_id=self.encoder_id,
            guide=torch.from_numpy(guide_of(small, self.input_size / self.low_res_size)),
        )

    def framed(self, original_size: Size) -> Size:
        """Size (H, W) of an image in the model's frame, without the padding.

        SAM keeps the image's proportions; SAM 2 and its like stretch it over the whole frame.
        """
        if self._stretches:
            return self.input_size, self.input_size
        return resized(original_size, self.input_size)

    def frame_of(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What the encoder is given for an image ``[H, W, 3]``: ``[1, 3, S, S]``."""
        small = resize_image(image, self.framed((image.shape[0], image.shape[1])))
        return np.asarray(self._frame(small).cpu().numpy(), dtype=np.float32)

    def _frame(self, small: NDArray[np.uint8]) -> Tensor:
        """Normalise a resized image and pad it with zeros to the model's square input."""
        pixels = torch.from_numpy(np.array(small)).to(self.device).permute(2, 0, 1).float()
        normal = (pixels - self.sam.pixel_mean) / self.sam.pixel_std
        height, width = small.shape[:2]
        return F.pad(normal, (0, self.input_size - width, 0, self.input_size - height))[None]

    # Decoding -------------------------------------------------------------------------------

    def decode(
        self,
        embeddings: Embedding | Sequence[Embedding],
        prompts: Sequence[Prompt],
        *,
        weights: Weights | None = None,
    ) -> MaskPrediction:
        """Answer prompts: fast, once per click.  Differentiable; the caller decides ``no_grad``.

        Prompts that differ in their number of clicks, or in having a box or a mask, run in
        batches of their own, so that a prompt's answer does not depend on its neighbours.

        Args:
            embeddings: One embedding for all prompts, or one for each.
            prompts: B prompts, in pixels of the image that each embedding encodes.
            weights: Decoder parameters that replace the base ones of the same names.

        Raises:
            InputError: No prompt, or a number of embeddings that fits neither 1 nor B.
            ModelError: An embedding of another encoder.
        """
        per_prompt = self._matched(embeddings, prompts)
        groups: dict[tuple[int, bool, bool], list[int]] = {}
        for index, prompt in enumerate(prompts):
            groups.setdefault(signature(prompt), []).append(index)
        parts = [
            self._decode_alike([prompts[i] for i in g], [per_prompt[i] for i in g], weights)
            for g in groups.values()
        ]
        return _in_order(parts, [i for group in groups.values() for i in group])

    @property
    def reads_windows(self) -> bool:
        """Whether :meth:`decode_within` works: the model reads any part of the frame."""
        return isinstance(self.sam.prompt_encoder, WindowEncoder)

    def decode_within(
        self,
        embedding: Embedding,
        prompt: Prompt,
        window: Window,
        *,
        weights: Weights | None = None,
    ) -> MaskPrediction:
        """Answer one prompt in a part of the frame: cheaper, for learning.  Differentiable.

        The compact model is trained on such parts, so both ways agree, though not exactly: what
        lies outside of the window is not looked at.

        Args:
            embedding: Of the whole frame.
            prompt: In pixels of the image that is encoded; its clicks lie inside the window.
            window: In pixels of the model's frame.
            weights: As for :meth:`decode`.

        Returns:
            The answer of one prompt, with the logits of the window only.

        Raises:
            ModelError: An embedding of another encoder, or a model that reads whole frames only.
        """
        self._matched(embedding, [prompt])
        encoder = self.sam.prompt_encoder
        if not isinstance(encoder, WindowEncoder):
            raise ModelError(f"The model {self.model_id} reads whole frames only.")
        encoded = within(encode_prompts([prompt], [embedding], self.device), window)
        with torch.no_grad():
            sparse, dense = encoder.encode(encoded.points, encoded.boxes, encoded.masks, window)
        rows, columns = window.grid
        image_pe = self._image_pe[..., rows, columns]
        features = embedding.features[..., rows, columns].to(self.device, torch.float32)
        return self._predict([prompt], features, image_pe, sparse, dense, weights)

    def decode_region(
        self, embedding: Embedding, prompt: Prompt, *, weights: Weights | None = None
    ) -> MaskPrediction:
        """Answer one prompt, reading no more of the frame than it needs: cheaper, for serving.

        From an object's second click on the compact model decodes the part of the frame that
        holds the clicks, the mask fed back and a margin; the whole frame where that is hardly
        more, where a mask reaches the part's edge, and for every other model.

        Args:
            embedding: Of the whole frame.
            prompt: In pixels of the image that is encoded.
            weights: As for :meth:`decode`.

        Returns:
            The answer of one prompt at the size of the whole frame; outside of the part that was
            read, logits are
            :data:`~adaptation.models.regions.UNREAD_LOGIT` and features 0.
        """
        window = region_of(prompt, embedding, self.input_size) if self.reads_windows else None
        if window is not None:
            part = self.decode_within(embedding, prompt, window, weights=weights)
            if not leaves(part.shown_logits()[0, 0] > 0, window, self.input_size):
                return framed(part, window, self.low_res_size)
        return self.decode(embedding, [prompt], weights=weights)

    def _matched(
        self, embeddings: Embedding | Sequence[Embedding], prompts: Sequence[Prompt]
    ) -> list[Embedding]:
        shared = isinstance(embeddings, Embedding)
        found = [embeddings] * len(prompts) if isinstance(embeddings, Embedding) else embeddings
        if not prompts or len(found) != len(prompts):
            got = "one" if shared else len(found)
            raise InputError(
                f"decode needs at least one prompt and an embedding for each (or a single one), "
                f"got {len(prompts)} prompts and {got} embeddings."
            )
        for embedding in found:
            if embedding.encoder_id != self.encoder_id:
                raise ModelError(
                    f"The embedding was made by encoder {embedding.encoder_id}, this model has "
                    f"encoder {self.encoder_id}; encode the image again."
                )
        return list(found)

    def _decode_alike(
        self, prompts: list[Prompt], embeddings: list[Embedding], weights: Weights | None
    ) -> MaskPrediction:
        encoded = encode_prompts(prompts, embeddings, self.device)
        with torch.no_grad():
            sparse, dense = self.sam.prompt_encoder(encoded.points, encoded.boxes, encoded.masks)
        features = torch.cat([e.features.to(self.device, torch.float32) for e in embeddings])
        return self._predict(prompts, features, self._image_pe, sparse, dense, weights)

    def _predict(
        self,
        prompts: list[Prompt],
        features: Tensor,
        image_pe: Tensor,
        sparse: Tensor,
        dense: Tensor,
        weights: Weights | None,
    ) -> MaskPrediction:
        logits, predicted_iou, upscaled = self._decoder.predict(
            features, image_pe, sparse, dense, weights
        )
        return MaskPrediction(
            low_res_logits=logits,
            predicted_iou=predicted_iou,
            is_ambiguous=torch.tensor([p.is_ambiguous for p in prompts], device=self.device),
            upscaled=upscaled,
        )

    @property
    def scores_are_logits(self) -> bool:
        """Whether a sigmoid stands between the IoU head's last layer and the predicted IoU."""
        head = getattr(self.sam.mask_decoder, "iou_prediction_head", None)
        return bool(getattr(head, "sigmoid_output", False))

    def observing(self, layer: str) -> AbstractContextManager[list[Tensor]]:
        """Collect what a layer of this thread's decoder reads while the block runs.

        Args:
            layer: Its name, as in :meth:`decoder_parameters` without the parameter's own.
        """
        return self._decoder.observing(layer)

    def compile(self) -> None:
        """Compile this thread's decoder with `torch.compile`; pays on a GPU, in long runs."""
        self._decoder.compile()

    def binary_mask(
        self, low_res_logits: Tensor, embedding: Embedding, size: Size | None = None
    ) -> NDArray[np.bool_]:
        """One mask ``[h, w]`` of logits as a bool array ``[H, W]`` at the encoded image's size.

        Args:
            low_res_logits: Of one mask.
            embedding: On which it was decoded.
            size: (H, W) to draw it at instead, where a coarser mask will do.
        """
        size = embedding.original_size if size is None else size
        stride = self.input_size / self.low_res_size
        return draw(unpadded(low_res_logits, embedding.input_size, stride), size)


def _in_order(parts: list[MaskPrediction], positions: list[int]) -> MaskPrediction:
    """Join batches whose rows belong at ``positions`` of the whole."""
    if len(parts) == 1:
        return parts[0]
    order = torch.tensor(positions).argsort()
    return MaskPrediction(
        low_res_logits=torch.cat([p.low_res_logits for p in parts])[order],
        predicted_iou=torch.cat([p.predicted_iou for p in parts])[order],
        is_ambiguous=torch.cat([p.is_ambiguous for p in parts])[order],
        upscaled=torch.cat([p.upscaled for p in parts])[order],
    )
