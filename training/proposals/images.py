"""A data folder as the images that proposals are made for."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from adaptation.masks import Mask
from adaptation.models.catalog import load_model
from adaptation.models.sam import PromptableSam
from adaptation.predictor.interactive import Encode
from adaptation.predictor.zoom import View
from adaptation.proposals.features import FeatureExtractor, Layers
from adaptation.proposals.interface import ProposalImage
from adaptation.storage.datasets import FolderSet
from training.proposals.config import AnomalyConfig, SimilarConfig
from training.runtime.embedding_cache import CachedEncoder, EncodingStore


def load(config: AnomalyConfig | SimilarConfig) -> PromptableSam:
    """The model that the config names."""
    return load_model(
        config.model,
        config.models_dir,
        device=config.device,
        checkpoint=config.checkpoint,
        show_progress=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DataImages:
    """The images of a folder, encoded when they are asked for.

    Args:
        dataset: The folder.
        encoder: Keeps the embeddings.
    """

    dataset: FolderSet
    encoder: CachedEncoder

    @classmethod
    def of(cls, data: Path, sam: PromptableSam, cache: Path | None, cache_gb: float) -> DataImages:
        """Open a folder; SettingsError where it has no images."""
        store = None if cache is None else EncodingStore(cache, int(cache_gb * 1e9))
        dataset = FolderSet(data)
        _ = dataset.paths
        return cls(dataset=dataset, encoder=CachedEncoder(sam, store, n_in_memory=4))

    def image(self, stem: str) -> ProposalImage:
        """One image with its embedding."""
        pixels = self.dataset.image(stem)
        return ProposalImage(
            image_id=stem,
            group=self.dataset.groups[stem],
            embedding=self.encoder.of(pixels)(View.full((pixels.shape[0], pixels.shape[1]))),
            read=partial(self.dataset.image, stem),
        )

    def encode(self, stem: str) -> Encode:
        """Embeddings of crops of one image."""
        return self.encoder.of(self.dataset.image(stem))

    def masks(self, stem: str) -> list[Mask]:
        """The masks of its objects; none for an image without a label map, which is a good one."""
        if not self.has_labels(stem):
            return []
        labels = self.dataset.labels(stem)
        return [np.asarray(labels == k) for k in np.unique(labels) if k > 0]

    def has_labels(self, stem: str) -> bool:
        """Whether it has a label map."""
        return (self.dataset.root / "masks" / f"{stem}.png").is_file()

    def truth(self, stem: str, side: int) -> Mask:
        """Whether each pixel belongs to an object, ``[side, side]`` (nearest pixel)."""
        if not self.has_labels(stem):
            return np.zeros((side, side), np.bool_)
        labels = (self.dataset.labels(stem) > 0).astype(np.uint8)
        small = cv2.resize(labels, (side, side), interpolation=cv2.INTER_NEAREST)
        return np.asarray(small > 0)


class RememberedFeatures:
    """An extractor that remembers the layers of every image it has seen.

    Args:
        extractor: Makes them.
    """

    def __init__(self, extractor: FeatureExtractor) -> None:
        self._extractor = extractor
        self._known: dict[str, Layers] = {}

    @property
    def name(self) -> str:
        """The extractor's."""
        return self._extractor.name

    def layers(self, image: ProposalImage) -> Layers:
        """See `FeatureExtractor.layers`."""
        if image.image_id not in self._known:
            self._known[image.image_id] = self._extractor.layers(image)
        return self._known[image.image_id]


def sample_stems(stems: Sequence[str], count: int | None, seed: int) -> list[str]:
    """Draw stems without replacement, sorted; all of them where no count is given."""
    if count is None or count >= len(stems):
        return sorted(stems)
    return sorted(random.Random(seed).sample(sorted(stems), count))
