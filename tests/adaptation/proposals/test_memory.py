from __future__ import annotations

import numpy as np
import pytest

from adaptation.errors import SettingsError
from adaptation.proposals.interface import Context
from adaptation.proposals.memory import MemoryGenerator, MemorySettings, ObjectMemory, coverage
from adaptation.proposals.peaks import peaks_of
from tests.adaptation.proposals.making import DEFECT, N_CHANNELS, OTHER, made, square

OBJECT = {(row, column): OTHER for row in (2, 3) for column in (2, 3)}


def remembering() -> ObjectMemory:
    memory = ObjectMemory(N_CHANNELS, MemorySettings())
    memory.add(made("a", OBJECT), square(slice(16, 32), slice(16, 32)), label="grain")
    return memory


def test_what_looks_like_the_object_scores_and_its_surroundings_do_not() -> None:
    likeness = remembering().likeness(made("b", {(6, 1): OTHER, (1, 6): DEFECT}))
    assert likeness[6, 1] == pytest.approx(1.0, abs=1e-3)
    assert likeness[4, 4] == pytest.approx(-1.0, abs=1e-3)
    assert likeness[1, 6] == pytest.approx(0.0, abs=1e-3)


def test_other_objects_of_the_kind_are_no_background() -> None:
    memory = ObjectMemory(N_CHANNELS, MemorySettings())
    beside = square(slice(16, 32), slice(32, 48))
    vectors = {**OBJECT, **{(row, column): OTHER for row in (2, 3) for column in (4, 5)}}
    image = made("a", vectors)
    with_it = memory.add(image, square(slice(16, 32), slice(16, 32)))
    without = memory.add(image, square(slice(16, 32), slice(16, 32)), exclude=beside)
    assert bool((with_it.background[:, 1] > 0.5).any())
    assert not bool((without.background[:, 1] > 0.5).any())


def test_a_tiny_object_leaves_the_vector_it_lies_in() -> None:
    memory = ObjectMemory(N_CHANNELS, MemorySettings())
    kept = memory.add(made("a", {(2, 2): DEFECT}), square(slice(18, 20), slice(18, 20)))
    assert kept.foreground.shape == (1, N_CHANNELS)
    assert kept.foreground[0].tolist() == pytest.approx(list(DEFECT))


def test_an_empty_memory_proposes_nothing_and_has_no_map() -> None:
    memory = ObjectMemory(N_CHANNELS, MemorySettings())
    assert MemoryGenerator(memory=memory).generate(made("a"), Context()).score_map is None
    with pytest.raises(SettingsError, match="finish an object"):
        memory.likeness(made("a"))


def test_the_oldest_object_is_forgotten() -> None:
    memory = ObjectMemory(N_CHANNELS, MemorySettings(max_objects=1))
    mask = square(slice(16, 32), slice(16, 32))
    memory.add(made("a", {(2, 2): DEFECT}), mask)
    memory.add(made("b", OBJECT), mask)
    assert len(memory) == 1
    assert memory.likeness(made("c", {(0, 0): DEFECT}))[0, 0] < 0.1


def test_coverage_is_the_share_of_each_cell() -> None:
    covered = coverage(square(slice(0, 8), slice(0, 4)), (8, 8))
    assert covered[0, 0] == pytest.approx(0.5)
    assert covered.sum() == pytest.approx(0.5)


# Peaks


def test_peaks_are_clicks_in_the_middle_of_their_cells_best_first() -> None:
    scores = np.zeros((8, 8), np.float32)
    scores[1, 2], scores[6, 5] = 2.0, 3.0
    places = peaks_of(scores, (64, 128), count=5, above=0.5)
    assert [p.score for p in places] == [3.0, 2.0]
    assert [(p.click.x, p.click.y) for p in places if p.click] == [(88.0, 52.0), (40.0, 12.0)]


def test_a_plateau_gives_one_peak_and_neighbours_give_way() -> None:
    scores = np.zeros((8, 8), np.float32)
    scores[3, 3:5] = 1.0
    scores[3, 6] = 0.9
    assert len(peaks_of(scores, (8, 8), count=9, apart=1, above=0.5)) == 2
    assert len(peaks_of(scores, (8, 8), count=9, apart=3, above=0.5)) == 1


def test_what_is_labelled_already_is_never_proposed_again() -> None:
    scores = np.zeros((8, 8), np.float32)
    scores[1, 2], scores[6, 5] = 2.0, 3.0
    taken = square(slice(48, 56), slice(40, 48))
    (place,) = peaks_of(scores, (64, 64), count=5, above=0.5, taken=[taken])
    assert place.score == 2.0
