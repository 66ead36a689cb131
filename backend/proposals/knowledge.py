"""What is known of one project: its images, its finished objects, what was accepted and rejected.

Derived from the journal and the images; nothing here is kept on disk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from adaptation.masks import Mask
from adaptation.models.sam import PromptableSam
from adaptation.predictor.interactive import Encode
from adaptation.proposals.features import default_features
from adaptation.proposals.feedback import FeedbackSettings, References, TaughtGenerator
from adaptation.proposals.hybrid_prompts import HybridPrompts, PropertyPrompt
from adaptation.proposals.interface import Context, Generator, ProposalImage
from adaptation.proposals.memory import MemoryGenerator, MemorySettings, ObjectMemory
from adaptation.proposals.mutual import MutualBank, MutualGenerator, MutualSettings
from adaptation.proposals.proposer import Proposer, ProposerSettings
from adaptation.proposals.refiner import Refiner, Region, ZoomRefiner, without_duplicates
from adaptation.proposals.saliency import SaliencyGenerator
from adaptation.proposals.similar import SimilarProposer, SimilarSettings

LookFor = Literal["similar", "anomalies", "words"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KnowledgeOptions:
    """What is looked for, and how much is proposed.

    Args:
        look_for: More of what was labelled, what looks wrong, or what a text names.
        words: Texts by label; a label without any is looked for by its name.
        mutual_from: Images from which anomalies are found by comparing them; below it, within
            the image.
        max_regions: Proposals of one image at most.
        min_score: Less sure regions are not proposed.
        max_area: Anomalies that cover more of the image than this are left out.
    """

    look_for: LookFor = "similar"
    words: Mapping[str, Sequence[str]] = field(default_factory=dict)
    mutual_from: int = 20
    max_regions: int = 20
    min_score: float = 0.5
    max_area: float = 0.3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Labelled:
    """A region that somebody submitted: its label, and its mask ``[H, W]``."""

    label: str
    mask: Mask


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Proposed:
    """A region to propose under a label."""

    label: str
    region: Region


@dataclass(slots=True, eq=False)
class ProjectKnowledge:
    """One project's; for one thread at a time.

    Args:
        sam: The model.
        refiner: Draws the masks.
        options: What is looked for.
        reader: Finds what words name; needed where words are looked for.
    """

    sam: PromptableSam
    refiner: Refiner | ZoomRefiner
    options: KnowledgeOptions
    reader: Generator | None = None
    _memories: dict[str, ObjectMemory] = field(default_factory=dict)
    _bank: MutualBank = field(init=False)
    _references: References = field(init=False)
    _saliency: SaliencyGenerator = field(init=False)

    def __post_init__(self) -> None:
        features = default_features(self.sam)
        self._bank = MutualBank(features, MutualSettings())
        self._references = References(features, FeedbackSettings())
        self._saliency = SaliencyGenerator(features=features)

    @property
    def n_judged(self) -> int:
        """Finished objects that are remembered; of anomalies, images that were judged.

        Words are looked for as they are: nothing is learned.
        """
        if self.options.look_for == "anomalies":
            return len(self._references)
        return sum(len(memory) for memory in self._memories.values())

    def see(self, image: ProposalImage) -> None:
        """An image of the project: others are compared with it."""
        if self.options.look_for == "anomalies" and image.image_id not in self._bank:
            self._bank.add(image)

    def judge(
        self, image: ProposalImage, labelled: Sequence[Labelled], rejected: Sequence[Mask]
    ) -> None:
        """Somebody submitted an image: its regions are examples, the rest of it is normal."""
        if self.options.look_for == "words":
            return
        if self.options.look_for == "anomalies":
            base = self._generator().generate(image, Context()).score_map
            if base is not None:
                accepted = [item.mask for item in labelled]
                self._references.judge(image, base, accepted=accepted, rejected=rejected)
            return
        for item in labelled:
            if not item.mask.any():
                continue
            memory = self._memories.setdefault(
                item.label,
                ObjectMemory(int(self.sam.sam.prompt_encoder.embed_dim), MemorySettings()),
            )
            others = [o.mask for o in labelled if o.label == item.label]
            excluded = others[0].copy()
            for mask in others[1:]:
                excluded |= mask
            memory.add(image, item.mask, exclude=excluded, label=item.label)

    def oddness(self, image: ProposalImage) -> float:
        """How unlike the project's other images the oddest place of one is; higher is odder.

        With fewer than `mutual_from` images: how unlike the rest of its own image.
        """
        score_map = self._generator().generate(image, Context()).score_map
        return 0.0 if score_map is None else float(score_map.max())

    def propose(
        self,
        image: ProposalImage,
        labels: Sequence[str],
        taken: Sequence[Mask] = (),
        encode: Encode | None = None,
    ) -> list[Proposed]:
        """Regions to propose, best first.

        Args:
            image: The image.
            labels: That words are looked for under; anomalies go under the first, more of the same
                under its objects' own.
            taken: Masks of what is labelled in the image already, or was rejected.
            encode: Gives embeddings of crops.
        """
        context = Context(labelled=tuple(taken))
        if self.options.look_for == "anomalies":
            found = self._anomalies(image, labels[0], context, encode)
        elif self.options.look_for == "words":
            found = self._named(image, labels, context, encode)
        else:
            found = self._similar(image, context, encode)
        return found[: self.options.max_regions]

    def _named(
        self, image: ProposalImage, labels: Sequence[str], context: Context, encode: Encode | None
    ) -> list[Proposed]:
        if self.reader is None:
            raise ValueError("words need a generator that reads them")
        proposer = Proposer(
            generator=self.reader,
            refiner=self.refiner,
            settings=ProposerSettings(
                places=self.options.max_regions,
                min_score=self.options.min_score,
                prompts=HybridPrompts(
                    property=PropertyPrompt(area=1.0),
                    saliency=False,  # a score stays the reader's probability
                    confidence=self.options.max_regions,
                ),
            ),
            model=None,
        )
        found: list[tuple[str, Region]] = []
        for label in labels:
            words = tuple(self.options.words.get(label) or (label,))
            asked = replace(context, words=words)
            regions = proposer.propose(image, asked, encode=encode).regions
            found += [(label, region) for region in regions]
        return _without_twins(found)

    def _anomalies(
        self, image: ProposalImage, label: str, context: Context, encode: Encode | None
    ) -> list[Proposed]:
        generator = self._generator()
        if len(self._references):
            generator = TaughtGenerator(
                base=generator, references=self._references, model=self._references.fit()
            )
        proposer = Proposer(
            generator=generator,
            refiner=self.refiner,
            settings=ProposerSettings(
                min_score=self.options.min_score,
                prompts=HybridPrompts(property=PropertyPrompt(area=self.options.max_area)),
            ),
            saliency=self._saliency,
        )
        found = proposer.propose(image, context, encode=encode)
        return [Proposed(label=label, region=region) for region in found.regions]

    def _generator(self) -> Generator:
        """Images compared, where there are enough of them; else each within itself."""
        if len(self._bank) >= self.options.mutual_from:
            return MutualGenerator(bank=self._bank)
        return self._saliency

    def _similar(
        self, image: ProposalImage, context: Context, encode: Encode | None
    ) -> list[Proposed]:
        found: list[tuple[str, Region]] = []
        for label, memory in self._memories.items():
            proposer = SimilarProposer(
                generator=MemoryGenerator(memory=memory),
                refiner=self.refiner,
                settings=SimilarSettings(min_score=self.options.min_score),
            )
            regions = proposer.propose(image, context, encode=encode)
            found += [(label, region) for region in regions]
        return _without_twins(found)


def _without_twins(found: Sequence[tuple[str, Region]]) -> list[Proposed]:
    """Best first; of two regions that are the same, under whatever labels, the better one."""
    label_of = {id(region.mask): label for label, region in found}
    kept = without_duplicates([region for _, region in found])
    return [Proposed(label=label_of[id(region.mask)], region=region) for region in kept]
