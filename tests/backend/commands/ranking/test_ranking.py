"""Prompts drawn from a journal, pictures of their masks, and answers read back; no network."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from adaptation.errors import InputError, ProtocolError
from adaptation.journal import (
    BoxRecord,
    ClickRecord,
    InteractionRecord,
    Journal,
    PromptRecord,
)
from adaptation.masks import Rle, encode_rle
from backend.commands.ranking import Wanted
from backend.commands.ranking.choosing import (
    RankingPrompt,
    choose,
    difference,
    load_prompt,
    shuffled,
    three_candidates,
)
from backend.commands.ranking.picture import LONGEST_SIDE, draw_candidates, window_around
from backend.commands.ranking.tasks import (
    TaskKey,
    is_ranking_config,
    label_config,
    read_key,
    read_rankings,
    task_body,
)
from backend.protocol import parse_label_config
from tests.adaptation.journal.samples import SIZE, interaction, region, square, submission

EMPTY = encode_rle(np.zeros(SIZE, dtype=np.bool_))
SMALL, MIDDLE, LARGE = square(4, 4, 8), square(4, 4, 10), square(4, 4, 16)
KEY = TaskKey(request_id="r1", region_ids=("r1-2", "r1-0", "r1-1"))


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(f"sqlite:///{tmp_path}/journal.db") as opened:
        yield opened


def prompt(request_id: str, **changes: Any) -> InteractionRecord:
    """A prompt with three different masks, of an object of its own."""
    masks = changes.pop("masks", (SMALL, MIDDLE, LARGE))
    return interaction(request_id, masks=masks, **{"object_id": request_id, **changes})


# Which masks -------------------------------------------------------------------------------------


def test_the_closest_two_masks_decide_how_far_three_are_apart() -> None:
    # 64 of 100 pixels shared, 100 of 256, 64 of 256: the first two are the closest.
    three = prompt("r").candidates
    assert difference(three) == pytest.approx(1 - 64 / 100)


def test_of_four_masks_the_shown_one_stays_and_the_more_different_ones_join_it() -> None:
    almost = square(4, 4, 9)
    record = prompt("r", masks=(SMALL, almost, MIDDLE, LARGE))
    three = three_candidates(record)
    assert three is not None
    # Without LARGE the closest two share 81 of 100; with it and MIDDLE 64 of 100.
    assert [c.region_id for c in three] == ["r-0", "r-2", "r-3"]


@pytest.mark.parametrize(
    "masks", [(SMALL, LARGE), (EMPTY, SMALL, MIDDLE, LARGE), (SMALL, EMPTY, LARGE)]
)
def test_fewer_than_three_masks_with_pixels_or_an_empty_shown_one_are_nothing_to_rank(
    masks: tuple[Rle, ...],
) -> None:
    assert three_candidates(prompt("r", masks=masks)) is None


def test_a_prompt_that_was_never_answered_is_nothing_to_rank() -> None:
    record = InteractionRecord(**{**_values(prompt("r")), "candidates": ()})
    assert three_candidates(record) is None


def _values(record: InteractionRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in InteractionRecord.__slots__}


# The order of A, B and C -------------------------------------------------------------------------


def test_places_are_shuffled_by_seed_and_prompt_and_tell_nothing() -> None:
    candidates = prompt("r").candidates
    places = Counter()
    for number in range(600):
        names = [c.region_id for c in shuffled(candidates, f"request{number}", seed=0)]
        assert sorted(names) == ["r-0", "r-1", "r-2"]
        places.update((name, place) for place, name in enumerate(names))
    # 200 expected in each of the nine; four standard deviations are 4 * sqrt(600 * 2/9) = 46.
    assert len(places) == 9 and all(abs(count - 200) < 46 for count in places.values())
    once = shuffled(candidates, "request1", seed=3)
    assert once == shuffled(candidates, "request1", seed=3)
    others = [shuffled(candidates, "request1", seed=seed) for seed in range(20)]
    assert any(other != once for other in others)


# Which prompts -----------------------------------------------------------------------------------


def test_prompts_with_masks_too_much_alike_or_too_few_are_counted_and_left_out(
    journal: Journal,
) -> None:
    journal.append_interaction(prompt("good"))
    journal.append_interaction(prompt("alike", masks=(SMALL, SMALL, LARGE)))
    journal.append_interaction(prompt("few", masks=(SMALL,)))
    journal.append_interaction(prompt("elsewhere", project_id="2"))
    names, census = choose(journal, "1", Wanted())
    assert names == ["good"]
    assert (census.n_prompts, census.n_few, census.n_alike) == (3, 1, 1)
    names, census = choose(journal, "1", Wanted(margin=0.5))
    assert names == [] and census.n_alike == 2, "0.36 apart is not 0.5 apart"


def test_one_prompt_of_an_object_is_drawn_by_the_seed_and_a_grown_journal_shuffles_nothing(
    journal: Journal,
) -> None:
    for number in range(20):
        journal.append_interaction(prompt(f"r{number}", object_id=f"object{number // 2}"))
    names, _ = choose(journal, "1", Wanted(seed=1))
    assert len(names) == 10 == len({int(name[1:]) // 2 for name in names})
    assert names == choose(journal, "1", Wanted(seed=1))[0]
    assert names != choose(journal, "1", Wanted(seed=2))[0]
    journal.append_interaction(prompt("later", object_id="another"))
    assert [name for name in choose(journal, "1", Wanted(seed=1))[0] if name != "later"] == names


def test_objects_that_are_there_already_are_not_drawn_again(journal: Journal) -> None:
    for number in range(6):
        journal.append_interaction(prompt(f"r{number}", object_id=f"object{number // 2}"))
    names, census = choose(journal, "1", Wanted(), known={"r2"})
    assert len(names) == 2 and census.n_known == 1
    assert not {"r2", "r3"} & set(names), "neither the prompt nor another one of its object"


def test_finished_objects_can_be_told_from_the_others(journal: Journal) -> None:
    journal.append_interaction(prompt("first", object_id="done"))
    journal.append_interaction(prompt("open"))
    news = submission(region("first-0", SMALL))
    journal.append_submission(news)
    journal.link(news)
    assert choose(journal, "1", Wanted(objects="finished"))[0] == ["first"]
    assert choose(journal, "1", Wanted(objects="unfinished"))[0] == ["open"]
    assert set(choose(journal, "1", Wanted())[0]) == {"first", "open"}


def test_a_drawn_prompt_is_loaded_with_its_masks_in_their_places(journal: Journal) -> None:
    record = prompt("r1")
    journal.append_interaction(record)
    loaded = load_prompt(journal, "r1", seed=5)
    assert loaded.record == record
    assert loaded.candidates == shuffled(record.candidates, "r1", seed=5)


def test_a_journal_with_nothing_to_rank_says_so(journal: Journal) -> None:
    with pytest.raises(InputError, match="has no click of project 1"):
        choose(journal, "1", Wanted())
    journal.append_interaction(prompt("few", masks=(SMALL,)))
    with pytest.raises(InputError, match="None of the 1 prompts of project 1 .* three masks"):
        choose(journal, "1", Wanted())


@pytest.mark.parametrize("wrong", [{"count": 0}, {"margin": -0.1}, {"margin": float("nan")}])
def test_impossible_wishes_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="--(count|margin)"):
        Wanted(**wrong)


# Pictures ----------------------------------------------------------------------------------------

IMAGE_SIZE = (300, 400)


def picture_prompt(**changes: Any) -> InteractionRecord:
    clicks = (
        ClickRecord(id="a", x=120, y=90, is_positive=True),
        ClickRecord(id="b", x=180, y=150, is_positive=False),
    )
    values = {"prompt": PromptRecord(clicks=clicks), "image_size": IMAGE_SIZE} | changes
    masks = tuple(square(100, 70, side, IMAGE_SIZE) for side in (40, 60, 80))
    return prompt("r", masks=masks, **values)


def pixels(file: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(file), formats=["WEBP"]) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_the_window_holds_all_masks_clicks_and_the_box_with_a_margin() -> None:
    mask = np.zeros(IMAGE_SIZE, dtype=np.bool_)
    mask[70:150, 100:180] = True
    # Masks and clicks reach over columns 100..180 and rows 70..150: a margin of 0.2 * 80 = 16.
    record = picture_prompt()
    window = window_around([mask], record.prompt)
    assert (window.x0, window.y0, window.x1, window.y1) == (84, 54, 196, 166)
    box = BoxRecord(id="box", x0=0, y0=10, x1=100, y1=150)
    window = window_around([mask], PromptRecord(box=box))
    # 180 columns now, a margin of 36, cut at the image's border on the left and at the top.
    assert (window.x0, window.y0, window.x1, window.y1) == (0, 0, 216, 186)


def test_pictures_differ_by_their_masks_only() -> None:
    grey = np.full((*IMAGE_SIZE, 3), 128, dtype=np.uint8)
    record = picture_prompt()
    files = draw_candidates(grey, record.prompt, record.candidates)
    small, middle, large = map(pixels, files)
    scale = LONGEST_SIDE / 112  # the window's 112 columns, as above
    assert small.shape == middle.shape == large.shape == (512, 512, 3)
    inside_small = _at(105, 75, scale)
    between = _at(150, 120, scale)
    outside = _at(188, 60, scale)
    for picture in (small, middle, large):
        assert _is_tinted(picture[inside_small]) and not _is_tinted(picture[outside])
    assert not _is_tinted(small[between]) and _is_tinted(middle[between])
    green, red = _at(120 - 1, 90 - 0.8, scale), _at(180 - 1, 150 - 0.8, scale)
    for picture in (small, middle, large):
        assert picture[green][1] > picture[green][[0, 2]].max() + 60
        assert picture[red][0] > picture[red][1:].max() + 60
    assert max(map(len, files)) < 30_000, "three of them travel inside each task"


def _at(x: float, y: float, scale: float) -> tuple[int, int]:
    """Row and column in the picture of a place in the image; its window begins at (84, 54)."""
    return round((y + 0.5 - 54) * scale), round((x + 0.5 - 84) * scale)


def _is_tinted(pixel: np.ndarray) -> bool:
    return bool(pixel[0] > pixel[1] + 40 and pixel[2] > pixel[1] + 40)


def test_a_tiny_object_and_one_as_large_as_the_image_can_be_drawn() -> None:
    image = np.zeros((6000, 40, 3), dtype=np.uint8)
    spot, whole = np.zeros((6000, 40), np.bool_), np.ones((6000, 40), np.bool_)
    spot[20, 20] = True
    click = PromptRecord(clicks=(ClickRecord(id="a", x=20, y=20, is_positive=True),))
    # The pixel and 12 on each side, enlarged eight times; the image made smaller.
    for mask, longest in ((spot, 8 * 25), (whole, LONGEST_SIDE)):
        record = prompt("r", masks=(encode_rle(mask),), image_size=(6000, 40))
        (file,) = draw_candidates(image, click, record.candidates)
        assert max(pixels(file).shape) == longest


# Label Studio's JSON -----------------------------------------------------------------------------


def test_the_labeling_config_is_one_and_is_recognised() -> None:
    images = parse_label_config(label_config()).images
    assert images == {"a": "$cand_a", "b": "$cand_b", "c": "$cand_c"}
    assert is_ranking_config(label_config())
    assert is_ranking_config(label_config().replace("Noise", "Rauschen")), "may be translated"
    assert not is_ranking_config('<View><Image name="image" value="$image"/></View>')
    for point in ("Coverage", "Border", "Extent", "Noise"):
        assert point in label_config()


def test_a_task_holds_three_pictures_and_ids_and_neither_masks_nor_scores() -> None:
    record = prompt("r1")
    order = (record.candidates[2], record.candidates[0], record.candidates[1])
    body = task_body(RankingPrompt(record=record, candidates=order), [b"one", b"two", b"three"])
    data = body["data"]
    assert data["question"] == "Scratch: which mask fits best?"
    assert [item["id"] for item in data["items"]] == ["A", "B", "C"]
    head, _, content = data["cand_b"].partition(",")
    assert head == "data:image/webp;base64" and base64.b64decode(content) == b"two"
    assert body["meta"] == {
        "strop_ranking": {"request_id": "r1", "region_ids": ["r1-2", "r1-0", "r1-1"]}
    }
    assert read_key(body["meta"]) == KEY
    assert record.candidates[0].rle.counts.decode() not in str(body)


@pytest.mark.parametrize(
    "meta",
    [
        {},
        {"strop_ranking": None},
        {"strop_ranking": {"request_id": 1, "region_ids": ["a", "b", "c"]}},
        {"strop_ranking": {"request_id": "r", "region_ids": ["a", "b"]}},
        {"strop_ranking": {"request_id": "r", "region_ids": "abc"}},
    ],
)
def test_tasks_of_somebody_else_are_told_apart(meta: dict[str, Any]) -> None:
    assert read_key(meta) is None


def annotation(rank: str = "CAB", choice: str = "C best", **changes: Any) -> dict[str, Any]:
    """What Label Studio 1.23.2 answers, but for fields that nobody reads."""
    result = []
    if choice:
        value: dict[str, Any] = {"choices": [choice]}
        more = {"id": "rpzHQGB1k6", "from_name": "best_one", "to_name": "a", "type": "choices"}
        result.append({"value": value, **more, "origin": "manual"})
    if rank:
        value = {"ranker": {"rank": list(rank)}}
        more = {"id": "XCiXBiOaWS", "from_name": "rank", "to_name": "results", "type": "ranker"}
        result.append({"value": value, **more, "origin": "manual"})
    entry = {"id": 1, "result": result, "completed_by": 1, "was_cancelled": False}
    entry |= {"updated_at": "2026-11-21T14:53:06.707492Z", "ground_truth": False, "task": 2}
    return entry | changes


def test_a_ranking_is_read_back_through_the_shuffled_places() -> None:
    (found,) = read_rankings("2", KEY, [annotation("CAB", "C best")])
    # A is candidate 2, B is 0, C is 1.
    assert found.order == ("r1-1", "r1-2", "r1-0")
    assert found.best == "r1-1" and found.best_is_usable and not found.is_contradictory
    assert found.annotator == "1" and found.ranking_id == "r1:1"


def test_none_usable_keeps_the_order() -> None:
    (found,) = read_rankings("2", KEY, [annotation("BAC", "none usable")])
    assert found.order == ("r1-0", "r1-2", "r1-1")
    assert not found.best_is_usable and found.best is None and not found.is_contradictory


def test_an_untouched_list_and_a_contradiction_are_noticed() -> None:
    untouched, torn, silent = read_rankings(
        "2", KEY, [annotation("", "B best"), annotation("CAB", "B best"), annotation("CAB", "")]
    )
    assert untouched.order == () and not untouched.is_contradictory
    assert torn.is_contradictory
    assert silent.best is None and silent.best_is_usable and not silent.is_contradictory


def test_skipped_tasks_are_left_out_and_people_may_be_objects() -> None:
    skipped = annotation(was_cancelled=True, result=[])
    (found,) = read_rankings("2", KEY, [skipped, annotation(completed_by={"id": 7, "email": "x"})])
    assert found.annotator == "7"


@pytest.mark.parametrize(
    "broken",
    [
        annotation("CAX"),
        annotation("CA"),
        annotation("CAA"),
        annotation(choice="D best"),
        annotation(result=None),
        annotation(result=[{"from_name": "rank", "value": {}}]),
        annotation(result=[{"from_name": "rank", "value": None}]),
    ],
)
def test_answers_of_another_labeling_config_are_refused_with_their_number(
    broken: dict[str, Any],
) -> None:
    with pytest.raises(ProtocolError, match="annotation 1 of ranking task 2"):
        list(read_rankings("2", KEY, [broken]))
