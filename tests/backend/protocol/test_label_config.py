"""Labeling configs: images, controls, and what to say where one is missing."""

from __future__ import annotations

import pytest

from adaptation.errors import ProtocolError
from backend.protocol import AnswerKind, parse_label_config
from tests.backend.payloads import CONFIG, recorded


def config(*controls: str, image: str = '<Image name="image" value="$image"/>') -> str:
    return f"<View>{image}{''.join(controls)}</View>"


def control(tag: str, *labels: str, name: str | None = None, **attributes: str) -> str:
    extra = "".join(f' {key}="{value}"' for key, value in attributes.items())
    to_name = "" if "toName" in attributes else ' toName="image"'
    inner = "".join(f'<Label value="{label}"/>' for label in labels or ("Object",))
    return f'<{tag} name="{name or tag}"{to_name}{extra}>{inner}</{tag}>'


def test_the_recorded_config_has_all_its_controls() -> None:
    parsed = parse_label_config(recorded("predict_one_click")["label_config"])
    assert parsed.images == {"image": "image"}
    assert {c.name: (c.kind, c.is_smart) for c in parsed.controls} == {
        "kp": ("keypointlabels", True),
        "rect": ("rectanglelabels", True),
        "brush": ("brushlabels", False),
        "poly": ("polygonlabels", False),
        "bitmask": ("bitmasklabels", False),
        "vector": ("vectorlabels", False),
    }
    assert parsed.problems() == ()


def test_the_same_text_is_read_once() -> None:
    assert parse_label_config(CONFIG) is parse_label_config(CONFIG)


def test_the_image_key_comes_from_the_config() -> None:
    parsed = parse_label_config(config(image='<Image name="photo" value="$picture_url"/>'))
    assert parsed.images == {"photo": "picture_url"}


def test_several_images_keep_their_controls_apart() -> None:
    text = config(
        control("BrushLabels", name="brush_a", toName="a"),
        control("BrushLabels", name="brush_b", toName="b"),
        image='<Image name="a" value="$left"/><Image name="b" value="$right"/>',
    )
    parsed = parse_label_config(text)
    assert parsed.images == {"a": "left", "b": "right"}
    assert parsed.answer_control("Object", "b").name == "brush_b"


def test_one_control_may_draw_on_several_images() -> None:
    text = config(
        control("BrushLabels", toName="a,b"),
        image='<Image name="a" value="$left"/><Image name="b" value="$right"/>',
    )
    assert parse_label_config(text).answer_control("Object", "b").to_names == ("a", "b")


def test_a_list_of_images_has_its_key_too() -> None:
    parsed = parse_label_config(config(image='<Image name="pages" valueList="$images"/>'))
    assert parsed.images == {"pages": "images"}


class TestAnswerControl:
    ALL = config(
        control("RectangleLabels"),
        control("VectorLabels"),
        control("PolygonLabels"),
        control("BitmaskLabels"),
        control("BrushLabels"),
    )

    def test_brush_before_bitmask_before_polygon_before_vector_before_rectangle(self) -> None:
        kinds = list(AnswerKind)
        for start, kind in enumerate(kinds):
            text = config(*(control(f"{k.value.title()}Labels") for k in reversed(kinds[start:])))
            found = parse_label_config(text).answer_control("Object", "image")
            assert found.kind == kind.region_type

    def test_a_preference_overrides_the_order(self) -> None:
        parsed = parse_label_config(self.ALL)
        kinds = (AnswerKind.POLYGON, AnswerKind.BRUSH)
        assert parsed.answer_control("Object", "image", kinds).kind == "polygonlabels"

    def test_a_control_without_the_label_is_passed_over(self) -> None:
        text = config(control("BrushLabels", "Other"), control("PolygonLabels", "Object"))
        found = parse_label_config(text).answer_control("Object", "image")
        assert found.kind == "polygonlabels"

    def test_a_missing_label_says_what_to_add(self) -> None:
        parsed = parse_label_config(config(control("BrushLabels", "Other")))
        with pytest.raises(ProtocolError, match=r"label 'Object' on 'image'.*add <BrushLabels"):
            parsed.answer_control("Object", "image")

    def test_labels_from_the_task_are_all_welcome(self) -> None:
        text = config('<BrushLabels name="b" toName="image" value="$labels"/>')
        assert parse_label_config(text).answer_control("Anything", "image").labels is None

    def test_labels_by_alias_are_known_by_their_alias(self) -> None:
        text = config(
            '<BrushLabels name="b" toName="image"><Label value="Scratch" alias="s"/></BrushLabels>'
        )
        assert parse_label_config(text).answer_control("s", "image").labels == ("s",)


class TestProblems:
    def test_no_smart_tool(self) -> None:
        text = config(
            control("KeyPointLabels", smart="false"), control("BrushLabels", smart="false")
        )
        (problem,) = parse_label_config(text).problems()
        assert "no smart tool" in problem and '<KeyPointLabels name="points"' in problem

    def test_controls_are_smart_unless_they_say_no(self) -> None:
        text = config(control("KeyPointLabels"), control("BrushLabels"))
        (problem,) = parse_label_config(text).problems()
        assert "'BrushLabels'" in problem and 'smart="false"' in problem

    def test_a_label_that_can_be_clicked_and_not_answered(self) -> None:
        text = config(
            control("KeyPointLabels", "Object", "Crack"),
            control("BrushLabels", "Object", smart="false"),
        )
        (problem,) = parse_label_config(text).problems()
        assert "'Crack'" in problem and "add <BrushLabels" in problem

    def test_rectangles_alone_answer_themselves_only_if_allowed(self) -> None:
        parsed = parse_label_config(config(control("RectangleLabels", smart="true")))
        assert parsed.problems() == ()
        assert len(parsed.problems([AnswerKind.BRUSH])) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<View><Image", "cannot be read"),
        ("no xml at all", "cannot be read"),
        ("", "cannot be read"),
        ('<?xml version="1.0" encoding="UTF-8"?><View/>', "cannot be read|no image"),
        ('<View><Text name="t" value="$text"/></View>', 'add <Image name="image"'),
        ('<View><Image name="i" value="http://fixed/x.jpg"/></View>', 'add <Image name="image"'),
        ('<View><Image name="i"/></View>', 'add <Image name="image"'),
        (
            '<!DOCTYPE x [<!ENTITY a "b">]><View><Image name="i" value="$i"/></View>',
            "may not declare",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_sentence(text: str, message: str) -> None:
    with pytest.raises(ProtocolError, match=message) as caught:
        parse_label_config(text)
    assert "\n" not in str(caught.value)
