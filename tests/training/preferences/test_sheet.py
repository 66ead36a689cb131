from __future__ import annotations

import base64
import re

import cv2
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from adaptation.types import Box, Click
from tests.adaptation.journal.samples import square
from tests.training.preferences.world import World
from training.preferences.rows import PreferencePair, Source
from training.preferences.sheet import SIDE, PairSample, draw_pair, write_sheet

CHOSEN, REJECTED = square(4, 4, 10), square(6, 6, 10)


def pair(
    number: int = 0, source: Source = "outcome", image_id: str = "5f0e", **changes: object
) -> PreferencePair:
    values: dict[str, object] = {
        "object_id": "1:40:r", "project_id": "1", "label": "Scratch <b>", "image_id": image_id,
        "image_size": (24, 32), "split": "train",
        "clicks": (Click(x=8, y=8, is_positive=True), Click(x=40, y=-3, is_positive=False)),
        "box": Box(x0=2, y0=2, x1=20, y1=20), "pair_id": f"pair{number}", "source": source,
        "chosen": CHOSEN, "rejected": REJECTED, "region": square(4, 4, 2),
    }  # fmt: skip
    return PreferencePair(**(values | changes))  # type: ignore[arg-type]


def test_four_small_pictures_of_one_size_are_drawn() -> None:
    drawn = draw_pair(pair(), np.full((24, 32, 3), 100, dtype=np.uint8))
    assert list(drawn) == ["prompt", "chosen", "rejected", "difference"]
    shapes = {picture.shape for picture in drawn.values()}
    assert len(shapes) == 1 and max(shapes.pop()) == SIDE
    difference = drawn["difference"].astype(int)
    greenish = difference[..., 1] > difference[..., 0] + 20
    reddish = difference[..., 0] > difference[..., 1] + 20
    # Ten by ten each, eight by eight shared: 36 pixels of either are alone, less the outline.
    assert greenish.sum() > 0 and reddish.sum() > 0
    assert not np.array_equal(drawn["chosen"], drawn["rejected"])


def test_the_page_shows_every_pair_or_says_why_not(world: World) -> None:
    path = world.folder / "sheet.html"
    here, gone = pair(1, image_id=world.image()), pair(2, image_id="f" * 64)
    write_sheet(path, [here, gone], world.album, "Pairs & more")
    page = path.read_text()
    assert "Pairs &amp; more" in page and "Scratch &lt;b&gt;" in page
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    assert len(pictures) == 4
    for picture in pictures:
        content = np.frombuffer(base64.b64decode(picture), np.uint8)
        assert cv2.imdecode(content, cv2.IMREAD_COLOR) is not None
    assert "is not in the album" in page


@given(
    st.lists(st.sampled_from(["outcome", "correction", "choice", "ranking"]), max_size=60),
    st.integers(0, 12),
    st.integers(),
)
def test_the_sample_is_bounded_seeded_and_fair_to_every_source(
    sources: list[Source], size: int, seed: int
) -> None:
    samples = [PairSample(size, seed) for _ in range(2)]
    for number, source in enumerate(sources):
        for sample in samples:
            sample.offer(pair(number, source))
    first, second = (sample.pairs() for sample in samples)
    assert first == second and len(first) == min(size, len(sources))
    assert len({p.pair_id for p in first}) == len(first)
    for source in set(sources):
        count = sum(p.source == source for p in first)
        assert count >= min(sources.count(source), size // len(set(sources)))


def test_in_a_sample_late_pairs_are_as_likely_as_early_ones() -> None:
    late, offered = 0, [pair(number) for number in range(40)]
    for seed in range(200):
        sample = PairSample(4, seed)
        for one in offered:
            sample.offer(one)
        late += sum(int(p.pair_id.removeprefix("pair")) >= 20 for p in sample.pairs())
    # Of 800 draws half are expected; the standard deviation is below 15.
    assert 325 < late < 475
