"""What one click may cost: after a restart, with many clicks at once, and for nobody."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from adaptation.predictor.interactive import MAX_REPLAYED, ObjectState
from adaptation.predictor.zoom import View
from adaptation.types import Box, Click
from backend.service.patience import GivenUpError, Patience
from backend.service.prompt_state import ObjectKey, ObjectStates, Place
from backend.service.request_queue import NewestWinsQueue, Slots
from backend.service.state_files import StateFiles
from tests.backend.payloads import keypoint
from tests.backend.service_kit import (
    WatchedSam,
    click_on,
    data_uri,
    interactions_of,
    mask_of,
    pixels_of,
    running_service,
)

IMAGE = data_uri(pixels_of())
SPOTS = [keypoint(30 + 2 * n, 40 + n, n % 3 != 2, id=f"kp-{n}") for n in range(20)]


class CountedSam(WatchedSam):
    """Its decodes are counted."""

    def __init__(self) -> None:
        super().__init__()
        self.n_decodes = 0

    def decode(self, *args: Any, **kwargs: Any) -> Any:
        self.n_decodes += 1
        return super().decode(*args, **kwargs)


def test_a_restart_costs_one_decode_and_changes_nothing(tmp_path: Path) -> None:
    sam = CountedSam()
    with running_service(tmp_path / "a", sam) as service:
        for n in range(1, 6):
            service.predict(click_on(IMAGE, *SPOTS[:n]))
        whole = mask_of(service.predict(click_on(IMAGE, *SPOTS[:6])))
    with running_service(tmp_path / "b", sam) as service:
        for n in range(1, 6):
            service.predict(click_on(IMAGE, *SPOTS[:n]))
    with running_service(tmp_path / "b", sam) as service:
        sam.n_decodes = 0
        again = mask_of(service.predict(click_on(IMAGE, *SPOTS[:6])))
        assert sam.n_decodes == 1
    assert (again == whole).all()


def test_many_clicks_on_an_unknown_object_cost_a_few_decodes(tmp_path: Path) -> None:
    sam = CountedSam()
    with running_service(tmp_path, sam) as service:
        answer = service.predict(click_on(IMAGE, *SPOTS))
    assert sam.n_decodes <= MAX_REPLAYED + 1
    assert len(sam.encoded) <= MAX_REPLAYED + 1
    assert mask_of(answer).shape == (400, 600)


def test_nothing_is_computed_for_a_client_that_has_gone(tmp_path: Path) -> None:
    sam = CountedSam()
    with running_service(tmp_path, sam) as service:
        with pytest.raises(GivenUpError, match="hung up"):
            service.predict(click_on(IMAGE, *SPOTS), is_gone=lambda: True)
    assert sam.n_decodes == 0
    (record,) = interactions_of(tmp_path)
    assert record.context["outcome"] == "given up"
    assert len(record.prompt.clicks) == len(SPOTS)


def test_a_click_that_waits_gives_up_and_leaves_its_place() -> None:
    queue, slots = NewestWinsQueue(), Slots(1)
    with queue.take("object", frozenset("a")), slots.held():
        for waiting in (queue.take("object", frozenset("ab"), Patience(budget_s=0.1).check),):
            with pytest.raises(GivenUpError, match="within 0 seconds"), waiting:
                pass
        with pytest.raises(GivenUpError), slots.held(Patience(lambda: True).check):
            pass
    assert len(queue) == 0
    with queue.take("object", frozenset("a")) as is_wanted, slots.held():
        assert is_wanted


def test_a_wait_ends_soon_after_the_turn_comes() -> None:
    slots, begun = Slots(1), threading.Event()

    def wait() -> None:
        with slots.held(Patience().check):
            begun.set()

    with slots.held():
        threading.Thread(target=wait).start()
        time.sleep(0.05)
    assert begun.wait(5)


# The states on the disk

KEY = ObjectKey(Place("1", "7", "image", "Object"), "kp-0")


def state_of(n_clicks: int = 2) -> ObjectState:
    return ObjectState(
        clicks=tuple(Click(x=n + 1 / 3, y=n, is_positive=n % 2 == 0) for n in range(n_clicks)),
        box=Box(x0=1.1, y0=2, x1=30, y1=40),
        view=View(1, 2, 300, 400),
        input_size=(48, 64),
        low_res_logits=torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(n_clicks)),
    )


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    files, state = StateFiles(tmp_path, 10), state_of()
    files.save(KEY, state, "decoder")
    files.close()
    found = StateFiles(tmp_path, 10).load(KEY)
    assert found is not None and found[0] == "decoder"
    assert torch.equal(found[1].low_res_logits, state.low_res_logits)
    for name in ("clicks", "box", "view", "input_size"):
        assert getattr(found[1], name) == getattr(state, name)


@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_state_is_none_and_is_removed(tmp_path: Path, damage: str) -> None:
    files = StateFiles(tmp_path, 10)
    files.save(KEY, state_of(), "decoder")
    files.close()
    (path,) = tmp_path.glob("*/*.safetensors")
    content = bytearray(path.read_bytes())
    content[-7] ^= 255
    damaged = {"cut": content[:-9], "changed": content, "empty": b""}[damage]
    path.write_bytes(damaged)
    assert StateFiles(tmp_path, 10).load(KEY) is None
    assert not path.exists()


def test_states_are_bounded_and_go_with_their_task(tmp_path: Path) -> None:
    files = StateFiles(tmp_path, 8)
    for n in range(30):
        files.save(ObjectKey(KEY.place, f"kp-{n}"), state_of(), "decoder")
    files.save(ObjectKey(Place("1", "8", "image", "Object"), "kp"), state_of(), "decoder")
    files.close()
    assert 0 < len(list(tmp_path.glob("*/*.safetensors"))) <= 9
    files = StateFiles(tmp_path, 8)
    states = ObjectStates(max_objects=8, ttl_s=100, files=files)
    states.forget_task("1", "7")
    states.close()
    assert len(list(tmp_path.glob("*/*.safetensors"))) == 1


def test_a_state_of_another_decoder_is_not_gone_on_from(tmp_path: Path) -> None:
    files = StateFiles(tmp_path, 8)
    files.save(KEY, state_of(1), "before")
    states = ObjectStates(max_objects=8, ttl_s=100, files=files)
    clicks, box = state_of(2).clicks, state_of().box
    assert states.before(KEY, clicks, box, "after") is None
    assert states.before(KEY, clicks, box, "before") is not None
    states.close()
