"""The objects with known masks that a config names, from data sets and from preferences folders."""

from __future__ import annotations

from adaptation.album import Album
from adaptation.errors import SettingsError
from training.datasets import FolderSet, ObjectRef, open_sets, sample_objects, split_by_group
from training.tuning_config import ObjectsConfig
from training.tuning_items import (
    Exercise,
    drawn_names,
    exercises_of_preferences,
    exercises_of_set,
)


def find_exercises(config: ObjectsConfig) -> list[Exercise]:
    """All objects, image by image; held out are groups of folders, and images of preferences.

    Raises:
        SettingsError: A set is not there.
        InputError: A preferences folder is damaged.
    """
    found: list[Exercise] = []
    for dataset in open_sets(config.data, config.sets) if config.data is not None else []:
        train, held_out = _drawn(dataset, config)
        found += exercises_of_set(dataset, train, "train")
        found += exercises_of_set(dataset, held_out, "val")
    if config.album is not None:
        album = Album(config.album)
        for folder in config.preferences:
            examples = exercises_of_preferences(folder, album)
            drawn = drawn_names({each.name for each in examples}, config.objects, config.seed)
            found += [each for each in examples if each.name in drawn]
    return found


def _drawn(dataset: FolderSet, config: ObjectsConfig) -> tuple[list[ObjectRef], list[ObjectRef]]:
    refs = list(dataset.objects())
    if not refs:
        raise SettingsError(f"The data set {dataset.name!r} has no objects to train on.")
    chosen = sample_objects(refs, config.objects or len(refs), config.seed)
    return split_by_group(chosen, config.held_out, config.seed)
