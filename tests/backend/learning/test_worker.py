"""Sessions that learn behind the replies, in the whole service."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from adaptation.errors import SettingsError
from adaptation.types import Embedding
from backend.commands.replay import replay
from backend.service.service import SegmentationService
from backend.settings import load_learner
from tests.backend.learning_kit import (
    FAST,
    IMAGES,
    delete,
    disk,
    draw,
    events_of,
    handed_over,
    learn_from_spoiled_images,
    learning_of,
    learning_service,
    painted,
    rest,
    version_now,
)
from tests.backend.payloads import keypoint
from tests.backend.service_kit import WatchedSam, click_on, mask_of, settings_for

# What a session learns


def test_a_submitted_object_teaches_its_session(tmp_path: Path) -> None:
    with learning_service(tmp_path) as service:
        draw(service, 0)
        rest(service)
        assert version_now(service, tmp_path) not in ("", "base")
    (event,) = events_of(tmp_path)
    assert event.project_id == "1"
    assert event.payload["n_steps"] == 2 and event.payload["skipped"] is None
    assert event.payload["annotation_id"] == "100"
    assert 0 <= event.payload["frozen_iou"] <= 1 and 0 <= event.payload["adapted_iou"] <= 1


def test_what_was_learned_survives_a_restart(tmp_path: Path) -> None:
    with learning_service(tmp_path) as service:
        draw(service, 0)
        rest(service)
        learned = version_now(service, tmp_path)
    with learning_service(tmp_path) as service:
        assert version_now(service, tmp_path) == learned != "base"


def test_a_deleted_annotation_is_unlearned(tmp_path: Path) -> None:
    with learning_service(tmp_path) as service:
        draw(service, 0)
        rest(service)
        delete(service, 0)
        rest(service)
        assert version_now(service, tmp_path) == "base"


def test_a_rewritten_annotation_is_learned_as_it_is_now(tmp_path: Path) -> None:
    with learning_service(tmp_path) as service:
        answer = draw(service, 0)
        rest(service)
        body = painted(answer, ~disk(), id=100, task=10, updated_at="2026-11-21T10:00:00Z")
        service.webhook({**body, "action": "ANNOTATION_UPDATED"})
        rest(service)
        assert [e.payload["n_objects"] for e in events_of(tmp_path, "forgot")] == [1]
        assert len(events_of(tmp_path)) == 2
    (session,) = replay(settings_for(tmp_path), None, check=True, sam=WatchedSam())
    assert session.n_objects == 1 and session.is_as_saved


def test_an_answer_says_how_many_objects_it_has_learned_from(tmp_path: Path) -> None:
    def said(service: SegmentationService) -> str:
        answer = service.predict(click_on(IMAGES[0], keypoint(40, 40, id="kp-v"), task=7))
        return str(answer["results"][0]["model_version"])

    with learning_service(tmp_path) as service:
        assert said(service) == service.model_version
        draw(service, 0)
        rest(service)
        assert said(service) == f"{service.model_version}, learned from 1 object"
        draw(service, 1)
        rest(service)
        assert said(service) == f"{service.model_version}, learned from 2 objects"
        delete(service, 0)
        rest(service)
        assert said(service).endswith("from 1 object")
        # What Label Studio keeps predictions by is the model's alone.
        opened = service.predict(click_on(IMAGES[0], task=7))
        assert opened["results"][0]["model_version"] == service.model_version


def test_labels_have_sessions_of_their_own_if_wanted(tmp_path: Path) -> None:
    with learning_service(tmp_path, learning__scope="label", learning__merge=0) as service:
        draw(service, 0)
        rest(service)
        assert version_now(service, tmp_path, label="Other") == "base"
        assert version_now(service, tmp_path) != "base"


def test_nothing_is_learned_unless_it_is_switched_on(tmp_path: Path) -> None:
    with learning_service(tmp_path, learning__is_on=False) as service:
        draw(service, 0)
        assert version_now(service, tmp_path) == ""
    assert events_of(tmp_path) == []


# When


def test_a_click_at_work_holds_learning_up(tmp_path: Path) -> None:
    with learning_service(tmp_path) as service:
        learning = learning_of(service)
        with learning.click():
            draw(service, 0)
            handed_over(service)
            assert events_of(tmp_path) == [] and not learning.idle()
        rest(service)
        assert len(events_of(tmp_path)) == 1


# What goes wrong


def test_garbage_teaches_nothing_and_ends_nothing(tmp_path: Path) -> None:
    with learning_service(tmp_path) as service:
        draw(service, 0, mask=np.zeros_like(disk()))
        draw(service, 1)
        rest(service)
    first, second = events_of(tmp_path)
    assert first.payload["skipped"] == "the mask is empty" and second.payload["skipped"] is None


def test_an_exploding_loss_is_dropped_and_the_session_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with learning_service(tmp_path, {**FAST, "learning_rate": 1e30}) as service:
        before = mask_of(service.predict(click_on(IMAGES[0], keypoint(50, 50, id="kp-a"))))
        with caplog.at_level(logging.WARNING):
            draw(service, 0)
            rest(service)
        answer = service.predict(click_on(IMAGES[0], keypoint(50, 50, id="kp-b"), task=8))
        assert version_now(service, tmp_path) == "base" and (mask_of(answer) == before).all()
        draw(service, 1)
        rest(service)
    assert "dropped" in caplog.text
    assert len(events_of(tmp_path)) == 2


def of_another_encoder(embedding: Embedding) -> Embedding:
    return replace(embedding, encoder_id="another")


def not_a_number(embedding: Embedding) -> Embedding:
    return replace(embedding, features=embedding.features * torch.nan)


@pytest.mark.parametrize("spoil", [of_another_encoder, not_a_number])
def test_a_spoiled_embedding_costs_its_object_and_no_more(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[Embedding], Embedding],
) -> None:
    with learning_service(tmp_path) as service:
        images = learn_from_spoiled_images(service, tmp_path)
        draw(service, 0)
        rest(service)
        learned = version_now(service, tmp_path)
        images.spoil = spoil
        with caplog.at_level(logging.WARNING):
            draw(service, 1)
            rest(service)
        assert version_now(service, tmp_path) == learned
        assert "could not learn from annotation 101" in caplog.text
        images.spoil = None
        draw(service, 2)
        rest(service)
        assert version_now(service, tmp_path) not in (learned, "base")
    assert len(events_of(tmp_path, "session_began")) == 1, "its memory was not lost"


def test_a_learner_s_mistakes_are_told_all_at_once(tmp_path: Path) -> None:
    path = tmp_path / "learner.yaml"
    path.write_text("stepz: 3\nbatch: many\nguard: {windw: 2}\n")
    with pytest.raises(SettingsError) as caught:
        load_learner(path)
    text = str(caught.value)
    assert all(word in text for word in ("stepz", "batch", "guard.windw"))


def test_the_documented_learner_is_the_default_one() -> None:
    path = Path(__file__).parents[3] / "configs" / "learner.yaml"
    assert load_learner(path) == load_learner(None)
