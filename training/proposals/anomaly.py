"""Measure anomaly proposals on a folder of images with masks of their defects.

Nothing is trained.  Each generator's map is measured as it is, then as the source's ablation: its
peaks become regions, and the hybrid prompts are switched off one by one.  Then people accept and
reject on some images, and what is left is measured again, before and after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adaptation.models.sam import PromptableSam
from adaptation.proposals.calibration import LogisticModel, Term
from adaptation.proposals.features import default_features
from adaptation.proposals.feedback import FeedbackSettings, References, TaughtGenerator
from adaptation.proposals.hybrid_prompts import HybridPrompts, anomaly_map, sift
from adaptation.proposals.interface import Context, Generator, ProposalImage, ScoreMap
from adaptation.proposals.mutual import MutualBank, MutualGenerator
from adaptation.proposals.peaks import enlarged
from adaptation.proposals.proposer import Proposer, ProposerSettings
from adaptation.proposals.refiner import Refiner, Region
from adaptation.proposals.saliency import SaliencyGenerator
from adaptation.storage.datasets import MIN_AREA, sample_objects
from training.proposals.anomaly_metrics import SIDE, AnomalyMetrics, measure
from training.proposals.config import AnomalyConfig
from training.proposals.images import DataImages, RememberedFeatures, sample_stems
from training.proposals.panels import write_panel

Progress = Callable[[Iterable[str], str], Iterable[str]]
"""Shows a progress bar with a title over stems."""

Maps = dict[str, ScoreMap]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table.

    Args:
        generator: Which one.
        variant: The map alone, SAA, SAA+, or SAA+ without one of its prompts.
        on: Which images: all, or those whose groups gave no feedback.
        n_images: How many.
        metrics: What was measured.
    """

    generator: str
    variant: str
    on: str
    n_images: int
    metrics: AnomalyMetrics

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "generator": self.generator,
            "variant": self.variant,
            "on": self.on,
            "n_images": self.n_images,
            **self.metrics.as_json(),
        }


class AnomalyEvaluation:
    """One run.

    Args:
        config: What to do.
        sam: The model.
        progress: Shows how far it is.
    """

    def __init__(self, config: AnomalyConfig, sam: PromptableSam, progress: Progress) -> None:
        self.config, self.sam, self._progress = config, sam, progress
        self.images = DataImages.of(config.data, sam, config.cache, config.cache_gb)
        self.stems = sample_stems(self.images.dataset.stems, config.images, config.seed)
        self._features = RememberedFeatures(default_features(sam))
        self._saliency = SaliencyGenerator(features=self._features)
        self._truths = {s: self.images.truth(s, SIDE) for s in self.stems}

    def run(self) -> list[Row]:
        """Measure everything; writes panels of the last generator."""
        rows: list[Row] = []
        for name in self.config.generators:
            generator = self._generator(name)
            maps, regions = self._look(generator, self.stems)
            rows.append(self._row(name, "map alone", "all", maps))
            if self.config.places:
                rows += self._ablation(name, regions)
            if name == self.config.generators[-1]:
                self._panels(maps, regions)
                rows += self._after_feedback(name, generator, maps, regions)
        return rows

    def _generator(self, name: str) -> Generator:
        if name == "saliency":
            return self._saliency
        bank = MutualBank(self._features, replace(self.config.mutual, seed=self.config.seed))
        for stem in self._progress(self.stems, "features"):
            bank.add(self.images.image(stem))
        return MutualGenerator(bank=bank)

    def _look(
        self, generator: Generator, stems: Sequence[str]
    ) -> tuple[Maps, dict[str, list[Region]]]:
        """Each image's map at 400x400, and its regions before any prompt sifts them."""
        maps: Maps = {}
        regions: dict[str, list[Region]] = {}
        for stem in self._progress(stems, generator.name):
            regions[stem], score_map = self._candidates(generator, self.images.image(stem))
            assert score_map is not None, "these generators make maps"
            maps[stem] = enlarged(score_map, (SIDE, SIDE))
        return maps, regions

    def _candidates(
        self, generator: Generator, image: ProposalImage
    ) -> tuple[list[Region], ScoreMap | None]:
        if not self.config.places:
            return [], generator.generate(image, Context()).score_map
        settings = ProposerSettings(places=self.config.places, prompts=HybridPrompts.none())
        refiner = Refiner(self.sam)
        return Proposer(generator=generator, refiner=refiner, settings=settings).candidates(image)

    def _ablation(self, name: str, regions: Mapping[str, list[Region]]) -> list[Row]:
        return [
            self._row(name, variant, "all", self._region_maps(regions, prompts))
            for variant, prompts in self.config.prompts.ablations().items()
        ]

    def _region_maps(self, regions: Mapping[str, list[Region]], prompts: HybridPrompts) -> Maps:
        """Equation 9's map of each image's sifted regions, at 400x400."""
        maps: Maps = {}
        for stem, found in regions.items():
            image = self.images.image(stem)
            kept = self._sifted(image, found, prompts)
            maps[stem] = enlarged(anomaly_map(kept, image.size), (SIDE, SIDE))
        return maps

    def _sifted(
        self, image: ProposalImage, regions: Sequence[Region], prompts: HybridPrompts
    ) -> list[Region]:
        saliency = self._saliency.saliency(image) if prompts.saliency else None
        return sift(regions, prompts, saliency=saliency, pixels=image.read())

    def _row(self, generator: str, variant: str, on: str, maps: Maps) -> Row:
        stems = sorted(maps)
        metrics = measure([maps[s] for s in stems], [self._truths[s] for s in stems])
        return Row(
            generator=generator, variant=variant, on=on, n_images=len(stems), metrics=metrics
        )

    # After feedback -------------------------------------------------------------------------------

    def _after_feedback(
        self,
        name: str,
        generator: Generator,
        maps: Maps,
        regions: Mapping[str, list[Region]],
    ) -> list[Row]:
        """The same images before and after: those of groups in which nothing was judged."""
        judged = self._judged_stems()
        if not judged:
            return []
        references = References(self._features, FeedbackSettings())
        for stem in judged:
            image = self.images.image(stem)
            base = generator.generate(image, Context()).score_map
            assert base is not None, "these generators make maps"
            references.judge(image, base, accepted=self.images.masks(stem))
        taught = TaughtGenerator(base=generator, references=references, model=references.fit())
        groups = {self.images.dataset.groups[s] for s in judged}
        rest = [s for s in self.stems if self.images.dataset.groups[s] not in groups]
        on = f"groups without feedback ({self.config.feedback} objects elsewhere)"
        after, drawn = self._look(taught, rest)
        rows = [
            self._row(name, "map alone", on, {s: maps[s] for s in rest}),
            self._row(taught.name, "map alone", on, after),
        ]
        if self.config.places:
            for title, found in (
                (name, {s: regions[s] for s in rest}),
                (taught.name, _as_probabilities(drawn)),
            ):
                region_maps = self._region_maps(found, self.config.prompts)
                rows.append(self._row(title, "SAA+", on, region_maps))
        return rows

    def _judged_stems(self) -> list[str]:
        refs = [r for r in self.images.dataset.objects(MIN_AREA) if r.stem in self._truths]
        drawn = sample_objects(refs, self.config.feedback, self.config.seed)
        return sorted({ref.stem for ref in drawn})

    def _panels(self, maps: Maps, regions: Mapping[str, list[Region]]) -> None:
        if not self.config.panels or not self.config.places:
            return
        folder: Path = self.config.out / "panels"
        for stem in sample_stems(self.stems, self.config.panels, self.config.seed):
            image = self.images.image(stem)
            kept = self._sifted(image, regions[stem], self.config.prompts)
            write_panel(folder / f"{stem}.png", image.read(), maps[stem], kept, self._truths[stem])


_FROM_LOGIT = LogisticModel(terms={"logit": Term(centre=0.0, scale=1.0, weight=1.0)})


def _as_probabilities(regions: Mapping[str, list[Region]]) -> dict[str, list[Region]]:
    """Scores in log odds as probabilities: the anomaly map is 0 where there is no region."""
    return {
        stem: [r.scored(_FROM_LOGIT.probability({"logit": r.score})) for r in found]
        for stem, found in regions.items()
    }


def table(rows: Sequence[Row]) -> str:
    """Rows as text in columns."""
    lines = [f"{'generator':<18}{'variant':<26}{'images':>7}{'F_p':>8}{'F_r':>8}{'AUPRO':>8}"]
    on = ""
    for row in rows:
        if row.on != on:
            on = row.on
            lines.append(f"-- {on}")
        m = row.metrics
        lines.append(
            f"{row.generator:<18}{row.variant:<26}{row.n_images:>7}"
            f"{m.max_f1_pixel:>8.2f}{m.max_f1_region:>8.2f}{m.aupro:>8.2f}"
        )
    return "\n".join(lines)
