"""Masks: agreement, regions, outlines and run lengths, against definitions and pycocotools."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco
from scipy import ndimage

from adaptation import masks
from adaptation.errors import InputError
from adaptation.masks import Mask, Rle
from adaptation.types import Box

sizes = st.tuples(st.integers(1, 24), st.integers(1, 24))
any_mask = hnp.arrays(np.bool_, sizes)


@st.composite
def blobs(draw: st.DrawFn) -> Mask:
    """Masks with structure: a few boxes, added or cut out."""
    height, width = draw(st.tuples(st.integers(1, 60), st.integers(1, 60)))
    mask = np.zeros((height, width), dtype=np.bool_)
    for _ in range(draw(st.integers(0, 5))):
        y, x = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        h, w = draw(st.integers(1, 30)), draw(st.integers(1, 30))
        mask[y : y + h, x : x + w] = draw(st.booleans())
    return mask


def disc(size: tuple[int, int], centre: tuple[float, float], radius: float) -> Mask:
    y, x = np.ogrid[: size[0], : size[1]]
    return (x - centre[0]) ** 2 + (y - centre[1]) ** 2 <= radius**2


class TestAgreement:
    def test_iou_and_dice_of_a_known_overlap(self) -> None:
        a = np.array([[1, 1, 1, 0]], dtype=bool)
        b = np.array([[0, 1, 1, 1]], dtype=bool)
        assert masks.iou(a, b) == 2 / 4
        assert masks.dice(a, b) == 4 / 6

    def test_two_empty_masks_agree_and_one_empty_does_not(self) -> None:
        empty, full = np.zeros((3, 3), dtype=bool), np.ones((3, 3), dtype=bool)
        assert masks.iou(empty, empty) == masks.dice(empty, empty) == 1.0
        assert masks.iou(empty, full) == masks.dice(empty, full) == 0.0

    def test_ignored_pixels_do_not_count(self) -> None:
        a = np.array([[1, 1, 0, 0]], dtype=bool)
        b = np.array([[1, 0, 1, 0]], dtype=bool)
        ignore = np.array([[0, 1, 1, 0]], dtype=bool)
        assert masks.iou(a, b, ignore) == 1.0

    def test_sizes_must_agree(self) -> None:
        with pytest.raises(InputError, match="same size"):
            masks.iou(np.zeros((2, 3), dtype=bool), np.zeros((3, 2), dtype=bool))

    @given(any_mask, st.data())
    def test_errors_are_exactly_what_must_change(self, truth: Mask, data: st.DataObject) -> None:
        mask = data.draw(hnp.arrays(np.bool_, truth.shape))
        missed, extra = masks.error_regions(truth, mask)
        assert np.array_equal((mask | missed) & ~extra, truth)
        assert not (missed & extra).any()

    def test_errors_leave_out_ignored_pixels(self) -> None:
        truth, mask = np.array([[1, 1, 0, 0]], dtype=bool), np.array([[0, 1, 1, 1]], dtype=bool)
        missed, extra = masks.error_regions(truth, mask, np.array([[1, 0, 0, 1]], dtype=bool))
        assert missed.tolist() == [[False] * 4]
        assert extra.tolist() == [[False, False, True, False]]


class TestRegions:
    def test_box_ends_one_past_the_last_pixel(self) -> None:
        mask = np.zeros((10, 20), dtype=bool)
        mask[2:5, 7] = True
        assert masks.bounding_box(mask) == Box(x0=7, y0=2, x1=8, y1=5)

    def test_nothing_has_no_box(self) -> None:
        assert masks.bounding_box(np.zeros((4, 4), dtype=bool)) is None

    @given(any_mask)
    def test_box_is_tight(self, mask: Mask) -> None:
        box = masks.bounding_box(mask)
        if box is None:
            assert not mask.any()
            return
        inside = mask[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)]
        assert inside.sum() == mask.sum()
        assert inside[0].any() and inside[-1].any()
        assert inside[:, 0].any() and inside[:, -1].any()

    def test_largest_component_keeps_diagonal_neighbours_together(self) -> None:
        mask = np.eye(5, dtype=bool)
        mask[0, 4] = mask[1, 4] = True
        assert np.array_equal(masks.largest_component(mask), np.eye(5, dtype=bool))

    @given(any_mask)
    def test_largest_component_is_as_large_as_any(self, mask: Mask) -> None:
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        largest = max((int((labels == k).sum()) for k in range(1, count + 1)), default=0)
        kept = masks.largest_component(mask)
        assert kept.sum() == largest
        assert not (kept & ~mask).any()


class TestErosionBand:
    def test_radius_one_takes_the_four_neighbours(self) -> None:
        mask = np.zeros((9, 9), dtype=bool)
        mask[2:7, 2:7] = True
        positive, negative = masks.erosion_band(mask, 1.0)
        cross = ndimage.generate_binary_structure(2, 1)
        assert np.array_equal(positive, ndimage.binary_erosion(mask, cross))
        assert np.array_equal(~negative, ndimage.binary_dilation(mask, cross))

    @given(blobs(), st.floats(0.5, 6))
    def test_labels_are_on_their_side_and_never_vanish(self, mask: Mask, radius: float) -> None:
        positive, negative = masks.erosion_band(mask, radius)
        assert not (positive & ~mask).any()
        assert not (negative & mask).any()
        assert positive.any() == mask.any()
        assert negative.any() == (~mask).any()

    def test_the_images_border_erodes_nothing(self) -> None:
        mask = np.zeros((20, 20), dtype=bool)
        mask[:, :10] = True
        positive, negative = masks.erosion_band(mask, 3.0)
        assert positive[:, :7].all() and not positive[:, 7:].any()
        assert negative[:, 13:].all() and not negative[:, :13].any()

    def test_a_thin_object_keeps_its_middle(self) -> None:
        mask = np.zeros((20, 30), dtype=bool)
        mask[8:11, 3:27] = True
        positive, _ = masks.erosion_band(mask, 5.0)
        assert positive[9, 4:26].all()
        assert not positive[8].any() and not positive[10].any()

    def test_radius_grows_with_the_object_within_bounds(self) -> None:
        def radius(side: int) -> float:
            return masks.erosion_radius(np.ones((side, side), dtype=bool))

        assert radius(4) == 1.0
        assert radius(100) == pytest.approx(4.0)
        assert radius(1000) == 16.0


class TestOutlines:
    @given(any_mask)
    def test_exact_outlines_give_the_mask_back_without_its_holes(self, mask: Mask) -> None:
        polygons = masks.mask_to_polygons(mask, tolerance=0)
        restored = np.zeros_like(mask)
        for polygon in polygons:
            restored |= masks.polygons_to_mask([polygon], (mask.shape[0], mask.shape[1]))
        expected = np.zeros_like(mask)
        labels, count = ndimage.label(mask)
        for part in range(1, count + 1):
            # A hole closed only by touching corners is open to the 4-connected walk: 8-connected
            # background outside a part is what its outline leaves out.
            outside, _ = ndimage.label(
                np.pad(labels != part, 1, constant_values=True), structure=np.ones((3, 3))
            )
            expected |= (outside != outside[0, 0])[1:-1, 1:-1]
        assert np.array_equal(restored, expected)

    def test_a_pixel_is_outlined_along_its_edges(self) -> None:
        mask = np.zeros((5, 5), dtype=bool)
        mask[2, 3] = True
        (polygon,) = masks.mask_to_polygons(mask, tolerance=0)
        assert polygon.tolist() == [[2.5, 1.5], [3.5, 1.5], [3.5, 2.5], [2.5, 2.5]]

    def test_parts_come_largest_first_and_crumbs_can_be_left_out(self) -> None:
        mask = np.zeros((40, 40), dtype=bool)
        mask[1, 1] = True
        mask[5:10, 5:10] = True
        mask[20:40, 20:40] = True
        everything = masks.mask_to_polygons(mask)
        assert [len(p) for p in everything] == [4, 4, 4]
        assert everything[0].min() == 19.5
        assert len(masks.mask_to_polygons(mask, min_share=0.05)) == 2

    def test_thinning_saves_corners_and_keeps_the_shape(self) -> None:
        mask = disc((300, 300), (150, 150), 120)
        (exact,) = masks.mask_to_polygons(mask, tolerance=0)
        (thin,) = masks.mask_to_polygons(mask, tolerance=1.0)
        assert len(thin) < len(exact) / 6
        assert masks.iou(masks.polygons_to_mask([thin], (300, 300)), mask) > 0.98

    @pytest.mark.parametrize("tolerance", [0.0, 1.0, 5.0, 50.0])
    def test_a_tiny_part_never_thins_out_to_nothing(self, tolerance: float) -> None:
        mask = np.zeros((5, 30), dtype=bool)
        mask[2, 4:20] = True
        (polygon,) = masks.mask_to_polygons(mask, tolerance=tolerance)
        assert masks.iou(masks.polygons_to_mask([polygon], (5, 30)), mask) > 0.4

    def test_a_speck_is_followed_more_closely_than_the_tolerance(self) -> None:
        mask = disc((20, 20), (10, 10), 5)
        assert np.array_equal(
            masks.polygons_to_mask(masks.mask_to_polygons(mask, tolerance=3), (20, 20)), mask
        )

    def test_no_polygons_and_polygons_elsewhere_fill_nothing(self) -> None:
        assert not masks.polygons_to_mask([], (4, 4)).any()
        assert not masks.polygons_to_mask([[(0, -9), (9, -9), (9, -5)]], (4, 4)).any()

    def test_a_view_into_a_larger_mask_is_outlined_alike(self) -> None:
        whole = disc((60, 50), (20, 30), 12)
        (view,) = masks.mask_to_polygons(whole[10:50:2, 5:45:3].T)
        (copy,) = masks.mask_to_polygons(whole[10:50:2, 5:45:3].T.copy())
        assert np.array_equal(view, copy)

    def test_an_empty_mask_has_no_outline(self) -> None:
        assert masks.mask_to_polygons(np.zeros((4, 4), dtype=bool)) == []

    def test_a_polygon_inside_another_is_a_hole(self) -> None:
        outer = [(0, 0), (10, 0), (10, 10), (0, 10)]
        inner = [(3, 3), (6, 3), (6, 6), (3, 6)]
        mask = masks.polygons_to_mask([outer, inner], (12, 12))
        assert mask.sum() == 100 - 9
        assert not mask[4, 4]

    def test_polygons_are_cut_at_the_images_border(self) -> None:
        mask = masks.polygons_to_mask([[(-5, -5), (50, -5), (50, 50), (-5, 50)]], (8, 9))
        assert mask.all()

    def test_neighbours_share_an_edge_and_no_pixel(self) -> None:
        left = masks.polygons_to_mask([[(0, 0), (5, 0), (5, 9), (0, 9)]], (10, 10))
        right = masks.polygons_to_mask([[(5, 0), (9, 0), (9, 9), (5, 9)]], (10, 10))
        assert not (left & right).any()
        assert (left | right).sum() == 81

    @pytest.mark.parametrize(
        "polygon", [[(0, 0), (1, 1)], [1, 2, 3], [(0, 0), (1, 0), (np.nan, 1)]], ids=str
    )
    def test_what_is_no_polygon_is_refused(self, polygon: list[tuple[float, float]]) -> None:
        with pytest.raises(InputError, match="polygon needs"):
            masks.polygons_to_mask([polygon], (5, 5))

    def test_an_endless_zigzag_is_refused_before_it_is_drawn(self) -> None:
        corners = np.random.default_rng(0).uniform(0, 4000, (100_000, 2))
        with pytest.raises(InputError, match="100000 corners zigzags"):
            masks.polygons_to_mask([corners], (4000, 4000))
        assert masks.polygons_to_mask([corners / 100], (40, 40)).any()


class TestRunLengths:
    @given(st.one_of(any_mask, blobs()))
    def test_counts_are_those_of_pycocotools(self, mask: Mask) -> None:
        expected = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        rle = masks.encode_rle(mask)
        assert rle.counts == expected["counts"]
        assert list(rle.size) == expected["size"]

    @given(st.one_of(any_mask, blobs()))
    def test_decoding_restores_the_mask(self, mask: Mask) -> None:
        restored = masks.decode_rle(masks.encode_rle(mask))
        assert restored.flags.c_contiguous
        assert np.array_equal(restored, mask)

    def test_a_mask_without_pixels_survives(self) -> None:
        rle = masks.encode_rle(np.zeros((0, 5), dtype=bool))
        assert masks.decode_rle(rle).shape == (0, 5)

    @pytest.mark.filterwarnings("ignore:__array__ impl:DeprecationWarning")  # pycocotools' own
    def test_pycocotools_reads_a_large_mask(self) -> None:
        mask = disc((1200, 900), (700.5, 300.2), 290)
        rle = masks.encode_rle(mask)
        decoded = coco.decode({"size": list(rle.size), "counts": rle.counts})
        assert np.array_equal(decoded.astype(bool), mask)

    @pytest.mark.parametrize("counts", [b"", b"P", b"\x00", b"0", b"oooooooooo0", "é".encode()])
    def test_broken_counts_are_refused(self, counts: bytes) -> None:
        with pytest.raises(InputError):
            masks.decode_rle(Rle(size=(3, 4), counts=counts))

    def test_counts_of_another_size_are_refused(self) -> None:
        rle = masks.encode_rle(np.ones((3, 4), dtype=bool))
        with pytest.raises(InputError, match="20 pixels, got 12"):
            masks.decode_rle(Rle(size=(5, 4), counts=rle.counts))


@given(
    hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=9)),
    st.tuples(*[st.integers(0, 4)] * 4),
)
def test_a_part_is_placed_into_a_larger_mask_without_decoding(
    part: Mask, margins: tuple[int, int, int, int]
) -> None:
    left, top, right, bottom = margins
    whole = np.pad(part, ((top, bottom), (left, right)))
    part_size, size = (part.shape[0], part.shape[1]), (whole.shape[0], whole.shape[1])
    placed = masks.encode_part_rle(part, part_size, size, left, top)
    assert placed == masks.encode_rle(whole)


@pytest.mark.parametrize(("x0", "y0"), [(-1, 0), (0, -1), (3, 0), (0, 3)])
def test_a_part_that_reaches_out_of_the_whole_is_refused(x0: int, y0: int) -> None:
    part = np.ones((4, 4), dtype=bool)
    with pytest.raises(InputError, match="does not fit"):
        masks.encode_part_rle(part, (4, 4), (6, 6), x0, y0)


@given(
    hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=7)),
    st.integers(0, 9),
    st.integers(0, 9),
)
def test_a_mask_is_enlarged_without_decoding(small: Mask, taller: int, wider: int) -> None:
    height, width = small.shape[0] + taller, small.shape[1] + wider
    rows = np.arange(height) * small.shape[0] // height
    columns = np.arange(width) * small.shape[1] // width
    enlarged = masks.encode_part_rle(small, (height, width), (height, width))
    assert enlarged == masks.encode_rle(small[rows][:, columns])


def test_a_mask_is_never_enlarged_to_a_smaller_one() -> None:
    with pytest.raises(InputError, match="cannot be enlarged"):
        masks.encode_part_rle(np.ones((4, 4), dtype=bool), (3, 8), (3, 8))


@given(
    hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=7)),
    st.tuples(*[st.integers(0, 9)] * 6),
)
def test_a_small_drawing_of_a_part_becomes_a_mask_of_the_whole(
    small: Mask, extra: tuple[int, int, int, int, int, int]
) -> None:
    taller, wider, left, top, right, bottom = extra
    height, width = small.shape[0] + taller, small.shape[1] + wider
    rows = np.arange(height) * small.shape[0] // height
    columns = np.arange(width) * small.shape[1] // width
    whole = np.pad(small[rows][:, columns], ((top, bottom), (left, right)))
    size = whole.shape[0], whole.shape[1]
    rle = masks.encode_part_rle(small, (height, width), size, left, top)
    assert rle == masks.encode_rle(whole)


@given(st.one_of(any_mask, blobs()))
def test_boundaries_lie_where_a_pixel_differs_from_the_one_before(mask: Mask) -> None:
    pixels = mask.reshape(-1)
    expected = [i for i in range(1, mask.size) if pixels[i] != pixels[i - 1]]
    assert masks.row_major_boundaries(mask).tolist() == expected
