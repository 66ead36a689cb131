"""`strop ranking create` and `collect` over HTTP; the real Label Studio is in tests/e2e."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adaptation.journal import CandidateRecord, Journal
from adaptation.storage.album import Album
from backend.cli import main
from backend.commands.ranking.tasks import INSTRUCTION, label_config
from tests.adaptation.journal.samples import interaction, square
from tests.backend.commands.ranking.test_ranking import annotation
from tests.backend.service_kit import pixels_of, png
from tests.backend.sites import LEGACY_TOKEN, LabelStudioSite, Reply, Request, json_reply

SIZE = (40, 60)
IMAGE = png(pixels_of(1, SIZE))
IMAGE_ID = hashlib.sha256(IMAGE).hexdigest()
MASKS = tuple(square(4, 4, side, SIZE) for side in (8, 10, 16))


class RankingSite(LabelStudioSite):
    """A Label Studio that makes projects and takes tasks with meta and annotations."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, dict[str, Any]] = {}

    def answer(self, request: Request) -> Reply:
        if request.headers.get("Authorization") != f"Token {LEGACY_TOKEN}":
            return super().answer(request)
        if (request.method, request.path) == ("POST", "/api/projects/"):
            number = 12 + len(self.made)
            self.made[number] = {"id": number, **request.json()}
            return json_reply(self.made[number], 201)
        parts = request.path.strip("/").split("/")
        number = int(parts[2]) if parts[1] == "projects" and len(parts) > 2 else 0
        if number in self.made:
            return self._ours(request, number)
        return super().answer(request)

    def _ours(self, request: Request, number: int) -> Reply:
        if request.method == "GET":
            return json_reply(self.made[number])
        (task,) = request.json()
        task_id = 100 + len(self.tasks)
        self.tasks.append({"id": task_id, "annotations": [], **task})
        return json_reply({"task_count": 1, "task_ids": [task_id]}, 201)

    def rank(self, task: dict[str, Any], *annotations: dict[str, Any]) -> None:
        task["annotations"] = list(annotations)


@pytest.fixture
def site() -> Iterator[RankingSite]:
    with RankingSite().running() as running:
        assert isinstance(running, RankingSite)
        yield running


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """Of the server whose data is in the folder: four objects, and their image in the album."""
    Album(tmp_path / "images").keep(IMAGE_ID, IMAGE)
    with Journal(f"sqlite:///{tmp_path}/journal.db") as opened:
        for number in range(4):
            append(opened, f"r{number}")
        yield opened


def append(journal: Journal, request_id: str, **changes: Any) -> None:
    values = {"project_id": "7", "image_id": IMAGE_ID, "image_size": SIZE} | changes
    journal.append_interaction(interaction(request_id, masks=MASKS, object_id=request_id, **values))


class Command:
    """`strop ranking ...` with the settings of one server."""

    def __init__(
        self,
        site: RankingSite,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        self.settings = ["--set", f"label_studio.url={site.url}", "--data-dir", str(folder)]
        self.settings += ["--set", f"label_studio.token={LEGACY_TOKEN}"]
        self._monkeypatch, self._capsys = monkeypatch, capsys
        monkeypatch.setattr("backend.options.configure_logging", lambda level: None)

    def __call__(self, *arguments: str) -> tuple[int, str]:
        """Exit code, and what was printed: on success the summary, else the error."""
        self._monkeypatch.setattr("sys.argv", ["strop", "ranking", *arguments, *self.settings])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        printed = self._capsys.readouterr()
        assert "Traceback" not in printed.err
        return code, printed.out if code == 0 else printed.err


@pytest.fixture
def strop(
    site: RankingSite,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    return Command(site, tmp_path, monkeypatch, capsys)


def create(strop: Command, *options: str) -> str:
    code, out = strop("create", "--project", "7", *options)
    assert code == 0, out
    return out


def requests_of(site: RankingSite) -> list[str]:
    return [task["meta"]["strop_ranking"]["request_id"] for task in site.tasks]


# Create ------------------------------------------------------------------------------------------


def test_a_project_is_made_once_and_filled_with_what_is_new(
    site: RankingSite, journal: Journal, strop: Command
) -> None:
    assert create(strop, "--count", "3").startswith("3 tasks added to project 12; 0 objects were")
    (project,) = site.made.values()
    assert project["title"] == "Ranking: Potholes"
    assert project["label_config"] == label_config()
    assert project["expert_instruction"] == INSTRUCTION and project["show_instruction"]
    assert create(strop, "--count", "3").startswith("1 tasks added to project 12; 3 objects were")
    assert create(strop).startswith("0 tasks added to project 12; 4 objects were")
    assert sorted(requests_of(site)) == ["r0", "r1", "r2", "r3"]
    append(journal, "r9")
    assert create(strop).startswith("1 tasks added")
    assert requests_of(site)[-1] == "r9" and len(site.made) == 1


def test_a_deleted_ranking_project_is_made_anew(
    site: RankingSite, journal: Journal, strop: Command
) -> None:
    create(strop, "--count", "1")
    site.made[99] = site.made.pop(12)  # the next number is another one
    site.tasks.clear()
    assert create(strop, "--count", "1").startswith("1 tasks added to project 13")


def test_a_ranking_project_that_became_something_else_is_left_alone(
    site: RankingSite, journal: Journal, strop: Command
) -> None:
    create(strop, "--count", "1")
    site.made[12]["label_config"] = '<View><Image name="image" value="$image"/></View>'
    for arguments in (["create", "--project", "7"], ["collect"]):
        code, error = strop(*arguments)
        assert code == 2 and "Project 12" in error and "labeling config is another one" in error
    assert len(site.tasks) == 1


def test_an_image_that_is_not_in_the_album_is_read_from_label_studio(
    site: RankingSite, journal: Journal, strop: Command, tmp_path: Path
) -> None:
    path = Album(tmp_path / "images").path(IMAGE_ID)
    assert path is not None
    path.unlink()
    site.serve("/data/upload/1/tile.png", IMAGE)
    assert create(strop).startswith("4 tasks added")
    assert site.paths().count("/data/upload/1/tile.png") == 1


def test_images_that_are_gone_or_replaced_are_named_and_the_others_ranked(
    site: RankingSite, journal: Journal, strop: Command
) -> None:
    append(journal, "gone", image_id="1" * 64, image_ref="/data/upload/1/gone.png")
    out = create(strop)
    assert out.startswith("4 tasks added") and "of 1 the image could not be read" in out
    assert "gone" not in requests_of(site)


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "answered 404"), (png(pixels_of(2, SIZE)), "was replaced")]
)
def test_when_no_image_can_be_read_no_project_is_made(
    content: bytes | None,
    reason: str,
    site: RankingSite,
    journal: Journal,
    strop: Command,
    tmp_path: Path,
) -> None:
    path = Album(tmp_path / "images").path(IMAGE_ID)
    assert path is not None
    path.unlink()
    if content is not None:
        site.serve("/data/upload/1/tile.png", content)
    code, error = strop("create", "--project", "7")
    assert code == 2 and not site.made
    assert "None of the images of 4 prompts" in error and reason in error


# Collect -----------------------------------------------------------------------------------------


def rankings(journal: Journal) -> list[dict[str, Any]]:
    return [dict(event.payload) for event in journal.events("7", kind="ranking")]


def test_rankings_are_collected_once_and_again_when_they_change(
    site: RankingSite, journal: Journal, strop: Command
) -> None:
    create(strop, "--count", "2")
    task = site.tasks[0]
    assert strop("collect")[1].startswith("0 new rankings, 0 changed, 0 known")
    site.rank(task, annotation("CAB", "C best"))
    assert strop("collect")[1].startswith("1 new rankings, 0 changed, 0 known")
    assert strop("collect", "--project", "7")[1].startswith("0 new rankings, 0 changed, 1 known")
    later = annotation("BAC", "none usable", updated_at="2026-11-22T08:00:00.000000Z")
    site.rank(task, later, annotation("CAB", "C best"))
    assert strop("collect")[1].startswith("0 new rankings, 1 changed, 0 known"), "the newest counts"
    site.rank(task, later, annotation("ABC", "A best", completed_by=2, id=2))
    assert strop("collect")[1].startswith("1 new rankings, 0 changed, 1 known"), "of someone else"
    first, second, third = rankings(journal)
    assert first["ranking_id"] == second["ranking_id"] != third["ranking_id"]
    assert [r["best_is_usable"] for r in (first, second, third)] == [True, False, True]
    assert [r["annotator"] for r in (first, second, third)] == ["1", "1", "2"]


def test_the_event_holds_what_training_needs(
    site: RankingSite, journal: Journal, strop: Command
) -> None:
    create(strop, "--count", "1")
    (task,) = site.tasks
    site.rank(task, annotation("CAB", "C best"))
    strop("collect")
    (payload,) = rankings(journal)
    key = task["meta"]["strop_ranking"]
    (record,) = journal.interactions(request_id=key["request_id"])
    best_first = [record.candidate(key["region_ids"]["ABC".index(letter)]) for letter in "CAB"]
    expected = {
        "ranking_id": f"{record.request_id}:1",
        "request_id": record.request_id,
        "object_id": record.object_id,
        "task_id": "7",
        "image_id": IMAGE_ID,
        "image_ref": "/data/upload/1/tile.png",
        "image_size": [40, 60],
        "label": "Scratch",
        "clicks": [{"x": 8.0, "y": 8.0, "is_positive": True}],
        "box": None,
        "candidates": [_mask(candidate) for candidate in best_first],
        "predicted_ious": [0.75, 0.75, 0.75],
        "best_is_usable": True,
        "annotator": "1",
        "model_id": "compact-1234abcd",
        "decoder_id": "d1",
    }
    assert payload == expected
    assert json.loads(json.dumps(payload, allow_nan=False)) == payload


def _mask(candidate: CandidateRecord | None) -> dict[str, Any]:
    assert candidate is not None
    return {"size": [40, 60], "counts": candidate.rle.counts.decode()}


def test_answers_that_say_nothing_certain_are_counted_and_left_out(
    site: RankingSite, journal: Journal, strop: Command
) -> None:
    create(strop)
    untouched, torn, unknown, skipped = site.tasks
    site.rank(untouched, annotation("", "B best"))
    site.rank(torn, annotation("CAB", "B best"))
    unknown["meta"]["strop_ranking"]["request_id"] = "of another journal"
    site.rank(unknown, annotation())
    site.rank(skipped, annotation(was_cancelled=True))
    site.tasks.append({"id": 200, "data": {}, "meta": {}, "annotations": [annotation()]})
    code, out = strop("collect")
    assert code == 0 and out.startswith("0 new rankings")
    assert "1 whose list was not put into order, 1 whose best mask is not on top" in out
    assert "1 of prompts that are not in the journal" in " ".join(out.split())
    assert rankings(journal) == []


# What cannot work --------------------------------------------------------------------------------


def test_mistakes_end_in_one_sentence(
    site: RankingSite, journal: Journal, strop: Command, tmp_path: Path
) -> None:
    code, error = strop("collect")
    assert code == 2 and "knows of no ranking project: make one with `strop ranking create" in error
    code, error = strop("create", "--project", "8")
    assert code == 2 and f"Label Studio at {site.url} has no project 8" in error
    code, error = strop("create", "--project", "7", "--count", "0")
    assert code == 2 and "--count must be 1 or more" in error
    create(strop, "--count", "1")
    site.made.clear()
    code, error = strop("collect")
    assert code == 2 and "has no ranking project any more (it was number 12)" in error
    strop.settings += ["--set", "label_studio.token=" + "f" * 40]
    code, error = strop("create", "--project", "7")
    assert code == 2 and "Label Studio refused the legacy token" in error
    strop.settings += ["--set", "label_studio.url=http://127.0.0.1:9"]
    code, error = strop("create", "--project", "7")
    assert code == 2 and "cannot be reached: is it running" in error
    strop.settings += ["--set", "label_studio.url="]
    code, error = strop("create", "--project", "7")
    assert code == 2 and "Set label_studio.url and label_studio.token" in error


def test_a_journal_that_is_not_there_is_not_made(
    site: RankingSite, strop: Command, tmp_path: Path
) -> None:
    code, error = strop("create", "--project", "7")
    assert code == 2 and "journal.db" in error
    assert not (tmp_path / "journal.db").exists()
