"""A tiny registry's parts: sets of discs, a candidate that learnt, and one that unlearnt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from adaptation.models.base_decoder import save_base
from adaptation.models.sam import PromptableSam
from adaptation.storage.datasets import FolderSet
from adaptation.types import Click, Prompt
from tests.adaptation.conftest import upscaled
from tests.training.fakes import tiny_model, write_discs


def write_sets(root: Path) -> tuple[Path, Path]:
    """A gate set of 40 discs and a guarded one of 36, other groups and places in each."""
    return (
        write_discs(root / "gate-discs", n_images=20, n_groups=10),
        write_discs(root / "guard-discs", n_images=18, n_groups=9),
    )


def trained(root: Path, n_steps: int = 40, seed: int = 0) -> dict[str, torch.Tensor]:
    """Decoder weights after a few steps on the discs of a folder, a click in the middle of each."""
    sam, dataset = tiny_model(), FolderSet(root)
    refs = list(dataset.objects())
    rng = np.random.default_rng(seed)
    base = sam.decoder_parameters()
    weights = {n: v.detach().clone().requires_grad_() for n, v in base.items()}
    optimiser = torch.optim.Adam(weights.values(), lr=3e-3)
    for _ in range(n_steps):
        ref = refs[int(rng.integers(len(refs)))]
        mask = dataset.mask(ref)
        rows, columns = np.nonzero(mask)
        middle = Click(x=float(columns.mean()), y=float(rows.mean()), is_positive=True)
        embedding = sam.embed(dataset.image(ref.stem))
        answer = sam.decode(embedding, [Prompt(clicks=(middle,))], weights=dict(weights))
        logits = upscaled(sam, answer.low_res_logits, embedding)
        target = torch.from_numpy(mask).float().expand_as(logits)
        balance = (1 - target).sum() / target.sum()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, target, pos_weight=balance
        )
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return {n: v.detach() for n, v in weights.items()}


def better_base(path: Path, root: Path, sam: PromptableSam | None = None, seed: int = 0) -> Path:
    """A base file that has learnt the discs."""
    save_base(path, sam or tiny_model(), trained(root, seed=seed), "sft", {"seed": seed})
    return path


def worse_base(path: Path, sam: PromptableSam | None = None) -> Path:
    """A base file whose weights were shaken."""
    base = tiny_model().decoder_parameters()
    generator = torch.Generator().manual_seed(3)
    shaken = {n: v + 0.3 * torch.randn(v.shape, generator=generator) for n, v in base.items()}
    save_base(path, sam or tiny_model(), shaken, "sft", {})
    return path
