from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from adaptation.errors import InputError, ModelError
from adaptation.learning.adapter import adapter_of, save_adapter
from adaptation.models.base_decoder import Registry, check_name, load_base, read_card, save_base
from adaptation.models.compact.model import build_compact
from adaptation.models.sam import PromptableSam
from adaptation.types import Prompt, as_clicks
from tests.adaptation.conftest import tiny_vit_sam

CLICK = Prompt(clicks=as_clicks([(5, 5, True)]))


def nudged(sam: PromptableSam, scale: float = 0.01) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {
        n: v + scale * torch.randn(v.shape, generator=generator)
        for n, v in sam.decoder_parameters().items()
    }


def answer(sam: PromptableSam, image: NDArray[np.uint8]) -> Tensor:
    with torch.no_grad():
        return sam.decode(sam.embed(image), [CLICK]).low_res_logits


def rewritten(path: Path, **metadata: str) -> None:
    """The same weights with other metadata."""
    with safe_open(path, framework="pt") as file:
        old, tensors = dict(file.metadata()), {n: file.get_tensor(n) for n in file.keys()}
    save_file(tensors, path, {**old, **metadata})


@pytest.fixture
def base(sam: PromptableSam, tmp_path: Path) -> Path:
    path = tmp_path / "run" / "decoder.safetensors"
    save_base(path, sam, nudged(sam), "sft", {"epochs": 3})
    return path


def test_a_saved_base_answers_like_the_weights_it_was_made_of(
    sam: PromptableSam, image: NDArray[np.uint8], base: Path
) -> None:
    with torch.no_grad():
        expected = sam.decode(sam.embed(image), [CLICK], weights=nudged(sam)).low_res_logits
    assert torch.equal(answer(load_base(base, sam), image), expected)
    assert list(base.parent.iterdir()) == [base]


def test_the_card_says_where_a_base_comes_from(sam: PromptableSam, base: Path) -> None:
    card = read_card(base)
    assert (card.model_id, card.encoder_id) == ("tiny", sam.encoder_id)
    assert (card.parent, card.stage, card.details) == (sam.decoder_id, "sft", {"epochs": 3})
    assert card.decoder_id == load_base(base, sam).decoder_id != sam.decoder_id


def test_a_loaded_base_shares_both_encoders_and_leaves_the_model_as_it_was(
    sam: PromptableSam, image: NDArray[np.uint8], base: Path
) -> None:
    before, decoder_id = answer(sam, image), sam.decoder_id
    loaded = load_base(base, sam)
    assert loaded.sam.image_encoder is sam.sam.image_encoder
    assert loaded.sam.prompt_encoder is sam.sam.prompt_encoder
    ours, theirs = sam.decoder_parameters(), loaded.decoder_parameters()
    assert not {p.data_ptr() for p in ours.values()} & {p.data_ptr() for p in theirs.values()}
    assert sam.decoder_id == decoder_id and torch.equal(answer(sam, image), before)
    with torch.no_grad():  # an embedding of the one is one of the other
        loaded.decode(sam.embed(image), [CLICK])


def test_given_tensors_are_copied(sam: PromptableSam, image: NDArray[np.uint8]) -> None:
    tensors = nudged(sam)
    loaded = sam.with_decoder(tensors)
    before = answer(loaded, image)
    for tensor in tensors.values():
        tensor.zero_()
    assert torch.equal(answer(loaded, image), before)
    assert not any(p.requires_grad for p in loaded.decoder_parameters().values())


def test_the_compact_model_takes_a_base_too(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    torch.manual_seed(0)
    sam = PromptableSam(build_compact(input_size=64, dim=16), "compact")
    tensors = nudged(sam)
    save_base(tmp_path / "b.safetensors", sam, tensors, "dpo", {})
    with torch.no_grad():
        expected = sam.decode(sam.embed(image), [CLICK], weights=tensors).low_res_logits
    assert torch.equal(answer(load_base(tmp_path / "b.safetensors", sam), image), expected)


def test_half_precision_weights_are_written_as_float32(sam: PromptableSam, tmp_path: Path) -> None:
    half = {n: v.half() for n, v in nudged(sam).items()}
    card = save_base(tmp_path / "b.safetensors", sam, half, "sft", {})
    loaded = load_base(tmp_path / "b.safetensors", sam)
    assert loaded.decoder_id == card.decoder_id
    assert {p.dtype for p in loaded.decoder_parameters().values()} == {torch.float32}


def test_a_base_of_another_encoder_is_refused(base: Path) -> None:
    stranger = PromptableSam(tiny_vit_sam(seed=4), "other")
    with pytest.raises(ModelError, match=r"encoder .* \(tiny\), this model is other"):
        load_base(base, stranger)


def test_missing_unexpected_and_misshapen_parameters_are_named(
    sam: PromptableSam, tmp_path: Path
) -> None:
    tensors = nudged(sam)
    del tensors["iou_token.weight"]
    tensors["mask_tokens.weight"] = torch.zeros(1, 16)
    tensors["stranger"] = torch.zeros(1)
    with pytest.raises(ModelError, match=r"1 missing \(iou_token.weight\); 1 unexpected") as error:
        save_base(tmp_path / "b.safetensors", sam, tensors, "sft", {})
    assert "mask_tokens.weight [1, 16] instead of [4, 16]" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_decoder_of_another_shape_is_refused_at_loading(sam: PromptableSam, base: Path) -> None:
    with safe_open(base, framework="pt") as file:
        metadata = file.metadata()
    save_file({"stranger": torch.zeros(1)}, base, metadata)
    with pytest.raises(ModelError, match="missing .* unexpected"):
        load_base(base, sam)


def test_weights_that_are_not_finite_are_refused(sam: PromptableSam, tmp_path: Path) -> None:
    tensors = nudged(sam)
    tensors["iou_token.weight"][0, 0] = torch.nan
    with pytest.raises(ModelError, match=r"1 parameters that are not finite, first 'iou_token"):
        save_base(tmp_path / "b.safetensors", sam, tensors, "sft", {})


@pytest.mark.parametrize("n_bytes", [0, 5, 2000, -1])
def test_a_half_written_file_is_refused(sam: PromptableSam, base: Path, n_bytes: int) -> None:
    base.write_bytes(base.read_bytes()[:n_bytes])
    with pytest.raises(ModelError, match="truncated or no safetensors"):
        load_base(base, sam)


def test_a_changed_byte_is_noticed(sam: PromptableSam, base: Path) -> None:
    content = bytearray(base.read_bytes())
    content[-2] ^= 1
    base.write_bytes(bytes(content))
    with pytest.raises(ModelError, match="the file was changed"):
        load_base(base, sam)


def test_foreign_files_are_refused(sam: PromptableSam, base: Path, tmp_path: Path) -> None:
    save_adapter(adapter_of(sam, nudged(sam)), tmp_path / "a.safetensors", {})
    with pytest.raises(ModelError, match="format is not named, expected strop-base-1"):
        load_base(tmp_path / "a.safetensors", sam)
    rewritten(base, format="strop-base-2")
    with pytest.raises(ModelError, match="format is strop-base-2"):
        read_card(base)
    with pytest.raises(ModelError, match="There is no base none.safetensors"):
        load_base(tmp_path / "none.safetensors", sam)


def test_damaged_metadata_is_refused(base: Path) -> None:
    rewritten(base, config="{")
    with pytest.raises(ModelError, match="is no JSON"):
        read_card(base)


def test_an_interrupted_write_leaves_the_old_file(
    sam: PromptableSam, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = base.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("adaptation.storage.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_base(base, sam, nudged(sam, 0.5), "sft", {})
    assert base.read_bytes() == before


# The registry ----------------------------------------------------------------------------------


def test_an_empty_registry_has_the_models_own_decoder(sam: PromptableSam, tmp_path: Path) -> None:
    registry = Registry(tmp_path / "none")
    assert registry.versions() == [] and registry.current() is None
    assert registry.load_current(sam) is sam


def test_a_registry_loads_the_version_in_use(sam: PromptableSam, tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    for name, scale in (("v2", 0.02), ("v1", 0.01)):
        save_base(registry.path(name), sam, nudged(sam, scale), "sft", {})
    (tmp_path / "versions" / ".v3.partial").mkdir()
    (tmp_path / "current").write_text("v2\n")
    assert registry.versions() == ["v1", "v2"] and registry.current() == "v2"
    loaded = registry.load_current(sam)
    assert loaded.decoder_id == sam.with_decoder(nudged(sam, 0.02)).decoder_id
    (tmp_path / "current").write_text("embedded\n")
    assert registry.load_current(sam) is sam


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "embedded", "x" * 101, "a b"])
def test_a_name_is_a_folders_name(name: str) -> None:
    with pytest.raises(InputError, match="is no name of a version"):
        check_name(name)


def test_a_broken_current_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "current").write_bytes(b"\xff\xfe")
    with pytest.raises(ModelError, match="cannot be read"):
        Registry(tmp_path).current()
