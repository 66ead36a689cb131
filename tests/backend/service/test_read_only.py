"""A data folder that may not be written any more while the server runs."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from adaptation.errors import StoreError
from tests.backend.payloads import keypoint
from tests.backend.service_kit import (
    WatchedSam,
    click_on,
    data_uri,
    interactions_of,
    pixels_of,
    regions_of,
    running_service,
)

NOBODY = 65534


@pytest.fixture
def folder() -> Iterator[Path]:
    """Of somebody who is not root, whom no permission holds back."""
    found = Path(tempfile.mkdtemp(prefix="strop-"))
    found.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(found, NOBODY, NOBODY)
    yield found
    shutil.rmtree(found)


@contextmanager
def as_nobody() -> Iterator[None]:
    before = os.geteuid()
    if before == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if before == 0:
            os.seteuid(0)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.rglob("*")]}
    for path, mode in modes.items():
        path.chmod(mode & 0o555)
    try:
        yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


def test_what_is_answered_is_kept_and_what_cannot_be_kept_is_told(folder: Path) -> None:
    image, answered = data_uri(pixels_of()), ["7"]
    with as_nobody(), running_service(folder, WatchedSam()) as service:
        assert regions_of(service.predict(click_on(image, keypoint(50, 50))))
        with read_only(folder):
            for task in (8, 9):
                try:
                    click = click_on(image, keypoint(20, 20, id=f"of {task}"), task=task)
                    assert regions_of(service.predict(click))
                    answered.append(str(task))
                except StoreError as told:
                    assert str(folder) not in str(told)
        assert regions_of(service.predict(click_on(image, keypoint(30, 70, id="last"), task=10)))
        service.drain()
    assert [record.task_id for record in interactions_of(folder)] == [*answered, "10"]
