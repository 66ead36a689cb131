"""Preference tuning of the decoder: prompts, and masks for them from the better to the worse.

The reference is the decoder that the run starts from: its log-likelihoods are worked out once and
kept on the disk.  A mask's likelihood is that under the mask token that the reference shows for the
prompt, so that the loss is a smooth function of the weights.  A decoder gives all masks of a prompt
their likelihood in one pass, so pairs and lists cost the same.  Beside the preference, the
predicted IoUs can be calibrated: so that the mask that people chose is the one that is scored
highest, and that a score is the IoU that was measured.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor

from adaptation.config import one_of
from adaptation.errors import InputError, SettingsError
from adaptation.models.base_decoder import read_card
from adaptation.storage.album import Album
from adaptation.types import MaskPrediction
from training.finetune import preference_losses
from training.finetune.collator import (
    PreferenceBatch,
    PreferenceCollator,
    best_is_scored_highest,
    known_quality,
)
from training.finetune.comparisons import (
    RankedMasks,
    bounded,
    comparisons_of_preferences,
    of_objects,
)
from training.finetune.config import TUNED, TuningConfig
from training.finetune.metrics import MetricSums
from training.finetune.policy import Policy
from training.finetune.prompt_cache import PromptCache
from training.finetune.reference import NO_TOKEN, Reference, match_tokens, reference_of
from training.finetune.screening import usable
from training.finetune.trainer import Pick, Trainer, open_model, open_replayer
from training.preferences.rows import SOURCES
from training.runtime.distributed import Rank, run_ranks

__all__ = ["LOSSES", "STAGE", "DpoConfig", "DpoRecipe", "check_base", "run"]

STAGE = "dpo"

LOSSES = ("bce", "dpo", "ipo", "plackett-luce")


@dataclass(frozen=True, kw_only=True)
class DpoConfig(TuningConfig):
    """Everything that a run depends on; configs/dpo.yaml says what each value does."""

    run: Path = Path("runs/dpo")
    allow_untuned: bool = False
    loss_type: Annotated[str, one_of(LOSSES)] = "ipo"
    beta: PositiveFloat = 1.0
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    over: Annotated[str, one_of(preference_losses.OVER)] = "difference"
    region_weight: PositiveFloat = 1.0
    rpo_alpha: NonNegativeFloat = 0.0
    sources: tuple[str, ...] = SOURCES
    min_margin: NonNegativeFloat = 0.0
    most_clicks: int | None = None
    objects: int | None = None
    most_per_object: int | None = 8
    ranking_weight: NonNegativeFloat = 0.1
    error_weight: NonNegativeFloat = 1.0
    temperature: PositiveFloat = 0.1
    min_gap: NonNegativeFloat = 0.02

    def mistakes(self) -> list[str]:
        """What makes no sense, one sentence each."""
        found = super().mistakes()
        if not self.preferences:
            found.append("preferences must name folders made by `strop-train preferences`")
        unknown = sorted(set(self.sources) - set(SOURCES))
        if unknown or not self.sources:
            found.append(f"sources must be some of {', '.join(SOURCES)}, got {list(self.sources)}")
        for name in ("objects", "most_per_object", "most_clicks"):
            if (value := getattr(self, name)) is not None and value < 1:
                found.append(f"{name} must be 1 or more, or empty for all")
        if self.label_smoothing and self.loss_type not in ("bce", "dpo"):
            found.append(f"label_smoothing has no meaning with {self.loss_type}; leave it at 0")
        return found


def check_base(config: DpoConfig) -> None:
    """Refuse to train preferences on a decoder that was never tuned to the data.

    The source found it harmful (Wang et al. 2025: IoU 0.5818 -> 0.5686), and so did we.

    Raises:
        SettingsError: The base has no SFT stage, and `allow_untuned` is off.
        ModelError: The base file cannot be read.
    """
    stage = "base" if config.base is None else read_card(config.base).stage
    if stage not in TUNED and not config.allow_untuned:
        given = "no base was given" if config.base is None else f"{config.base.name} is {stage!r}"
        raise SettingsError(
            f"Preferences need a decoder that was tuned with masks first ({given}): run "
            "`strop-train sft` and give its decoder.safetensors with --base. Without that stage "
            "they did harm where it was measured; --allow-untuned does it all the same."
        )


class DpoRecipe:
    """Comparisons and their losses; see `training.finetune.trainer.Recipe`."""

    stage = STAGE

    def __init__(self, config: DpoConfig, replayer: PromptCache, rank: Rank) -> None:
        self._config, self._desk, self._sam = config, PreferenceCollator(replayer), replayer.sam
        found = find_comparisons(config)
        items, self._left_out = usable(found, self._desk.check, rank, config.max_unusable)
        self._train = [item for item in items if item.split == "train"]
        self._val = [item for item in items if item.split == "val"]
        if not self._train:
            raise InputError("All comparisons are in the validation split; there are too few.")
        self.n_train, self.n_val = len(self._train), len(self._val)
        self._items = [*self._train, *self._val]
        self._n_masks = max(len(item.candidates) for item in self._items)
        # Asked as the policy will be: in another precision the losses would not start at it.
        self._base = Policy(self._sam, config.subset, mixed_precision=config.mixed_precision)
        self._reference = self._measure_reference(rank)

    # The reference

    def _measure_reference(self, rank: Rank) -> Reference:
        config = self._config
        pixels = f"{config.over} {config.region_weight} {config.zoom}"
        key = f"{self._sam.decoder_id} {self._base.dtype} {pixels} {self.data()['digest']}"
        return reference_of(
            config.cache / "references", key, len(self._items), rank, self._ask_reference
        )

    @torch.no_grad()
    def _ask_reference(self, rows: Sequence[int]) -> Reference:
        parts = []
        size = self._config.micro_batch
        for start in range(0, len(rows), size):
            batch = self._desk.batch([self._items[row] for row in rows[start : start + size]])
            found = self._base.decode(batch.embeddings, batch.prompts)
            token = found.shown_token()
            room = (0, self._n_masks - batch.masks.shape[1])
            logps = self._logps(found, token, batch)
            matches = match_tokens(found, batch.masks, batch.valid)
            matches = matches.masked_fill(~batch.present, NO_TOKEN)
            pad = torch.nn.functional.pad
            parts.append((pad(logps, room), token, pad(matches, room, value=NO_TOKEN)))
        logps, token, matches = (torch.cat(part).cpu() for part in zip(*parts, strict=True))
        return Reference(logps=logps, token=token, matches=matches)

    def _logps(self, prediction: MaskPrediction, token: Tensor, batch: PreferenceBatch) -> Tensor:
        """Log-likelihoods of the compared masks under the given tokens: [B, K], 0 in padding."""
        rows = torch.arange(len(batch), device=token.device)
        logits = prediction.low_res_logits[rows, token]
        # A list's padding repeats its best mask, so that it adds nothing to what differs.
        absent = ~batch.present[..., None, None]
        masks = torch.where(absent, batch.masks[:, :1], batch.masks)
        weights = preference_losses.pixel_weights(
            masks, batch.valid, self._config.over, batch.region, self._config.region_weight
        )
        return preference_losses.mask_logps(logits, masks, weights) * batch.present

    # Losses

    def train(self, policy: Policy, picks: Sequence[Pick]) -> tuple[Tensor, MetricSums]:
        """The sum of the comparisons' losses."""
        losses, tally = self._losses(policy, [pick.index for pick in picks])
        return losses.sum(), tally

    def validate(self, policy: Policy, picks: Sequence[Pick]) -> MetricSums:
        """The same measures on comparisons that are not trained on."""
        return self._losses(policy, [self.n_train + pick.index for pick in picks])[1]

    def _losses(self, policy: Policy, indices: Sequence[int]) -> tuple[Tensor, MetricSums]:
        """[B] losses of the items with these numbers, and what to report."""
        config = self._config
        batch = self._desk.batch([self._items[index] for index in indices])
        reference = self._reference.of(indices, batch.masks.shape[1]).to(batch.masks.device)
        prediction = policy.decode(batch.embeddings, batch.prompts)
        logps = self._logps(prediction, reference.token, batch)
        ref_logps = torch.zeros_like(logps) if config.loss_type == "bce" else reference.logps
        preference = self._preference(logps, ref_logps, batch.present)
        calibration, tally = self._calibration(prediction, reference, batch)
        losses = preference + calibration - config.rpo_alpha * logps[:, 0]
        measured = {
            "loss": losses,
            "preference_loss": preference,
            "calibration_loss": calibration,
            **preference_losses.preference_metrics(
                logps, ref_logps, batch.present, beta=config.beta
            ),
        }
        for name, values in measured.items():
            tally.note(name, values)
        return losses, tally

    def _preference(self, logps: Tensor, ref_logps: Tensor, present: Tensor) -> Tensor:
        config = self._config
        if config.loss_type == "plackett-luce":
            return preference_losses.plackett_luce(logps, ref_logps, present, beta=config.beta)
        pair, ref_pair = (logps[:, 0], logps[:, 1]), (ref_logps[:, 0], ref_logps[:, 1])
        if config.loss_type == "ipo":
            return preference_losses.ipo(*pair, *ref_pair, beta=config.beta)
        smoothing = config.label_smoothing
        if config.loss_type == "bce":
            return preference_losses.bce(*pair, beta=config.beta, label_smoothing=smoothing)
        return preference_losses.dpo(*pair, *ref_pair, beta=config.beta, label_smoothing=smoothing)

    def _calibration(
        self, prediction: MaskPrediction, reference: Reference, batch: PreferenceBatch
    ) -> tuple[Tensor, MetricSums]:
        """[B] calibration losses, and how often the best mask is the highest scored one."""
        config, scores = self._config, prediction.predicted_iou
        quality, iou = known_quality(prediction, reference, batch)
        ranking = preference_losses.score_ranking(
            scores, quality, temperature=config.temperature, min_gap=config.min_gap
        )
        error = preference_losses.score_error(scores, iou)
        tally = MetricSums()
        tally.note("calibration/accuracies", best_is_scored_highest(scores, quality))
        tally.note("calibration/error", (scores - iou).abs().flatten())
        tally.note_gap("calibration/ece", scores, iou)
        shown = iou.gather(1, prediction.shown_token()[:, None])[:, 0]
        tally.note("iou", torch.where(batch.has_truth, shown, torch.nan))
        return config.ranking_weight * ranking + config.error_weight * error, tally

    # What it says of itself

    def data(self) -> Mapping[str, Any]:
        """The comparisons in numbers, and the digest of all of them."""
        keys = "\n".join(f"{item.key} {item.split}" for item in self._items)
        return {
            "train": self.n_train,
            "validation": self.n_val,
            "images": len({item.image_key for item in self._items}),
            "digest": hashlib.sha256(keys.encode()).hexdigest()[:16],
        }

    def notes(self) -> Mapping[str, Any]:
        """Where the comparisons come from, and what was left out."""
        return {
            "sources": dict(Counter(item.source for item in self._train)),
            "left_out": {reason: asdict(group) for reason, group in self._left_out.items()},
        }


def find_comparisons(config: DpoConfig) -> list[RankedMasks]:
    """The comparisons of the config's folders that its filters and its bound let through.

    They come image by image, and an object's one after the other.

    Raises:
        InputError: A folder is damaged.
    """
    lists = config.loss_type == "plackett-luce"
    album = Album(config.album or Path())
    found = [
        item
        for folder in config.preferences
        for item in comparisons_of_preferences(
            folder, album, lists=lists, most_clicks=config.most_clicks
        )
        if item.source in config.sources and item.has_margin(config.min_margin)
    ]
    drawn = of_objects(found, config.objects, config.seed)
    return bounded(drawn, config.most_per_object, config.seed)


def run(config: DpoConfig, command: str = "strop-train dpo") -> None:
    """Tune, with the ranks that `torchrun` started or `processes` of our own.

    Raises:
        SettingsError: The base was never tuned with masks.
    """
    check_base(config)
    run_ranks(_train, (config, command), config.processes)


def _train(job: tuple[DpoConfig, str], rank: Rank) -> None:
    config, command = job
    sam = open_model(config, rank)
    recipe = DpoRecipe(config, open_replayer(config, sam), rank)
    Trainer(config, sam, recipe, rank, command).run()
