from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adaptation.models.compact.model import build_compact
from adaptation.models.sam import PromptableSam
from backend.proposals.events import JUDGED, PROPOSED
from backend.proposals.online import OnlineProposals
from backend.protocol.brush_rle import encode_brush
from backend.service.service import SegmentationService
from tests.backend.payloads import region, submission
from tests.backend.service_kit import (
    HEIGHT,
    WIDTH,
    data_uri,
    journal_of,
    masks_of,
    opened,
    pixels_of,
    regions_of,
    running_service,
)

IMAGES = [data_uri(pixels_of(0))] * 2  # a random model finds an object again in its own image only
ON: dict[str, Any] = {
    "proposals__is_on": True,
    "proposals__min_score": 0.0,
    "proposals__max_area": 1.0,  # a random model draws anything
}


def tiny() -> PromptableSam:
    torch.manual_seed(0)
    return PromptableSam(build_compact(input_size=64, dim=16, n_heads=2), "compact-random")


def proposals_of(service: SegmentationService) -> OnlineProposals:
    found = service._proposals
    assert found is not None
    return found


def rest(service: SegmentationService) -> None:
    service._submissions._behind.submit(lambda: None).result(60)
    proposals_of(service).wait_idle(60)


def drawn(*masks: np.ndarray[Any, Any], **changes: Any) -> dict[str, Any]:
    return submission(
        *(
            region(
                "brush",
                {"format": "rle", "rle": encode_brush(mask)},
                id=f"drawn-{i}",
                original_width=WIDTH,
                original_height=HEIGHT,
            )
            for i, mask in enumerate(masks)
        ),
        **changes,
    )


def disk() -> np.ndarray[Any, Any]:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.asarray((rows - 200) ** 2 + (columns - 300) ** 2 < 80**2)


@pytest.fixture(scope="module")
def labelled(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[SegmentationService, Path]]:
    """A service in whose project one object is finished in task 7; task 8 was opened once."""
    folder = tmp_path_factory.mktemp("service")
    with running_service(folder, tiny(), **ON) as service:
        assert service.predict(opened(IMAGES[0])) == {"results": []}
        rest(service)
        service.webhook(drawn(disk()))
        rest(service)
        assert service.predict(opened(IMAGES[1], first_task=8)) == {"results": []}
        rest(service)
        yield service, folder


def test_an_opened_task_is_never_kept_waiting_and_answered_when_it_is_opened_again(
    labelled: tuple[SegmentationService, Path],
) -> None:
    service, folder = labelled
    answer = service.predict(opened(IMAGES[1], first_task=8))
    rest(service)
    (result,) = answer["results"]
    assert result["model_version"].endswith("-similar-1")
    assert 0 < result["score"] <= 1
    assert masks_of(answer) and all(mask.any() for mask in masks_of(answer))
    assert all(r["value"]["brushlabels"] == ["Object"] for r in regions_of(answer))
    with journal_of(folder) as journal:
        (event,) = journal.events(kind=PROPOSED)
    assert event.payload["task_id"] == "8"
    offered = {r["region_id"] for r in event.payload["regions"]}
    assert {r["id"] for r in regions_of(answer)} == offered

    service.webhook(drawn(masks_of(answer)[0], id=5, task=8))
    rest(service)
    with journal_of(folder) as journal:
        (judged,) = journal.events(kind=JUDGED)
    became = list(judged.payload["became"].values())
    assert became.count("accepted") == 1
    assert set(became) <= {"accepted", "rejected"}


def test_a_labelled_task_gets_no_proposals(labelled: tuple[SegmentationService, Path]) -> None:
    service, _ = labelled
    service.predict(opened(IMAGES[0]))
    rest(service)
    assert service.predict(opened(IMAGES[0])) == {"results": []}


def test_by_default_nothing_is_proposed(tmp_path: Path) -> None:
    with running_service(tmp_path, tiny()) as service:
        assert service._proposals is None
        assert service.predict(opened(IMAGES[0])) == {"results": []}


def test_anomalies_are_proposed_without_anything_labelled(tmp_path: Path) -> None:
    with running_service(tmp_path, tiny(), proposals__look_for="anomalies", **ON) as service:
        assert service.predict(opened(IMAGES[0])) == {"results": []}
        rest(service)
        (result,) = service.predict(opened(IMAGES[0]))["results"]
        assert result["model_version"].endswith("-anomalies-0")


def test_a_config_that_cannot_hold_a_mask_costs_nothing_but_the_proposals(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = (
        '<View><Image name="image" value="$image"/><KeyPointLabels name="kp" toName="image" '
        'smart="true"><Label value="Object"/></KeyPointLabels></View>'
    )
    with running_service(tmp_path, tiny(), proposals__look_for="anomalies", **ON) as service:
        body = {**opened(IMAGES[0]), "label_config": config}
        assert service.predict(body) == {"results": []}
        rest(service)
        assert service.predict(body) == {"results": []}
    assert "no control for the mask" in caplog.text
