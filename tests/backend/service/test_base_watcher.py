"""Another base decoder is taken up while clicks go on: none is lost, none is half of each."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray

from adaptation.models.base_decoder import Registry, save_base
from adaptation.models.sam import PromptableSam
from backend.service.base_watcher import BaseWatcher
from backend.service.service import SegmentationService
from tests.backend.learning.test_worker import FAST, disk, painted
from tests.backend.making import until
from tests.backend.payloads import CONFIG, Payload, keypoint
from tests.backend.service_kit import (
    HEIGHT,
    WIDTH,
    WatchedSam,
    click_on,
    data_uri,
    interactions_of,
    masks_of,
    pixels_of,
    running_service,
    shown_mask,
)

IMAGES = [data_uri(pixels_of(seed)) for seed in range(2)]
POLL_S = 0.02


def other_base(registry: Path, name: str, seed: int = 1) -> str:
    """A version with other weights than the model's own; returns its decoder's digest."""
    sam = WatchedSam()
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        n: v + 0.1 * torch.randn(v.shape, generator=generator)
        for n, v in sam.decoder_parameters().items()
    }
    return save_base(Registry(registry).path(name), sam, tensors, "sft", {}).decoder_id


def use(registry: Path, name: str) -> None:
    """What a promotion does in the end."""
    registry.mkdir(parents=True, exist_ok=True)
    draft = registry / "current.partial"
    draft.write_text(f"{name}\n")
    draft.replace(registry / "current")


def clicks(task: int, n_clicks: int) -> Payload:
    """The first clicks on a task's object; Label Studio sends all of them each time."""
    places = [(30, 30, True), (60, 55, True), (80, 20, False), (45, 70, True)]
    points = [
        keypoint(x, y, positive, id=f"kp-{task}-{i}")
        for i, (x, y, positive) in enumerate(places[:n_clicks])
    ]
    return click_on(IMAGES[task % 2], *points, task=task)


def drawn(answer: dict[str, Any]) -> NDArray[np.bool_]:
    """The mask of an answer; without a pixel where there is no region."""
    return next(iter(masks_of(answer)), np.zeros((HEIGHT, WIDTH), dtype=np.bool_))


def said(answer: dict[str, Any]) -> str:
    """The model that an answer says that it comes from."""
    (result,) = answer["results"]
    return str(result["model_version"])


def version_of(decoder_id: str) -> str:
    return f"tiny-{decoder_id[:8]}"


def answers_of(folder: Path, base: str | None) -> dict[tuple[int, int], NDArray[np.bool_]]:
    """What a service with one base only answers, by task's image and number of clicks."""
    if base is not None:
        other_base(folder / "registry", base)
        use(folder / "registry", base)
    with running_service(folder) as service:
        return {
            (task, n): drawn(service.predict(clicks(task, n))) for task in (0, 1) for n in (1, 2, 3)
        }


def test_clicks_go_on_while_the_base_is_swapped(tmp_path: Path) -> None:
    own = answers_of(tmp_path / "own", None)
    other = answers_of(tmp_path / "other", "v1")
    assert all(own[key].any() and (own[key] != other[key]).any() for key in own)
    registry, folder = tmp_path / "live" / "registry", tmp_path / "live"
    decoder_id = other_base(registry, "v1")
    names = {version_of(WatchedSam().decoder_id): own, version_of(decoder_id): other}
    seen: set[str] = set()
    is_over = threading.Event()

    def annotate(first_task: int) -> int:
        n_answered, task = 0, first_task
        while not is_over.is_set():
            for n in (1, 2, 3):
                answer = service.predict(clicks(task, n))
                version = said(answer)
                np.testing.assert_array_equal(drawn(answer), names[version][(task % 2, n)])
                seen.add(version)
                n_answered += 1
            task += 8
        return n_answered

    with running_service(folder, model__registry_poll_s=POLL_S) as service:
        with ThreadPoolExecutor(4) as pool:
            jobs = [pool.submit(annotate, first) for first in range(4)]
            try:
                for name in ("v1", "embedded", "v1"):
                    until(lambda: len(seen) > 0 or _failed(jobs))
                    use(registry, name)
                    seen.clear()
                    wanted = (
                        version_of(decoder_id)
                        if name == "v1"
                        else version_of(WatchedSam().decoder_id)
                    )
                    until(lambda wanted=wanted: service.model_version == wanted or _failed(jobs))
                    until(lambda wanted=wanted: wanted in seen or _failed(jobs))
            finally:
                is_over.set()
            n_answered = sum(job.result() for job in jobs)
    records = interactions_of(folder)
    assert len(records) == n_answered, "every click is in the journal"
    assert {r.decoder_id for r in records} == {WatchedSam().decoder_id, decoder_id}
    masks = {WatchedSam().decoder_id: own, decoder_id: other}
    for record in records[:: max(1, len(records) // 20)]:
        key = int(record.task_id) % 2, len(record.prompt.clicks)
        np.testing.assert_array_equal(shown_mask(record), masks[record.decoder_id][key])


def _failed(jobs: list[Future[int]]) -> bool:
    """Whether a thread ended before it was told to; says why."""
    return any(job.result() >= 0 for job in jobs if job.done())


def test_a_click_in_work_finishes_with_the_base_it_began_with(tmp_path: Path) -> None:
    sam = WatchedSam()
    decoder_id = other_base(tmp_path / "registry", "v1")
    with running_service(tmp_path, sam, model__registry_poll_s=POLL_S) as service:
        before = service.model_version
        with ThreadPoolExecutor(1) as pool, sam.held():
            waiting = pool.submit(service.predict, clicks(0, 1))
            assert sam.entered.wait(10)
            use(tmp_path / "registry", "v1")
            until(lambda: service.model_version == version_of(decoder_id))
            sam.may_go_on.set()
            assert said(waiting.result()) == before
        assert said(service.predict(clicks(0, 2))) == version_of(decoder_id)
    first, second = interactions_of(tmp_path)
    assert (first.decoder_id, second.decoder_id) == (sam.decoder_id, decoder_id)


def test_embeddings_outlive_a_swap(tmp_path: Path) -> None:
    sam = WatchedSam()
    decoder_id = other_base(tmp_path / "registry", "v1")
    with running_service(
        tmp_path, sam, model__registry_poll_s=POLL_S, zoom__is_on=False
    ) as service:
        service.predict(clicks(0, 1))
        use(tmp_path / "registry", "v1")
        until(lambda: service.model_version == version_of(decoder_id))
        service.predict(clicks(0, 2))
    assert len(sam.encoded) == 1


def test_the_base_in_use_is_served_from_the_start(tmp_path: Path) -> None:
    decoder_id = other_base(tmp_path / "registry", "v1")
    use(tmp_path / "registry", "v1")
    with running_service(tmp_path, model__registry_poll_s=0) as service:
        assert service.model_version == version_of(decoder_id)
        assert service.setup({"project": "1", "schema": CONFIG})["model_version"] == version_of(
            decoder_id
        )


def test_another_folder_can_be_set(tmp_path: Path) -> None:
    decoder_id = other_base(tmp_path / "shared", "v1")
    use(tmp_path / "shared", "v1")
    with running_service(tmp_path, model__registry=tmp_path / "shared") as service:
        assert service.model_version == version_of(decoder_id)


@pytest.mark.parametrize("damage", ["torn", "foreign", "missing", "no name", "other encoder"])
def test_a_base_that_cannot_be_used_is_refused_and_said_once(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    registry = tmp_path / "registry"
    decoder_id = other_base(registry, "v1")
    with running_service(tmp_path, model__registry_poll_s=POLL_S) as service:
        use(registry, "v1")
        until(lambda: service.model_version == version_of(decoder_id))
        broken(registry, damage)
        use(registry, "../v2" if damage == "no name" else "v2")
        until(lambda: "the registry's base is not taken" in caplog.text)
        assert said(service.predict(clicks(0, 1))) == version_of(decoder_id)
        threading.Event().wait(5 * POLL_S)
        refusals = [r for r in caplog.records if "is not taken" in r.message]
        assert len(refusals) == 1 and decoder_id in refusals[0].message
        better = other_base(registry, "v3", seed=5)
        use(registry, "v3")
        until(lambda: service.model_version == version_of(better))


def broken(registry: Path, damage: str) -> None:
    path = Registry(registry).path("v2")
    path.parent.mkdir()
    if damage == "torn":
        path.write_bytes(Registry(registry).path("v1").read_bytes()[:-7])
    if damage == "foreign":
        path.write_bytes(b"not safetensors")
    if damage == "other encoder":
        from tests.adaptation.conftest import tiny_vit_sam

        stranger = PromptableSam(tiny_vit_sam(seed=8), "stranger")
        save_base(path, stranger, stranger.decoder_parameters(), "sft", {})


def test_a_broken_base_at_the_start_leaves_the_models_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    use(tmp_path / "registry", "gone")
    with running_service(tmp_path) as service:
        assert service.model_version == version_of(WatchedSam().decoder_id)
        assert "There is no base" in caplog.text
        assert drawn(service.predict(clicks(0, 1))).shape


def test_a_broken_file_that_was_mended_is_taken(tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    path = Registry(registry).path("v1")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half")
    use(registry, "v1")
    with running_service(tmp_path, model__registry_poll_s=POLL_S) as service:
        decoder_id = other_base(registry, "v1")
        until(lambda: service.model_version == version_of(decoder_id))
        assert service.model_version == version_of(decoder_id)


def test_a_swap_that_fails_leaves_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other_base(tmp_path, "v1")
    use(tmp_path, "v1")
    watcher = BaseWatcher(Registry(tmp_path), WatchedSam(), POLL_S)
    failed = threading.Event()

    def serve(_: PromptableSam) -> None:
        failed.set()
        raise RuntimeError("no room")

    with caplog.at_level(logging.ERROR):
        watcher.start(serve)
        assert failed.wait(10)
        until(lambda: "the one before goes on" in caplog.text)
        watcher.stop(5)


# Learning --------------------------------------------------------------------------------------


def trained_version(service: SegmentationService, folder: Path, task: int) -> str:
    """Teach an object, and wait until its session answers with what was learned."""
    answer = service.predict(click_on(IMAGES[0], keypoint(50, 50, id=f"t{task}"), task=task))
    service.webhook(painted(answer, disk(), id=task, task=task))

    def version() -> str:
        point = keypoint(40, 40, id=f"v{task}")
        service.predict(click_on(IMAGES[0], point, task=task + 1))
        return interactions_of(folder)[-1].adapter_version

    until(lambda: version() not in ("", "base"))
    return version()


def test_sessions_start_again_on_a_new_base_and_find_theirs_on_the_old(tmp_path: Path) -> None:
    (tmp_path / "learner.yaml").write_text(yaml.safe_dump(FAST))
    options = {
        "learning__is_on": True,
        "learning__config": tmp_path / "learner.yaml",
        "model__registry_poll_s": POLL_S,
    }
    registry = tmp_path / "registry"
    decoder_id = other_base(registry, "v1")
    with running_service(tmp_path, **options) as service:
        own = service.model_version
        trained_version(service, tmp_path, 10)
        use(registry, "v1")
        until(lambda: service.model_version == version_of(decoder_id))
        service.predict(click_on(IMAGES[0], keypoint(40, 40, id="after"), task=30))
        record = interactions_of(tmp_path)[-1]
        assert (record.decoder_id, record.adapter_version) == (decoder_id, "base")
        trained_version(service, tmp_path, 40)
        use(registry, "embedded")
        until(lambda: service.model_version == own)
        service.predict(click_on(IMAGES[0], keypoint(40, 40, id="back"), task=60))
        assert interactions_of(tmp_path)[-1].adapter_version not in ("", "base")
    files = sorted(p.relative_to(tmp_path) for p in (tmp_path / "sessions").rglob("project-1.*"))
    assert files == [
        Path("sessions") / decoder_id / "project-1.safetensors",
        Path("sessions") / "project-1.safetensors",
    ]
