"""Sessions that learn behind the replies, in the whole service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from adaptation.errors import SettingsError
from adaptation.journal import EventRecord
from backend.online import OnlineLearning
from backend.rle import encode_brush
from backend.service import SegmentationService
from backend.settings import load_learner
from tests.backend.making import until
from tests.backend.payloads import Payload, keypoint, region, submission
from tests.backend.service_kit import (
    HEIGHT,
    WIDTH,
    WatchedSam,
    click_on,
    data_uri,
    interactions_of,
    journal_of,
    pixels_of,
    regions_of,
    running_service,
)

IMAGE = data_uri(pixels_of())
FAST = {
    "steps": 2,
    "think_steps": 1,
    "think_patience": 1,
    "half": False,
    "simulated_share": 0.0,
    "guard": {"least_overlap": 0.0, "agreement": 0.0},
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "learner.yaml"
    path.write_text(yaml.safe_dump(FAST))
    return path


def disk() -> NDArray[np.bool_]:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return (rows - HEIGHT // 2) ** 2 + (columns - WIDTH // 2) ** 2 < 80**2


def painted(answer: dict[str, Any], mask: NDArray[np.bool_], **changes: Any) -> Payload:
    """A submission of an accepted region whose mask was painted over."""
    value = {"format": "rle", "rle": encode_brush(mask)}
    shown = regions_of(answer)[0]
    kept = region("brush", value, id=shown["id"], original_width=WIDTH, original_height=HEIGHT)
    return submission(kept, **changes)


def learning_of(service: SegmentationService) -> OnlineLearning:
    assert isinstance(service._learning, OnlineLearning)
    return service._learning


def events_of(folder: Path) -> list[EventRecord]:
    with journal_of(folder) as journal:
        return list(journal.events(kind="learned"))


def teach(service: SegmentationService, folder: Path, *, project: int = 1) -> dict[str, Any]:
    """Click an object, submit it, and wait until it was taught."""
    known = len(events_of(folder))
    answer = service.predict(click_on(IMAGE, keypoint(50, 50, id="kp-1")))
    service.webhook(painted(answer, disk()))
    until(lambda: len(events_of(folder)) == known + 1)
    return answer


def version_of_a_click(service: SegmentationService, folder: Path, **task: Any) -> str:
    service.predict(click_on(IMAGE, keypoint(40, 40, id="kp-9"), **task))
    return interactions_of(folder)[-1].adapter_version


def test_a_submitted_object_teaches_its_session(tmp_path: Path, config: Path) -> None:
    with running_service(tmp_path, learning__is_on=True, learning__config=config) as service:
        teach(service, tmp_path)
        assert version_of_a_click(service, tmp_path) not in ("", "base")
    (event,) = events_of(tmp_path)
    assert event.project_id == "1"
    assert event.payload["n_steps"] == 2 and event.payload["skipped"] is None
    assert event.payload["annotation_id"] == "4"
    assert 0 <= event.payload["frozen_iou"] <= 1 and 0 <= event.payload["adapted_iou"] <= 1


def test_what_was_learned_survives_a_restart(tmp_path: Path, config: Path) -> None:
    with running_service(tmp_path, learning__is_on=True, learning__config=config) as service:
        teach(service, tmp_path)
        until(learning_of(service).idle)
        learned = version_of_a_click(service, tmp_path)
    with running_service(tmp_path, learning__is_on=True, learning__config=config) as service:
        assert version_of_a_click(service, tmp_path) == learned != "base"


def test_a_deleted_annotation_is_unlearned(tmp_path: Path, config: Path) -> None:
    with running_service(tmp_path, learning__is_on=True, learning__config=config) as service:
        teach(service, tmp_path)
        service.webhook(
            {"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 4}], "project": {"id": 1}}
        )
        until(lambda: version_of_a_click(service, tmp_path) == "base")


def test_a_rewritten_annotation_is_learned_as_it_is_now(tmp_path: Path, config: Path) -> None:
    with running_service(tmp_path, learning__is_on=True, learning__config=config) as service:
        answer = teach(service, tmp_path)
        body = painted(answer, ~disk(), updated_at="2026-11-21T10:00:00Z")
        service.webhook({**body, "action": "ANNOTATION_UPDATED"})
        until(lambda: len(events_of(tmp_path)) == 2)
        assert learning_of(service)._school._awake["project-1"].taught.n_objects == 1


def test_a_click_at_work_holds_learning_up(tmp_path: Path, config: Path) -> None:
    with running_service(tmp_path, learning__is_on=True, learning__config=config) as service:
        answer = service.predict(click_on(IMAGE, keypoint(50, 50, id="kp-1")))
        learning = learning_of(service)
        with learning.click():
            service.webhook(painted(answer, disk()))
            until(lambda: journal_has_a_link(tmp_path))
            assert events_of(tmp_path) == []
        until(lambda: len(events_of(tmp_path)) == 1)


def journal_has_a_link(folder: Path) -> bool:
    with journal_of(folder) as journal:
        return bool(list(journal.links()))


def test_garbage_teaches_nothing_and_ends_nothing(tmp_path: Path, config: Path) -> None:
    with running_service(tmp_path, learning__is_on=True, learning__config=config) as service:
        answer = service.predict(click_on(IMAGE, keypoint(50, 50, id="kp-1")))
        service.webhook(painted(answer, np.zeros((HEIGHT, WIDTH), np.bool_), id=3))
        until(lambda: len(events_of(tmp_path)) == 1)
        assert events_of(tmp_path)[0].payload["skipped"] == "the mask is empty"
        service.webhook(painted(answer, disk(), id=5))
        until(lambda: len(events_of(tmp_path)) == 2)
        assert events_of(tmp_path)[1].payload["skipped"] is None


def test_labels_have_sessions_of_their_own_if_wanted(tmp_path: Path, config: Path) -> None:
    overrides = {
        "learning__is_on": True,
        "learning__config": config,
        "learning__scope": "label",
    }
    with running_service(tmp_path, **overrides) as service:
        teach(service, tmp_path)
        service.predict(click_on(IMAGE, keypoint(40, 40, id="kp-8", label="Other")))
        other = interactions_of(tmp_path)[-1]
        assert (other.label, other.adapter_version) == ("Other", "base")
        assert version_of_a_click(service, tmp_path) != "base"


def test_nothing_is_learned_unless_it_is_switched_on(tmp_path: Path) -> None:
    with running_service(tmp_path, WatchedSam()) as service:
        answer = service.predict(click_on(IMAGE, keypoint(50, 50, id="kp-1")))
        service.webhook(painted(answer, disk()))
        assert version_of_a_click(service, tmp_path) == ""
    assert events_of(tmp_path) == []


def test_a_learner_s_mistakes_are_told_all_at_once(tmp_path: Path) -> None:
    path = tmp_path / "learner.yaml"
    path.write_text("stepz: 3\nbatch: many\nguard: {windw: 2}\n")
    with pytest.raises(SettingsError) as caught:
        load_learner(path)
    text = str(caught.value)
    assert all(word in text for word in ("stepz", "batch", "guard.windw"))


def test_the_documented_learner_is_the_default_one() -> None:
    path = Path(__file__).parents[2] / "configs" / "learner.yaml"
    assert load_learner(path) == load_learner(None)
