"""The service without HTTP: clicks, the journal, order, restarts, what is encoded ahead."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptation.errors import ImageError, InputError, ProtocolError, StoreError
from adaptation.journal import Journal, Link, SpoolingJournal, SubmissionRecord
from adaptation.masks import decode_rle
from adaptation.models.decoder import Weights
from adaptation.predictor.interactive import InteractivePredictor, WeightsAt
from adaptation.predictor.settings import ZoomSettings
from adaptation.types import Click
from backend.embeddings.encoder import Encoder
from backend.images.loader import ImageIdentity, TaskImage
from backend.service.prompt_state import DrawnBoxes, ObjectStates, PromptState
from backend.service.request_queue import NewestWinsQueue
from backend.service.service import BusyError, SegmentationService
from backend.wiring import build_embeddings, build_images
from tests.backend.making import until
from tests.backend.payloads import (
    CONFIG,
    keypoint,
    recorded,
    rectangle,
    region,
    submission,
)
from tests.backend.service_kit import (
    HEIGHT,
    WIDTH,
    WatchedSam,
    click_on,
    data_uri,
    interactions_of,
    journal_of,
    mask_of,
    masks_of,
    opened,
    pixels_of,
    regions_of,
    running_service,
    settings_for,
    shown_mask,
)
from tests.backend.sites import LEGACY_TOKEN, LabelStudioSite

IMAGE = data_uri(pixels_of())


@pytest.fixture
def sam() -> WatchedSam:
    return WatchedSam()


@pytest.fixture
def service(tmp_path: Path, sam: WatchedSam) -> Iterator[SegmentationService]:
    with running_service(tmp_path, sam) as service:
        yield service


def points(*xy: tuple[float, float], prefix: str = "kp") -> list[dict[str, Any]]:
    return [keypoint(x, y, id=f"{prefix}-{i}") for i, (x, y) in enumerate(xy)]


# The way of a click


def test_the_mask_is_that_of_the_one_click_path(
    service: SegmentationService, sam: WatchedSam
) -> None:
    pixels = pixels_of()
    embedding = sam.embed(pixels)
    embedding.features.copy_(embedding.features.half().float())  # as the cache keeps it
    direct = InteractivePredictor(sam, ZoomSettings())
    click = Click(x=0.3 * WIDTH - 0.5, y=0.6 * HEIGHT - 0.5, is_positive=True)
    expected = direct.answer(lambda view: embedding, (HEIGHT, WIDTH), (click,))

    answer = service.predict(click_on(IMAGE, keypoint(30, 60)))

    assert (mask_of(answer) == direct.mask(expected)).all()
    assert answer["results"][0]["model_version"] == service.model_version


def test_what_is_answered_is_what_the_journal_holds(
    service: SegmentationService, tmp_path: Path, sam: WatchedSam
) -> None:
    answer = service.predict(click_on(IMAGE, keypoint(30, 60, id="abc")))
    service.drain()

    (record,) = interactions_of(tmp_path)
    (shown,) = regions_of(answer)
    assert (shown_mask(record) == mask_of(answer)).all()
    assert shown["id"] == record.candidates[0].region_id == f"{record.request_id}-0"
    assert [c.was_shown for c in record.candidates] == [True, False, False]
    assert (record.project_id, record.task_id, record.label) == ("1", "7", "Object")
    assert (record.object_id, record.step) == ("abc", 0)
    assert record.image_ref == "data:image/png;base64"
    assert record.encoder_id == sam.encoder_id
    assert {"parse", "image", "embedding", "decode", "masks"} <= set(record.timings_ms)
    assert record.context["outcome"] == "answered"


def test_masks_that_are_not_shown_are_kept_a_little_coarser(
    tmp_path: Path, sam: WatchedSam
) -> None:
    height, width = 1500, 2000
    image = data_uri(pixels_of(size=(height, width)))
    click = keypoint(30, 60, original_width=width, original_height=height)
    with running_service(tmp_path, sam) as service:
        answer = service.predict(click_on(image, click))
    (record,) = interactions_of(tmp_path)
    assert (shown_mask(record) == mask_of(answer)).all()

    embedding = sam.embed(pixels_of(size=(height, width)))
    embedding.features.copy_(embedding.features.half().float())
    direct = InteractivePredictor(sam, ZoomSettings())
    point = Click(x=0.3 * width - 0.5, y=0.6 * height - 0.5, is_positive=True)
    exact = direct.answer(lambda view: embedding, (height, width), (point,))
    for candidate in record.candidates[1:]:
        mask = direct.mask(exact, candidate.token)
        assert candidate.rle.size == mask.shape
        assert (decode_rle(candidate.rle) != mask).mean() < 0.02


def test_a_second_click_goes_on_from_the_first(
    service: SegmentationService, sam: WatchedSam, tmp_path: Path
) -> None:
    first, second = points((30, 60), (40, 50))
    service.predict(click_on(IMAGE, first))
    decodes = count_decodes(sam)
    continued = mask_of(service.predict(click_on(IMAGE, first, second)))
    assert len(decodes) == 1, "the first click is not decoded again"

    with running_service(tmp_path / "other", sam) as fresh:
        replayed = mask_of(fresh.predict(click_on(IMAGE, first, second)))
    assert (continued == replayed).all()
    assert [record.step for record in interactions_of(tmp_path)] == [0, 1]


def test_a_moved_click_goes_back_to_the_state_before_it(
    service: SegmentationService, sam: WatchedSam
) -> None:
    first, second = points((30, 60), (40, 50))
    service.predict(click_on(IMAGE, first))
    service.predict(click_on(IMAGE, first, second))
    decodes = count_decodes(sam)
    moved = {**second, "value": {**second["value"], "x": 45}}
    service.predict(click_on(IMAGE, first, moved))
    assert len(decodes) == 1


def test_after_a_restart_nothing_is_encoded_again_and_the_answer_is_the_same(
    tmp_path: Path,
) -> None:
    clicks = points((30, 60), (40, 50), (20, 20))
    with running_service(tmp_path, prefetch__is_on="false") as before:
        before.predict(click_on(IMAGE, *clicks[:2]))
        expected = mask_of(before.predict(click_on(IMAGE, *clicks)))

    sam = WatchedSam()
    with running_service(tmp_path, sam, prefetch__is_on="false") as after:
        again = mask_of(after.predict(click_on(IMAGE, *clicks)))

    assert (again == expected).all()
    assert not sam.encoded
    assert len(interactions_of(tmp_path)) == 3


def test_alternatives_are_offered_at_the_first_click_only(tmp_path: Path) -> None:
    first, second = points((30, 60), (40, 50))
    with running_service(tmp_path, answers__alternatives=3) as service:
        offered = service.predict(click_on(IMAGE, first))
        refined = service.predict(click_on(IMAGE, first, second))

    record, _ = interactions_of(tmp_path)
    shown = [candidate for candidate in record.candidates if candidate.was_shown]
    assert [r["id"] for r in regions_of(offered)] == [c.region_id for c in shown]
    assert len(shown) >= 2
    for mask, candidate in zip(masks_of(offered), shown, strict=True):
        assert (mask == decode_rle(candidate.rle)).all()
    assert len(regions_of(refined)) == 1


def test_a_rectangle_and_the_clicks_behind_it_are_one_object(
    service: SegmentationService, tmp_path: Path
) -> None:
    service.predict(click_on(IMAGE, rectangle(20, 20, 40, 40, id="rect-1")))
    service.predict(click_on(IMAGE, keypoint(30, 30, id="kp-1")))
    service.predict(click_on(IMAGE, keypoint(90, 90, id="kp-9")))

    alone, joined, other = interactions_of(tmp_path)
    assert (alone.object_id, alone.step, len(alone.prompt.clicks)) == ("rect-1", 0, 0)
    assert (joined.object_id, joined.step) == ("rect-1", 1)
    assert joined.prompt.box is not None
    assert joined.prompt.box.id == "rect-1"
    assert joined.prompt.clicks[0].id == "kp-1"
    assert (other.object_id, other.prompt.box) == ("kp-9", None)


def test_a_click_off_the_object_alone_finds_nothing_but_is_kept(
    service: SegmentationService, tmp_path: Path
) -> None:
    answer = service.predict(click_on(IMAGE, keypoint(30, 60, is_positive=False)))
    (record,) = interactions_of(tmp_path)
    assert regions_of(answer) == []
    assert record.context["outcome"] == "nothing positive"
    assert record.candidates == ()


@pytest.mark.parametrize(
    "name",
    [
        "predict_one_click",
        "predict_two_clicks",
        "predict_three_positive_one_negative_with_draft",
        "predict_negative_click_with_stale_plain_keypoint",
        "predict_click_with_drafts_and_annotations",
        "predict_click_after_submit",
        "predict_smart_rectangle",
        "predict_empty_context_with_draft",
    ],
)
def test_recorded_clicks_are_answered(service: SegmentationService, name: str) -> None:
    body = recorded(name)
    clicked = body["params"]["context"]["result"]
    height, width = HEIGHT, WIDTH
    if clicked:
        height, width = clicked[0]["original_height"], clicked[0]["original_width"]
    body["tasks"][0]["data"]["image"] = data_uri(pixels_of(size=(height, width)))
    answer = service.predict(body)
    assert len(answer["results"]) == 1
    assert bool(regions_of(answer)) == bool(clicked)


# What is refused


def test_more_clicks_than_allowed_are_refused(service: SegmentationService) -> None:
    clicks = points(*[(i % 100, 50) for i in range(501)])
    with pytest.raises(InputError, match="at most 500 clicks, got 501"):
        service.predict(click_on(IMAGE, *clicks))


def test_an_image_of_another_size_than_the_clicked_one_is_refused(
    service: SegmentationService, sam: WatchedSam
) -> None:
    other = data_uri(pixels_of(size=(HEIGHT, WIDTH - 1)))
    with pytest.raises(ProtocolError, match="600x400 pixels and is 599x400"):
        service.predict(click_on(other, keypoint(30, 60)))
    assert not sam.encoded


def test_a_config_without_a_control_for_masks_is_refused_before_anything_is_computed(
    service: SegmentationService, sam: WatchedSam, tmp_path: Path
) -> None:
    head, tail = CONFIG.split("<BrushLabels")
    config = head.replace("RectangleLabels", "EllipseLabels") + tail.split("</BrushLabels>")[1]
    with pytest.raises(ProtocolError, match="Object"):
        service.predict(click_on(IMAGE, keypoint(30, 60), config=config))
    assert not sam.encoded
    assert interactions_of(tmp_path) == []


def test_an_image_that_cannot_be_read_is_an_image_error(service: SegmentationService) -> None:
    with pytest.raises(ImageError):
        service.predict(click_on("data:image/png;base64,AAAA", keypoint(30, 60)))


def test_clicks_beyond_the_limit_are_turned_away_at_once(tmp_path: Path, sam: WatchedSam) -> None:
    with running_service(tmp_path, sam, server__threads=5) as service, sam.held():
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(service.predict, click_on(IMAGE, keypoint(30, 60)))
            assert sam.entered.wait(10)
            with pytest.raises(BusyError):
                service.predict(click_on(IMAGE, keypoint(50, 60)))
            sam.may_go_on.set()
            assert mask_of(waiting.result(10)).shape == (HEIGHT, WIDTH)


def test_a_click_that_the_journal_cannot_keep_is_in_the_spool_before_it_is_answered(
    service: SegmentationService, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(tmp_path / "journal.db")) as database:
        database.execute("DROP TABLE journal_candidates")
    (shown,) = regions_of(service.predict(click_on(IMAGE, keypoint(35, 60))))
    with Journal(f"sqlite:///{tmp_path}/spool/spool.db", create=False) as spool:
        (record,) = spool.interactions()
    assert [c.region_id for c in record.candidates if c.was_shown] == [shown["id"]]


def test_a_click_that_can_be_kept_nowhere_is_not_answered(
    service: SegmentationService, tmp_path: Path
) -> None:
    (tmp_path / "spool").write_text("a file where the folder should be")
    with closing(sqlite3.connect(tmp_path / "journal.db")) as database:
        database.execute("DROP TABLE journal_candidates")
    with pytest.raises(StoreError) as caught:
        service.predict(click_on(IMAGE, keypoint(35, 60)))
    assert str(tmp_path) not in str(caught.value)


# Many at once


def test_ten_clicks_at_once_encode_the_image_once(
    service: SegmentationService, sam: WatchedSam
) -> None:
    bodies = [click_on(IMAGE, keypoint(5 + 9 * i, 60, id=f"kp-{i}")) for i in range(10)]
    answers = at_once([lambda body=body: service.predict(body) for body in bodies])
    assert sam.encoded.count((HEIGHT, WIDTH, 3)) == 1
    assert len({regions_of(answer)[0]["id"] for answer in answers}) == 10


def test_clicks_on_two_images_at_once_get_the_masks_of_one_after_the_other(
    tmp_path: Path,
) -> None:
    images = [data_uri(pixels_of(seed)) for seed in range(2)]
    bodies = [
        click_on(images[i % 2], keypoint(10 + 8 * i, 40 + i, id=f"kp-{i}"), task=i % 2)
        for i in range(10)
    ]
    with running_service(tmp_path / "one") as service:
        expected = [mask_of(service.predict(body)) for body in bodies]
    with running_service(tmp_path / "many", inference__decodes=4) as service:
        answers = at_once([lambda body=body: service.predict(body) for body in bodies])
    for mask, answer in zip(expected, answers, strict=True):
        assert (mask == mask_of(answer)).all()


def test_the_newest_click_wins_and_those_between_are_not_computed(
    sam: WatchedSam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clicks, turns = points((30, 60), (40, 50), (20, 20), (70, 20)), NewestWinsQueue()
    monkeypatch.setattr("backend.wiring.memory.NewestWinsQueue", lambda: turns)
    with (
        running_service(tmp_path, sam) as service,
        ThreadPoolExecutor(4) as pool,
        sam.held(),
    ):
        futures = []
        for n in range(1, 5):
            futures.append(pool.submit(service.predict, click_on(IMAGE, *clicks[:n])))
            until(lambda n=n: len(turns) == n)
        assert sam.entered.wait(10)
        sam.may_go_on.set()
        answers = [future.result(20) for future in futures]

    assert [len(regions_of(answer)) for answer in answers] == [1, 0, 0, 1]
    outcomes = {len(r.prompt.clicks): r.context["outcome"] for r in interactions_of(tmp_path)}
    assert outcomes == {1: "answered", 2: "superseded", 3: "superseded", 4: "answered"}
    with running_service(tmp_path / "other", sam) as fresh:
        assert (mask_of(answers[3]) == mask_of(fresh.predict(click_on(IMAGE, *clicks)))).all()


# Encoded ahead


def test_the_image_of_an_opened_task_is_encoded_before_the_first_click(
    service: SegmentationService, sam: WatchedSam
) -> None:
    assert service.predict(opened(IMAGE)) == {"results": []}
    until(lambda: sam.encoded.count((HEIGHT, WIDTH, 3)) == 1)
    service.predict(click_on(IMAGE, keypoint(30, 60)))
    assert sam.encoded.count((HEIGHT, WIDTH, 3)) == 1


def test_the_next_tasks_of_the_queue_are_encoded_too(tmp_path: Path, sam: WatchedSam) -> None:
    images = [data_uri(pixels_of(seed)) for seed in range(6)]
    with LabelStudioSite().running() as site:
        site.tasks = [
            {"id": 7 + i, "data": {"image": image}, "total_annotations": int(i == 1)}
            for i, image in enumerate(images)
        ]
        overrides = {"label_studio__url": site.url, "label_studio__token": LEGACY_TOKEN}
        with running_service(tmp_path, sam, prefetch__next_tasks=2, **overrides) as service:
            service.predict(opened(images[0]))
            until(lambda: sam.encoded.count((HEIGHT, WIDTH, 3)) == 3)
            for seed in (2, 3):  # the task after the opened one is labeled already
                service.predict(click_on(images[seed], keypoint(30, 60), task=7 + seed))
            assert sam.encoded.count((HEIGHT, WIDTH, 3)) == 3


@pytest.mark.parametrize("changes", [{"project": "abc.17"}, {"task": "x7"}])
def test_what_is_no_project_of_label_studio_is_told_without_a_traceback(
    tmp_path: Path, sam: WatchedSam, changes: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    body = opened(IMAGE)
    body["project"] = changes.get("project", body["project"])
    body["tasks"][0]["id"] = changes.get("task", 7)
    with LabelStudioSite().running() as site:
        overrides = {"label_studio__url": site.url, "label_studio__token": LEGACY_TOKEN}
        with running_service(tmp_path, sam, prefetch__next_tasks=2, **overrides) as service:
            service.predict(body)
            until(lambda: "numbers projects and tasks" in caplog.text)
    assert not [record for record in caplog.records if record.exc_info]


def test_of_a_thin_frame_only_what_clicks_need_is_encoded(tmp_path: Path, sam: WatchedSam) -> None:
    thin = data_uri(pixels_of(0, (40, 3200)))
    with running_service(tmp_path, sam) as service:
        service.predict(opened(thin))
        service.predict(opened(IMAGE, first_task=8))
        until(lambda: (HEIGHT, WIDTH, 3) in sam.encoded)  # queued behind the thin one
        assert sam.encoded == [(HEIGHT, WIDTH, 3)]
        clicked = keypoint(30, 60, original_width=3200, original_height=40)
        service.predict(click_on(thin, clicked))
        assert (40, 3200, 3) not in sam.encoded and len(sam.encoded) > 1


def test_a_thin_frame_is_encoded_ahead_where_clicks_see_all_of_it(
    tmp_path: Path, sam: WatchedSam
) -> None:
    with running_service(tmp_path, sam, zoom__is_on=False) as service:
        service.predict(opened(data_uri(pixels_of(0, (40, 3200)))))
        until(lambda: bool(sam.encoded))
    assert sam.encoded == [(40, 3200, 3)]


def test_without_prefetch_an_opened_task_costs_nothing(tmp_path: Path, sam: WatchedSam) -> None:
    with running_service(tmp_path, sam, prefetch__is_on="false") as service:
        assert service.predict(opened(IMAGE)) == {"results": []}
    assert not sam.encoded


def test_the_view_of_the_next_click_is_encoded_behind_the_answer(tmp_path: Path) -> None:
    sam = SpotSam()
    with running_service(tmp_path, sam) as service:
        service.predict(click_on(IMAGE, keypoint(30, 60, id="kp-0")))
        until(lambda: len(sam.encoded) == 2)
        whole, crop = sam.encoded
        assert whole == (HEIGHT, WIDTH, 3)
        assert max(crop) < WIDTH / 2
        service.predict(click_on(IMAGE, *points((30, 60), (31, 61))))
        assert sam.encoded.count(crop) == 1
    first, second = interactions_of(tmp_path)
    assert first.view is None
    assert second.view is not None
    x0, y0, x1, y1 = second.view
    assert (y1 - y0, x1 - x0, 3) == crop


# Submissions


def accepted(answer: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The annotation that accepting an answer's first mask makes."""
    shown = regions_of(answer)[0]
    value = {"format": "rle", "rle": shown["value"]["rle"]}
    kept = region("brush", value, id=shown["id"], original_width=WIDTH, original_height=HEIGHT)
    return submission(kept, **changes)


def test_a_submission_is_linked_with_its_clicks(tmp_path: Path, sam: WatchedSam) -> None:
    with running_service(tmp_path, sam) as service:
        answer = service.predict(click_on(IMAGE, keypoint(30, 60)))
        service.webhook(accepted(answer))
    with journal_of(tmp_path) as journal:
        (link,) = journal.links()
        (finished,) = journal.objects()
    assert link.how == "region_id"
    assert link.iou == 1.0
    assert finished.submitted.region_id == regions_of(answer)[0]["id"]


def test_a_repeated_webhook_changes_nothing(tmp_path: Path) -> None:
    with running_service(tmp_path) as service:
        body = accepted(service.predict(click_on(IMAGE, keypoint(30, 60))))
        for _ in range(3):
            service.webhook(body)
    with journal_of(tmp_path) as journal:
        assert journal.counts()["submissions"] == 1
        assert len(list(journal.links())) == 1


def test_a_webhook_that_overtakes_its_click_is_linked_afterwards(
    tmp_path: Path, sam: WatchedSam, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.service.clicks.new_request_id", lambda: "0123456789abcdef")
    with running_service(tmp_path / "elsewhere") as other:
        body = accepted(other.predict(click_on(IMAGE, keypoint(30, 60))))
    with running_service(tmp_path, sam) as service, ThreadPoolExecutor(1) as pool:
        with sam.held():
            click = pool.submit(service.predict, click_on(IMAGE, keypoint(30, 60)))
            assert sam.entered.wait(10)
            service.webhook(body)
            until(lambda: _n_links(tmp_path) == 1)
        click.result(10)
    with journal_of(tmp_path) as journal:
        (link,) = journal.links()
    assert (link.how, link.request_id) == ("region_id", "0123456789abcdef")


def test_a_submission_left_unfinished_by_a_crash_is_taken_up_at_the_start(tmp_path: Path) -> None:
    with running_service(tmp_path) as service:
        body = accepted(service.predict(click_on(IMAGE, keypoint(30, 60))))
    with journal_of(tmp_path) as journal:
        journal.keep_delivery(json.dumps(body))  # and then the power failed
    with running_service(tmp_path):
        pass
    with journal_of(tmp_path) as journal:
        assert journal.counts()["submissions"] == 1
        assert not list(journal.deliveries())


def test_a_message_that_cannot_be_understood_does_not_block_the_next(tmp_path: Path) -> None:
    with journal_of(tmp_path) as journal:
        journal.keep_delivery("[1, 2")
        journal.keep_delivery('{"action": 5}')
    with running_service(tmp_path) as service:
        service.webhook(accepted(service.predict(click_on(IMAGE, keypoint(30, 60)))))
    with journal_of(tmp_path) as journal:
        assert journal.counts()["submissions"] == 1
        assert not list(journal.deliveries())


def test_a_submission_ends_the_objects_of_its_task(
    service: SegmentationService, sam: WatchedSam, tmp_path: Path
) -> None:
    service.predict(click_on(IMAGE, rectangle(20, 20, 40, 40)))
    service.webhook(submission(id=5))
    service.predict(click_on(IMAGE, keypoint(30, 30, id="kp-5")))
    assert interactions_of(tmp_path)[-1].prompt.box is None


@pytest.mark.parametrize(
    "name", ["webhook_project_updated", "webhook_start_training", "webhook_tasks_created"]
)
def test_events_that_submit_nothing_leave_no_trace(tmp_path: Path, name: str) -> None:
    with running_service(tmp_path) as service:
        service.webhook(recorded(name))
    with journal_of(tmp_path) as journal:
        assert journal.counts()["submissions"] == 0


def test_a_deletion_is_kept(tmp_path: Path) -> None:
    with running_service(tmp_path) as service:
        service.webhook(recorded("webhook_annotations_deleted"))
    with journal_of(tmp_path) as journal:
        (deleted,) = journal.submissions()
    assert (deleted.event, deleted.annotation_id, deleted.project_id) == ("deleted", "2", "1")


# Learning


class Watching:
    """Learns nothing, but notes what it is told."""

    def __init__(self, weights: Weights | None) -> None:
        self.given = weights
        self.asked_for: list[tuple[str, str, str]] = []
        self.clicked_on: list[TaskImage] = []
        self.submissions: list[tuple[SubmissionRecord, Sequence[Link]]] = []
        self.is_stopped = False

    def click(self) -> AbstractContextManager[None]:
        return nullcontext()

    def weights(self, project_id: str, label: str, task_id: str) -> tuple[WeightsAt, str]:
        self.asked_for.append((project_id, label, task_id))
        return lambda n_clicks: self.given, "session-3"

    def n_learned(self, project_id: str, label: str, task_id: str) -> int:
        return 37

    def asked(self) -> None:
        """Nobody asks."""

    def linked_late(self) -> None:
        """Nothing comes late."""

    def clicked(self, image: TaskImage, identity: ImageIdentity) -> None:
        self.clicked_on.append(image)

    def stop(self, timeout_s: float) -> None:
        self.is_stopped = True

    def finished(self, submission: SubmissionRecord, links: Sequence[Link]) -> None:
        self.submissions.append((submission, links))


def test_what_learns_gives_the_weights_and_sees_clicks_and_submissions(
    tmp_path: Path, sam: WatchedSam
) -> None:
    negated = {name: -value for name, value in sam.decoder_parameters().items()}
    learning = Watching(negated)
    settings = settings_for(tmp_path)
    cache, journal = build_embeddings(settings), journal_of(tmp_path)
    service = SegmentationService(
        interaction=InteractivePredictor(sam, ZoomSettings()),
        encoder=Encoder(sam, build_images(settings, None), cache),
        journal=journal,
        intake=SpoolingJournal(journal, tmp_path / "spool"),
        memory=PromptState(
            states=ObjectStates(max_objects=8, ttl_s=60), boxes=DrawnBoxes(ttl_s=60)
        ),
        learning=learning,
    )
    answer = service.predict(click_on(IMAGE, keypoint(30, 60, id="kp-3")))
    service.webhook(accepted(answer) if regions_of(answer) else submission())
    service.close()

    with running_service(tmp_path / "base", sam) as base:
        unlearned = base.predict(click_on(IMAGE, keypoint(30, 60, id="kp-3")))
    (record,) = interactions_of(tmp_path)
    assert record.adapter_version == "session-3"
    assert not np.array_equal(
        decode_rle(record.candidates[0].rle),
        decode_rle(interactions_of(tmp_path / "base")[0].candidates[0].rle),
    )
    assert unlearned["results"][0]["score"] != answer["results"][0]["score"]
    assert learning.asked_for == [(record.project_id, record.label, record.task_id)]
    assert [image.image_ref for image in learning.clicked_on] == [IMAGE]
    assert len(learning.submissions) == 1
    assert learning.is_stopped


# Helpers


class SpotSam(WatchedSam):
    """Draws a small square around the first click, whatever the image shows."""

    def decode(self, embeddings: Any, prompts: Any, *, weights: Weights | None = None) -> Any:
        prediction = super().decode(embeddings, prompts, weights=weights)
        logits = prediction.low_res_logits.new_full(prediction.low_res_logits.shape, -8.0)
        for row, prompt in enumerate(prompts):
            click = prompt.clicks[0]
            height, width = embeddings.original_size
            scale = logits.shape[-1] / max(height, width)
            x, y = int(click.x * scale), int(click.y * scale)
            logits[row, :, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2] = 8.0
        return replace(prediction, low_res_logits=logits)


def count_decodes(sam: WatchedSam) -> list[int]:
    """A list that grows by one with every decode."""
    calls: list[int] = []
    decode = sam.decode

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return decode(*args, **kwargs)

    sam.decode = counted  # type: ignore[method-assign]
    return calls


def at_once(calls: list[Callable[[], dict[str, Any]]]) -> list[dict[str, Any]]:
    """Run all calls on threads of their own, started together."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        barrier.wait(10)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def _n_links(folder: Path) -> int:
    with journal_of(folder) as journal:
        return len(list(journal.links()))
