"""An annotator clicks in a real Label Studio; the journal has to tell the same story."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import distance_transform_edt
from skimage.feature import peak_local_max
from skimage.filters import gaussian

from adaptation.journal import InteractionRecord, SubmissionRecord
from adaptation.masks import decode_rle, iou
from backend.protocol.brush_rle import decode_brush
from tests.backend.sites import Site
from tests.e2e.browser import Browser, Region
from tests.e2e.demo import ROOT, Demo, eventually

pytestmark = pytest.mark.e2e

SAMPLES = ROOT / "backend" / "commands" / "demo" / "samples"


def interactions(demo: Demo, task_id: str) -> list[InteractionRecord]:
    with demo.journal() as journal:
        return list(journal.interactions(task_id=task_id))


def submissions(demo: Demo, annotation_id: str | None, event: str) -> list[SubmissionRecord]:
    with demo.journal() as journal:
        found = journal.submissions(annotation_id=annotation_id)
        return [record for record in found if record.event == event]


def the_suggestion(browser: Browser) -> Region:
    suggestions = browser.canvas().suggestions
    assert len(suggestions) == 1
    return suggestions[0]


def assert_journaled(record: InteractionRecord, shown: Region) -> None:
    """The mask on the canvas is, pixel by pixel, the one that the journal says was shown."""
    (candidate,) = [candidate for candidate in record.candidates if candidate.was_shown]
    assert shown.region_id == candidate.region_id
    assert shown.mask is not None and shown.mask.any()
    np.testing.assert_array_equal(shown.mask, decode_rle(candidate.rle))


def masks_of(regions: list[Region]) -> dict[str, Region]:
    return {region.region_id: region for region in regions if region.mask is not None}


def test_click_correct_accept_submit_update_delete(
    demo: Demo, browser: Browser, pictures: Path
) -> None:
    task = demo.task("coffee")
    browser.open_task(demo.project_id, task.task_id)

    browser.choose("Object")
    assert browser.click(48, 35) == []
    first = the_suggestion(browser)
    assert_journaled(interactions(demo, task.task_id)[-1], first)
    assert first.labels == ["Object"]

    browser.choose("Object")
    assert browser.click(80, 60, is_positive=False) == []
    refined = the_suggestion(browser)
    record = interactions(demo, task.task_id)[-1]
    assert_journaled(record, refined)
    assert [click.is_positive for click in record.prompt.clicks] == [True, False]
    assert refined.region_id != first.region_id
    browser.screenshot(pictures / "suggestion.jpg")

    browser.accept_all()
    canvas = browser.canvas()
    assert canvas.suggestions == []
    np.testing.assert_array_equal(masks_of(canvas.regions)[refined.region_id].mask, refined.mask)

    browser.choose("Object")
    assert browser.click(12, 85, is_inside_region=True) == []
    second = the_suggestion(browser)
    records = interactions(demo, task.task_id)
    assert_journaled(records[-1], second)
    assert records[-1].object_id != record.object_id, "another object, not another click"
    browser.accept_all()
    browser.screenshot(pictures / "accepted.jpg")

    browser.submit()
    submission = eventually(lambda: submissions(demo, None, "created"))[-1]
    assert submission.task_id == task.task_id
    submitted = {region.region_id: region for region in submission.regions}
    assert submitted.keys() == {refined.region_id, second.region_id}
    for shown in (refined, second):
        rle = submitted[shown.region_id].rle
        assert rle is not None and shown.mask is not None
        np.testing.assert_array_equal(decode_rle(rle), shown.mask)
    assert_exported(demo, submission.annotation_id, [refined, second])
    assert_linked(demo, task.task_id, {refined.region_id: 2, second.region_id: 1})

    add_a_third_object(demo, browser, task.task_id, submission.annotation_id)
    demo.client().http.send_json("DELETE", f"/api/annotations/{submission.annotation_id}/", {})
    eventually(lambda: submissions(demo, submission.annotation_id, "deleted"))
    with demo.journal() as journal:
        assert list(journal.objects(task_id=task.task_id)) == []


def assert_exported(demo: Demo, annotation_id: str, shown: list[Region]) -> None:
    """What Label Studio keeps, and exports, is what was on the canvas."""
    annotation = demo.client().http.get_json(f"/api/annotations/{annotation_id}/")
    results = {entry["id"]: entry for entry in annotation["result"]}
    assert results.keys() == {region.region_id for region in shown}
    for region in shown:
        entry = results[region.region_id]
        size = (entry["original_height"], entry["original_width"])
        np.testing.assert_array_equal(decode_brush(entry["value"]["rle"], size), region.mask)


def assert_linked(demo: Demo, task_id: str, clicks_of: dict[str, int]) -> None:
    """The journal knows which clicks led to each submitted mask."""

    def linked() -> bool:
        with demo.journal() as journal:
            return len(list(journal.links(task_id=task_id))) == len(clicks_of)

    eventually(linked)
    with demo.journal() as journal:
        links = list(journal.links(task_id=task_id))
        objects = list(journal.objects(task_id=task_id))
    assert {link.region_id: link.how for link in links} == dict.fromkeys(clicks_of, "region_id")
    assert not any(link.was_edited for link in links)
    n_clicks = {
        found.submitted.region_id: len(found.interactions[-1].prompt.clicks) for found in objects
    }
    assert n_clicks == clicks_of


def add_a_third_object(demo: Demo, browser: Browser, task_id: str, annotation_id: str) -> None:
    browser.open_task(demo.project_id, task_id)
    browser.choose("Object")
    assert browser.click(90, 12, is_inside_region=True) == []
    third = the_suggestion(browser)
    assert_journaled(interactions(demo, task_id)[-1], third)
    browser.accept_all()
    browser.submit()
    update = eventually(lambda: submissions(demo, annotation_id, "updated"))[-1]
    assert third.region_id in {region.region_id for region in update.regions}
    assert len(update.regions) == 3


def test_nuclei_are_decoded_on_zoomed_views(demo: Demo, browser: Browser, pictures: Path) -> None:
    """Each covers a hundredth of the image: from its second click on it is seen on a crop."""
    task = demo.task("nuclei-fluorescence")
    browser.open_task(demo.project_id, task.task_id)
    spots = nuclei_percent(n_nuclei=5)
    n_zoomed = 0
    for i, (x, y) in enumerate(spots):
        for x_percent in (x, x + 0.5):
            browser.choose("Nucleus")
            # The mask of another nucleus, accepted already, may reach as far as here.
            assert browser.click(x_percent, y, is_inside_region=True) == []
        record = interactions(demo, task.task_id)[-1]
        assert_journaled(record, the_suggestion(browser))
        assert record.label == "Nucleus" and len(record.prompt.clicks) == 2
        n_zoomed += is_zoomed(record)
        if i < len(spots) - 1:
            browser.accept_all()
    browser.screenshot(pictures / "clicks.png")
    # A first mask that is far too large gives a large crop, or none; not so for most of them.
    assert n_zoomed >= 3
    browser.accept_all()
    browser.submit()
    submission = eventually(lambda: of_task(demo, task.task_id))
    assert len(submission.regions) == len(spots)


def is_zoomed(record: InteractionRecord) -> bool:
    """Whether the mask was decoded on a crop, which then holds all clicks."""
    if record.view is None:
        return False
    x0, y0, x1, y1 = record.view
    assert all(x0 <= click.x < x1 and y0 <= click.y < y1 for click in record.prompt.clicks)
    height, width = record.image_size
    return (x1 - x0) * (y1 - y0) < 0.6 * height * width


def of_task(demo: Demo, task_id: str) -> SubmissionRecord | None:
    with demo.journal() as journal:
        return next(iter(journal.submissions(task_id=task_id)), None)


def nuclei_percent(n_nuclei: int) -> list[tuple[float, float]]:
    """The brightest places of the smoothed image, away from its border: the middles of nuclei."""
    with Image.open(SAMPLES / "1-nuclei-fluorescence.jpg") as image:
        grey = np.asarray(image.convert("L"), np.float32)
    height, width = grey.shape
    peaks = peak_local_max(
        gaussian(grey, 15), min_distance=60, exclude_border=60, num_peaks=n_nuclei
    )
    assert len(peaks) == n_nuclei
    return [(100 * (x + 0.5) / width, 100 * (y + 0.5) / height) for y, x in peaks.tolist()]


def test_a_box_gets_a_mask_and_a_click_mends_it(demo: Demo, browser: Browser) -> None:
    """Label Studio never sends box and clicks together; Strop puts them together again."""
    task = demo.task("metal-powder")
    browser.open_task(demo.project_id, task.task_id)
    browser.choose("Object", control="box", tool="RectangleTool")
    assert browser.draw_box(30, 30, 60, 70) == []
    record = interactions(demo, task.task_id)[-1]
    assert record.prompt.box is not None and not record.prompt.clicks
    height, width = record.image_size
    assert record.prompt.box.x0 == pytest.approx(0.3 * width, abs=10)
    assert record.prompt.box.y1 == pytest.approx(0.7 * height, abs=10)
    assert_journaled(record, the_suggestion(browser))
    browser.choose("Object")
    assert browser.click(45, 50, is_inside_region=True) == []
    record = interactions(demo, task.task_id)[-1]
    assert record.prompt.box is not None and len(record.prompt.clicks) == 1
    assert_journaled(record, the_suggestion(browser))


def test_a_turned_photograph_gets_its_mask_where_it_was_clicked(
    demo: Demo, browser: Browser
) -> None:
    """A camera's file: stored on its side, with a tag that tells the browser to turn it."""
    with Image.open(SAMPLES / "6-coffee.jpg") as upright:
        lying = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    lying.save(file, "JPEG", quality=97, exif=exif)
    file.seek(0)
    client = demo.client()
    (turned,) = client.upload(demo.project_id, "turned.jpg", file)
    masks = []
    for task_id in (demo.task("6-coffee").task_id, turned):
        browser.open_task(demo.project_id, task_id)
        browser.choose("Object")
        assert browser.click(48, 35) == []
        shown = the_suggestion(browser)
        assert_journaled(interactions(demo, task_id)[-1], shown)
        assert shown.mask is not None and shown.mask.shape == (400, 600)
        masks.append(shown.mask)
        browser.reject_all()
    assert iou(*masks) > 0.8


def test_an_image_in_a_bucket_is_read_through_label_studios_presigned_address(
    demo: Demo, browser: Browser, bucket: Site
) -> None:
    """Label Studio signs the address; neither its token nor its cookies go to the bucket."""
    bucket.serve("/scans/cat.jpg", (SAMPLES / "5-cat.jpg").read_bytes(), "image/jpeg")
    storage = {"project": int(demo.project_id), "bucket": "scans", "s3_endpoint": bucket.url}
    storage |= {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "presign": True}
    storage |= {"use_blob_urls": True, "region_name": "us-east-1"}
    demo.client().http.send_json("POST", "/api/storages/s3", storage)
    task_id = import_task(demo, "s3://scans/cat.jpg")
    browser.open_task(demo.project_id, task_id)
    browser.choose("Object")
    assert browser.click(50, 50) == []
    record = interactions(demo, task_id)[-1]
    assert_journaled(record, the_suggestion(browser))
    assert "Signature" not in record.image_ref
    fetched = [request for request in bucket.requests if request.path == "/scans/cat.jpg"]
    (by_strop,) = [r for r in fetched if "python-requests" in r.headers["User-Agent"]]
    assert "X-Amz-Signature" in by_strop.query or "Signature" in by_strop.query
    assert not {"Authorization", "Cookie"} & by_strop.headers.keys()


def import_task(demo: Demo, image_ref: str) -> str:
    path = f"/api/projects/{demo.project_id}/import?return_task_ids=1"
    answer = demo.client().http.send_json("POST", path, [{"image": image_ref}])
    return str(answer["task_ids"][0])


def test_an_error_is_shown_nowhere_but_strop_logs_it(demo: Demo, browser: Browser) -> None:
    """The browser may load an image that Strop may not: from a host that is not on its list."""
    with Site().running() as site:
        content = (SAMPLES / "5-cat.jpg").read_bytes()
        url = site.serve("/cat.jpg", content, "image/jpeg")
        task_id = import_task(demo, url)
        browser.open_task(demo.project_id, task_id)
        before = browser.text()
        browser.choose("Object")
        errors = browser.click(50, 50)
    assert len(errors) == 1 and "422" in errors[0]
    assert browser.canvas().suggestions == []
    new_words = set(browser.text().lower().split()) - set(before.lower().split())
    assert not new_words & {"error", "failed", "422", "allowed"}
    assert f"Images are not read from 127.0.0.1:{site.port}" in demo.log()
    assert interactions(demo, task_id) == []


def test_no_secret_reaches_a_log(demo: Demo) -> None:
    _, password = demo.login
    credentials = demo._note("credentials.json")
    secrets = [password, str(credentials["token"]), str(credentials["backend_password"])]
    for name in ("strop.log", "label-studio.log"):
        text = (demo.folder / name).read_text()
        assert text and not any(secret in text for secret in secrets)


TOOL = """(() => {
    const names = window.Htx.annotationStore.selected.names;
    const chosen = [...names.values()].flatMap(tag => (tag.children || []).filter(c => c.selected));
    const tool = names.get('image').getToolsManager().findSelectedTool();
    return [tool && tool.fullName, chosen.map(label => label._value || label.value)];
})()"""


def test_a_point_and_a_box_are_reached_by_the_keys_that_people_are_told(
    demo: Demo, browser: Browser
) -> None:
    task = demo.task("nuclei-stained")
    browser.open_task(demo.project_id, task.task_id)
    for label, tool, wanted in (
        ("1", "k", "KeyPointTool-dynamic"),
        ("4", "r", "RectangleTool-dynamic"),
        ("1", "k", "KeyPointTool-dynamic"),
    ):
        browser.press(label)
        browser.press(tool)
        assert browser.evaluate(TOOL) == [wanted, ["Object"]]
    browser.press("4")
    browser.press("r")
    assert browser.draw_box(30, 30, 60, 70) == []
    assert interactions(demo, task.task_id)[-1].prompt.box is not None
    assert_journaled(interactions(demo, task.task_id)[-1], the_suggestion(browser))


def test_a_submitted_mask_is_corrected_by_clicks(demo: Demo, browser: Browser) -> None:
    """Ctrl+Alt+click on it begins; the answer takes its place, under its id."""
    task = demo.task("nuclei-stained")
    browser.open_task(demo.project_id, task.task_id)
    browser.choose("Object")
    assert browser.click(50, 50) == []
    drawn = the_suggestion(browser)
    browser.accept_all()
    browser.submit()
    created = eventually(lambda: of_task(demo, task.task_id))

    browser.open_task(demo.project_id, task.task_id)
    assert drawn.mask is not None
    row, column = near_the_border(drawn.mask)
    height, width = drawn.mask.shape
    at = 100 * (column + 0.5) / width, 100 * (row + 0.5) / height
    browser.choose("Object")
    assert browser.click(*at, is_positive=False, is_inside_region=True) == []
    record = interactions(demo, task.task_id)[-1]
    assert record.context["edited"] == drawn.region_id
    assert [click.is_positive for click in record.prompt.clicks] == [True, False]
    corrected = the_suggestion(browser)
    assert corrected.region_id == drawn.region_id
    assert_journaled(record, corrected)
    clicked = record.prompt.clicks[-1]  # a pixel or two beside: the browser clicks on whole ones
    assert abs(clicked.x - column) < 3 and abs(clicked.y - row) < 3
    assert corrected.mask is not None and not corrected.mask[int(clicked.y), int(clicked.x)]

    browser.choose("Object")
    assert browser.click(50, 50, is_inside_region=True) == []
    record = interactions(demo, task.task_id)[-1]
    assert [click.is_positive for click in record.prompt.clicks] == [True, False, True]
    corrected = the_suggestion(browser)
    assert_journaled(record, corrected)

    browser.accept_all()
    assert [region.region_id for region in browser.canvas().regions] == [drawn.region_id]
    browser.submit()
    update = eventually(lambda: submissions(demo, created.annotation_id, "updated"))[-1]
    (region,) = update.regions
    assert region.region_id == drawn.region_id and region.rle is not None
    np.testing.assert_array_equal(decode_rle(region.rle), corrected.mask)


def near_the_border(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """A pixel of a mask, a sixth of the way from its border to its middle."""
    depth = distance_transform_edt(mask)
    row, column = np.unravel_index(int(np.abs(depth - depth.max() / 6).argmin()), mask.shape)
    return int(row), int(column)
