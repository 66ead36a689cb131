"""What a run is watched by: objects that it never sees, and when it has had enough."""

from __future__ import annotations

from pathlib import Path

import pytest

from adaptation.errors import SettingsError
from adaptation.models.compact.model import build_compact
from adaptation.storage.datasets import FolderSet, held_out_stems
from tests.training.folders import write_set
from training.pretrain.validation import Validation, ValidationConfig, Watch
from training.runtime.distributed import Rank


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    for name, n_images in (("toy", 12), ("other", 2)):
        write_set(folder / name, n_images)
    return folder


CONFIG = ValidationConfig(sets=("other",), groups_of=("toy",), share=0.4, objects=5)


def test_a_share_of_the_groups_is_held_out_whole(data: Path) -> None:
    toy = FolderSet(data / "toy")
    held = held_out_stems(toy, 0.4)
    assert 0 < len(held) < 12
    groups = {toy.groups[stem] for stem in held}
    assert held == {stem for stem in toy.stems if toy.groups[stem] in groups}
    assert held <= held_out_stems(toy, 0.6)
    one = FolderSet(data / "other")
    assert {len(held_out_stems(one, share)) for share in (0.001, 0.999)} == {0, 2}


def test_objects_come_from_what_is_kept_out_and_of_every_set_about_as_many(data: Path) -> None:
    refs = Validation(data, CONFIG).refs
    assert len(refs) == 5 == len(set(refs))
    from_toy = [ref for ref in refs if ref.dataset == "toy"]
    assert len(from_toy) in (2, 3)
    held = held_out_stems(FolderSet(data / "toy"), CONFIG.share)
    assert all(ref.stem in held for ref in from_toy)
    assert refs == Validation(data, CONFIG).refs


def test_a_set_without_an_object_kept_out_is_refused(data: Path) -> None:
    nothing = ValidationConfig(groups_of=("toy",), share=1e-9, objects=5)
    with pytest.raises(SettingsError, match="larger share"):
        Validation(data, nothing)


def test_other_weights_are_measured_and_the_model_stays_as_it_is(data: Path) -> None:
    sam = build_compact(input_size=64, dim=16).requires_grad_(True)
    before = {name: value.clone() for name, value in sam.state_dict().items()}
    validation = Validation(data, CONFIG)
    plain = validation.measure(sam, before)
    weights = dict(before)
    weights["mask_decoder.hint_logit.bias"] = before["mask_decoder.hint_logit.bias"] + 50
    everything = validation.measure(sam, weights)  # every mask covers its whole view
    assert everything["val_score"] < 0.3 and plain != everything
    assert set(plain) == {"val_score", "val_noc90", *(f"val_iou@{k}" for k in (1, 2, 3, 5, 10))}
    assert all(before[name].equal(value) for name, value in sam.state_dict().items())
    assert all(p.requires_grad for p in sam.parameters())


def test_a_run_is_over_when_passes_bring_nothing_better(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.5, 0.6, 0.55, 0.6])
    monkeypatch.setattr(Validation, "measure", lambda *_: {"val_score": next(scores)})
    sam = build_compact(input_size=64, dim=16)
    config = ValidationConfig(sets=("other",), objects=1, every_minutes=10, patience=2)
    watch = Watch(data, config, Rank())
    assert watch.look(sam, {}, 9.9) is None
    seen = []
    for minutes in (10, 21, 29, 30, 40):
        assert not watch.is_over
        seen.append(watch.look(sam, {}, minutes))
    assert [row["val_score"] for row in seen if row is not None] == [0.5, 0.6, 0.55, 0.6]
    assert seen[2] is None  # its time comes at 30 minutes
    assert watch.is_over and watch.state == {"passes": 4, "best": 0.6, "since_best": 2}


def test_a_run_without_objects_is_never_measured(tmp_path: Path) -> None:
    watch = Watch(tmp_path, ValidationConfig(), Rank())
    assert watch.look(build_compact(input_size=64, dim=16), {}, float("inf")) is None
    assert not watch.is_over
