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
    assert parsed.images == {"image": "$image"}
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


def test_the_images_value_comes_from_the_config() -> None:
    parsed = parse_label_config(config(image='<Image name="photo" value="$picture_url"/>'))
    assert parsed.images == {"photo": "$picture_url"}


def test_several_images_keep_their_controls_apart() -> None:
    text = config(
        control("BrushLabels", name="brush_a", toName="a"),
        control("BrushLabels", name="brush_b", toName="b"),
        image='<Image name="a" value="$left"/><Image name="b" value="$right"/>',
    )
    parsed = parse_label_config(text)
    assert parsed.images == {"a": "$left", "b": "$right"}
    assert parsed.answer_control("Object", "b").name == "brush_b"


def test_one_control_may_draw_on_several_images() -> None:
    text = config(
        control("BrushLabels", toName="a,b"),
        image='<Image name="a" value="$left"/><Image name="b" value="$right"/>',
    )
    assert parse_label_config(text).answer_control("Object", "b").to_names == ("a", "b")


def test_a_list_of_images_has_its_key_too() -> None:
    parsed = parse_label_config(config(image='<Image name="pages" valueList="$images"/>'))
    assert parsed.images == {"pages": "$images"}


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

    def test_tags_and_attributes_count_in_any_case(self) -> None:
        text = (
            '<view><image NAME="image" VALUE="$image"/><brushlabels name="b" toname="image" '
            'Smart="False"><label VALUE="Object"/></brushlabels></view>'
        )
        found = parse_label_config(text).answer_control("Object", "image")
        assert (found.kind, found.labels, found.is_smart) == ("brushlabels", ("Object",), False)

    def test_a_control_without_toname_draws_on_the_only_image(self) -> None:
        text = config('<BrushLabels name="b"><Label value="Object"/></BrushLabels>')
        assert parse_label_config(text).answer_control("Object", "image").name == "b"

    def test_labels_may_stand_inside_of_other_tags(self) -> None:
        text = config(
            '<BrushLabels name="b" toName="image"><View><Label>Object</Label></View></BrushLabels>'
        )
        assert parse_label_config(text).answer_control("Object", "image").name == "b"


class TestAliases:
    """The editor writes a label's alias where it has one, whatever the other controls call it."""

    KEYPOINT = '<KeyPointLabels name="k" toName="image">{}</KeyPointLabels>'
    BRUSH = '<BrushLabels name="b" toName="image">{}</BrushLabels>'

    @pytest.mark.parametrize(
        ("clicked", "brush", "said", "answered"),
        [
            ('<Label value="Dog" alias="d"/>', '<Label value="Dog"/>', "d", "Dog"),
            ('<Label value="Dog"/>', '<Label value="Dog" alias="d"/>', "Dog", "d"),
            ('<Label value="Dog" alias="d"/>', '<Label value="Dog" alias="x"/>', "d", "x"),
            ('<Label value="Dog" alias="d"/>', '<Label value="Dog" alias="d"/>', "d", "d"),
            (
                '<Label value="Dog" alias="d"/>',
                '<Label value="Dog"/><Label value="d"/>',
                "d",
                "d",
            ),
        ],
    )
    def test_on_one_control_only(self, clicked: str, brush: str, said: str, answered: str) -> None:
        parsed = parse_label_config(config(self.KEYPOINT.format(clicked), self.BRUSH.format(brush)))
        control = parsed.answer_control(said, "image")
        assert control.name == "b"
        assert parsed.label_in(control, said, "image") == answered


class TestLabelsOfTheTask:
    TEXT = config(
        '<KeyPointLabels name="kA" toName="image" value="$a"/>',
        '<KeyPointLabels name="kB" toName="image" value="$b"/>',
        '<BrushLabels name="brA" toName="image" value="$a"/>',
        '<BrushLabels name="brB" toName="image" value="$b"><Label value="own"/></BrushLabels>',
    )
    DATA = {
        "a": [{"value": "cat"}],
        "b": [{"value": "pets", "children": [{"value": "dog", "alias": "d"}]}, "no object", 5],
    }

    def test_each_control_holds_the_labels_that_the_task_brings_to_it(self) -> None:
        parsed = parse_label_config(self.TEXT).for_task(self.DATA)
        assert [parsed.answer_control(x, "image").name for x in ("cat", "d", "pets", "own")] == [
            "brA",
            "brB",
            "brB",
            "brB",
        ]
        with pytest.raises(ProtocolError, match="no control for the mask of label 'cow'"):
            parsed.answer_control("cow", "image")

    def test_data_without_labels_leaves_those_of_the_config(self) -> None:
        for data in ({}, {"b": None}, {"b": "dog"}, {"b": {}}, {"b": [{"value": ["dog"]}]}):
            control = parse_label_config(self.TEXT).for_task(data).control("brB")
            assert control is not None and control.labels == ("own",)

    def test_a_fixed_config_is_the_same_for_every_task(self) -> None:
        parsed = parse_label_config(CONFIG)
        assert parsed.for_task({"image": "a.jpg"}) is parsed


class TestPlainTags:
    """``<Labels>`` beside ``<Brush>`` and ``<KeyPoint>``, instead of ``<BrushLabels>``."""

    def test_the_labels_beside_a_shape_are_its_own(self) -> None:
        parsed = parse_label_config(
            config(
                '<Labels name="l" toName="image"><Label value="Object"/></Labels>',
                '<Brush name="b" toName="image" smart="false"/>',
                '<KeyPoint name="k" toName="image"/>',
            )
        )
        assert parsed.problems() == ()
        found = parsed.answer_control("Object", "image")
        assert (found.name, found.kind, found.label_control) == ("b", "brush", "l")

    def test_without_any_labels_there_is_no_label(self) -> None:
        text = config('<Brush name="b" toName="image"/>', '<KeyPoint name="k" toName="image"/>')
        found = parse_label_config(text).answer_control("", "image")
        assert (found.name, found.label_control) == ("b", None)


class TestRepeater:
    TEXT = (
        '<View><Repeater on="$images" indexFlag="{{i}}">'
        '<Image name="image_{{i}}" value="$images[{{i}}].url"/>'
        '<BrushLabels name="b_{{i}}" toName="image_{{i}}"><Label value="Object"/></BrushLabels>'
        '<View><KeyPointLabels name="k_{{i}}" toName="image_0"><Label value="{{i}}{{i}}"/>'
        "</KeyPointLabels></View></Repeater></View>"
    )

    def test_every_entry_has_its_image_and_its_controls(self) -> None:
        parsed = parse_label_config(self.TEXT).for_task({"images": [{}, {}, {}]})
        assert parsed.images == {f"image_{i}": f"$images[{i}].url" for i in range(3)}
        assert parsed.answer_control("Object", "image_2").name == "b_2"

    def test_inside_of_other_tags_the_editor_writes_the_index_once(self) -> None:
        control = parse_label_config(self.TEXT).for_task({"images": [{}]}).control("k_0")
        assert control is not None and control.labels == ("0{{i}}",)

    @pytest.mark.parametrize("data", [{}, {"images": None}, {"images": "x"}, {"images": []}])
    def test_a_task_without_the_list_has_no_images(self, data: dict[str, object]) -> None:
        assert parse_label_config(self.TEXT).for_task(data).images == {}

    def test_one_list_in_the_other(self) -> None:
        text = (
            '<View><Repeater on="$rows"><Repeater on="$rows[{{idx}}].cells" indexFlag="{{c}}">'
            '<Image name="i_{{idx}}_{{c}}" value="$rows[{{idx}}].cells[{{c}}]"/>'
            "</Repeater></Repeater></View>"
        )
        data = {"rows": [{"cells": ["a", "b"]}, {"cells": ["c"]}]}
        assert list(parse_label_config(text).for_task(data).images) == ["i_0_0", "i_0_1", "i_1_0"]

    def test_nobody_repeats_a_million_tags(self) -> None:
        with pytest.raises(ProtocolError, match="more than 20000 tags"):
            parse_label_config(self.TEXT).for_task({"images": [0] * 1_000_000})


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
        ("<View>" * 200 + "</View>" * 200, "nests more than 100"),
        ("<View>" + "<a/>" * 20_001 + "</View>", "more than 20000 tags"),
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
