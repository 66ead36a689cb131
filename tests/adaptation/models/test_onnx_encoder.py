"""Encoders through ONNX Runtime: close to torch's, never taken for them, decoders shared."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from adaptation.errors import InputError, ModelError
from adaptation.models.base_decoder import load_base, save_base
from adaptation.models.compact.model import build_compact
from adaptation.models.sam import PromptableSam
from adaptation.types import Prompt, as_clicks
from tests.adaptation.conftest import tiny_vit_sam

if find_spec("onnxruntime") is None or find_spec("onnx") is None:
    pytest.skip("needs the extra onnx", allow_module_level=True)

from adaptation.models.onnx_encoder import with_encoder
from adaptation.models.onnx_export import export_encoder

PROMPT = Prompt(clicks=as_clicks([(30, 20, True), (70, 40, False)]))


@pytest.fixture(scope="module")
def compact() -> PromptableSam:
    torch.manual_seed(0)
    return PromptableSam(build_compact(input_size=64, dim=16), "tiny")


@pytest.fixture(scope="module")
def plain(compact: PromptableSam, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_encoder(compact, tmp_path_factory.mktemp("onnx") / "plain.onnx")


def pictures(n: int) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (n, 6, 10, 3), dtype=np.uint8)
    return [np.kron(each, np.ones((8, 8, 1), np.uint8)) for each in coarse]


def test_float32_is_torch_s_to_rounding(compact: PromptableSam, plain: Path) -> None:
    other, image = with_encoder(compact, plain), pictures(1)[0]
    wanted, got = compact.embed(image), other.embed(image)
    torch.testing.assert_close(got.features, wanted.features, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        masks = [s.decode(e, [PROMPT]).low_res_logits for s, e in ((compact, wanted), (other, got))]
    torch.testing.assert_close(*masks, atol=1e-3, rtol=1e-3)


def test_embeddings_never_mix(compact: PromptableSam, plain: Path) -> None:
    other, image = with_encoder(compact, plain), pictures(1)[0]
    assert other.encoder_id != compact.encoder_id and other.decoder_id == compact.decoder_id
    for sam, stranger in ((compact, other), (other, compact)):
        with pytest.raises(ModelError, match="encode the image again"):
            sam.decode(stranger.embed(image), [PROMPT])
    again = with_encoder(compact, plain)
    assert again.encoder_id == other.encoder_id
    assert compact.embed(image).features.isfinite().all()  # the given model stays as it was


def test_int8_is_near_and_another_encoder(
    compact: PromptableSam, plain: Path, tmp_path: Path
) -> None:
    images = pictures(12)
    path = export_encoder(compact, tmp_path / "int8.onnx", images)
    other = with_encoder(compact, path)
    assert len({compact.encoder_id, other.encoder_id, with_encoder(compact, plain).encoder_id}) == 3
    wanted, got = compact.embed(images[0]).features, other.embed(images[0]).features
    error = (got - wanted).square().mean() / wanted.square().mean()
    assert 0 < error < 0.1
    assert path.stat().st_size < 0.6 * plain.stat().st_size
    assert [p.name for p in tmp_path.iterdir()] == ["int8.onnx"]  # nothing is left behind


def test_decoders_serve_both_encoders(compact: PromptableSam, plain: Path, tmp_path: Path) -> None:
    """A decoder that was tuned in torch is promoted on a server that encodes otherwise."""
    tuned = {n: v + 0.01 for n, v in compact.decoder_parameters().items()}
    save_base(tmp_path / "decoder.safetensors", compact, tuned, "sft", {})
    other = with_encoder(compact, plain)
    served = load_base(tmp_path / "decoder.safetensors", other)
    assert served.encoder_id == other.encoder_id and served.imitates == compact.encoder_id
    assert served.decoder_id != other.decoder_id


def test_an_encoder_of_another_model_is_told(plain: Path) -> None:
    stranger = PromptableSam(tiny_vit_sam(), "vit")
    with pytest.raises(
        ModelError, match=r"was made from the encoder .* \(tiny\), this model is vit"
    ):
        with_encoder(stranger, plain)


def test_what_is_no_encoder_is_told(
    compact: PromptableSam, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx

    with pytest.raises(ModelError, match="There is no encoder none.onnx"):
        with_encoder(compact, tmp_path / "none.onnx")
    (tmp_path / "half.onnx").write_bytes(plain.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be read as ONNX"):
        with_encoder(compact, tmp_path / "half.onnx")
    model = onnx.load(str(plain))
    del model.metadata_props[:]
    onnx.save(model, str(tmp_path / "foreign.onnx"))
    with pytest.raises(ModelError, match="no encoder for Strop"):
        with_encoder(compact, tmp_path / "foreign.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModelError, match=r"pip install 'strop\[onnx\]'"):
        with_encoder(compact, plain)


def test_int8_needs_images_to_calibrate_on(compact: PromptableSam, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least 8 images to calibrate on, got 7"):
        export_encoder(compact, tmp_path / "int8.onnx", pictures(7))
    assert list(tmp_path.iterdir()) == []


def test_sam_s_own_encoder_is_exported_too(tmp_path: Path) -> None:
    sam = PromptableSam(tiny_vit_sam(), "vit")
    other = with_encoder(sam, export_encoder(sam, tmp_path / "vit.onnx"))
    image = pictures(1)[0]
    torch.testing.assert_close(
        other.embed(image).features, sam.embed(image).features, atol=1e-4, rtol=1e-4
    )


def test_threads_encode_at_once(compact: PromptableSam, plain: Path) -> None:
    other, images = with_encoder(compact, plain), pictures(4)
    wanted = [other.embed(image).features for image in images]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(10):
            if not torch.equal(other.embed(images[i]).features, wanted[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_halved_embeddings_answer(compact: PromptableSam, plain: Path) -> None:
    other = with_encoder(compact, plain)
    embedding = other.embed(pictures(1)[0])
    half = replace(embedding, features=embedding.features.half())
    with torch.no_grad():
        assert other.decode(half, [PROMPT]).low_res_logits.isfinite().all()
