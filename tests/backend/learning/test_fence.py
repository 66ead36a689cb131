"""Adapters are written by the newest holder of a lease alone, and read by everybody."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from adaptation.errors import StoreError
from adaptation.journal import Lease, LeaseLostError
from adaptation.learning.adapter import Adapter
from adaptation.models.sam import PromptableSam
from backend.learning import fence
from backend.learning.adapter_store import AdapterStore
from backend.learning.fence import FolderFence
from tests.adaptation.conftest import tiny_vit_sam
from tests.backend.learning.test_adapter_store import at_first, learned


@pytest.fixture(scope="module")
def sam() -> PromptableSam:
    return PromptableSam(tiny_vit_sam(), "tiny")


def lease(token: int) -> Lease:
    return Lease(name="learning", token=token, holder=f"learner {token}")


def writer(folder: Path, sam: PromptableSam, token: int) -> AdapterStore:
    writing = FolderFence(folder, lease(token)).held
    return AdapterStore(sam, folder, max_sessions=9, ttl_s=100.0, writing=writing)


def reader(folder: Path, sam: PromptableSam) -> AdapterStore:
    return AdapterStore(sam, folder, max_sessions=9, ttl_s=100.0, is_reader=True)


def test_a_newer_holder_turns_an_older_one_away(tmp_path: Path, sam: PromptableSam) -> None:
    first, second = writer(tmp_path, sam, 99), writer(tmp_path, sam, 100)
    first.publish("one", learned(sam, 0.5))
    second.publish("one", learned(sam, 0.25))
    with pytest.raises(LeaseLostError, match="another learner has written"):
        first.publish("one", learned(sam, 0.125))
    with pytest.raises(LeaseLostError):
        first.drop("one")
    assert at_first(reader(tmp_path, sam), "one")[1] == learned(sam, 0.25).version
    second.drop("one")
    assert at_first(reader(tmp_path, sam), "one")[1] == "base"


def test_a_holder_that_is_stopped_in_a_write_is_not_awaited_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fence, "WAIT_S", 0.1)
    incoming, outgoing = os.pipe()
    child = os.fork()
    if child == 0:
        with FolderFence(tmp_path, lease(1)).held():
            os.write(outgoing, b"!")
            signal.pause()
    os.read(incoming, 1)
    newer = FolderFence(tmp_path, lease(2))
    with pytest.raises(StoreError, match="Another learner has been writing"), newer.held():
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with newer.held():
        pass


def test_a_reader_answers_with_what_was_saved_last(tmp_path: Path, sam: PromptableSam) -> None:
    here, there = writer(tmp_path, sam, 1), reader(tmp_path, sam)
    assert at_first(there, "one")[1] == "base" and there.n_learned("one") == 0
    for count, amount in ((1, 0.5), (2, 0.25)):
        here.publish("one", learned(sam, amount), count)
        assert at_first(there, "one")[1] == learned(sam, amount).version
        assert there.n_learned("one") == count
    here.publish("start", learned(sam, 0.125))
    here.drop("one")
    assert at_first(there, "one")[1] == learned(sam, 0.125).version, "the project's start"


def test_a_reader_reads_a_file_that_stays_once(
    tmp_path: Path, sam: PromptableSam, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = reader(tmp_path, sam)
    writer(tmp_path, sam, 1).publish("one", learned(sam, 0.5))
    before = at_first(there, "one")

    def unreadable(*_: object) -> Adapter:
        raise AssertionError("it was read again")

    monkeypatch.setattr("backend.learning.adapter_store.load_adapter", unreadable)
    after = at_first(there, "one")
    assert after[1] == before[1]
    assert before[0] is not None and after[0] is not None
    assert all(torch.equal(before[0][n], after[0][n]) for n in before[0])


def test_a_reader_leaves_what_another_decoder_learned_where_it_is(
    tmp_path: Path, sam: PromptableSam
) -> None:
    other = Adapter(learned(sam, 0.5).deltas, "another")
    writer(tmp_path, sam, 1).publish("one", other)
    (path,) = tmp_path.glob("*.safetensors")
    assert at_first(reader(tmp_path, sam), "one")[1] == "base"
    assert path.exists()
