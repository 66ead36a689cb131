"""What the reference decoder says of the masks that were compared: once, and kept on the disk."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from adaptation.learning.losses import mask_iou
from adaptation.storage.tensors import write_tensors
from adaptation.types import MaskPrediction
from training.runtime.distributed import Rank

logger = logging.getLogger(__name__)

MATCH_IOU = 0.8
"""A compared mask is one of the decoder's own where they agree at least this much."""

NO_TOKEN = -1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reference:
    """The reference decoder's answers to N prompts with up to K compared masks each.

    Args:
        logps: `[N, K]` float32, log-likelihoods of the compared masks; 0 in the padding.
        token: `[N]` int64, the mask token that the reference shows.
        matches: `[N, K]` int64, the token whose mask is the compared one; -1 where none is, or
            where a better one has it.
    """

    logps: Tensor
    token: Tensor
    matches: Tensor

    def to(self, device: torch.device) -> Reference:
        """The same on a device."""
        return Reference(
            logps=self.logps.to(device),
            token=self.token.to(device),
            matches=self.matches.to(device),
        )

    def of(self, indices: Sequence[int], n_masks: int) -> Reference:
        """The rows of some prompts, with room for `n_masks` masks."""
        rows = torch.tensor(indices)
        return Reference(
            logps=self.logps[rows, :n_masks],
            token=self.token[rows],
            matches=self.matches[rows, :n_masks],
        )


def match_tokens(prediction: MaskPrediction, masks: Tensor, valid: Tensor) -> Tensor:
    """Which of the decoder's masks each compared mask is: [B, K] int64, -1 for none.

    A token stands for the best of the masks that it fits, and for that one only.

    Args:
        prediction: Of B prompts.
        masks: [B, K, h, w] in {0, 1}, best first.
        valid: [B, h, w] in {0, 1}, 0 in the padding.
    """
    n_masks = masks.shape[1]
    logits = prediction.low_res_logits[:, None].expand(-1, n_masks, -1, -1, -1)
    overlap = mask_iou(logits, masks[:, :, None], valid[:, None, None])
    best, token = overlap.max(dim=2)
    token = torch.where(best >= MATCH_IOU, token, NO_TOKEN)
    for k in range(1, n_masks):
        is_taken = (token[:, :k] == token[:, k : k + 1]).any(dim=1)
        token[:, k] = torch.where(is_taken, NO_TOKEN, token[:, k])
    return token


def reference_of(
    folder: Path, key: str, n_items: int, rank: Rank, measure: Callable[[Sequence[int]], Reference]
) -> Reference:
    """The reference's answers from the disk, else worked out by all ranks and kept there.

    Args:
        folder: Where they are kept.
        key: Of everything that they depend on.
        n_items: N.
        rank: This process.
        measure: Works out some of the rows, all of them K masks wide.
    """
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.reference"
    found = rank.gather(_load(path))[0]
    if found is None:
        mine = rank.turns(range(n_items))
        shares = rank.gather((mine, measure(mine) if mine else None))
        found = _merged([(rows, share) for rows, share in shares if share is not None])
        if rank.is_first:
            _save(path, found)
    return found


def _merged(shares: Sequence[tuple[Sequence[int], Reference]]) -> Reference:
    order = torch.tensor([row for rows, _ in shares for row in rows]).argsort()
    return Reference(
        logps=torch.cat([share.logps for _, share in shares])[order],
        token=torch.cat([share.token for _, share in shares])[order],
        matches=torch.cat([share.matches for _, share in shares])[order],
    )


def _load(path: Path) -> Reference | None:
    try:
        return Reference(**load_file(path))
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, TypeError):
        logger.warning("%s is damaged and is made again", path.name)
        return None


def _save(path: Path, reference: Reference) -> None:
    tensors = {name: getattr(reference, name).contiguous() for name in Reference.__slots__}
    try:
        write_tensors(path, tensors)
    except OSError as error:
        logger.warning("the reference's log-likelihoods could not be kept: %s", error)
