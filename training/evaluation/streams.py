"""Which objects are annotated, in which order, and in whose session.

An annotator works through one image after the other, so objects of one group (a patient, a tile, a
road) and of one image come together in a stream; with several sessions a group is given to one of
them as a whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import astuple
from typing import TypeVar

import numpy as np

from adaptation.errors import SettingsError
from adaptation.storage.datasets import FolderSet, ObjectRef, sample_objects

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

_ORDER_SEED = 7_919
"""Keeps the draw of the order apart from the draw of the objects."""


def choose_objects(dataset: FolderSet, n_objects: int | None, seed: int) -> list[ObjectRef]:
    """The objects to evaluate on, sorted.

    Args:
        dataset: The set; objects of too few pixels are left out.
        n_objects: How many to draw; None for all.
        seed: Of the draw.

    Raises:
        SettingsError: The set has no object that is large enough.
    """
    found = list(dataset.objects())
    if not found:
        raise SettingsError(f"The data set {dataset.name!r} has no object of 100 pixels or more.")
    return sorted(found if n_objects is None else sample_objects(found, n_objects, seed))


def digest_of_objects(refs: Sequence[ObjectRef]) -> str:
    """First 16 hex digits of the SHA-256 of a list of objects, whatever its order."""
    content = json.dumps([astuple(ref) for ref in sorted(refs)])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def has_groups(refs: Iterable[ObjectRef]) -> bool:
    """Whether some group holds more than one image."""
    stems: dict[str, set[str]] = {}
    for ref in refs:
        stems.setdefault(ref.group, set()).add(ref.stem)
    return any(len(members) > 1 for members in stems.values())


def stream_order(
    refs: Iterable[ObjectRef], seed: int, order: int, *, keeps_groups: bool = True
) -> list[ObjectRef]:
    """One order of the objects, the same for every model and every learner.

    Args:
        refs: The objects, in any order.
        seed: Of the evaluation.
        order: Number of the order, from 0; each is another shuffle.
        keeps_groups: Shuffle the groups, the images in each and the objects in each image, so
            that they come together; False shuffles single objects.
    """
    rng = np.random.default_rng([seed, _ORDER_SEED, order])
    ordered = sorted(refs)
    if not keeps_groups:
        return _shuffled(ordered, rng)
    by_group = _grouped((ref.group, ref) for ref in ordered)
    stream = []
    for group in _shuffled(list(by_group), rng):
        by_image = _grouped((ref.stem, ref) for ref in by_group[group])
        for stem in _shuffled(list(by_image), rng):
            stream += _shuffled(by_image[stem], rng)
    return stream


def split_sessions(stream: Sequence[ObjectRef], n_sessions: int) -> list[list[ObjectRef]]:
    """Deal a stream to several sessions, each group as a whole to the shortest one so far.

    Every session keeps the order of the stream.

    Raises:
        SettingsError: There are fewer groups than sessions.
    """
    sizes: dict[str, int] = {}
    for ref in stream:
        sizes[ref.group] = sizes.get(ref.group, 0) + 1
    if not 1 <= n_sessions <= len(sizes):
        raise SettingsError(
            f"{n_sessions} sessions need as many groups of objects, the objects chosen have "
            f"{len(sizes)}; ask for fewer sessions or for more objects."
        )
    lengths = [0] * n_sessions
    session_of = {}
    for group, size in sizes.items():
        shortest = lengths.index(min(lengths))
        session_of[group] = shortest
        lengths[shortest] += size
    return [[r for r in stream if session_of[r.group] == n] for n in range(n_sessions)]


def _grouped(pairs: Iterable[tuple[K, T]]) -> dict[K, list[T]]:
    groups: dict[K, list[T]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups


def _shuffled(items: Sequence[T], rng: np.random.Generator) -> list[T]:
    return [items[i] for i in rng.permutation(len(items))]
