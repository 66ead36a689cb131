"""The compact model: SAM's interfaces, prompts of every kind, windows, threads, weights."""

from __future__ import annotations

import copy
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from segment_anything import SamPredictor
from segment_anything.modeling import Sam
from torch import Tensor

from adaptation.errors import ModelError
from adaptation.models.compact.click_maps import (
    click_proximity,
    click_similarity,
    draw_boxes,
    draw_clicks,
)
from adaptation.models.compact.model import Points, build_compact, load_compact, load_strictly
from adaptation.models.compact.trunk import (
    TAP_CHANNELS,
    EfficientNetLite0,
    SameConv2d,
    fold_batch_norm,
)
from adaptation.types import Window

SIZE = 64


@pytest.fixture(scope="module")
def compact() -> Sam:
    torch.manual_seed(0)
    return build_compact(input_size=SIZE, dim=16, mlp_dim=32, n_heads=4)


@pytest.fixture(scope="module")
def embedding(compact: Sam) -> Tensor:
    with torch.no_grad():
        features: Tensor = compact.image_encoder(torch.rand(1, 3, SIZE, SIZE))
    return features


def clicks(*points: tuple[float, float, int]) -> Points:
    coords = torch.tensor([[point[:2] for point in points]], dtype=torch.float32)
    return coords, torch.tensor([[point[2] for point in points]])


def decode(
    sam: Sam,
    embedding: Tensor,
    points: Points | None,
    boxes: Tensor | None = None,
    masks: Tensor | None = None,
) -> Tensor:
    sparse, dense = sam.prompt_encoder(points, boxes, masks)
    pe = sam.prompt_encoder.get_dense_pe()
    logits, _ = sam.mask_decoder.predict_masks(embedding, pe, sparse, dense)
    assert isinstance(logits, Tensor)
    return logits


# Size and parts


def test_the_full_model_is_small_enough_to_be_embedded() -> None:
    sam = build_compact()
    decoder = sum(p.numel() for p in sam.mask_decoder.parameters())
    everything = sum(p.numel() for p in sam.parameters())
    assert 0.7e6 < decoder < 0.9e6
    assert everything * 2 < 9e6  # bytes in fp16


def test_the_decoder_has_no_buffers(compact: Sam) -> None:
    assert dict(compact.mask_decoder.named_buffers()) == {}


@pytest.mark.parametrize("arguments", [{"input_size": 100}, {"dim": 20}])
def test_impossible_sizes_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="multiple of"):
        build_compact(**arguments)


def test_a_folded_norm_computes_what_the_two_layers_did() -> None:
    conv = torch.nn.Conv2d(3, 4, 3, stride=2, bias=False)
    norm = torch.nn.BatchNorm2d(4).eval()
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2), norm.bias.normal_()
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
    folded = SameConv2d(3, 4, 3, stride=2)
    fold_batch_norm(folded, conv.weight, norm)
    x = torch.rand(1, 3, 8, 8)
    padded = torch.nn.functional.pad(x, (0, 1, 0, 1))  # "same" for an even input at stride 2
    torch.testing.assert_close(folded(x), norm(conv(padded)))


def test_the_trunk_gives_a_feature_map_at_each_stride() -> None:
    taps = EfficientNetLite0()(torch.rand(1, 3, 64, 96))
    for stride, channels in TAP_CHANNELS.items():
        assert taps[stride].shape == (1, channels, 64 // stride, 96 // stride)


# SAM's interface


def test_sam_predictor_runs_on_it(compact: Sam) -> None:
    predictor = SamPredictor(compact)
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    predictor.set_image(image)
    masks, quality, low_res = predictor.predict(
        point_coords=np.array([[20.0, 10.0]]), point_labels=np.array([1])
    )
    assert masks.shape == (3, 40, 60) and masks.dtype == bool
    assert quality.shape == (3,) and low_res.shape == (3, 32, 32)
    again, _, _ = predictor.predict(
        point_coords=np.array([[20.0, 10.0], [50.0, 30.0]]),
        point_labels=np.array([1, 0]),
        box=np.array([5.0, 5.0, 40.0, 30.0]),
        mask_input=low_res[:1],
        multimask_output=False,
    )
    assert again.shape == (1, 40, 60)


def test_predict_masks_is_a_part_of_predict_with_features(compact: Sam, embedding: Tensor) -> None:
    sparse, dense = compact.prompt_encoder(clicks((10, 20, 1)), None, None)
    pe = compact.prompt_encoder.get_dense_pe()
    decoder = compact.mask_decoder
    logits, quality = decoder.predict_masks(embedding, pe, sparse, dense)
    full, full_quality, upscaled, hyper = decoder.predict_with_features(
        embedding, pe, sparse, dense
    )
    assert full.shape == (1, 4, 32, 32) and full_quality.shape == (1, 4)
    assert upscaled.shape == (1, 32, 32, 32) and hyper.shape == (1, 4, 32)
    assert torch.equal(logits, full) and torch.equal(quality, full_quality)


def test_one_embedding_serves_many_prompts_like_its_copies(compact: Sam, embedding: Tensor) -> None:
    points = torch.tensor([[[9.0, 9.0]], [[40.0, 20.0]], [[5.0, 60.0]]]), torch.ones(3, 1)
    shared = decode(compact, embedding, points)
    copied = decode(compact, embedding.expand(3, -1, -1, -1), points)
    torch.testing.assert_close(shared, copied)


def test_a_prompt_does_not_depend_on_its_neighbours(compact: Sam, embedding: Tensor) -> None:
    points = torch.tensor([[[9.0, 9.0]], [[40.0, 20.0]]]), torch.ones(2, 1)
    together = decode(compact, embedding, points)
    alone = decode(compact, embedding, (points[0][1:], points[1][1:]))
    torch.testing.assert_close(together[1:], alone)


def test_embeddings_that_fit_no_prompt_are_refused(compact: Sam, embedding: Tensor) -> None:
    points = torch.zeros(3, 1, 2), torch.ones(3, 1)
    with pytest.raises(ValueError, match="3 prompts need 1 or 3 embeddings, got 2"):
        decode(compact, embedding.expand(2, -1, -1, -1), points)


# Prompts


def test_the_order_of_the_clicks_does_not_matter(compact: Sam, embedding: Tensor) -> None:
    one_way = decode(compact, embedding, clicks((9, 9, 1), (40, 20, 0), (20, 50, 1)))
    other_way = decode(compact, embedding, clicks((20, 50, 1), (9, 9, 1), (40, 20, 0)))
    torch.testing.assert_close(one_way, other_way, rtol=1e-3, atol=1e-3)


def test_a_fresh_model_already_follows_clicks_and_boxes(compact: Sam, embedding: Tensor) -> None:
    logits = decode(compact, embedding, clicks((12, 12, 1), (52, 52, 0)))[0, 0]
    assert logits[6, 6] > logits[26, 26] + 3
    boxed = decode(compact, embedding, None, torch.tensor([[8.0, 8.0, 30.0, 30.0]]))[0, 0]
    assert boxed[6:14, 6:14].mean() > boxed[20:, 20:].mean() + 2


def test_the_previous_mask_shows_through(compact: Sam, embedding: Tensor) -> None:
    previous = torch.full((1, 1, 32, 32), -10.0)
    previous[..., :16] = 10.0
    logits = decode(compact, embedding, clicks((12, 12, 1)), masks=previous)[0, 0]
    without = decode(compact, embedding, clicks((12, 12, 1)))[0, 0]
    change = logits - without
    assert change[:, :16].mean() > change[:, 16:].mean()


def test_a_mask_alone_is_a_prompt(compact: Sam, embedding: Tensor) -> None:
    logits = decode(compact, embedding, None, masks=torch.zeros(2, 1, 32, 32))
    assert logits.shape == (2, 4, 32, 32) and torch.isfinite(logits).all()


def test_box_corners_are_no_clicks(compact: Sam) -> None:
    sparse, _ = compact.prompt_encoder(clicks((12, 12, 1)), torch.tensor([[4.0, 4, 30, 30]]), None)
    assert sparse.shape == (1, 3, 16 + 3)
    assert sparse[0, :, -1].tolist() == [1, -1, -1]
    torch.testing.assert_close(sparse[0, 1, -3:-1], torch.full((2,), 4.5 / 32 - 1))


def test_a_box_without_clicks_is_compared_with_its_middle(compact: Sam) -> None:
    sparse, dense = compact.prompt_encoder(None, torch.tensor([[4.0, 4, 30, 20]]), None)
    assert sparse.shape == (1, 3, 16 + 3)
    assert sparse[0, :, -1].tolist() == [1, -1, -1]
    torch.testing.assert_close(sparse[0, 0, -3:-1], torch.tensor([17.5, 12.5]) / 32 - 1)
    padding = compact.prompt_encoder.not_a_point_embed.weight[0]
    assert torch.equal(sparse[0, 0, :16], padding)
    drawn = torch.nn.functional.pixel_shuffle(dense[:, 16:], 4)
    assert drawn[:, :3].eq(0).all() and drawn[:, 3].sum() == 26 * 16 / 4


def test_click_disks_peak_at_the_click_and_skip_padding() -> None:
    coords = torch.tensor([[[8.5, 4.5], [2.5, 2.5], [20.5, 20.5]]])
    maps = draw_clicks(coords, torch.tensor([[1, -1, 0]]), (16, 16))
    assert maps.shape == (1, 2, 16, 16)
    assert maps[0, 0].argmax() == 2 * 16 + 4 and maps[0, 0].max() == 1
    assert maps[0, 1].argmax() == 10 * 16 + 10
    assert maps[0, 0, 1, 1] < maps[0, 0, 2, 2]  # the padding point at (1, 1) left no disk


def test_no_click_of_a_kind_draws_nothing() -> None:
    maps = draw_clicks(torch.zeros(1, 1, 2), torch.tensor([[1]]), (8, 8))
    assert maps[0, 1].eq(0).all()


def test_a_box_covers_its_area() -> None:
    box = torch.tensor([[3.5, 1.5, 10.5, 6.5]])  # 7 x 5 pixels, edges at 4, 2, 11, 7
    drawn = draw_boxes(box, (8, 8))
    assert drawn.shape == (1, 1, 8, 8)
    assert drawn.sum() == pytest.approx(7 * 5 / 4)
    assert drawn[0, 0, 1, 2] == 1 and drawn[0, 0, 1, 1] == 0 and drawn[0, 0, 1, 5] == 0.5


def test_similarity_is_one_where_the_features_are_those_of_the_click() -> None:
    features = torch.zeros(1, 2, 4, 4)
    features[0, 0, :, :2] = 1
    features[0, 1, :, 2:] = 1
    grid = torch.tensor([[[-0.75, -0.75]]])  # centre of the first cell
    similarity = click_similarity(features, grid, torch.tensor([[1.0]]))
    torch.testing.assert_close(similarity[0, 0, :, :2], torch.ones(4, 2))
    torch.testing.assert_close(similarity[0, 0, :, 2:], torch.full((4, 2), float(np.exp(-6))))
    assert similarity[0, 1].eq(0).all()


def test_proximity_falls_with_the_distance_in_cells() -> None:
    near = click_proximity(torch.tensor([[[-0.75, -0.75]]]), torch.tensor([[0.0]]), (4, 4))
    assert near[0, 0].eq(0).all()
    assert near[0, 1, 0, 0] == 1
    assert near[0, 1, 0, 3] == pytest.approx(float(np.exp(-3 / 8.4)))


# Windows


def test_the_frame_is_a_window_like_any_other(compact: Sam) -> None:
    encoder = compact.prompt_encoder
    whole = encoder(clicks((9, 9, 1)), None, None)
    window = encoder.encode(clicks((9, 9, 1)), None, None, encoder.frame)
    assert all(torch.equal(a, b) for a, b in zip(whole, window, strict=True))
    assert torch.equal(encoder.dense_pe(encoder.frame), encoder.get_dense_pe())


def test_a_window_uses_the_frame_s_positions(compact: Sam) -> None:
    encoder, window = compact.prompt_encoder, Window(x=16, y=32, width=32, height=32)
    inside, dense = encoder.encode(clicks((5, 7, 1)), torch.tensor([[1.0, 2, 9, 9]]), None, window)
    outside, _ = encoder(clicks((21, 39, 1)), torch.tensor([[17.0, 34, 25, 41]]), None)
    torch.testing.assert_close(inside[..., :16], outside[..., :16])
    assert dense.shape == (1, 16 + 64, 4, 4)
    assert torch.equal(encoder.dense_pe(window), encoder.get_dense_pe()[:, :, 4:8, 2:6])


def test_a_window_lies_on_the_grid() -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        Window(x=3, y=0, width=32, height=32)


# State


def test_every_decoder_parameter_gets_a_gradient(compact: Sam, embedding: Tensor) -> None:
    sam = copy.deepcopy(compact)
    sparse, dense = sam.prompt_encoder(clicks((9, 9, 1), (50, 50, 0)), None, None)
    logits, quality = sam.mask_decoder.predict_masks(
        embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense
    )
    (logits.square().sum() + quality.square().sum()).backward()
    without = [n for n, p in sam.mask_decoder.named_parameters() if p.grad is None]
    assert without == []


def test_threads_with_weights_of_their_own_do_not_meet(compact: Sam, embedding: Tensor) -> None:
    sparse, dense = compact.prompt_encoder(clicks((9, 9, 1)), None, None)
    arguments = (embedding, compact.prompt_encoder.get_dense_pe(), sparse, dense, True)
    base = {n: p.detach() for n, p in compact.mask_decoder.named_parameters()}
    variants = [{n: p * (1 + 0.1 * i) for n, p in base.items()} for i in range(4)]
    shells = [copy.deepcopy(compact.mask_decoder) for _ in variants]

    def call(index: int) -> Tensor:
        with torch.no_grad():
            masks, _ = torch.func.functional_call(shells[index], variants[index], arguments)
        assert isinstance(masks, Tensor)
        return masks

    expected = [call(i) for i in range(4)]
    wrong: list[int] = []

    def repeat(index: int) -> None:
        if not all(torch.equal(call(index), expected[index]) for _ in range(20)):
            wrong.append(index)

    threads = [threading.Thread(target=repeat, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert not torch.equal(expected[0], expected[3])


# Weights


def save_tiny(sam: Sam, path: Path, drop: str = "") -> None:
    tensors = {n: t.half().contiguous() for n, t in sam.state_dict().items() if n != drop}
    save_file(tensors, path, metadata={"input_size": str(SIZE), "dim": "16"})


def test_weights_come_back_from_their_file(tmp_path: Path) -> None:
    sam = build_compact(input_size=SIZE, dim=16)
    save_tiny(sam, tmp_path / "tiny.safetensors")
    loaded = load_compact(tmp_path / "tiny.safetensors")
    assert loaded.image_encoder.img_size == SIZE and not loaded.training
    for name, tensor in sam.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor.half().float()), name


def test_a_missing_file_is_named_without_its_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere.safetensors") as caught:
        load_compact(tmp_path / "nowhere.safetensors")
    assert str(tmp_path) not in str(caught.value)


def test_weights_of_another_model_are_named(tmp_path: Path) -> None:
    sam = build_compact(input_size=SIZE, dim=16)
    save_tiny(sam, tmp_path / "tiny.safetensors", drop="mask_decoder.skip2.bias")
    with pytest.raises(ModelError, match="missing.*skip2.bias"):
        load_compact(tmp_path / "tiny.safetensors")
    with pytest.raises(ModelError, match="unexpected.*surplus"):
        load_strictly(sam, {**sam.state_dict(), "surplus": torch.zeros(1)})
    with pytest.raises(ModelError, match="another shape.*iou_token"):
        wrong = {**sam.state_dict(), "mask_decoder.iou_token.weight": torch.zeros(2)}
        load_strictly(sam, wrong)


@pytest.mark.weights
def test_the_embedded_weights_load_strictly_and_say_where_they_are_from() -> None:
    sam = load_compact()
    assert sam.image_encoder.img_size == 384
    assert all(torch.isfinite(p).all() for p in sam.parameters())
