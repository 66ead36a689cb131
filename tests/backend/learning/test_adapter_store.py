"""The weights that sessions answer with: bounded in memory, whole on the disk."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from adaptation.learning.adapter import Adapter
from adaptation.models.decoder import Weights
from adaptation.models.sam import PromptableSam
from backend.learning.adapter_store import READY, AdapterStore
from tests.adaptation.conftest import tiny_vit_sam


@pytest.fixture(scope="module")
def sam() -> PromptableSam:
    return PromptableSam(tiny_vit_sam(), "tiny")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def learned(sam: PromptableSam, amount: float) -> Adapter:
    deltas = {n: torch.full_like(v, amount).half() for n, v in sam.decoder_parameters().items()}
    return Adapter(deltas, sam.decoder_id)


def shelf_in(folder: Path, sam: PromptableSam, **changes: object) -> AdapterStore:
    given: dict[str, object] = {"max_sessions": 2, "ttl_s": 100.0, **changes}
    return AdapterStore(sam, folder, **given)  # type: ignore[arg-type]


def at_first(shelf: AdapterStore, name: str) -> tuple[Weights | None, str]:
    """What a session answers an object's first click with, and its version."""
    weights, version = shelf.weights(name, "start")
    return weights(1), version


def test_the_least_recently_used_leaves_the_memory_and_comes_back(
    tmp_path: Path, sam: PromptableSam
) -> None:
    shelf = shelf_in(tmp_path, sam)
    for number in range(1, 4):
        shelf.publish(f"s{number}", learned(sam, number / 8))
    assert len(shelf) == 2 and shelf.used_at("s1") == float("-inf")
    base = sam.decoder_parameters()
    for number in (1, 2, 3):
        weights, version = at_first(shelf, f"s{number}")
        assert version == learned(sam, number / 8).version and weights is not None
        assert all(torch.equal(weights[n], base[n] + number / 8) for n in base)
    assert len(shelf) == 2


def test_an_unused_session_leaves_the_memory_and_keeps_its_file(
    tmp_path: Path, sam: PromptableSam
) -> None:
    clock = Clock()
    shelf = shelf_in(tmp_path, sam, clock=clock)
    shelf.publish("one", learned(sam, 0.5))
    clock.now = 60.0
    shelf.publish("two", learned(sam, 0.25))
    clock.now = 101.0
    at_first(shelf, "two")
    assert len(shelf) == 1
    found = shelf.adapter("one")
    assert found is not None and found.version == learned(sam, 0.5).version


def test_a_session_that_learned_nothing_answers_with_the_project_s_start(
    tmp_path: Path, sam: PromptableSam
) -> None:
    shelf = shelf_in(tmp_path, sam)
    assert at_first(shelf, "new") == (None, "base")
    assert shelf.origin("new", "start")[1] == "base"
    shelf.publish("start", learned(sam, 0.5))
    assert at_first(shelf, "new")[1] == learned(sam, 0.5).version
    assert shelf.origin("new", "start")[1] == "merged"
    shelf.publish("new", learned(sam, 0.25))
    assert shelf.origin("new", "start")[1] == "saved"
    shelf.drop("start")
    assert at_first(shelf, "newer") == (None, "base")


def test_what_was_learned_upon_another_decoder_is_kept_and_the_session_starts_anew(
    tmp_path: Path, sam: PromptableSam, caplog: pytest.LogCaptureFixture
) -> None:
    other = PromptableSam(tiny_vit_sam(seed=1), "tiny")
    shelf_in(tmp_path, other).publish("one", learned(other, 0.5))
    shelf = shelf_in(tmp_path, sam)
    assert shelf.saved_version("one") is None
    with caplog.at_level(logging.WARNING):
        assert at_first(shelf, "one") == (None, "base")
        assert at_first(shelf, "one") == (None, "base")
    assert caplog.text.count(f"learned upon decoder {other.decoder_id}") == 1, "said once"
    assert shelf.origin("one", "start")[1] == "base"
    shelf.publish("one", learned(sam, 0.25))
    assert shelf_in(tmp_path, sam).saved_version("one") == learned(sam, 0.25).version
    # A server with that decoder finds it again where a base decoder's sessions are kept.
    kept = shelf_in(tmp_path / other.decoder_id, other)
    assert kept.saved_version("one") == learned(other, 0.5).version


def test_a_full_disk_costs_the_file_and_not_the_session(
    tmp_path: Path, sam: PromptableSam, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    shelf = shelf_in(blocked, sam)
    with caplog.at_level(logging.ERROR):
        shelf.publish("one", learned(sam, 0.5))
    assert "is not saved" in caplog.text
    assert at_first(shelf, "one")[1] == learned(sam, 0.5).version


def test_names_of_any_kind_have_files_of_their_own(tmp_path: Path, sam: PromptableSam) -> None:
    shelf = shelf_in(tmp_path, sam)
    labels = ("a/b", "a_b", "Ä ..", "long" * 100, "long" * 101)
    for label in labels:
        shelf.publish(f"project-1-label-{label}", learned(sam, 0.5))
        assert shelf.saved_version(f"project-1-label-{label}") is not None
    assert len(list(tmp_path.iterdir())) == len(labels)
    assert all(path.parent == tmp_path for path in tmp_path.rglob("*.safetensors"))


def test_few_sessions_are_kept_ready(tmp_path: Path, sam: PromptableSam) -> None:
    shelf = shelf_in(tmp_path, sam, max_sessions=100)
    answers = {}
    for number in range(READY + 5):
        shelf.publish(f"s{number}", learned(sam, (number + 1) / 64))
        answers[number], _ = at_first(shelf, f"s{number}")
    assert len(shelf) == READY + 5
    kept = [n for n in reversed(answers) if at_first(shelf, f"s{n}")[0] is answers[n]]
    assert kept == list(reversed(answers))[:READY], "the others were made ready anew"


def test_each_stage_of_an_object_is_answered_with_its_share(
    tmp_path: Path, sam: PromptableSam
) -> None:
    shelf = shelf_in(tmp_path, sam)
    shelf.publish("one", replace(learned(sam, 0.5), shares=(1.0, 0.5, 0.0, 1.0)))
    weights, _ = shelf.weights("one", "start")
    name, base = next(iter(sam.decoder_parameters().items()))
    first, third, fifth = weights(1), weights(3), weights(5)
    assert first is not None and third is not None and fifth is None
    assert torch.equal(first[name], base + 0.5) and torch.equal(third[name], base + 0.25)
    assert weights(9) is first, "the same share is made ready once"
