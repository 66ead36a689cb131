"""Training windows: what they show, where their objects are, and that they are repeatable."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.random import default_rng

from adaptation.storage.datasets import FolderSet
from tests.training.folders import write_set
from training.pretrain.synthesis import Composer, draw_shape
from training.pretrain.windows import SYNTHETIC, SceneSource, WindowSampler, recolour


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> SceneSource:
    root = write_set(tmp_path_factory.mktemp("sets") / "toy", n_images=2, regions=True)
    return SceneSource(FolderSet(root))


def sampler(source: SceneSource, **shares: float) -> WindowSampler:
    return WindowSampler({"toy": source}, Composer(source), shares, frozenset({"toy"}), 64)


@pytest.mark.parametrize("share", ["toy", SYNTHETIC])
@pytest.mark.parametrize("size", [32, 64])
def test_windows_hold_masks_at_half_their_size(source: SceneSource, share: str, size: int) -> None:
    windows = sampler(source, **{share: 1.0})
    for seed in range(25):
        window = windows.sample(size, 3, default_rng(seed))
        assert window.image.shape == (size, size, 3) and window.image.dtype == np.float32
        assert 0 <= window.image.min() and window.image.max() <= 255
        assert 1 <= len(window.masks) <= 3
        assert window.masks.shape[1:] == (size // 2, size // 2)
        areas = window.masks.sum(axis=(1, 2))
        assert (areas >= 8).all() and (areas <= 0.75 * (size // 2) ** 2).all()


def test_nothing_lies_in_the_padding(source: SceneSource) -> None:
    windows = sampler(source, toy=1.0)
    padded = 0
    for seed in range(40):
        window = windows.sample(64, 3, default_rng(seed))
        height, width = window.content
        padded += (height, width) != (64, 64)
        assert height % 2 == width % 2 == 0
        assert not window.image[height:].any() and not window.image[:, width:].any()
        assert not window.masks[:, height // 2 :].any()
        assert not window.masks[:, :, width // 2 :].any()
    assert padded  # whole frames of 48 x 64 do not fill a square


def test_masks_lie_on_their_objects(source: SceneSource) -> None:
    # Colours change, but inside a labelled rectangle they stay alike: far less spread than around.
    windows = sampler(source, toy=1.0)
    ratios = []
    for seed in range(30):
        window = windows.sample(64, 2, default_rng(seed))
        grey = window.image.mean(-1)[::2, ::2]
        content = np.zeros(grey.shape, np.bool_)
        content[: window.content[0] // 2, : window.content[1] // 2] = True
        ratios += [grey[mask].std() / (grey[content].std() + 1e-3) for mask in window.masks]
    assert np.median(ratios) < 0.8


def test_the_same_state_gives_the_same_window(source: SceneSource) -> None:
    windows = sampler(source, toy=0.5, synthetic=0.5)
    one, other = (windows.sample(64, 3, default_rng(5)) for _ in range(2))
    assert np.array_equal(one.image, other.image) and np.array_equal(one.masks, other.masks)
    different = windows.sample(64, 3, default_rng(6))
    assert not np.array_equal(one.image, different.image)


def test_compositions_label_what_they_paint(source: SceneSource) -> None:
    labels_seen = 0
    for seed in range(20):
        image, labels = Composer(source).compose(64, default_rng(seed))
        assert image.shape == (64, 64, 3) and labels.shape == (64, 64)
        assert np.isfinite(image).all() and labels.min() >= 0
        labels_seen += len(np.unique(labels)) - 1
    assert labels_seen > 40


def test_shapes_are_stencils() -> None:
    areas = []
    for seed in range(50):
        stencil = draw_shape(64, default_rng(seed))
        assert stencil.dtype == np.uint8 and set(np.unique(stencil)) <= {0, 1}
        areas.append(int(stencil.sum()))
    assert max(areas) > 20 * (np.quantile(areas, 0.2) + 1)  # small ones and large ones


def test_recolouring_stays_in_range_and_leaves_the_source_alone() -> None:
    image = default_rng(0).uniform(0, 255, (8, 8, 3)).astype(np.float32)
    before = image.copy()
    for seed in range(60):
        changed = recolour(image, default_rng(seed))
        assert changed.shape == image.shape and changed.dtype == np.float32
        assert 0 <= changed.min() and changed.max() <= 255
    assert np.array_equal(image, before)
