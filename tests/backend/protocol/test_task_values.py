"""``$name`` in a labeling config, found in a task's data as the editor finds it."""

from __future__ import annotations

import pytest

from adaptation.errors import ProtocolError
from backend.protocol import TaskRef, parse_label_config
from backend.protocol.task_values import find_value

DATA = {
    "image": "a.jpg",
    "images": ["b.jpg", {"url": "c.jpg"}],
    "meta": {"images": [{"url": "d.jpg"}], "a key": "e.jpg"},
    "meta.flat": "f.jpg",
    "base": "http://host",
    "name": "g.jpg",
    "number": 7,
    "yes": True,
    "nothing": None,
}


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ("$image", "a.jpg"),
        ("$images[0]", "b.jpg"),
        ("$images[1].url", "c.jpg"),
        ("$images.0", "b.jpg"),
        ("$meta.images[0].url", "d.jpg"),
        ("$meta.flat", "f.jpg"),
        ("$base/$name", "http://host/g.jpg"),
        ("http://host/$image", "http://host/a.jpg"),
        ("$base/$number?x=$yes", "http://host/7?x=true"),
        ("$image$name", "a.jpgg.jpg"),
        ("fixed", "fixed"),
        ("$images", DATA["images"]),
        ("$images[2]", None),
        ("$images[-1]", None),
        ("$images[0].url", None),
        ("$meta.images[x].url", None),
        ("$missing", None),
        ("$nothing", None),
        ("$base/$missing", None),
        ("$base/$images", None),
        ("$bild_ü", None),
    ],
)
def test_what_a_value_stands_for(expression: str, found: object) -> None:
    assert find_value(expression, DATA) == found


def image_ref(tags: str, data: dict[str, object], **where: object) -> str:
    task = TaskRef(task_id="7", project_id="1", data=data)
    return task.image_ref(parse_label_config(f"<View>{tags}</View>"), **where)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "ref"),
    [
        ("$images[0]", "b.jpg"),
        ("$meta.images[0].url", "d.jpg"),
        ("$base/$name", "http://host/g.jpg"),
        ("http://host/$image", "http://host/a.jpg"),
    ],
)
def test_the_image_of_a_task(value: str, ref: str) -> None:
    assert image_ref(f'<Image name="i" value="{value}"/>', DATA) == ref


def test_a_repeated_image() -> None:
    tags = (
        '<Repeater on="$pages"><Image name="image_{{idx}}" value="$pages[{{idx}}].u"/></Repeater>'
    )
    data: dict[str, object] = {"pages": [{"u": "a.jpg"}, {"u": "b.jpg"}]}
    assert image_ref(tags, data, to_name="image_1") == "b.jpg"
    with pytest.raises(ProtocolError, match="no image 'image_2'.*it has: image_0, image_1"):
        image_ref(tags, data, to_name="image_2")
    with pytest.raises(ProtocolError, match="it has: none for this task"):
        image_ref(tags, {})


def test_only_a_few_of_many_repeated_images_are_loaded_ahead() -> None:
    tags = '<Repeater on="$p"><Image name="i_{{idx}}" value="$p[{{idx}}]"/></Repeater>'
    task = TaskRef(task_id="7", project_id="1", data={"p": [f"{i}.jpg" for i in range(100)]})
    refs = task.image_refs(parse_label_config(f"<View>{tags}</View>"))
    assert refs == tuple(f"{i}.jpg" for i in range(8))


def test_a_missing_value_is_named_as_the_config_writes_it() -> None:
    with pytest.raises(ProtocolError, match=r"no image under '\$base/\$nothing'"):
        image_ref('<Image name="i" value="$base/$nothing"/>', DATA)
