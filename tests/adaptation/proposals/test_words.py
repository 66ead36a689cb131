"""Generators that read words, on small random models of the real architectures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from adaptation.errors import ModelError
from adaptation.proposals.interface import Context, Generator, ProposalImage
from adaptation.proposals.words import load_word_generator
from adaptation.types import Embedding

transformers = pytest.importorskip("transformers")

from adaptation.models.hub.fetching import fetch_model  # noqa: E402
from adaptation.models.hub.place import HubModel  # noqa: E402
from tests.adaptation.models.hub.hub_server import Hub, serving  # noqa: E402
from tests.adaptation.proposals import tiny_readers  # noqa: E402

HEIGHT, WIDTH = 80, 120


def picture() -> NDArray[np.uint8]:
    noise = np.random.default_rng(0).integers(0, 256, (10, 15, 3), dtype=np.uint8)
    pixels = np.kron(noise, np.ones((8, 8, 1), np.uint8))
    pixels.flags.writeable = False  # as the service's own are
    return pixels


@pytest.fixture
def shown() -> ProposalImage:
    """Generators that read words look at pixels alone."""
    embedding = Embedding(
        features=torch.zeros(1, 1, 1, 1),
        original_size=(HEIGHT, WIDTH),
        input_size=(HEIGHT, WIDTH),
        image_id="shown",
        encoder_id="none",
        guide=torch.zeros(1, 1, 3, dtype=torch.uint8),
    )
    return ProposalImage(image_id="shown", group="shown", embedding=embedding, read=picture)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_readers.save_grounding_dino(tmp_path_factory.mktemp("dino"))


@pytest.fixture(scope="module")
def detector(folder: Path) -> Generator:
    return load_word_generator(str(folder), folder)


@pytest.fixture(scope="module")
def mapper(tmp_path_factory: pytest.TempPathFactory) -> Generator:
    made = tiny_readers.save_clipseg(tmp_path_factory.mktemp("clipseg"))
    return load_word_generator(str(made), made)


def corners(place: Any) -> tuple[float, ...]:
    return place.box.x0, place.box.y0, place.box.x1, place.box.y1


def test_boxes_are_the_library_s_own_in_pixels_of_the_image(
    detector: Generator, folder: Path, shown: ProposalImage
) -> None:
    found = detector.generate(shown, Context(words=("Hole", "scratch.")))
    model = transformers.GroundingDinoForObjectDetection.from_pretrained(folder).eval()
    processor = transformers.AutoProcessor.from_pretrained(folder)
    given = processor(images=picture().copy(), text="hole. scratch.", return_tensors="pt")
    with torch.no_grad():
        answer = model(**given)
    scores = answer.logits[0].sigmoid().amax(dim=1)
    x, y, w, h = (answer.pred_boxes[0] * torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])).T
    boxes = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], dim=1)
    limits = torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])
    best = int(scores.argmax())
    assert found.score_map is None and len(found.places) > 3
    assert found.places[0].score == pytest.approx(float(scores[best]), abs=1e-5)
    expected = boxes[best].clamp(min=torch.zeros(4), max=limits).tolist()
    assert corners(found.places[0]) == pytest.approx(expected, abs=1e-3)
    assert [p.score for p in found.places] == sorted((p.score for p in found.places), reverse=True)


def test_boxes_stay_inside_the_image(detector: Generator, shown: ProposalImage) -> None:
    for place in detector.generate(shown, Context(words=("cell",))).places:
        x0, y0, x1, y1 = corners(place)
        assert 0 <= x0 < x1 <= WIDTH and 0 <= y0 < y1 <= HEIGHT


def test_the_words_change_the_answer(detector: Generator, shown: ProposalImage) -> None:
    one, other = (detector.generate(shown, Context(words=(w,))) for w in ("hole", "scratch"))
    assert [p.score for p in one.places] != [p.score for p in other.places]


def test_a_map_is_the_highest_of_its_words(mapper: Generator, shown: ProposalImage) -> None:
    maps = [
        mapper.generate(shown, Context(words=words)).score_map
        for words in (("hole",), ("scratch",), ("hole", "scratch"))
    ]
    hole, scratch, both = (m for m in maps if m is not None)
    assert both.shape == (32, 32) and both.dtype == np.float32
    assert 0 < both.min() and both.max() < 1
    assert not np.allclose(hole, scratch, atol=1e-7)
    np.testing.assert_allclose(both, np.maximum(hole, scratch), atol=1e-5)


def test_nothing_is_looked_for_without_words(
    detector: Generator, mapper: Generator, shown: ProposalImage
) -> None:
    for generator in (detector, mapper):
        found = generator.generate(shown, Context())
        assert (found.places, found.score_map) == ((), None)


# Loading


def test_a_model_comes_from_the_hub_with_its_tokenizer(
    folder: Path, tmp_path: Path, shown: ProposalImage
) -> None:
    with serving(Hub(folder)) as hub:
        place = HubModel(hub_id=hub.hub_id, reads_text=True, hub=hub.url)
        fetched = fetch_model(place, tmp_path)
    assert (fetched / "tokenizer.json").is_file()
    again = load_word_generator(str(fetched), tmp_path)
    assert again.generate(shown, Context(words=("hole",))).places


def test_a_model_that_reads_no_words_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "sam"}))
    with pytest.raises(ModelError, match=r"type 'sam'.*grounding-dino, clipseg"):
        load_word_generator(str(tmp_path), tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_word_generator(str(tmp_path), tmp_path)


def test_weights_that_are_not_complete_are_refused(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors[next(name for name in tensors if name.startswith("model.encoder"))]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ModelError, match=r"lacks 1 parameters of grounding-dino, first 'model\.encoder"
    ):
        load_word_generator(str(tmp_path), tmp_path)


def test_a_name_that_is_nowhere_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="neither a folder"):
        load_word_generator("nothing", tmp_path)


def test_nothing_is_downloaded_where_that_is_off(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"grounding-dino-tiny is not in .*switched off"):
        load_word_generator("grounding-dino", tmp_path, may_download=False)
