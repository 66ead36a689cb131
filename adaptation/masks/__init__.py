"""Pure functions on binary masks: agreement, regions, outlines, compressed run lengths.

A mask is a bool array ``[H, W]``.  Coordinates are (x, y) in pixels with pixel centres at whole
numbers, so the outline of pixel (0, 0) runs from -0.5 to 0.5.  Every function is fast on masks of
a dozen megapixels: work is done inside the object's bounding box, and run lengths are found and
packed by whole arrays.
"""

from __future__ import annotations

from adaptation.masks.polygons import Polygon, mask_to_polygons, polygons_to_mask
from adaptation.masks.regions import (
    Mask,
    bounding_box,
    dice,
    erosion_band,
    erosion_radius,
    error_regions,
    iou,
    largest_component,
)
from adaptation.masks.rle import (
    Rle,
    decode_rle,
    encode_part_rle,
    encode_rle,
    rle_iou,
    row_major_boundaries,
    run_lengths,
)

__all__ = [
    "Mask",
    "Polygon",
    "Rle",
    "bounding_box",
    "decode_rle",
    "dice",
    "encode_part_rle",
    "encode_rle",
    "erosion_band",
    "erosion_radius",
    "error_regions",
    "iou",
    "largest_component",
    "mask_to_polygons",
    "polygons_to_mask",
    "rle_iou",
    "row_major_boundaries",
    "run_lengths",
]
