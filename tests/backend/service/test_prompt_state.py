"""What is remembered of objects: their states, and which clicks belong to which box."""

from __future__ import annotations

import torch

from adaptation.predictor.interactive import ObjectState
from adaptation.predictor.zoom import View
from adaptation.types import Box, Click
from backend.service.prompt_state import (
    KEPT_STATES,
    BoxesInMemory,
    DrawnBoxes,
    ObjectKey,
    ObjectStates,
    Place,
)

PLACE = Place("1", "7", "image", "Object")
BOX = Box(x0=100, y0=100, x1=200, y1=150)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def click(x: float, y: float, *, is_positive: bool = True) -> Click:
    return Click(x=x, y=y, is_positive=is_positive)


CLICKS = tuple(click(10.0 * i, 5) for i in range(6))


def state(n_clicks: int, box: Box | None = None) -> ObjectState:
    return ObjectState(
        clicks=CLICKS[:n_clicks],
        box=box,
        view=View(0, 0, 60, 40),
        input_size=(40, 60),
        low_res_logits=torch.zeros(1, 1, 4, 4),
    )


def key(object_id: str = "kp-1", task: str = "7") -> ObjectKey:
    return ObjectKey(Place("1", task, "image", "Object"), object_id)


def states(max_objects: int = 10, ttl_s: float = 60) -> tuple[ObjectStates, Clock]:
    clock = Clock()
    return ObjectStates(max_objects=max_objects, ttl_s=ttl_s, clock=clock), clock


# States


def test_the_most_advanced_fitting_state_is_given() -> None:
    kept, _ = states()
    for n in (1, 2, 3):
        kept.put(key(), state(n))
    for n in (2, 3, 4, 5):
        found = kept.before(key(), CLICKS[:n], None)
        assert found is not None
        assert len(found.clicks) == min(n - 1, 3)


def test_a_changed_earlier_click_fits_no_later_state() -> None:
    kept, _ = states()
    for n in (1, 2, 3):
        kept.put(key(), state(n))
    moved = (CLICKS[0], click(99, 99), CLICKS[2])
    found = kept.before(key(), moved, None)
    assert found is not None
    assert len(found.clicks) == 1


def test_states_of_other_objects_and_boxes_are_not_given() -> None:
    kept, _ = states()
    kept.put(key(), state(1))
    assert kept.before(key("kp-2"), CLICKS[:2], None) is None
    assert kept.before(key(task="8"), CLICKS[:2], None) is None
    kept.put(key("rect-1"), state(0, BOX))
    assert kept.before(key("rect-1"), CLICKS[:1], None) is None
    assert kept.before(key("rect-1"), CLICKS[:1], BOX) is not None


def test_only_the_last_states_of_an_object_are_kept() -> None:
    kept, _ = states()
    for n in range(1, KEPT_STATES + 2):
        kept.put(key(), state(n))
    assert kept.before(key(), CLICKS[:2], None) is None


def test_the_least_recently_used_object_is_forgotten_first() -> None:
    kept, _ = states(max_objects=2)
    for name in ("a", "b", "a", "c"):
        kept.put(key(name), state(1))
    assert kept.before(key("b"), CLICKS[:2], None) is None
    assert kept.before(key("a"), CLICKS[:2], None) is not None
    assert len(kept) == 2


def test_an_object_is_forgotten_after_its_time() -> None:
    kept, clock = states(ttl_s=60)
    kept.put(key(), state(1))
    clock.now = 59
    assert kept.before(key(), CLICKS[:2], None) is not None
    clock.now = 60
    assert kept.before(key(), CLICKS[:2], None) is None
    assert len(kept) == 0


def test_a_submitted_task_is_forgotten() -> None:
    kept, _ = states()
    kept.put(key(task="7"), state(1))
    kept.put(key(task="8"), state(1))
    kept.forget_task("1", "7")
    assert kept.before(key(task="7"), CLICKS[:2], None) is None
    assert kept.before(key(task="8"), CLICKS[:2], None) is not None


# Boxes


def drawn(ttl_s: float = 60) -> tuple[DrawnBoxes, Clock]:
    clock = Clock()
    boxes = DrawnBoxes(ttl_s=ttl_s, clock=clock)
    boxes.with_box(PLACE, "rect-1", BOX)
    return boxes, clock


def named(*clicks: tuple[str, float, float]) -> tuple[tuple[str, Click], ...]:
    return tuple((name, click(x, y)) for name, x, y in clicks)


def test_clicks_without_a_box_are_known_by_their_first() -> None:
    boxes = DrawnBoxes(ttl_s=60)
    prompt = boxes.with_clicks(PLACE, named(("a", 1, 1), ("b", 2, 2)))
    assert (prompt.object_id, prompt.box) == ("a", None)
    assert prompt.ids == {"a", "b"}


def test_a_click_inside_or_near_the_box_belongs_to_it() -> None:
    for x, y in ((150, 125), (100, 100), (80, 90), (224, 174)):
        boxes, _ = drawn()
        prompt = boxes.with_clicks(PLACE, named(("a", x, y)))
        assert prompt.object_id == "rect-1", (x, y)
        assert prompt.rectangle == BOX
        assert prompt.ids == {"rect-1", "a"}


def test_a_click_elsewhere_starts_another_object_and_ends_the_box() -> None:
    boxes, _ = drawn()
    assert boxes.with_clicks(PLACE, named(("a", 300, 125))).box is None
    assert boxes.with_clicks(PLACE, named(("b", 150, 125))).box is None


def test_clicks_that_belong_stay_wherever_they_go_and_however_long_it_takes() -> None:
    boxes, clock = drawn(ttl_s=60)
    boxes.with_clicks(PLACE, named(("a", 150, 125)))
    clock.now = 1000
    later = boxes.with_clicks(PLACE, named(("a", 150, 125), ("b", 500, 300)))
    assert later.object_id == "rect-1"
    without_the_first = boxes.with_clicks(PLACE, named(("b", 500, 300)))
    assert without_the_first.object_id == "rect-1"


def test_clicks_of_which_none_is_known_are_another_object() -> None:
    boxes, _ = drawn()
    boxes.with_clicks(PLACE, named(("a", 150, 125)))
    assert boxes.with_clicks(PLACE, named(("c", 150, 125))).object_id == "c"


def test_a_box_waits_only_for_a_while() -> None:
    boxes, clock = drawn(ttl_s=60)
    clock.now = 60
    assert boxes.with_clicks(PLACE, named(("a", 150, 125))).box is None


def test_a_box_that_moves_keeps_its_clicks_and_another_box_does_not() -> None:
    boxes, _ = drawn()
    boxes.with_clicks(PLACE, named(("a", 150, 125)))
    moved = boxes.with_box(PLACE, "rect-1", Box(x0=90, y0=90, x1=210, y1=160))
    assert [name for name, _ in moved.clicks] == ["a"]
    assert moved.is_answerable
    other = boxes.with_box(PLACE, "rect-2", BOX)
    assert (other.object_id, other.clicks) == ("rect-2", ())


def test_boxes_of_other_labels_tasks_and_images_are_not_mixed() -> None:
    boxes, _ = drawn()
    for place in (
        Place("1", "7", "image", "Other"),
        Place("1", "8", "image", "Object"),
        Place("1", "7", "second", "Object"),
        Place("2", "7", "image", "Object"),
    ):
        assert boxes.with_clicks(place, named(("a", 150, 125))).box is None
    assert boxes.with_clicks(PLACE, named(("a", 150, 125))).box is not None


def test_a_submitted_task_has_no_boxes() -> None:
    boxes, _ = drawn()
    boxes.forget_task("1", "7")
    assert boxes.with_clicks(PLACE, named(("a", 150, 125))).box is None


def test_only_so_many_places_are_remembered() -> None:
    boxes = DrawnBoxes(ttl_s=60, keeper=BoxesInMemory(2))
    places = [Place("1", str(task), "image", "Object") for task in range(3)]
    for place in places:
        boxes.with_box(place, "rect-1", BOX)
    found = [boxes.with_clicks(p, named(("a", 150, 125))).box is not None for p in places]
    assert found == [False, True, True]


def test_a_prompt_needs_a_box_or_a_positive_click() -> None:
    boxes, _ = drawn()
    off = (("a", click(150, 125, is_positive=False)),)
    assert boxes.with_clicks(PLACE, off).is_answerable
    assert not DrawnBoxes(ttl_s=60).with_clicks(PLACE, off).is_answerable
