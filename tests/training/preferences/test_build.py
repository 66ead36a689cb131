"""From a real journal to a real folder."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pytest

from adaptation.errors import InputError, StoreError
from adaptation.masks import Rle, decode_rle, encode_rle
from tests.adaptation.journal.samples import at, region, square, submission
from tests.training.preferences.world import World, at_click
from training.preferences.build import make_preferences
from training.preferences.files import read_examples, read_pairs, read_rankings
from training.preferences.settings import (
    ChoiceSettings,
    CorrectionPairSettings,
    OutcomeSettings,
    RankingSettings,
)

TRUTH = square(4, 4, 10)  # 100 pixels, from 4 to 13
GOOD = square(4, 4, 9)  # 81 of them: IoU 0.81
POOR = square(4, 4, 7)  # 49 of them: IoU 0.49
BAD = square(4, 4, 5)  # 25 of them: IoU 0.25
EMPTY = encode_rle(np.zeros((24, 32), dtype=np.bool_))
ONLY_OUTCOME: dict[str, Any] = {
    "correction": CorrectionPairSettings(is_on=False),
    "choice": ChoiceSettings(is_on=False),
}
ONLY_CORRECTION: dict[str, Any] = {
    "outcome": OutcomeSettings(is_on=False),
    "choice": ChoiceSettings(is_on=False),
}


def union(*parts: Rle) -> Rle:
    return encode_rle(np.logical_or.reduce([decode_rle(part) for part in parts]))


def left_out(report: dict[str, Any], kind: str) -> dict[str, int]:
    found: dict[str, int] = report["left_out"].get(kind, {})
    return found


# Examples


def test_a_finished_object_becomes_an_example(world: World) -> None:
    first = world.click([POOR], at_click((8, 8, True)))
    second = world.click([GOOD], at_click((8, 8, True), (13, 13, True)))
    assert first.object_id == second.object_id
    sent = world.submit(second, TRUTH, annotator="5")
    make_preferences(world.config())
    (example,) = read_examples(world.folder / "out")
    assert example.object_id == f"1:{sent.annotation_id}:{second.candidates[0].region_id}"
    assert (example.project_id, example.task_id, example.label) == ("1", "7", "Scratch")
    assert example.image_id == second.image_id and example.image_size == (24, 32)
    assert [(c.x, c.y, c.is_positive) for c in example.clicks] == [(8, 8, True), (13, 13, True)]
    assert example.mask == TRUTH and example.was_edited and example.annotator == "5"


# Outcome


def test_all_candidates_are_ranked_by_their_iou_with_the_submitted_mask(world: World) -> None:
    world.finished([POOR, GOOD, BAD], TRUTH)
    make_preferences(world.config(**ONLY_OUTCOME))
    (ranking,) = read_rankings(world.folder / "out")
    assert ranking.candidates == (GOOD, POOR, BAD)
    assert ranking.ious == pytest.approx((0.81, 0.49, 0.25))
    assert ranking.predicted_ious == (0.75, 0.75, 0.75)
    pairs = read_pairs(world.folder / "out")
    assert [(p.chosen, p.rejected, p.source) for p in pairs] == [
        (GOOD, BAD, "outcome"),
        (GOOD, POOR, "outcome"),
    ]
    assert pairs[0].margin == pytest.approx(0.81 - 0.25)


def test_pairs_need_a_gap_and_a_prompt_has_a_limit(world: World) -> None:
    world.finished([GOOD, POOR, BAD], TRUTH)
    wide = make_preferences(world.config("wide", outcome=OutcomeSettings(margin=0.5)))
    assert [p.rejected for p in read_pairs(world.folder / "wide") if p.source == "outcome"] == [BAD]
    assert left_out(wide, "outcome pairs") == {"the gap is below the margin": 1}
    few = make_preferences(world.config("few", outcome=OutcomeSettings(most_per_prompt=1)))
    assert [p.rejected for p in read_pairs(world.folder / "few") if p.source == "outcome"] == [BAD]
    assert left_out(few, "outcome pairs") == {"the prompt has its most pairs": 1}


def test_the_submitted_mask_may_be_the_best_of_every_prompt(world: World) -> None:
    world.finished([GOOD, BAD], TRUTH)
    make_preferences(world.config(outcome=OutcomeSettings(submitted=True), **ONLY_OUTCOME))
    pairs = read_pairs(world.folder / "out")
    assert [(p.chosen, p.rejected) for p in pairs] == [(TRUTH, BAD), (TRUTH, GOOD)]
    assert pairs[0].chosen_iou == 1.0 and pairs[0].chosen_predicted_iou is None
    (ranking,) = read_rankings(world.folder / "out")
    assert ranking.candidates == (TRUTH, GOOD, BAD) and ranking.predicted_ious is None


def test_equal_and_empty_masks_take_part_in_nothing(world: World) -> None:
    world.finished([GOOD, GOOD, EMPTY, BAD], TRUTH, shown=1)
    make_preferences(world.config(**ONLY_OUTCOME))
    (ranking,) = read_rankings(world.folder / "out")
    assert ranking.candidates == (GOOD, BAD)
    assert len(read_pairs(world.folder / "out")) == 1


# Corrections


def test_a_correcting_click_makes_a_pair_with_the_part_it_touched(world: World) -> None:
    """Two squares are missed; the click goes to the one on the right."""
    left, right = square(1, 12, 4), square(24, 4, 6)
    truth = union(TRUTH, left, right)
    world.click([TRUTH], at_click((8, 8, True)))
    second = world.click([truth], at_click((8, 8, True), (26, 6, True)))
    world.submit(second)
    make_preferences(world.config(**ONLY_CORRECTION))
    (pair,) = read_pairs(world.folder / "out")
    assert pair.source == "correction"
    assert pair.chosen == truth and pair.rejected == TRUTH
    assert [(c.x, c.y) for c in pair.clicks] == [(8, 8)], "the prompt of that moment"
    assert pair.chosen_iou == 1.0
    # 100 pixels of 100 + 36 + 16 - 2 that the left square shares.
    assert pair.rejected_iou == pytest.approx(100 / np.count_nonzero(decode_rle(truth)))
    assert pair.region == right


def test_what_was_painted_by_hand_is_a_correction_as_a_whole(world: World) -> None:
    world.finished([GOOD], TRUTH)
    make_preferences(world.config("with", **ONLY_CORRECTION))
    (pair,) = read_pairs(world.folder / "with")
    assert pair.region == encode_rle(decode_rle(TRUTH) ^ decode_rle(GOOD))
    settings = ONLY_CORRECTION | {"correction": CorrectionPairSettings(edits=False)}
    make_preferences(world.config("without", **settings))
    assert not read_pairs(world.folder / "without")


def test_a_repeated_request_is_no_correction(world: World) -> None:
    world.click([BAD], at_click((8, 8, True)))
    again = world.click([GOOD], at_click((8, 8, True)))
    world.submit(again)
    make_preferences(world.config(**ONLY_CORRECTION))
    assert not read_pairs(world.folder / "out")


def test_a_superseded_click_still_corrects_what_was_shown_before_it(world: World) -> None:
    world.click([POOR], at_click((8, 8, True)))
    world.click([], at_click((8, 8, True), (12, 12, True)))
    last = world.click([TRUTH], at_click((8, 8, True), (12, 12, True), (13, 13, True)))
    world.submit(last)
    report = make_preferences(world.config(**ONLY_CORRECTION))
    (pair,) = read_pairs(world.folder / "out")
    assert pair.rejected == POOR and pair.region is not None
    assert left_out(report, "prompts") == {"no mask was answered, or only empty ones": 1}


# Choices


def test_an_accepted_suggestion_beats_those_beside_it(world: World) -> None:
    clicked = world.click([BAD, GOOD, TRUTH], shown=2)
    world.submit(clicked, place=1)
    make_preferences(world.config(outcome=OutcomeSettings(is_on=False)))
    (pair,) = read_pairs(world.folder / "out")
    assert (pair.source, pair.chosen, pair.rejected) == ("choice", GOOD, BAD)
    assert (pair.chosen_iou, pair.rejected_iou, pair.margin) == (None, None, None)


def test_a_painted_choice_is_measured_and_may_be_contradicted(world: World) -> None:
    clicked = world.click([POOR, BAD], shown=2)
    world.submit(clicked, TRUTH, place=0)
    only = world.config("a", outcome=OutcomeSettings(is_on=False))
    make_preferences(only)
    (pair,) = [p for p in read_pairs(world.folder / "a") if p.source == "choice"]
    assert pair.margin == pytest.approx(0.49 - 0.25)
    other = world.click([BAD, GOOD], shown=2, task_id="8")
    world.submit(other, TRUTH, place=0)
    report = make_preferences(world.config("b", outcome=OutcomeSettings(is_on=False)))
    assert left_out(report, "choice pairs") == {"the painted mask speaks against it": 1}


def test_one_suggestion_is_no_choice_and_nearly_equal_ones_are_none(world: World) -> None:
    world.submit(world.click([GOOD, BAD], shown=1))
    close = union(TRUTH, square(14, 4, 1))
    world.submit(world.click([TRUTH, close], shown=2, task_id="8"))
    report = make_preferences(world.config())
    assert not [p for p in read_pairs(world.folder / "out") if p.source == "choice"]
    assert left_out(report, "choice pairs") == {"the masks are equal or nearly so": 1}


def test_the_same_pair_counts_once_for_the_surest_source(world: World) -> None:
    world.submit(world.click([GOOD, BAD], shown=2))
    report = make_preferences(world.config())
    (pair,) = read_pairs(world.folder / "out")
    assert pair.source == "choice"
    assert left_out(report, "outcome pairs") == {"the same pair has another source": 1}


# Rankings by people


def ranked(world: World, *masks: Rle, **changes: Any) -> dict[str, Any]:
    payload: dict[str, Any] = {
        "ranking_id": "r1",
        "image_id": world.image(),
        "image_ref": "/data/1.png",
        "image_size": [24, 32],
        "label": "Scratch",
        "clicks": [{"x": 8.0, "y": 8.0, "is_positive": True}],
        "box": None,
        "candidates": [{"size": list(m.size), "counts": m.counts.decode()} for m in masks],
        "predicted_ious": [0.5 + 0.1 * n for n in range(len(masks))],
        "best_is_usable": True,
        "annotator": "3",
        "model_id": "compact",
        "decoder_id": "d1",
    }
    return payload | changes


def test_a_ranking_of_people_becomes_a_list_and_pairs(world: World) -> None:
    world.journal.append_event("ranking", "1", ranked(world, GOOD, POOR, BAD))
    make_preferences(world.config())
    (ranking,) = read_rankings(world.folder / "out")
    assert ranking.source == "ranking" and ranking.candidates == (GOOD, POOR, BAD)
    assert ranking.ious is None and ranking.predicted_ious == pytest.approx((0.5, 0.6, 0.7))
    pairs = read_pairs(world.folder / "out")
    assert [(p.chosen, p.rejected) for p in pairs] == [(GOOD, BAD), (GOOD, POOR)]
    assert all(p.source == "ranking" and p.margin is None for p in pairs)
    assert pairs[0].rejected_predicted_iou == pytest.approx(0.7)
    assert pairs[0].object_id == "ranking:r1" and pairs[0].project_id == "1"


def test_the_newest_version_of_a_ranking_counts(world: World) -> None:
    world.journal.append_event("ranking", "1", ranked(world, GOOD, BAD))
    world.journal.append_event("ranking", "1", ranked(world, BAD, GOOD))
    report = make_preferences(world.config())
    (ranking,) = read_rankings(world.folder / "out")
    assert ranking.candidates == (BAD, GOOD)
    assert left_out(report, "rankings") == {"a newer version of the same ranking is there": 1}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image_id": "f" * 64}, "the image is not in the album"),
        ({"candidates": []}, "fewer than two different masks with pixels"),
        ({"candidates": None}, "the event is not of the form of a ranking"),
        ({"candidates": [{"size": [2, 2], "counts": "4"}]}, "the event is not of the form"),
        ({"candidates": [{"size": [24, 32], "counts": "x"}]}, "the event is not of the form"),
        ({"clicks": [{"x": 1}]}, "the event is not of the form of a ranking"),
        ({"image_size": []}, "the event is not of the form of a ranking"),
        ({"label": None}, "the event is not of the form of a ranking"),
    ],
)
def test_a_useless_ranking_is_left_out_with_its_reason(
    world: World, changes: dict[str, Any], reason: str
) -> None:
    world.journal.append_event("ranking", "1", ranked(world, GOOD, BAD, **changes))
    world.journal.append_event("ranking", "1", {"ranking_id": "r2"})
    report = make_preferences(world.config())
    assert not read_rankings(world.folder / "out")
    assert any(text.startswith(reason) for text in left_out(report, "rankings"))


def test_rankings_can_be_left_out(world: World) -> None:
    world.journal.append_event("ranking", "1", ranked(world, GOOD, BAD))
    make_preferences(world.config(ranking=RankingSettings(is_on=False)))
    assert not read_rankings(world.folder / "out")


# What is left out


def test_what_is_left_out_is_counted_with_its_reason(world: World) -> None:
    everything = encode_rle(np.ones((24, 32), dtype=np.bool_))
    elsewhere = square(20, 14, 8)
    world.finished([GOOD], image_id="0" * 64)  # never kept
    changed = world.image(5)
    path = world.album.path(changed)
    assert path is not None
    path.write_bytes(b"something else")
    world.finished([GOOD], image_id=changed)
    world.submit(world.click([GOOD], task_id="a"), EMPTY)
    world.submit(world.click([GOOD], task_id="b"), everything)
    world.submit(world.click([GOOD], task_id="c"), elsewhere)
    world.submit(world.click([GOOD], at_click((8, 999, True)), task_id="d"))
    world.submit(world.click([GOOD], task_id="e"), square(0, 0, 9, (30, 30)))
    world.submit(world.click([GOOD], task_id="f"), was_cancelled=True)
    world.journal.append_submission(
        submission(region("drawn", elsewhere), task_id="g", annotation_id="g", updated_at=at(500))
    )
    world.journal.append_submission(
        submission(annotation_id="h", task_id="h", received_at=at(1000), updated_at=at(501))
    )
    world.click([GOOD], task_id="h")
    report = make_preferences(world.config())
    assert report["left_out"] == {
        "objects": {
            "a click lies outside of the image": 1,
            "drawn without a click that made it": 1,
            "the image in the album was changed or cannot be read": 1,
            "the image is not in the album": 1,
            "the mask contradicts … of … clicks": 1,
            "the mask covers … of the image": 1,
            "the mask is empty": 1,
            "the submitted mask has another size than the image": 1,
        },
        "offers": {"nothing was taken in their place": 1},
        "tasks": {"skipped by the annotator": 1},
    }
    assert report["objects"] == {} and not read_examples(world.folder / "out")


# The folder


def many(world: World, n_objects: int) -> None:
    rng = np.random.default_rng(0)
    for number in range(n_objects):
        x, y, side = rng.integers(0, 6), rng.integers(0, 6), rng.integers(8, 14)
        truth = square(int(x), int(y), int(side))
        masks = [square(int(x), int(y), int(side - n)) for n in rng.permutation(4)]
        center = at_click((float(x + 2), float(y + 2), True))
        clicked = world.click(
            masks, center, image_id=world.image(number // 3), task_id=str(number), shown=2
        )
        world.submit(clicked, truth, place=0)


def test_the_same_journal_and_seed_give_the_same_bytes(world: World) -> None:
    many(world, 18)
    for out in ("a", "b"):
        make_preferences(world.config(out, val_share=0.3))
    for name in ("examples.parquet", "pairs.parquet", "rankings.parquet", "sheet.html"):
        first, second = ((world.folder / out / name).read_bytes() for out in ("a", "b"))
        if name == "sheet.html":  # its title is the folder's name
            first, second = first.replace(b": a<", b""), second.replace(b": b<", b"")
        assert first == second, name
    make_preferences(world.config("c", val_share=0.3, seed=1))
    splits = [[e.split for e in read_examples(world.folder / out)] for out in ("a", "c")]
    assert splits[0] != splits[1]


@pytest.mark.postgres
def test_a_journal_in_postgresql_gives_the_same_tables(
    world: World, postgres_database: str
) -> None:
    other = World(world.folder / "other", postgres_database)
    for filled in (world, other):
        many(filled, 6)
        filled.journal.append_event("ranking", "1", ranked(filled, GOOD, BAD))
        make_preferences(filled.config())
    other.journal.close()
    for name in ("examples.parquet", "pairs.parquet", "rankings.parquet"):
        tables = [(filled.folder / "out" / name).read_bytes() for filled in (world, other)]
        assert tables[0] == tables[1], name


def test_no_image_is_on_both_sides(world: World) -> None:
    many(world, 18)
    make_preferences(world.config(val_share=0.4))
    out = world.folder / "out"
    sides: dict[str, set[str]] = {}
    for row in (*read_examples(out), *read_pairs(out), *read_rankings(out)):
        sides.setdefault(row.image_id, set()).add(row.split)
    assert all(len(found) == 1 for found in sides.values())
    assert {"train", "val"} == set.union(*sides.values())


def test_the_report_counts_what_is_in_the_tables(world: World) -> None:
    many(world, 18)
    world.journal.append_event("ranking", "1", ranked(world, GOOD, BAD))
    made = make_preferences(world.config(val_share=0.3))
    out = world.folder / "out"
    report = json.loads((out / "report.json").read_text())
    assert report == json.loads(json.dumps(made))
    for kind, read in (("pairs", read_pairs), ("rankings", read_rankings)):
        for source, counts in report[kind].items():
            for split, count in counts.items():
                assert count == len([r for r in read(out, split) if r.source == source])  # type: ignore[operator]
    assert report["objects"]["submitted"]["val"] == len(read_examples(out, "val"))
    for name, facts in report["files"].items():
        assert facts["sha256"] == hashlib.sha256((out / name).read_bytes()).hexdigest()
    assert report["seed"] == 0 and report["format"] == "strop-preferences-1"
    assert report["command"].startswith("strop-train preferences --journal sqlite:")
    assert set(p.name for p in out.iterdir()) == {
        "examples.parquet", "pairs.parquet", "rankings.parquet", "report.json", "sheet.html",
    }  # fmt: skip


def test_only_one_project_is_taken_where_it_is_named(world: World) -> None:
    world.finished([GOOD, BAD], project_id="1")
    world.finished([GOOD, BAD], project_id="2")
    make_preferences(world.config(project="2"))
    assert [e.project_id for e in read_examples(world.folder / "out")] == ["2"]


def test_an_empty_journal_gives_empty_tables(world: World) -> None:
    report = make_preferences(world.config())
    out = world.folder / "out"
    assert not (read_examples(out) or read_pairs(out) or read_rankings(out))
    assert report["left_out"] == {} and report["images"] == {"train": 0, "val": 0}


def test_a_missing_journal_or_album_leaves_nothing_behind(world: World) -> None:
    with pytest.raises(StoreError, match="no journal at"):
        make_preferences(world.config(journal=f"sqlite:///{world.folder}/none.db"))
    with pytest.raises(InputError, match="no album at"):
        make_preferences(world.config(album=world.folder / "none"))
    assert not [p for p in world.folder.iterdir() if "out" in p.name]
