from __future__ import annotations

import numpy as np
import pytest

from adaptation.errors import SettingsError
from adaptation.proposals.calibration import PATCH_PRIOR
from adaptation.proposals.feedback import FeedbackSettings, References, TaughtGenerator
from adaptation.proposals.interface import Context, Generated, ProposalImage
from tests.adaptation.proposals.making import DEFECT, OTHER, OneLayer, made, square

FLAT = np.zeros((8, 8), np.float32)
AT_2_2 = square(slice(16, 24), slice(16, 24))


class Fooled:
    """Takes OTHER for a defect, and the recurring DEFECT for normal."""

    name = "fooled"

    def generate(self, image: ProposalImage, context: Context) -> Generated:
        vectors = image.embedding.features[0]
        return Generated(score_map=np.asarray(0.3 + 0.4 * vectors[1].numpy(), np.float32))


def taught(n: int, **settings: float) -> References:
    references = References(OneLayer(), FeedbackSettings(**settings))  # type: ignore[arg-type]
    for index in range(n):
        image = made(f"i{index}", {(2, 2): DEFECT, (5, 5): OTHER})
        base = Fooled().generate(image, Context()).score_map
        assert base is not None
        references.judge(image, base, accepted=[AT_2_2])
    return references


def test_an_accepted_regions_patches_are_what_is_looked_for() -> None:
    likeness = taught(1).likeness(made("q", {(0, 1): DEFECT}))
    assert likeness["anomalous"][0, 1] == pytest.approx(1.0, abs=1e-3)
    assert likeness["anomalous"][4, 4] == pytest.approx(0.0, abs=1e-3)
    assert likeness["normal"][0, 1] == pytest.approx(0.0, abs=1e-3)


def test_feedback_turns_a_fooled_generator_round() -> None:
    references = taught(6, row_weight=1.0)
    query = made("q", {(0, 1): DEFECT, (6, 6): OTHER})
    before = Fooled().generate(query, Context()).score_map
    after = TaughtGenerator(base=Fooled(), references=references, model=references.fit())
    found = after.generate(query, Context()).score_map
    assert before is not None and found is not None
    assert before[6, 6] > before[0, 1]
    assert np.unravel_index(found.argmax(), found.shape) == (0, 1)
    assert found[6, 6] < found[0, 1] - 1


def test_without_references_the_generator_is_as_it_was() -> None:
    references = taught(0)
    generator = TaughtGenerator(base=Fooled(), references=references, model=references.fit())
    query = made("q", {(6, 6): OTHER})
    found, plain = (g.generate(query, Context()).score_map for g in (generator, Fooled()))
    assert found is not None and plain is not None
    assert (found == plain).all()
    assert references.fit() is PATCH_PRIOR


def test_an_images_own_group_tells_it_nothing() -> None:
    references = References(OneLayer(), FeedbackSettings())
    references.judge(made("a", {(2, 2): DEFECT}, group="tile"), FLAT, accepted=[AT_2_2])
    assert references.likeness(made("b", group="tile")) == {}
    assert set(references.likeness(made("b", group="other"))) == {"anomalous", "normal"}


def test_what_is_incomplete_leaves_only_what_was_rejected_as_normal() -> None:
    references = References(OneLayer(), FeedbackSettings())
    rejected = square(slice(40, 48), slice(40, 48))
    image = made("a", {(2, 2): DEFECT, (5, 5): OTHER})
    references.judge(image, FLAT, accepted=[AT_2_2], rejected=[rejected], is_complete=False)
    likeness = references.likeness(made("q", {(0, 0): OTHER}))
    assert likeness["normal"][0, 0] == pytest.approx(1.0, abs=1e-3)
    assert likeness["normal"][4, 4] == pytest.approx(0.0, abs=1e-3)


def test_a_defect_smaller_than_a_patch_leaves_the_patch_it_lies_in() -> None:
    references = References(OneLayer(), FeedbackSettings())
    tiny = square(slice(17, 20), slice(17, 20))
    references.judge(made("a", {(2, 2): DEFECT}), FLAT, accepted=[tiny])
    assert references.likeness(made("q", {(0, 1): DEFECT}))["anomalous"][0, 1] > 0.99


def test_judging_an_image_again_replaces_and_old_images_are_forgotten() -> None:
    references = taught(3, max_images=2)
    assert len(references) == 2
    references.judge(made("i2", {(2, 2): OTHER}), FLAT, accepted=[AT_2_2])
    assert len(references) == 2
    with pytest.raises(SettingsError):
        FeedbackSettings(max_images=0)
