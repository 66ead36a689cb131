"""What a running service leaves behind becomes preferences: journal and album fit together."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from adaptation.masks import decode_rle
from adaptation.storage.album import Album
from tests.backend.payloads import keypoint, submission
from tests.backend.service_kit import (
    click_on,
    data_uri,
    interactions_of,
    masks_of,
    pixels_of,
    regions_of,
    running_service,
)
from training.preferences.build import make_preferences
from training.preferences.files import read_examples, read_pairs
from training.preferences.settings import Limits, PreferencesConfig

PIXELS = pixels_of()
LENIENT = Limits(largest_share=1.0, agreement=0.0, least_overlap=0.0)


def test_clicks_and_a_submission_become_an_example_with_its_image(tmp_path: Path) -> None:
    image = data_uri(PIXELS)
    clicks = [keypoint(30, 60, id="kp-1"), keypoint(60, 40, id="kp-2")]
    with running_service(tmp_path, answers__alternatives=3) as service:
        service.predict(click_on(image, clicks[0]))
        answer = service.predict(click_on(image, *clicks))
        (mask,) = masks_of(answer)
        service.webhook(submission(*regions_of(answer)))
    config = PreferencesConfig(
        journal=f"sqlite:///{tmp_path.absolute() / 'journal.db'}",
        album=tmp_path / "images",
        out=tmp_path / "out",
        val_share=0.0,
        limits=LENIENT,
    )
    report = make_preferences(config)
    (example,) = read_examples(tmp_path / "out")
    np.testing.assert_array_equal(decode_rle(example.mask), mask)
    np.testing.assert_array_equal(Album(tmp_path / "images").read(example.image_id), PIXELS)
    assert len(example.clicks) == 2 and example.image_size == PIXELS.shape[:2]
    first = interactions_of(tmp_path)[0]
    corrections = [p for p in read_pairs(tmp_path / "out") if p.source == "correction"]
    assert [p.rejected for p in corrections] == [first.candidates[0].rle]
    assert sum(report["pairs"]["outcome"].values()) > 0
