"""Brush run lengths, against the encoder and decoder of label-studio-sdk in both directions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from label_studio_sdk.converter import brush

from adaptation.errors import ProtocolError
from adaptation.masks import Mask
from backend.protocol.brush_rle import decode_brush, encode_brush

FIXTURES = Path(__file__).parents[2] / "fixtures" / "label_studio"

masks = hnp.arrays(np.bool_, st.tuples(st.integers(1, 30), st.integers(1, 30)))


@st.composite
def striped(draw: st.DrawFn) -> Mask:
    """Long runs of every length class, up to some beyond the longest a code can hold."""
    runs = draw(st.lists(st.sampled_from([1, 2, 3, 4, 5, 63, 64, 65, 16384, 16385, 40000])))
    width = max(sum(runs), 1)
    values = np.arange(len(runs)) % 2 == draw(st.integers(0, 1))
    return np.resize(np.repeat(values, runs), (1, width)).astype(bool)


def sdk_encode(mask: Mask) -> list[int]:
    encoded: list[int] = brush.mask2rle(mask.astype(np.uint8) * 255)
    return encoded


def sdk_decode(rle: list[int], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    decoded: npt.NDArray[np.uint8] = brush.decode_rle(rle).reshape(*size, 4)
    return decoded


@given(st.one_of(masks, striped()))
@example(np.zeros((1, 1), dtype=bool))
@example(np.ones((1, 16385), dtype=bool))
def test_encoding_gives_the_sdks_bytes(mask: Mask) -> None:
    assert encode_brush(mask) == sdk_encode(mask)


@given(st.one_of(masks, striped()))
def test_the_sdk_decodes_what_we_encode(mask: Mask) -> None:
    channels = sdk_decode(encode_brush(mask), (mask.shape[0], mask.shape[1]))
    assert np.array_equal(channels, np.repeat(mask[..., None] * np.uint8(255), 4, axis=2))


@given(st.one_of(masks, striped()))
def test_we_decode_what_the_sdk_encodes(mask: Mask) -> None:
    assert np.array_equal(decode_brush(sdk_encode(mask), (mask.shape[0], mask.shape[1])), mask)


@given(
    hnp.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12), st.just(4))),
    st.permutations([2, 5, 7, 16]),
)
def test_any_colours_and_length_fields_decode_to_their_alpha(
    channels: npt.NDArray[np.uint8], widths: list[int]
) -> None:
    rle = written_out(channels.reshape(-1).tolist(), widths)
    size = (channels.shape[0], channels.shape[1])
    assert np.array_equal(sdk_decode(rle, size), channels)
    assert np.array_equal(decode_brush(rle, size), channels[..., 3] >= 128)


def written_out(values: list[int], widths: list[int]) -> list[int]:
    """An encoder that writes single values out, as the editor does for hand-drawn strokes."""
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{width - 1:04b}" for width in widths)
    field, position = 0, 0
    while position < len(values):
        field = (field + 1) % 4
        count = min(1 << widths[field], len(values) - position, 5)
        block = values[position : position + count]
        is_repeat = len(set(block)) == 1
        bits += f"{int(is_repeat)}{field:02b}{count - 1:0{widths[field]}b}"
        bits += "".join(f"{value:08b}" for value in (block[:1] if is_repeat else block))
        position += count
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def test_a_recorded_region_decodes_and_encodes_to_the_same_bytes() -> None:
    event = json.loads((FIXTURES / "webhook_annotation_created.json").read_text())
    region = next(r for r in event["annotation"]["result"] if r["type"] == "brushlabels")
    mask = decode_brush(region["value"]["rle"], (400, 600))
    assert mask.sum() == 15708
    assert np.array_equal(mask, sdk_decode(region["value"]["rle"], (400, 600))[..., 3] == 255)
    assert encode_brush(mask) == region["value"]["rle"]


def test_noise_survives() -> None:
    mask = np.random.default_rng(0).random((300, 500)) < 0.5
    assert np.array_equal(decode_brush(encode_brush(mask), (300, 500)), mask)


def test_whole_numbers_encode_like_their_truth() -> None:
    mask = np.array([[0, 1], [255, 0]], dtype=np.uint8)
    assert encode_brush(mask) == encode_brush(mask > 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(0, 5), (5,), (2, 2, 2)])
def test_a_mask_without_pixels_or_sides_is_refused(size: tuple[int, ...]) -> None:
    with pytest.raises(ProtocolError, match="two sides"):
        encode_brush(np.zeros(size, dtype=bool))


def test_another_size_is_refused() -> None:
    rle = encode_brush(np.ones((10, 10), dtype=bool))
    with pytest.raises(ProtocolError, match="holds 1600 values, its rle says 400: .* another size"):
        decode_brush(rle, (20, 20))


@pytest.mark.parametrize("kept", [0, 5, 7, 9])
def test_a_cut_off_stream_is_refused(kept: int) -> None:
    rle = encode_brush(np.eye(10, dtype=bool))[:kept]
    with pytest.raises(ProtocolError, match="cut off"):
        decode_brush(rle, (10, 10))


@pytest.mark.parametrize("rle", [[256, 1], [-1], ["a"], "text", None, [1.5], {"a": 1}])
def test_what_are_no_byte_values_is_refused(rle: object) -> None:
    with pytest.raises(ProtocolError, match="whole numbers 0..255"):
        decode_brush(rle, (2, 2))  # type: ignore[arg-type]


def test_too_many_values_are_refused() -> None:
    rle = encode_brush(np.zeros((4, 4), dtype=bool))
    one_by_one = written_out([0, 0, 0, 0, 0], [3, 4, 8, 16])
    with pytest.raises(ProtocolError, match="too many"):
        decode_brush([0, 0, 0, 4, *one_by_one[4:]], (1, 1))
    assert decode_brush(rle, (4, 4)).sum() == 0


def test_values_of_another_width_are_refused() -> None:
    rle = encode_brush(np.zeros((5, 5), dtype=bool))
    with pytest.raises(ProtocolError, match="8 bits per value"):
        decode_brush([*rle[:4], rle[4] ^ 0b1000_0000, *rle[5:]], (5, 5))


@given(st.binary(max_size=60))
def test_no_bytes_whatever_do_more_than_a_clear_refusal(data: bytes) -> None:
    header = encode_brush(np.zeros((5, 5), dtype=bool))[:6]
    try:
        mask = decode_brush([*header, *data], (5, 5))
    except ProtocolError:
        return
    assert mask.shape == (5, 5)
