"""`strop report`: the page as one file that needs no other, and the figures as JSON."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from adaptation.errors import InputError
from adaptation.storage.album import Album
from backend.commands.report import write_report
from tests.backend.insights.kit import SIZE, click_object, submit
from tests.backend.service_kit import journal_of, png, settings_for


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A journal of one object that a session learned from, and its image."""
    content = png(np.full((*SIZE, 3), 120, np.uint8))
    image_id = hashlib.sha256(content).hexdigest()
    Album(tmp_path / "images").keep(image_id, content)
    said = {"session": "project-1", "annotation_id": "100", "region_id": "a-r1", "version": "v"}
    numbers = {"frozen_iou": 0.5, "adapted_iou": 0.75, "turned_back": False, "skipped": None}
    with journal_of(tmp_path) as journal:
        click_object(journal, "a", [10, 40], image_id=image_id)
        submit(journal, "100", [("a-r1", 40)])
        journal.append_event("learned", "1", {**said, **numbers})
    return tmp_path


def test_the_file_holds_everything_and_asks_nothing(folder: Path) -> None:
    out = folder / "report.html"
    settings = settings_for(folder, learning__is_on=True)
    said = write_report(settings, "1", out, as_json=False, recount=True)
    assert said == f"wrote {out}"
    html = out.read_text(encoding="utf-8")
    assert 'src="data:image/jpeg;base64,' in html and html.count("<svg") >= 2
    assert "Learned from <strong>1 objects</strong>" in html
    for needing in ("<form", "<script", "/insights/", 'href="http', 'class="button"'):
        assert needing not in html, needing


def test_the_figures_as_json(folder: Path) -> None:
    text = write_report(settings_for(folder), "1", None, as_json=True, recount=False)
    figures = json.loads(text)
    assert (figures["n_objects"], figures["gain"]["adapted_iou"]) == (1, 0.75)
    assert figures["outcomes"] == {"as shown": 1} and figures["gain"]["skipped"] == {}
    assert figures["worst"][0]["annotation_id"] == "100"


def test_a_project_without_objects_and_a_file_that_cannot_be_written(folder: Path) -> None:
    settings = settings_for(folder)
    with pytest.raises(InputError, match="Project 7 has no submitted object"):
        write_report(settings, "7", None, as_json=True, recount=False)
    with pytest.raises(InputError, match="cannot be written"):
        write_report(settings, "1", folder / "no" / "file.html", as_json=False, recount=False)
