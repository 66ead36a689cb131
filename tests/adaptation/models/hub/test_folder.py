"""A folder is loaded whole or not at all, and needs the extra only then."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from adaptation.errors import ModelError
from adaptation.models.catalog import CATALOG
from adaptation.models.hub import architectures
from adaptation.models.hub.architectures import ARCHITECTURES, random_model
from adaptation.models.hub.folder import load_folder
from adaptation.models.sam import PromptableSam
from adaptation.types import Prompt, as_clicks
from tests.adaptation.models.hub import tiny


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save("sam2", tmp_path_factory.mktemp("folder") / "tiny")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_loading_says_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_folder(folder)
    assert capfd.readouterr() == ("", "")


def test_a_model_of_videos_holds_one_of_images(folder: Path, saved: Path) -> None:
    """As the published SAM 2.1 and EdgeTAM are: the type is the video's, the memory is left out."""
    edit(folder / "config.json", model_type="sam2_video")
    tensors = load_file(folder / "model.safetensors")
    memory = {f"memory_{part}.weight": torch.ones(3) for part in ("attention", "encoder")}
    save_file({**tensors, **memory}, folder / "model.safetensors", {"format": "pt"})
    video, plain = (PromptableSam(load_folder(f), "tiny") for f in (folder, saved))
    assert video.encoder_id == plain.encoder_id and video.decoder_id == plain.decoder_id


def test_incomplete_weights_are_told(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["mask_decoder.iou_token.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="lacks 1 parameters of SAM 2.*iou_token"):
        load_folder(folder)


def test_weights_of_another_shape_are_told(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["mask_decoder.iou_token.weight"] = torch.zeros(1, 7)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="cannot be loaded as a model of SAM 2"):
        load_folder(folder)


def test_truncated_weights_are_told(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match="cannot be loaded as a model of SAM 2"):
        load_folder(folder)


def test_pickles_are_not_read(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"holds no model\.safetensors.*may run code"):
        load_folder(folder)


def test_other_models_and_other_folders_are_told(folder: Path, tmp_path: Path) -> None:
    edit(folder / "config.json", model_type="bert")
    with pytest.raises(ModelError, match=r"type 'bert'.*EdgeTAM, HQ-SAM, SAM, SAM 2, SAM 3"):
        load_folder(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read as JSON"):
        load_folder(folder)
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        load_folder(tmp_path)


@pytest.mark.parametrize("nested", [False, True])
def test_pixels_are_normalised_as_the_folder_says(folder: Path, nested: bool) -> None:
    """In its preprocessor's file, or inside of its processor's; else as the family does."""
    processor = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]}
    (folder / "preprocessor_config.json").unlink()
    usual = load_folder(folder).pixel_mean.flatten() / 255
    torch.testing.assert_close(usual, torch.tensor([0.485, 0.456, 0.406]))
    name = "processor_config.json" if nested else "preprocessor_config.json"
    (folder / name).write_text(json.dumps({"image_processor": processor} if nested else processor))
    sam = load_folder(folder)
    torch.testing.assert_close(sam.pixel_mean.flatten() / 255, torch.tensor([0.1, 0.2, 0.3]))
    torch.testing.assert_close(sam.pixel_std.flatten() / 255, torch.tensor([0.5, 0.6, 0.7]))


def test_without_its_packages_the_extra_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelError, match=r"SAM 2 needs packages.*pip install 'strop\[hub\]'"):
        load_folder(folder)


def test_the_catalog_is_there_without_the_extra() -> None:
    """Serving alone installs no transformers, and starts no slower where it is installed."""
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        "from adaptation.models.catalog import load_model\n"
        "from pathlib import Path\n"
        "print(load_model('compact', Path('nowhere'), download=False).model_id)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("compact-")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_sizes_in_the_catalog_are_those_of_the_models(name: str) -> None:
    with torch.device("meta"):
        model = random_model(name)
    entry = CATALOG[name]
    assert sum(p.numel() for p in model.parameters()) == entry.n_parameters
    assert model.image_encoder.img_size == entry.input_size
    assert len(model.mask_decoder.mask_tokens.weight) == 4


def test_a_name_without_a_shape_is_told() -> None:
    with pytest.raises(ModelError, match="No shape of 'compact' is known"):
        architectures.random_model("compact")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sam2.1-tiny", "edgetam"])
def test_at_full_size_a_click_is_answered(name: str) -> None:
    sam = PromptableSam(random_model(name), name)
    embedding = sam.embed(torch.randint(0, 255, (300, 400, 3), dtype=torch.uint8).numpy())
    assert embedding.features.shape == (1, 1024, 64, 64)
    with torch.no_grad():
        got = sam.decode(embedding, [Prompt(clicks=as_clicks([(100, 80, True)]))])
    assert got.low_res_logits.shape == (1, 4, 256, 256)
    assert got.low_res_logits.isfinite().all()
