"""Which decoder weights learn, and how they are kept, saved and put back.

An adapter is a set of differences to the base decoder's parameters, rounded to float16: small
enough for many sessions in one process, and the same numbers in memory, on disk and after replay.
The base weights are never written to; :meth:`PromptableSam.decode` takes the sums.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from adaptation.errors import ModelError
from adaptation.learning.scale_evidence import N_STAGES, NONE, SHARES, ScaleEvidence, stage_of
from adaptation.learning.scores import ScoreChange
from adaptation.models.sam import PromptableSam
from adaptation.storage.tensors import write_tensors

Deltas = Mapping[str, Tensor]
"""Differences to the base decoder's parameters by name, float16."""

_OUTPUT_PARTS = (
    *("hypernetworks", "mask_tokens", "iou_", "output_upscaling", "prior", "refine"),
    *("upscale_", "hq_", "mask_conv", "mask_norm"),  # as models of the hub name them
)

SUBSETS: dict[str, Callable[[str, Tensor], bool]] = {
    "all": lambda name, value: True,
    "norms": lambda name, value: value.dim() == 1,
    "tokens": lambda name, value: (
        "hypernetworks" in name or "_token" in name or "hq_mask_mlp" in name
    ),
    "output": lambda name, value: any(part in name for part in _OUTPUT_PARTS),
    "transformer": lambda name, value: name.startswith("transformer."),
}
"""Parts of the decoder that may learn: a rule on a parameter's name and value."""


def trainable_names(base: Mapping[str, Tensor], subset: str) -> tuple[str, ...]:
    """Names of the decoder's parameters that learn, in the decoder's order.

    Raises:
        ModelError: No such subset.
    """
    if subset not in SUBSETS:
        raise ModelError(f"No subset {subset!r} of the decoder; choose one of {sorted(SUBSETS)}.")
    return tuple(name for name, value in base.items() if SUBSETS[subset](name, value))


WHOLE = (1.0,) * N_STAGES
"""All that was learned, in every stage."""


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """Learned differences to one base decoder; immutable, so that threads may share it.

    Args:
        deltas: By parameter name, float16; empty for the base decoder itself.
        decoder_id: Digest of the base decoder that they belong to.
        shares: In [0, 1] for each stage of an object: how much of them answers a click.
        is_scored: Whether the base decoder's answers to first clicks are chosen by the session's
            scores; those with a share of the differences always are.
        evidence: What the objects of its own session said of shares and scores.
        inherited: What those of the sessions said that it was merged from.
    """

    deltas: Deltas = field(default_factory=dict)
    decoder_id: str = ""
    shares: tuple[float, ...] = WHOLE
    is_scored: bool = False
    evidence: ScaleEvidence = NONE
    inherited: ScaleEvidence = NONE

    @property
    def is_base(self) -> bool:
        """Whether it answers as the base decoder does."""
        return not self.deltas and self.part(1) == (0.0, False)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing in it that an object could judge."""
        return not self.deltas and self.score_change(0.0) is None

    @property
    def n_bytes(self) -> int:
        """Bytes of the differences in memory and on disk."""
        return sum(d.element_size() * d.nelement() for d in self.deltas.values())

    @property
    def version(self) -> str:
        """``base``, or the first 12 hex digits of the SHA-256 of what answers clicks.

        These are the differences, the shares and the scores; evidence itself answers none.
        """
        if self.is_base:
            return "base"
        sha = hashlib.sha256()
        for name in sorted(self.deltas):
            sha.update(name.encode())
            sha.update(self.deltas[name].cpu().contiguous().numpy().tobytes())
        sha.update(repr(self.shares).encode())
        share, is_scored = self.part(1)
        if is_scored:
            sha.update(repr(self.score_change(share)).encode())
        return sha.hexdigest()[:12]

    def packed(self) -> Adapter:
        """The same in one piece of memory: hundreds of small ones leave gaps behind."""
        if not self.deltas:
            return self
        flat = torch.cat([d.reshape(-1) for d in self.deltas.values()])
        pieces = torch.split(flat, [d.nelement() for d in self.deltas.values()])
        shapes = (d.shape for d in self.deltas.values())
        views = (piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True))
        return replace(self, deltas=dict(zip(self.deltas, views, strict=True)))

    def share(self, n_clicks: int) -> float:
        """How much of the differences answers the newest of so many clicks on an object."""
        return self.shares[stage_of(n_clicks)]

    def score_change(self, share: float) -> ScoreChange | None:
        """What is added to the scores of candidates for a share of the differences."""
        nearest = min(range(len(SHARES)), key=lambda i: abs(SHARES[i] - share))
        return (self.inherited.scores[nearest] + self.evidence.scores[nearest]).change

    def part(self, n_clicks: int) -> tuple[float, bool]:
        """What of it answers the newest of so many clicks: a share, and whether with its scores."""
        share = self.share(n_clicks) if self.deltas else 0.0
        is_scored = stage_of(n_clicks) == 0 and (share > 0 or self.is_scored)
        return share, is_scored and self.score_change(share) is not None

    def weights(
        self, sam: PromptableSam, share: float = 1.0, is_scored: bool = False
    ) -> dict[str, Tensor] | None:
        """Parameters for :meth:`PromptableSam.decode`; None for the base decoder's own.

        Args:
            sam: The model that the differences belong to.
            share: In [0, 1]: how much of them is added.
            is_scored: Candidates are scored as the session's objects ask for.
        """
        base, found = sam.decoder_parameters(), dict[str, Tensor]()
        if share:
            found = {
                n: base[n] + share * d.to(base[n].device, base[n].dtype)
                for n, d in self.deltas.items()
            }
        change = self.score_change(share) if is_scored else None
        if change is not None:
            found |= change.weights({**base, **found})
        return found or None

    def weights_at(self, sam: PromptableSam, n_clicks: int) -> dict[str, Tensor] | None:
        """Parameters that answer the newest of so many clicks on an object, likewise."""
        return self.weights(sam, *self.part(n_clicks))


def adapter_of(sam: PromptableSam, weights: Mapping[str, Tensor]) -> Adapter:
    """The adapter that leads from the base decoder to ``weights``, rounded to float16.

    A zero that is added makes every zero a positive one: equal differences have equal bytes.
    """
    base = sam.decoder_parameters()
    deltas = {n: (w.detach() - base[n]).to(torch.float16) + 0.0 for n, w in weights.items()}
    return Adapter(deltas, sam.decoder_id)


def save_adapter(adapter: Adapter, path: Path, metadata: Mapping[str, str]) -> None:
    """Write an adapter as safetensors, whole or not at all.

    Args:
        adapter: What to write.
        path: Its file; an existing one is replaced atomically.
        metadata: Rides with the weights, next to the base decoder's digest.
    """
    tensors = {n: d.cpu().contiguous().clone() for n, d in adapter.deltas.items()}
    about = {
        "decoder_id": adapter.decoder_id,
        "shares": json.dumps(adapter.shares),
        "is_scored": json.dumps(adapter.is_scored),
        "evidence": adapter.evidence.to_json(),
        "inherited": adapter.inherited.to_json(),
    }
    write_tensors(path, tensors, {**metadata, **about}, durable=True)


def load_adapter(path: Path, sam: PromptableSam) -> Adapter:
    """Read an adapter back, strictly.

    Raises:
        ModelError: No such file, not safetensors, of another base decoder, or with parameters
            that this decoder does not have.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            deltas = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"The adapter {path.name} cannot be read ({error}).") from error
    decoder_id = metadata.get("decoder_id", "")
    if decoder_id != sam.decoder_id:
        raise ModelError(
            f"The adapter {path.name} belongs to decoder {decoder_id or 'unknown'}, this model "
            f"has decoder {sam.decoder_id}; use the base model that it was trained on."
        )
    base = sam.decoder_parameters()
    wrong = [n for n, d in deltas.items() if n not in base or base[n].shape != d.shape]
    if wrong:
        raise ModelError(
            f"The adapter {path.name} has {len(wrong)} parameters that do not fit, first "
            f"{sorted(wrong)[0]!r}."
        )
    return Adapter(
        deltas,
        decoder_id,
        _read_shares(path, metadata),
        metadata.get("is_scored") == "true",
        _read_evidence(path, metadata, "evidence"),
        _read_evidence(path, metadata, "inherited"),
    )


def _read_shares(path: Path, metadata: Mapping[str, str]) -> tuple[float, ...]:
    """The shares in a file's metadata; all of everything in files that know none."""
    try:
        shares = tuple(float(s) for s in json.loads(metadata.get("shares", json.dumps(WHOLE))))
    except (ValueError, TypeError):
        shares = ()
    if len(shares) != N_STAGES or not all(0 <= s <= 1 for s in shares):
        raise ModelError(
            f"The adapter {path.name} says {metadata.get('shares')!r} for the shares that answer "
            f"clicks; {N_STAGES} numbers from 0 to 1 are needed."
        )
    return shares


def _read_evidence(path: Path, metadata: Mapping[str, str], name: str) -> ScaleEvidence:
    """Evidence in a file's metadata; none in files that have none."""
    if name not in metadata:
        return NONE
    try:
        return ScaleEvidence.from_json(metadata[name])
    except ValueError as error:
        raise ModelError(f"The adapter {path.name} has no readable {name} ({error}).") from error
