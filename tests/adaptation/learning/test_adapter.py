from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from adaptation.errors import ModelError
from adaptation.learning.adapter import (
    SUBSETS,
    Adapter,
    adapter_of,
    load_adapter,
    save_adapter,
    trainable_names,
)
from adaptation.models.sam import PromptableSam
from adaptation.types import Prompt, as_clicks
from tests.adaptation.conftest import tiny_vit_sam


def nudged(sam: PromptableSam, scale: float = 0.01) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {
        n: v + scale * torch.randn(v.shape, generator=generator)
        for n, v in sam.decoder_parameters().items()
    }


def test_an_adapter_is_the_difference_to_the_base_in_half_the_bytes(sam: PromptableSam) -> None:
    weights = nudged(sam)
    adapter = adapter_of(sam, weights)
    back = adapter.weights(sam)
    assert back is not None
    for name, value in weights.items():
        torch.testing.assert_close(back[name], value, atol=2e-5, rtol=0)
    assert adapter.n_bytes == 2 * sum(v.nelement() for v in weights.values())


def test_a_saved_adapter_comes_back_bit_for_bit(sam: PromptableSam, tmp_path: Path) -> None:
    adapter = adapter_of(sam, nudged(sam))
    save_adapter(adapter, tmp_path / "deep" / "a.safetensors", {"session": "7"})
    back = load_adapter(tmp_path / "deep" / "a.safetensors", sam)
    assert back.version == adapter.version
    assert all(torch.equal(back.deltas[n], d) for n, d in adapter.deltas.items())
    assert list((tmp_path / "deep").iterdir()) == [tmp_path / "deep" / "a.safetensors"]


def test_an_adapter_in_one_piece_is_the_same_one(sam: PromptableSam, tmp_path: Path) -> None:
    adapter = adapter_of(sam, nudged(sam))
    packed = adapter.packed()
    assert packed.version == adapter.version and packed.n_bytes == adapter.n_bytes
    assert len({d.untyped_storage().data_ptr() for d in packed.deltas.values()}) == 1
    save_adapter(packed, tmp_path / "a.safetensors", {})
    assert load_adapter(tmp_path / "a.safetensors", sam).version == adapter.version
    assert Adapter().packed().is_base


def test_the_base_adapter_answers_like_the_base_decoder(
    sam: PromptableSam, image: NDArray[np.uint8]
) -> None:
    assert Adapter().weights(sam) is None and Adapter().version == "base"
    prompt = Prompt(clicks=as_clicks([(5, 5, True)]))
    with torch.no_grad():
        base = sam.decode(sam.embed(image), [prompt])
        zero = adapter_of(sam, sam.decoder_parameters()).weights(sam)
        same = sam.decode(sam.embed(image), [prompt], weights=zero)
    assert torch.equal(base.low_res_logits, same.low_res_logits)


def test_versions_tell_adapters_apart(sam: PromptableSam) -> None:
    one, other = adapter_of(sam, nudged(sam)), adapter_of(sam, nudged(sam, 0.02))
    assert one.version == adapter_of(sam, nudged(sam)).version != other.version


def test_an_adapter_of_another_base_is_refused(sam: PromptableSam, tmp_path: Path) -> None:
    stranger = PromptableSam(tiny_vit_sam(seed=4), "other")
    save_adapter(adapter_of(sam, nudged(sam)), tmp_path / "a.safetensors", {})
    with pytest.raises(ModelError, match="use the base model that it was trained on"):
        load_adapter(tmp_path / "a.safetensors", stranger)


def test_broken_and_missing_files_are_refused(sam: PromptableSam, tmp_path: Path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ModelError, match="cannot be read"):
        load_adapter(tmp_path / "bad.safetensors", sam)
    with pytest.raises(ModelError, match="cannot be read"):
        load_adapter(tmp_path / "none.safetensors", sam)


def test_parameters_of_another_shape_are_refused(sam: PromptableSam, tmp_path: Path) -> None:
    wrong = Adapter({"mask_tokens.weight": torch.zeros(1)}, sam.decoder_id)
    save_adapter(wrong, tmp_path / "a.safetensors", {})
    with pytest.raises(ModelError, match=r"mask_tokens\.weight"):
        load_adapter(tmp_path / "a.safetensors", sam)


@pytest.mark.parametrize("subset", SUBSETS)
def test_every_subset_picks_something_and_only_all_picks_everything(
    sam: PromptableSam, subset: str
) -> None:
    base = sam.decoder_parameters()
    names = trainable_names(base, subset)
    assert names
    assert (len(names) == len(base)) == (subset == "all")


def test_an_unknown_subset_says_what_there_is(sam: PromptableSam) -> None:
    with pytest.raises(ModelError, match="transformer"):
        trainable_names(sam.decoder_parameters(), "nonsense")
