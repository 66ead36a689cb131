"""The parts of a simulation: what is labelled, what is sent, painted, kept and counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptation.errors import SettingsError
from adaptation.masks import iou
from adaptation.simulation.annotator import Rules
from adaptation.types import Click
from backend.commands.simulate.command import parse_headers
from backend.commands.simulate.options import Options
from backend.commands.simulate.painting import Painter, with_sloppy_border
from backend.commands.simulate.plan import (
    choose_pictures,
    digest_of_plan,
    fair_shares,
    open_data,
    served_folders,
)
from backend.commands.simulate.results import Notebook, Outcome, PictureResult, SimulatedObject
from backend.commands.simulate.summary import (
    Effort,
    digest_of_answers,
    errors_of,
    render,
    summarize,
)
from backend.commands.simulate.wire import SimulatedTask, accepted, new_id
from backend.protocol import parse_predict, parse_setup, parse_webhook
from tests.backend.payloads import recorded
from tests.training.folders import write_set

TASK = SimulatedTask(
    project_id=5, task_id=8, label='a "b" & <c>', reference="/data/x.jpg", size=(40, 60)
)


def disc(radius: int = 12, size: tuple[int, int] = (64, 64)) -> np.ndarray[Any, np.dtype[np.bool_]]:
    y, x = np.ogrid[: size[0], : size[1]]
    return np.asarray((y - 30) ** 2 + (x - 32) ** 2 <= radius**2)


# The plan


def test_sets_are_found_alone_in_a_folder_and_in_parts(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_set(tmp_path / name, 2)
    assert [s.name for s in open_data([tmp_path / "b", tmp_path / "a"])] == ["b", "a"]
    assert [s.name for s in open_data([tmp_path])] == ["a", "b"]
    (part,) = open_data([tmp_path / "a" / "test"])
    assert (part.name, part.stems) == ("a/test", ["im0"])
    assert served_folders(open_data([tmp_path])) == (tmp_path.resolve(),)


def test_a_wrong_folder_is_told_with_what_is_there(tmp_path: Path) -> None:
    write_set(tmp_path / "mtd", 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingsError, match="has no data set 'mtt'; it has: mtd"):
        open_data([tmp_path / "mtt"])
    with pytest.raises(SettingsError, match="empty holds no data set"):
        open_data([tmp_path / "empty"])
    with pytest.raises(SettingsError, match="There is no folder .*nowhere"):
        open_data([tmp_path / "nowhere" / "mtd"])
    with pytest.raises(SettingsError, match="of one name would share a project: mtd"):
        open_data([tmp_path / "mtd", tmp_path])
    with pytest.raises(SettingsError, match="'mtd/validation' has no images"):
        choose_pictures(open_data([tmp_path / "mtd" / "validation"]), 1, 0, 1)


def test_objects_come_by_image_and_depend_on_the_seed_alone(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_set(tmp_path / name, 6)
    sets = open_data([tmp_path])
    pictures = choose_pictures(sets, 9, 0, 70)
    assert sum(len(picture.refs) for picture in pictures) == 9
    assert len({picture.key for picture in pictures}) == len(pictures)
    assert {(p.dataset.name, p.project_id) for p in pictures} == {("a", 70), ("b", 71)}
    # im0 is task 1 in every simulation, whichever images are drawn.
    assert all(picture.task_id == int(picture.stem[2:]) + 1 for picture in pictures)
    again, other = choose_pictures(sets, 9, 0, 70), choose_pictures(sets, 9, 1, 70)
    assert [p.key for p in again] == [p.key for p in pictures] != [p.key for p in other]
    assert digest_of_plan(again) == digest_of_plan(reversed(pictures)) != digest_of_plan(other)
    assert len(choose_pictures(sets, None, 0, 70)) == 12


@pytest.mark.parametrize(
    ("counts", "total", "shares"),
    [
        ([10, 10, 10], 9, [3, 3, 3]),
        ([10, 10, 10], 10, [4, 3, 3]),
        ([2, 10, 10], 12, [2, 5, 5]),  # what the small set lacks goes to the others
        ([2, 1], 9, [2, 1]),
        ([5], 3, [3]),
    ],
)
def test_objects_are_shared_evenly(counts: list[int], total: int, shares: list[int]) -> None:
    assert fair_shares(counts, total) == shares


# The messages


@given(
    side=st.integers(1, 6000),
    place=st.floats(0, 1, exclude_max=True),
    is_positive=st.booleans(),
)
def test_a_click_on_a_whole_pixel_arrives_on_that_pixel(
    side: int, place: float, is_positive: bool
) -> None:
    task = SimulatedTask(
        project_id=5, task_id=8, label="x", reference="/data/x.jpg", size=(side, side)
    )
    click = Click(x=float(int(place * side)), y=float(side - 1), is_positive=is_positive)
    request = parse_predict(task.clicked([task.keypoint(click, "kp")], (), 1))
    assert request.clicked is not None
    assert request.clicked.points == (click,)


def test_messages_say_what_is_meant() -> None:
    opened = parse_predict(TASK.opened())
    assert not opened.is_interactive and opened.clicked is None
    assert parse_setup(TASK.setup()).label_config_text == TASK.label_config
    assert parse_setup(TASK.setup()).project_id == "5"

    points = [
        TASK.keypoint(Click(x=3, y=4, is_positive=p), i) for i, p in (("1", True), ("2", False))
    ]
    clicked = parse_predict(TASK.clicked(points, (), 1)).clicked
    assert clicked is not None
    assert (clicked.task.project_id, clicked.task.task_id, clicked.label) == ("5", "8", TASK.label)
    assert [c.click.is_positive for c in clicked.clicks] == [True, False]

    mask = np.zeros((40, 60), np.bool_)
    mask[10:20, 5:9] = True
    suggestion = {"id": "00112233445566aa-0", "score": 0.5, "value": {}}
    (submission,) = parse_webhook(
        TASK.submitted(77, [TASK.painted(mask, suggestion), TASK.painted(~mask, None)], 3, 2.5)
    ).submissions
    assert (submission.annotation_id, submission.annotator) == ("77", "3")
    assert (submission.task_id, submission.project_id, submission.lead_time_s) == ("8", "5", 2.5)
    edited, drawn = submission.regions
    assert edited.region_id == "00112233445566aa-0" != drawn.region_id
    np.testing.assert_array_equal(edited.mask(), mask)
    np.testing.assert_array_equal(drawn.mask(), ~mask)


def test_messages_have_no_key_that_label_studio_does_not_send() -> None:
    region = TASK.painted(np.ones((40, 60), np.bool_), {"id": "a", "score": 0.1})
    point = TASK.keypoint(Click(x=1, y=1, is_positive=True), new_id())
    pairs = [
        (TASK.clicked([point], (), 1), "predict_two_clicks"),
        (TASK.clicked([point], [region], 1), "predict_click_with_drafts_and_annotations"),
        (TASK.opened(), "predict_open_task"),
        (TASK.submitted(1, [accepted(region)], 1, 1.0), "webhook_annotation_created"),
        (TASK.setup(), "setup"),
    ]
    for sent, name in pairs:
        assert not unknown_keys(sent, recorded(name)), name


def unknown_keys(sent: object, real: object, path: str = "") -> list[str]:
    """Keys of a message that a recorded one does not have, in any item of a list."""
    if isinstance(sent, dict) and isinstance(real, dict):
        found = [f"{path}.{key}" for key in sent if key not in real]
        shared = [key for key in sent if key in real]
        return found + [n for k in shared for n in unknown_keys(sent[k], real[k], f"{path}.{k}")]
    if isinstance(sent, list) and isinstance(real, list) and real:
        # A region is compared with the recorded one of its type.
        return [n for s in sent for n in unknown_keys(s, counterpart(s, real), f"{path}[]")]
    return []


def counterpart(item: object, among: list[Any]) -> object:
    kind = item.get("type") if isinstance(item, dict) else None
    return next((o for o in among if isinstance(o, dict) and o.get("type") == kind), among[0])


# Painting


def test_a_share_of_the_objects_is_painted_badly_and_always_the_same_way() -> None:
    truth, painter = disc(), Painter(sloppy=0.3, seed=4)
    painted = [painter.paint(truth, str(number)) for number in range(200)]
    assert 40 <= sum(is_sloppy for _, is_sloppy in painted) <= 80  # 60 expected, 6.5 either way
    for number, (mask, is_sloppy) in enumerate(painted[:20]):
        again, _ = painter.paint(truth, str(number))
        np.testing.assert_array_equal(mask, again)
        assert np.array_equal(mask, truth) != is_sloppy


def test_a_sloppy_border_strays_by_a_share_of_the_object() -> None:
    for radius in (5, 12, 25):
        masks = [with_sloppy_border(disc(radius), np.random.default_rng(n)) for n in range(20)]
        values = [iou(mask, disc(radius)) for mask in masks]
        assert 0.6 < np.mean(values) < 0.95
        assert max(values) < 1
        # Three standard deviations at most, each 0.08 times the side of a square of the same area
        # and at least one pixel.
        reach = 3 * max(1, 0.08 * np.sqrt(np.pi) * radius) + 1
        assert not any((mask & ~disc(round(radius + reach))).any() for mask in masks)
    speck = np.zeros((9, 9), np.bool_)
    speck[4, 4] = True
    assert all(with_sloppy_border(speck, np.random.default_rng(n)).any() for n in range(20))


# Results


def result(stem: str = "im0", outcome: Outcome = "painted", **changes: Any) -> SimulatedObject:
    """An object of a set "a"; three clicks unless told otherwise."""
    given: dict[str, Any] = {
        "dataset": "a",
        "stem": stem,
        "label": 1,
        "group": "g",
        "area": 100,
        "clicks": ((1, 2, True), (3, 4, False), (5, 6, True)),
        "ious": (0.5, 0.82, 0.9),
        "seconds": (0.1, 0.2, 0.3),
        "outcome": outcome,
    }
    return SimulatedObject(**{**given, **changes})


def picture_result(*objects: SimulatedObject) -> PictureResult:
    key = f"a/{objects[0].stem}"
    return PictureResult(
        key=key, annotator=1, annotation_id=9, model_version="tiny", objects=objects
    )


def test_a_notebook_reads_back_what_was_kept(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.jsonl"
    first, failed = picture_result(result()), picture_result(result("im1", "failed", error="why"))
    notebook = Notebook(path, {"seed": 0})
    notebook.add(first)
    notebook.add(failed)
    notebook.close()
    with path.open("a") as file:
        file.write('{"half of a line')

    again = Notebook(path, {"seed": 0})
    assert again.results == [first, failed]
    assert (again.is_done("a/im0"), again.is_done("a/im1"), again.is_done("a/im2")) == (1, 0, 0)
    assert again.header.run == notebook.header.run
    mended = picture_result(result("im1"))
    again.add(mended)
    again.close()
    assert all(json.loads(line) for line in path.read_text().splitlines())
    last = Notebook(path, {"seed": 0})
    assert last.results == [first, mended]
    last.check_model("tiny")
    with pytest.raises(SettingsError, match="holds answers of tiny, .* answers with other"):
        last.check_model("other")
    last.close()


def test_numbers_are_those_of_the_field() -> None:
    objects = [
        result(outcome="accepted"),  # 0.80 after 2 clicks, 0.85 and 0.90 after 3
        result("im1", ious=(0.1, 0.2, 0.3), seconds=(0.3, 0.3, 0.3)),  # never
        result("im2", "failed", clicks=(), ious=(), seconds=(), error="HTTP 422"),
        result("im3", dataset="b", outcome="accepted", ious=(0.95,), clicks=((1, 1, True),)),
    ]
    rows = summarize(objects, Rules(max_clicks=3, target=0.9))
    row = rows["a"]
    assert (row["objects"], row["accepted"], row["painted"], row["failed"]) == (3, 1, 1, 1)
    assert row["clicks"] == 6
    assert row["NoC3@80"] == pytest.approx((2 + 3) / 2)
    assert row["NoC3@90"] == pytest.approx((3 + 3) / 2)
    assert row["FR3@90"] == pytest.approx(50)
    assert row["mIoU@1"] == pytest.approx(100 * (0.5 + 0.1) / 2)
    assert row["mIoU@3"] == pytest.approx(100 * (0.9 + 0.3) / 2)
    assert row["seconds/click p50"] == pytest.approx(0.3)
    assert rows["all"]["mIoU@3"] == pytest.approx(100 * (0.9 + 0.3 + 0.95) / 3)
    table = render(rows).splitlines()
    assert table[0].split() == ["a", "b", "all"]
    assert table[1].split() == ["objects", "3", "1", "4"]
    assert not any(line.startswith("kept") for line in table)
    assert errors_of(objects) == ["1 x HTTP 422"]
    assert Effort(clicks=6, seconds=2.0).clicks_per_s == 3.0


def test_where_everything_failed_there_is_a_table_still() -> None:
    failed = result("im0", "failed", clicks=(), ious=(), seconds=(), error="HTTP 500")
    assert "failed   1" in render(summarize([failed], Rules(max_clicks=3, target=0.9)))


def test_the_digest_tells_clicks_and_masks_apart() -> None:
    one, two = result(), result("im1", mask_digest="ab")
    assert digest_of_answers([one, two]) == digest_of_answers([two, one])
    assert digest_of_answers([one, two]) != digest_of_answers([one, result("im1", mask_digest="b")])
    assert digest_of_answers([one]) != digest_of_answers([result(clicks=((1, 2, False),))])


# Options


def test_all_mistakes_are_told_at_once() -> None:
    options = Options(data=(), target=2.0, sloppy=-1, think_s=-1, out=Path("results.jsonl"))
    with pytest.raises(SettingsError) as refused:
        options.check()
    assert [line.split()[0] for line in str(refused.value).splitlines()] == [
        "--data",
        "--target-iou",
        "--sloppy",
        "--think",
        "--out",
    ]


def test_the_command_that_is_told_holds_no_header() -> None:
    options = Options(data=(Path("a"),), headers={"Authorization": "secret"}, clicks=5, think_s=1)
    assert options.told() == {"clicks": 5, "think": 1}
    assert "secret" not in repr(options)


def test_headers_are_read_and_their_values_never_repeated() -> None:
    assert parse_headers(("A: b: c", "D:e")) == {"A": "b: c", "D": "e"}
    for wrong in ("secret", ": secret", "A: secret\r\nB: c"):
        with pytest.raises(SettingsError) as refused:
            parse_headers((wrong,))
        assert "secret" not in str(refused.value)
