from __future__ import annotations

import cv2
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from adaptation.masks import Mask
from adaptation.types import Click, as_clicks
from training.preferences.regions import corrected_region

SHAPE = (12, 14)
masks = npst.arrays(np.bool_, SHAPE)
clicks = st.builds(
    Click,
    x=st.integers(0, SHAPE[1] - 1),
    y=st.integers(0, SHAPE[0] - 1),
    is_positive=st.booleans(),
)


def block(x: int, y: int, side: int) -> Mask:
    mask = np.zeros((40, 60), dtype=np.bool_)
    mask[y : y + side, x : x + side] = True
    return mask


def test_a_click_takes_the_part_that_it_lies_in_and_no_other() -> None:
    missed, other, extra = block(5, 5, 6), block(30, 5, 6), block(50, 30, 5)
    chosen, rejected = missed | other, extra
    region = corrected_region(chosen, rejected, as_clicks([(7, 7, True)]), 3)
    assert region is not None and (region == missed).all()
    both = as_clicks([(7, 7, True), (52, 32, False)])
    region = corrected_region(chosen, rejected, both, 3)
    assert region is not None and (region == missed | extra).all()


def test_a_click_speaks_of_its_own_kind_of_error_only() -> None:
    missed, extra = block(5, 5, 6), block(11, 5, 6)
    region = corrected_region(missed, extra, as_clicks([(10, 7, True)]), 3)
    assert region is not None and (region == missed).all()
    region = corrected_region(missed, extra, as_clicks([(10, 7, False)]), 3)
    assert region is not None and (region == extra).all()


def test_a_click_beside_a_part_means_it_within_reach() -> None:
    missed, nothing = block(20, 20, 5), np.zeros((40, 60), dtype=np.bool_)
    beside = as_clicks([(17, 22, True)])  # three columns left of the first one
    assert corrected_region(missed, nothing, beside, 3) is not None
    assert corrected_region(missed, nothing, beside, 2.9) is None


def test_without_an_error_or_a_click_there_is_no_region() -> None:
    mask = block(20, 20, 5)
    assert corrected_region(mask, mask, as_clicks([(22, 22, True)]), 3) is None
    assert corrected_region(mask, ~mask, (), 3) is None


@given(masks, masks, st.lists(clicks, max_size=3), st.floats(0, 5))
def test_the_region_is_whole_parts_of_the_error_near_the_clicks(
    chosen: Mask, rejected: Mask, given_clicks: list[Click], reach: float
) -> None:
    expected = np.zeros(SHAPE, dtype=np.bool_)
    for is_positive, errors in ((True, chosen & ~rejected), (False, rejected & ~chosen)):
        _, labels = cv2.connectedComponents(errors.astype(np.uint8), connectivity=8)
        for y, x in np.argwhere(errors):
            if any(
                c.is_positive == is_positive and (c.x - x) ** 2 + (c.y - y) ** 2 <= reach**2
                for c in given_clicks
            ):
                expected |= labels == labels[y, x]
    region = corrected_region(chosen, rejected, given_clicks, reach)
    assert (region is None) == (not expected.any())
    if region is not None:
        np.testing.assert_array_equal(region, expected)
