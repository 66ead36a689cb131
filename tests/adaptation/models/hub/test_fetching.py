"""Models come from a hub whole, verified and once; or it is said what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from adaptation.errors import ModelError
from adaptation.models import catalog, entries
from adaptation.models.catalog import CATALOG, find_checkpoint, load_model
from adaptation.models.hub import fetching
from adaptation.models.hub.fetching import fetch_model, source_of
from adaptation.models.hub.files import folder_digest
from adaptation.models.hub.folder import load_folder
from adaptation.models.hub.place import HubModel
from tests.adaptation.models.hub import tiny
from tests.adaptation.models.hub.hub_server import COMMIT, Hub, serving


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny.save("sam2", tmp_path_factory.mktemp("published") / "tiny")
    (folder / "README.md").write_text("not wanted")
    return folder


@pytest.fixture
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_token", lambda: None)


def test_a_model_is_fetched_once_and_verified(
    published: Path, tmp_path: Path, no_token: None
) -> None:
    with serving(Hub(published)) as hub:
        model = HubModel(hub_id=hub.hub_id, hub=hub.url)
        folder = fetch_model(model, tmp_path)
        n_asked = len(hub.asked)
        assert fetch_model(model, tmp_path, may_download=False) == folder
    assert folder == tmp_path / "someone--tiny"
    assert len(hub.asked) == n_asked == 4  # the listing, two descriptions, the weights
    assert not any(path.endswith("README.md") for path in hub.asked)
    assert folder_digest(folder) == folder_digest(published)
    source = source_of(folder)
    assert source["commit"] == COMMIT and source["licence"] == "apache-2.0"
    load_folder(folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(ModelError, match="not the published file"):
        fetch_model(model, tmp_path)


def test_the_catalog_s_way_to_a_model_of_the_hub(
    published: Path, tmp_path: Path, no_token: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(Hub(published)) as hub:
        monkeypatch.setattr(
            entries, "HubModel", lambda hub_id: HubModel(hub_id=hub_id, hub=hub.url)
        )
        sam = load_model("someone/tiny", tmp_path)
        again = load_model("someone/tiny", tmp_path, download=False)
    assert sam.model_id == again.model_id == f"tiny-{folder_digest(published)[:8]}"
    assert sam.input_size == tiny.SIDE


@pytest.mark.parametrize("damaged", ["config.json", "model.safetensors"])
def test_what_does_not_arrive_whole_is_no_model(
    damaged: str, published: Path, tmp_path: Path, no_token: None
) -> None:
    with serving(Hub(published, damaged=damaged)) as hub:
        model = HubModel(hub_id=hub.hub_id, hub=hub.url)
        with pytest.raises(ModelError, match=r"did not arrive whole|has the sha256"):
            fetch_model(model, tmp_path)
        hub.damaged = None
        load_folder(fetch_model(model, tmp_path))


def test_a_gated_model_says_what_to_do_and_takes_a_token(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(Hub(published, token="hf_secret")) as hub:
        model = HubModel(hub_id=hub.hub_id, hub=hub.url)
        for token, advice in ((None, "log in with `hf auth login`"), ("other", "check that the")):
            monkeypatch.setattr(fetching, "_token", lambda token=token: token)
            with pytest.raises(ModelError, match="gated or private") as caught:
                fetch_model(model, tmp_path)
            assert f"Open {hub.url}/someone/tiny, accept its conditions" in str(caught.value)
            assert advice in str(caught.value) and "hf_secret" not in str(caught.value)
        monkeypatch.setattr(fetching, "_token", lambda: "hf_secret")
        load_folder(fetch_model(model, tmp_path))


def test_a_licence_has_to_be_accepted_first(
    published: Path, tmp_path: Path, no_token: None
) -> None:
    with serving(Hub(published)) as hub:
        model = HubModel(hub_id=hub.hub_id, hub=hub.url, terms="https://example.org/terms")
        with pytest.raises(ModelError, match=r"read https://example.org/terms.*--accept-licence"):
            fetch_model(model, tmp_path)
        assert hub.asked == []
        folder = fetch_model(model, tmp_path, accepts_terms=True)
        assert fetch_model(model, tmp_path) == folder  # once is enough
    assert source_of(folder)["accepted_terms"] == "https://example.org/terms"
    terms = [name for name, entry in CATALOG.items() if entry.hub and entry.hub.terms]
    assert terms == ["sam3"]


def test_a_missing_model_and_a_missing_network_are_told(
    published: Path, tmp_path: Path, no_token: None
) -> None:
    with serving(Hub(published)) as hub:
        with pytest.raises(ModelError, match=r"There is no model someone/else"):
            fetch_model(HubModel(hub_id="someone/else", hub=hub.url), tmp_path)
        gone = HubModel(hub_id="someone/tiny", hub=hub.url)
    for may_download, what in ((True, "Cannot reach"), (False, "downloading is switched off")):
        with pytest.raises(ModelError, match=what) as caught:
            fetch_model(gone, tmp_path, may_download=may_download)
        assert f"put them into {tmp_path / 'someone--tiny'}" in str(caught.value)


def test_a_repository_without_safetensors_is_told(tmp_path: Path, no_token: None) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_text("{}")
    (tmp_path / "old" / "pytorch_model.bin").write_bytes(b"pickle")
    with serving(Hub(tmp_path / "old")) as hub:
        with pytest.raises(ModelError, match="weights in safetensors"):
            fetch_model(HubModel(hub_id=hub.hub_id, hub=hub.url), tmp_path / "models")


@pytest.mark.parametrize("name", ["./nowhere", "a/b/c", "/srv/nothing", "../x/y"])
def test_a_place_that_is_neither_folder_nor_id_is_told(name: str) -> None:
    with pytest.raises(ModelError, match="neither a folder that is there nor a model's id"):
        find_checkpoint(name)


def test_a_folder_is_a_model_by_its_path(published: Path, tmp_path: Path) -> None:
    sam = load_model(str(published), tmp_path)
    assert sam.model_id == f"tiny-{folder_digest(published)[:8]}"
    own = load_model("sam2.1-tiny", tmp_path, checkpoint=published)
    assert own.model_id == f"sam2.1-tiny-{folder_digest(published)[:8]}"
    assert own.encoder_id == sam.encoder_id and own.decoder_id == sam.decoder_id
    assert catalog.find_checkpoint(str(published)).title == f"the model in {published}"
