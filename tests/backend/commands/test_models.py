"""`strop models`: what is listed, fetched and checked, and what is said where it cannot be."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest

from adaptation.errors import StropError
from adaptation.models import entries
from adaptation.models.entries import CATALOG
from adaptation.models.hub import fetching
from adaptation.models.hub.place import HubModel
from backend.commands.models import check_model, get_model, list_models
from backend.settings import Settings
from tests.adaptation.models.hub.hub_server import COMMIT, Hub, serving

needs_hub = pytest.mark.skipif(
    find_spec("transformers") is None or find_spec("timm") is None, reason="needs the extra hub"
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.adaptation.models.hub import tiny

    return tiny.save("sam2", tmp_path_factory.mktemp("published") / "tiny")


def test_every_model_is_listed_with_what_is_on_the_disk(settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "models" / "facebook--sam2.1-hiera-tiny"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(3_000_000))
    lines = {line.split()[0]: line for line in list_models(settings) if line}
    assert lines.keys() >= CATALOG.keys()
    assert lines["sam2.1-tiny"].split()[1:6] == ["31.3", "M", "3", "MB", "Apache-2.0"]
    assert lines["sam2.1-small"].split()[3] == "-"
    assert lines["compact"].split()[3:5] == ["8", "MB"]
    assert "SAM License" in lines["sam3"]


@needs_hub
def test_a_model_is_got_and_checked(
    published: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "_token", lambda: None)
    with serving(Hub(published)) as hub:
        monkeypatch.setattr(
            entries, "HubModel", lambda hub_id: HubModel(hub_id=hub_id, hub=hub.url)
        )
        said = list(get_model(settings, "someone/tiny", accepts_licence=False))
        assert f"From someone/tiny at {COMMIT[:12]}, licence there: apache-2.0" in said
        out = tmp_path / "shown" / "check.png"
        checked = list(check_model(settings, "someone/tiny", out, None))
    assert checked[0].startswith("tiny-") and "predicted IoU" in checked[2]
    drawn, sample = cv2.imread(str(out)), cv2.imread(str(CHECKED))
    assert drawn.shape == sample.shape
    height, width = drawn.shape[:2]
    assert not np.array_equal(drawn[height // 2, width // 2], sample[height // 2, width // 2])


CHECKED = Path(__file__).parents[3] / "backend" / "commands" / "demo" / "samples" / "5-cat.jpg"


def test_an_image_of_your_own_is_clicked_in_its_middle(settings: Settings, tmp_path: Path) -> None:
    image = np.full((80, 120, 3), 40, np.uint8)
    cv2.circle(image, (60, 40), 20, (60, 200, 220), -1)
    cv2.imwrite(str(tmp_path / "disk.png"), image)
    out = tmp_path / "check.png"
    said = list(check_model(settings, "compact", out, tmp_path / "disk.png"))
    share = float(said[2].split(": ")[1].split(" %")[0])
    assert abs(share - 100 * np.pi * 20**2 / (80 * 120)) < 4  # the disk, and little else
    # BGR as it was read back: the mask is redder, the ground as it was.
    drawn = cv2.imread(str(out))
    assert drawn[40, 50, 2] > 220 and tuple(drawn[5, 5]) == (40, 40, 40)


@pytest.mark.parametrize(
    ("name", "out", "image", "message"),
    [
        ("nonsense", "x.png", None, "There is no model 'nonsense'"),
        ("sam2.1-tiny", "x.png", None, "downloading is switched off"),
        ("compact", "x.txt", None, "no name of a picture"),
        ("compact", "x.png", "none.jpg", "none.jpg cannot be read"),
    ],
)
def test_what_cannot_be_checked_is_told(
    name: str, out: str, image: str | None, message: str, settings: Settings, tmp_path: Path
) -> None:
    given = None if image is None else tmp_path / image
    with pytest.raises(StropError, match=message):
        list(check_model(settings, name, tmp_path / out, given))


def test_a_gated_model_shows_its_terms_first(settings: Settings) -> None:
    said: list[str] = []
    with pytest.raises(StropError, match="--accept-licence"):
        for line in get_model(settings, "sam3", accepts_licence=False):
            said.append(line)
    assert any("LICENSE" in line for line in said)
    assert not (settings.models_dir).exists()


@needs_hub
def test_a_folder_is_checked_by_its_path(
    published: Path, settings: Settings, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(published, tmp_path / "mine"))
    said = list(check_model(settings, str(folder), tmp_path / "check.jpg", None))
    assert said[0].startswith("mine-") and (tmp_path / "check.jpg").is_file()
