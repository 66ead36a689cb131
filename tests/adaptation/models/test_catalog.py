"""The catalog: finding, verifying and loading weights, on real files of random weights."""

from __future__ import annotations

import dataclasses
import os
import pickle
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from segment_anything import build_sam_vit_b, build_sam_vit_h, build_sam_vit_l
from segment_anything.modeling import Sam
from torch import nn

from adaptation.errors import ModelError
from adaptation.models import catalog, loaders
from adaptation.models.catalog import (
    CATALOG,
    Checkpoint,
    as_device,
    fetch,
    find_checkpoint,
    load_model,
)
from adaptation.models.checkpoints import read_tensors
from adaptation.models.compact.model import DEFAULT_WEIGHTS, build_compact
from adaptation.storage.digests import file_sha256, read_digest, write_digest
from tests.adaptation.conftest import tiny_vit_sam
from tests.adaptation.file_server import ServedFile, serving

needs_mobile_sam = pytest.mark.skipif(
    find_spec("mobile_sam") is None or find_spec("timm") is None,
    reason="needs the extra mobile-sam",
)
load_tiny = partial(loaders.load_published, build=tiny_vit_sam)


def save(tensors: Any, path: Path) -> Path:
    torch.save(tensors, path)
    return path


def hollow(build: Any) -> dict[str, torch.Tensor]:
    """A state dict of the right names and shapes whose file has a few kilobytes."""
    with torch.device("meta"):
        wanted = build().state_dict()
    return {name: torch.zeros(()).expand(value.shape) for name, value in wanted.items()}


def tiny_entry(path: Path, **changes: Any) -> Checkpoint:
    """A catalog entry whose published file is the one at hand."""
    entry = dataclasses.replace(
        CATALOG["vit_b"],
        url="http://127.0.0.1:9/",
        file_name=path.name,
        load=load_tiny,
        sha256=file_sha256(path),
        n_bytes=path.stat().st_size,
    )
    return dataclasses.replace(entry, **changes)


def assert_same(loaded: nn.Module, source: nn.Module) -> None:
    got, wanted = loaded.state_dict(), source.state_dict()
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(got[name], value), name


@pytest.fixture(scope="module")
def source() -> Sam:
    return tiny_vit_sam(seed=7)


@pytest.fixture
def published(source: Sam, tmp_path: Path) -> Path:
    return save(source.state_dict(), tmp_path / "sam_tiny.pth")


# The entries --------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", CATALOG.values(), ids=CATALOG)
def test_an_entry_says_where_its_weights_come_from(entry: Checkpoint) -> None:
    assert entry.licence and entry.title
    if entry.is_embedded:
        assert entry.file_name.endswith(".safetensors")
    elif entry.hub is not None:
        assert entry.url == f"https://huggingface.co/{entry.hub.hub_id}"
        assert entry.file_name == entry.hub.hub_id.replace("/", "--")
        assert entry.n_parameters and entry.input_size
    else:
        assert entry.url is not None and entry.n_parameters is not None
        assert entry.url.startswith("https://") and entry.url.endswith(entry.file_name)
        assert entry.sha256 is not None and entry.n_bytes is not None
        assert len(bytes.fromhex(entry.sha256)) == 32
        # float32 weights, and little else
        assert 0 <= entry.n_bytes - 4 * entry.n_parameters < 300_000


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("compact", build_compact),
        ("vit_b", build_sam_vit_b),
        ("vit_l", build_sam_vit_l),
        ("vit_h", build_sam_vit_h),
    ],
)
def test_sizes_are_those_of_the_models(name: str, build: Any) -> None:
    with torch.device("meta"):
        sam = build()
    assert CATALOG[name].n_parameters == sum(p.numel() for p in sam.parameters())
    assert CATALOG[name].input_size == sam.image_encoder.img_size


def test_an_unknown_name_gets_the_known_ones() -> None:
    with pytest.raises(
        ModelError, match="no model 'vit_x'.*compact, compact-1, edgetam, mobile_sam"
    ):
        find_checkpoint("vit_x")


# Loading ------------------------------------------------------------------------------------


def test_the_loaded_model_is_the_saved_one(source: Sam, published: Path) -> None:
    loaded = load_tiny(published)
    assert_same(loaded, source)
    assert torch.equal(loaded.pixel_mean, source.pixel_mean)
    assert not any(t.is_meta for t in (*loaded.parameters(), *loaded.buffers()))
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded.image_encoder(image), source.image_encoder(image))


def test_a_checkpoint_of_your_own_is_loaded_by_path(
    source: Sam, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "CATALOG", {"tiny": tiny_entry(published)})
    own = {name: value + 1 for name, value in source.state_dict().items()}
    path = save(own, tmp_path / "mine.pt")
    sam = load_model("tiny", tmp_path / "models", checkpoint=path)
    assert torch.equal(sam.sam.mask_decoder.iou_token.weight, own["mask_decoder.iou_token.weight"])
    assert sam.model_id == f"tiny-{file_sha256(path)[:8]}"
    assert not any(p.requires_grad for p in sam.sam.parameters())


def test_safetensors_and_half_precision_become_float32(source: Sam, tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    save_file({name: value.half() for name, value in source.state_dict().items()}, path)
    loaded = load_tiny(path)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    for name, value in source.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.half().float())


def test_a_mismatch_names_some_keys_and_counts_the_rest(source: Sam, tmp_path: Path) -> None:
    tensors = dict(source.state_dict())
    for name in [name for name in tensors if name.startswith("prompt_encoder.point")]:
        tensors[f"other.{name}"] = tensors.pop(name)
    tensors["mask_decoder.iou_token.weight"] = torch.zeros(3, 5)
    path = save(tensors, tmp_path / "other.pth")
    with pytest.raises(ModelError, match=r"other\.pth is of another model") as caught:
        load_tiny(path)
    message = str(caught.value)
    assert "4 missing (prompt_encoder.point_embeddings.0.weight, " in message
    assert "4 unexpected (other.prompt_encoder" in message
    assert message.count("and 1 more") == 2
    assert "mask_decoder.iou_token.weight [3, 5] instead of [1, 16]" in message


@pytest.mark.parametrize(
    ("name", "build"), [("vit_b", build_sam_vit_b), ("vit_l", build_sam_vit_l)]
)
def test_a_file_of_another_catalog_model_is_recognised(
    name: str, build: Any, tmp_path: Path
) -> None:
    path = save(hollow(build), tmp_path / "some.pth")
    with pytest.raises(ModelError, match=f"some.pth holds weights of {name}: choose that model"):
        CATALOG["vit_h"].load(path)


class Intruder:
    """Unpickling it would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def bare_pickle(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("write", [torch.save, bare_pickle])
def test_code_in_a_checkpoint_is_never_run(write: Any, tmp_path: Path) -> None:
    write({"weight": Intruder(tmp_path / "pwned")}, tmp_path / "evil.pth")
    with pytest.raises(ModelError, match="holds Python objects, which may run code"):
        load_tiny(tmp_path / "evil.pth")
    assert not (tmp_path / "pwned").exists()


def test_a_training_checkpoint_is_told_from_weights(source: Sam, tmp_path: Path) -> None:
    content = {"model": source.state_dict(), "step": 7}
    with pytest.raises(ModelError, match=r"more than tensors \(model, step\)"):
        load_tiny(save(content, tmp_path / "training.pth"))
    with pytest.raises(ModelError, match="holds a list, not a state dict"):
        load_tiny(save([torch.zeros(1)], tmp_path / "list.pth"))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_damaged_file_is_a_clear_error(suffix: str, source: Sam, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    tensors = source.state_dict()
    if suffix == ".pth":
        torch.save(tensors, path)
    else:
        save_file(tensors, path)
    for n_bytes in (0, 10, path.stat().st_size // 2):
        broken = path.with_name(f"broken{suffix}")
        broken.write_bytes(path.read_bytes()[:n_bytes])
        with pytest.raises(ModelError, match="broken"):
            read_tensors(broken)
    with pytest.raises(ModelError, match="There is no checkpoint none"):
        read_tensors(path.with_name(f"none{suffix}"))


def test_a_device_that_is_not_there_is_an_error() -> None:
    assert as_device("cpu") == torch.device("cpu")
    for device in ("cuda:99", "toaster"):
        with pytest.raises(ModelError, match=f"device '{device}' cannot be used here"):
            as_device(device)


# Fetching -----------------------------------------------------------------------------------


def test_published_weights_are_downloaded_once_and_verified(
    source: Sam, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(ServedFile(content=published.read_bytes())) as served:
        entry = tiny_entry(published, url=served.url)
        monkeypatch.setattr(catalog, "CATALOG", {"tiny": entry})
        first = load_model("tiny", tmp_path / "models")
        second = load_model("tiny", tmp_path / "models", download=False)
    assert_same(first.sam, source)
    assert_same(second.sam, source)
    assert len(served.requests) == 1
    assert first.model_id == f"tiny-{served.sha256[:8]}"


def test_a_truncated_file_is_told_from_a_wrong_one(published: Path) -> None:
    entry = tiny_entry(published)
    whole = published.read_bytes()
    published.write_bytes(whole[:-10])
    with pytest.raises(ModelError, match=f"truncated: it has {len(whole) - 10} of {len(whole)}"):
        fetch(entry, published.parent)
    published.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ModelError, match=f"not the published file.*expected {entry.sha256}"):
        fetch(entry, published.parent)


def test_without_downloading_the_way_by_hand_is_told(published: Path, tmp_path: Path) -> None:
    entry = tiny_entry(published, file_name="elsewhere.pth", url="https://example.org/x.pth")
    with pytest.raises(ModelError, match="downloading is switched off") as caught:
        fetch(entry, tmp_path, may_download=False)
    message = str(caught.value)
    assert "fetch https://example.org/x.pth by hand" in message
    assert f"put it into {tmp_path} as elsewhere.pth" in message
    assert str(entry.sha256) in message


# The embedded model -------------------------------------------------------------------------


@pytest.fixture
def embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "compact.safetensors"
    tensors = build_compact().state_dict()
    save_file({name: value.half().contiguous() for name, value in tensors.items()}, path)
    monkeypatch.setattr(catalog, "DEFAULT_WEIGHTS", path)
    return path


def test_the_embedded_model_needs_no_folder(embedded: Path, tmp_path: Path) -> None:
    write_digest(embedded)
    sam = load_model("compact", tmp_path / "nowhere", download=False)
    assert sam.model_id == f"compact-{file_sha256(embedded)[:8]}"
    assert sam.embed(np.zeros((32, 48, 3), np.uint8)).features.isfinite().all()


def test_the_embedded_weights_are_verified_where_their_digest_is_known(embedded: Path) -> None:
    digest = write_digest(embedded)
    assert read_digest(embedded) == digest == file_sha256(embedded)
    with embedded.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ModelError, match=r"compact\.safetensors is not the published file"):
        load_model("compact", embedded.parent)


def test_missing_embedded_weights_are_said(embedded: Path) -> None:
    embedded.unlink()
    with pytest.raises(ModelError, match="missing from this installation"):
        load_model("compact", embedded.parent)


@pytest.mark.weights
def test_the_weights_that_are_shipped_are_those_of_their_digest() -> None:
    for name in ("compact", "compact-1"):
        path = DEFAULT_WEIGHTS.with_name(CATALOG[name].file_name)
        assert read_digest(path) == file_sha256(path), (
            "write it with adaptation.storage.digests.write_digest(path) after each export"
        )


@pytest.mark.weights
def test_the_embedded_model_before_this_one_is_loaded_by_its_name(tmp_path: Path) -> None:
    old, new = (load_model(name, tmp_path, download=False) for name in ("compact-1", "compact"))
    digest = read_digest(DEFAULT_WEIGHTS.with_name("compact-1.safetensors"))
    assert digest is not None and old.model_id == f"compact-1-{digest[:8]}"
    assert old.decoder_id != new.decoder_id and old.encoder_id != new.encoder_id


# MobileSAM ----------------------------------------------------------------------------------


@needs_mobile_sam
def test_mobile_sam_is_sams_decoder_on_another_encoder(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = build_sam_vit_b()
    source.image_encoder = loaders._build_tiny_vit()
    for name, value in source.image_encoder.named_parameters():
        if name.endswith("attention_biases"):
            nn.init.normal_(value)
    path = save(source.state_dict(), tmp_path / "mobile_sam.pt")
    loaded = CATALOG["mobile_sam"].load(path)
    assert_same(loaded, source)
    assert sum(p.numel() for p in loaded.parameters()) == CATALOG["mobile_sam"].n_parameters
    assert loaded.image_encoder.img_size == CATALOG["mobile_sam"].input_size
    gathered = [m for m in loaded.image_encoder.modules() if hasattr(m, "attention_biases")]
    assert len(gathered) == 10
    for module in gathered:
        # In evaluation mode TinyViT keeps a gathered copy, which loading alone does not renew.
        assert torch.equal(module.ab, module.attention_biases[:, module.attention_bias_idxs])


def test_without_its_packages_mobile_sam_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mobile_sam", None)
    with pytest.raises(ModelError, match=r"pip install 'strop\[mobile-sam\]'"):
        CATALOG["mobile_sam"].load(tmp_path / "mobile_sam.pt")


# At full size -------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_full_size_sam_is_loaded_as_it_was_saved(tmp_path: Path) -> None:
    source = build_sam_vit_b()
    path = save(source.state_dict(), tmp_path / "sam_vit_b_01ec64.pth")
    sam = load_model("vit_b", tmp_path, checkpoint=path)
    assert_same(sam.sam, source)
    assert abs(path.stat().st_size - (CATALOG["vit_b"].n_bytes or 0)) < 100_000
    with pytest.raises(ModelError, match="not the published file"):
        load_model("vit_b", tmp_path)


@needs_mobile_sam
@pytest.mark.slow
def test_a_full_size_mobile_sam_encodes(tmp_path: Path) -> None:
    source = build_sam_vit_b()
    source.image_encoder = loaders._build_tiny_vit().eval()
    path = save(source.state_dict(), tmp_path / "mobile_sam.pt")
    sam = load_model("mobile_sam", tmp_path, checkpoint=path)
    embedding = sam.embed(np.full((96, 128, 3), 90, np.uint8))
    assert embedding.features.shape == (1, 256, 64, 64)
    assert embedding.features.isfinite().all()
