"""The insights page in a real browser: drawn, wide and narrow, light and dark, accessible."""

from __future__ import annotations

import hashlib
import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from werkzeug.serving import make_server

from adaptation.models.base_decoder import read_card
from adaptation.models.registry import RegistryWriter
from adaptation.storage.album import Album
from backend.insights.store import FactStore
from backend.server.app import create_app
from backend.service.service import SegmentationService
from backend.wiring import build_service
from tests.adaptation.models.test_registry import base_file
from tests.backend.insights.kit import SIZE, START, click_object, submit
from tests.backend.learning_kit import draw, events_of, learning_service, rest, version_now
from tests.backend.making import until
from tests.backend.service_kit import journal_of, png, running_service, settings_for
from tests.e2e.browser import FOLDER, chromium_program, program
from tests.training.fakes import tiny_model

pytestmark = pytest.mark.e2e

N_OBJECTS = 60


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with a project of sixty objects, which need fewer clicks as they go on."""
    folder = tmp_path_factory.mktemp("insights")
    content = png(np.full((*SIZE, 3), 120, np.uint8))
    image_id = hashlib.sha256(content).hexdigest()
    Album(folder / "images").keep(image_id, content)
    with journal_of(folder) as journal:
        for number in range(N_OBJECTS):
            name, at = f"o{number}", START + timedelta(hours=2 * number)
            widths = [*range(10, 40, 3 + number // 8), 40]
            task = str(number // 3)
            click_object(journal, name, widths, task=task, at=at, image_id=image_id)
            taken = f"{name}-r{len(widths) - 1}"
            submit(journal, f"{100 + number}", [(taken, 40)], task=task, at=at + timedelta(hours=1))
        FactStore(folder / "insights.db", journal).refresh()  # a page counts for tenths of a second
    url = {"label_studio__public_urls": "http://127.0.0.1:8080"}
    with running_service(folder) as service, served(service, folder, **url) as found:
        yield found


@contextmanager
def served(service: SegmentationService, folder: Path, **changes: object) -> Iterator[str]:
    """The address of a service's pages, for real."""
    server = make_server("127.0.0.1", 0, create_app(settings_for(folder, **changes), service))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def look(url: str, width: int, colours: str, screenshot: Path) -> dict[str, Any]:
    return run("page.js", url, str(width), colours, str(screenshot))


def press(
    url: str, button: str, confirmation: str, afterwards: str, screenshots: Path
) -> dict[str, Any]:
    """Press a button and the one that confirms it; ``text`` is that of the page afterwards."""
    return run("press.js", url, button, confirmation, afterwards, str(screenshots))


def run(script: str, *arguments: str) -> dict[str, Any]:
    command = [program("node", "nodejs"), str(FOLDER / script), chromium_program()]
    done = subprocess.run(
        [*command, *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


@pytest.mark.parametrize(("width", "colours"), [(1280, "light"), (390, "dark")])
def test_the_page_is_drawn_and_fits(address: str, tmp_path: Path, width: int, colours: str) -> None:
    shot = tmp_path / "page.png"
    seen = look(f"{address}/insights/project/1", width, colours, shot)
    assert seen["errors"] == [] and seen["violations"] == []
    assert all(request.startswith(address) for request in seen["requests"])
    assert seen["scrollWidth"] <= width, "nothing is cut off at the right"
    assert len(seen["charts"]) == 3 and len(seen["pictures"]) == 12
    assert all(pixels > 0 for pixels in seen["pictures"])
    assert seen["links"][0].startswith("http://127.0.0.1:8080/projects/1/data?task=")
    picture = cv2.imread(str(shot))
    assert picture is not None
    paper = picture[2, 2].astype(int)
    assert (paper.mean() > 200) == (colours == "light")
    for chart in seen["charts"]:
        x, y, w, h = (round(chart[name]) for name in ("x", "y", "width", "height"))
        part = picture[y : y + h, x : x + w].astype(int)
        is_blue = part[..., 0] - part[..., 2] > 60
        assert is_blue.mean() > 0.002, "bars or a line in the accent colour"


def test_forget_is_pressed_and_unlearned(tmp_path: Path) -> None:
    with learning_service(tmp_path) as service:
        draw(service, 0)
        draw(service, 1)
        rest(service)
        before = version_now(service, tmp_path)
        with served(service, tmp_path, learning__is_on=True) as address:
            url = f"{address}/insights/project/1"
            seen = press(
                url, "forget annotation 101", "Forget it", f"{url}#sessions", tmp_path / "shots"
            )
        rest(service)
        assert seen["asked"] == "Forget annotation 101?"
        assert len(seen["posts"]) == 1 and "annotation_id=101" in seen["posts"][0]
        assert seen["errors"] == [] and seen["violations"] == []
        assert all(request.startswith(address) for request in seen["requests"])
        assert seen["scrollWidth"] <= 390
        assert version_now(service, tmp_path) != before
    (forgot,) = events_of(tmp_path, "forgot")
    assert forgot.payload["annotation_id"] == "101" and forgot.payload["n_objects"] == 1


def test_roll_back_is_pressed_and_taken_up(tmp_path: Path) -> None:
    sam = tiny_model()
    writer = RegistryWriter(tmp_path / "registry")
    with writer.locked("test"):
        writer.add("v1", base_file(tmp_path / "base.safetensors", 1), {})
        writer.promote("v1", "passed the gate")
    settings = settings_for(tmp_path, model__registry_poll_s=0.2)
    service = build_service(settings, sam)
    try:
        promoted = service.served.sam.decoder_id
        assert promoted == read_card(writer.reader.path("v1")).decoder_id != sam.decoder_id
        with served(service, tmp_path) as address:
            url = f"{address}/insights/versions"
            seen = press(url, "roll back to embedded", "Roll back", url, tmp_path / "shots")
        assert seen["asked"] == "Roll back to the model's own decoder?"
        assert len(seen["posts"]) == 1 and "to=embedded" in seen["posts"][0]
        assert seen["errors"] == [] and seen["violations"] == [] and seen["scrollWidth"] <= 390
        assert "rollback" in seen["text"] and "roll back to" not in seen["text"]
        until(lambda: service.served.sam.decoder_id == sam.decoder_id)
    finally:
        service.close()
    assert [entry.action for entry in writer.history()] == ["promote", "rollback"]


@pytest.mark.parametrize("address_of", ["/insights", "/insights/versions"])
def test_the_other_pages_fit_too(address: str, tmp_path: Path, address_of: str) -> None:
    seen = look(f"{address}{address_of}", 390, "light", tmp_path / "page.png")
    assert seen["errors"] == [] and seen["violations"] == []
    assert seen["scrollWidth"] <= 390
