"""Simulated annotators label a tiny data set through a real Strop."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptation.errors import SettingsError
from adaptation.masks import decode_rle
from adaptation.predictor.click_correction import ClickCorrection, CorrectionSettings
from adaptation.predictor.settings import ZoomSettings
from adaptation.simulation.annotator import Rules
from adaptation.storage.datasets import FolderSet
from backend.commands.simulate.client import ServerLost
from backend.commands.simulate.run import run
from tests.backend.making import until
from tests.backend.service_kit import WatchedSam, interactions_of
from tests.backend.simulate_kit import finished_objects, options_for, running_strop
from tests.backend.sites import Site, json_reply
from tests.training.folders import write_set
from training.evaluation.harness import Harness, Slot
from training.runtime.embedding_cache import CachedEncoder

N_IMAGES, N_OBJECTS = 3, 6  # two of the three objects of each image are large enough

Said = list[str]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_set(tmp_path / "rectangles", N_IMAGES)


@pytest.fixture
def said() -> Said:
    return []


def lines_of(out: Path) -> list[dict[str, Any]]:
    """The objects in the results' file, sorted."""
    lines = out.with_suffix(".jsonl").read_text().splitlines()[1:]
    objects = [item for line in lines for item in json.loads(line)["objects"]]
    return sorted(objects, key=lambda item: (item["stem"], item["label"]))


# What is labelled


def test_the_journal_holds_every_object_with_its_clicks_and_the_mask_that_was_painted(
    data: Path, tmp_path: Path, said: Said
) -> None:
    store, out = tmp_path / "store", tmp_path / "results.json"
    with running_strop(store) as strop:
        # A random model never comes near 0.9: all six objects are painted after three clicks.
        assert run(options_for(data, strop.url, out=out), said.append) == 0
        until(lambda: len(finished_objects(store)) == N_OBJECTS)
    dataset = FolderSet(data)
    truths = {f"{ref.stem}/{ref.label}": dataset.mask(ref) for ref in dataset.objects()}
    found = {item.submitted.region_id: item for item in finished_objects(store)}
    results = lines_of(out)
    assert len(results) == len(truths) == N_OBJECTS
    for result in results:
        item = found[result["region_id"]]
        assert item.link.how == "region_id"
        assert item.link.iou is not None and item.link.iou < 1, "edited by hand, and it shows"
        clicks = [(c.x, c.y, c.is_positive) for c in item.interactions[-1].prompt.clicks]
        assert clicks == [tuple(click) for click in result["clicks"]]
        assert [step.step for step in item.interactions] == [0, 1, 2]
        assert item.submitted.rle is not None
        submitted = decode_rle(item.submitted.rle)
        np.testing.assert_array_equal(submitted, truths[f"{result['stem']}/{result['label']}"])
        assert (item.submitted.label, item.annotator) == ("rectangles", "1")
        assert {step.project_id for step in item.interactions} == {"900001"}


def test_a_mask_that_is_good_enough_is_accepted_as_it_is(
    data: Path, tmp_path: Path, said: Said
) -> None:
    store, out = tmp_path / "store", tmp_path / "results.json"
    with running_strop(store) as strop:
        run(options_for(data, strop.url, target=1e-6, out=out), said.append)
        until(lambda: bool(finished_objects(store)))
    accepted = [item for item in lines_of(out) if item["outcome"] == "accepted"]
    assert accepted
    exact = {item.submitted.region_id: item.link.iou for item in finished_objects(store)}
    assert all(exact[item["region_id"]] == 1.0 for item in accepted)
    assert all(item["submitted_iou"] == item["ious"][-1] > 0 for item in accepted)


@pytest.mark.parametrize("give_up", ["keep", "leave"])
def test_a_mask_that_is_never_good_enough_may_be_kept_or_left_out(
    give_up: str, data: Path, tmp_path: Path, said: Said
) -> None:
    store, out = tmp_path / "store", tmp_path / "results.json"
    with running_strop(store) as strop:
        run(options_for(data, strop.url, target=1.0, give_up=give_up, out=out), said.append)
    outcomes = [item["outcome"] for item in lines_of(out)]
    if give_up == "leave":
        assert outcomes == ["left"] * N_OBJECTS
        assert not finished_objects(store)
    else:
        assert set(outcomes) <= {"kept", "left"} and "kept" in outcomes
        assert len(finished_objects(store)) == outcomes.count("kept")


def test_of_several_masks_offered_the_best_one_is_taken(
    data: Path, tmp_path: Path, said: Said
) -> None:
    sam, out = WatchedSam(), {n: tmp_path / f"{n}.json" for n in (1, 3)}
    as_decoded = (
        tmp_path / "learner.yaml"
    )  # corrected, the shown mask is the best of a random model
    as_decoded.write_text("correction:\n  is_on: false\n")
    for n_offered, path in out.items():
        store, given = tmp_path / f"store{n_offered}", {"answers__alternatives": n_offered}
        with running_strop(store, sam, learning__config=as_decoded, **given) as strop:
            options = options_for(data, strop.url, clicks=1, give_up="keep", out=path)
            run(options, said.append)
    one, three = (lines_of(path) for path in out.values())
    gains = [b["ious"][0] - a["ious"][0] for a, b in zip(one, three, strict=True)]
    assert min(gains) >= 0
    chosen = [item for item in three if item["choice"] > 0]
    assert chosen
    assert [gain > 0 for gain in gains] == [item["choice"] > 0 for item in three]
    assert all(item["region_id"].endswith(f"-{item['choice']}") for item in chosen)


def test_sloppy_borders_are_told_from_true_ones(data: Path, tmp_path: Path, said: Said) -> None:
    out = tmp_path / "results.json"
    with running_strop(tmp_path / "store") as strop:
        run(options_for(data, strop.url, clicks=1, sloppy=0.5, out=out), said.append)
    results = lines_of(out)
    assert all(item["outcome"] == "painted" for item in results)
    assert 0 < sum(item["is_sloppy"] for item in results) < N_OBJECTS
    for item in results:
        assert (item["submitted_iou"] < 1) == item["is_sloppy"]


# The same again


@pytest.mark.parametrize("clicker", ["central", "noisy"])
def test_the_same_seed_gives_the_same_clicks_and_masks_with_any_number_of_annotators(
    clicker: str, data: Path, tmp_path: Path, said: Said
) -> None:
    sam, digests, annotations = WatchedSam(), set(), []
    for number, annotators in enumerate((1, 1, 3)):
        out = tmp_path / f"{number}.json"
        with running_strop(tmp_path / f"store{number}", sam) as strop:
            options = options_for(data, strop.url, clicker=clicker, sloppy=0.3, out=out)
            run(replace(options, annotators=annotators), said.append)
        digests.add(json.loads(out.read_text())["digests"]["answers"])
        lines = out.with_suffix(".jsonl").read_text().splitlines()[1:]
        annotations += [json.loads(line)["annotation_id"] for line in lines]
    assert len(digests) == 1
    assert len(set(annotations)) == 3 * N_IMAGES, "people who label the same annotate anew"


@pytest.mark.parametrize("clicker", ["central", "noisy"])
def test_the_evaluation_harness_clicks_the_same_and_sees_the_same(
    clicker: str, data: Path, tmp_path: Path, said: Said
) -> None:
    sam, out = WatchedSam(), tmp_path / "results.json"
    with running_strop(tmp_path / "store", sam) as strop:
        options = options_for(data, strop.url, clicker=clicker, clicks=8, out=out)
        run(options, said.append)
    dataset = FolderSet(data)
    rules = Rules(clicker=clicker, max_clicks=8, target=0.9)
    obeying = ClickCorrection(CorrectionSettings(), sam.input_size)
    harness = Harness(sam, dataset, CachedEncoder(sam), rules, ZoomSettings(), corrector=obeying)
    slot = Slot(mode="frozen", order=0, session=0, position=0)
    evaluated = [harness.run_object(ref, slot, None) for ref in sorted(dataset.objects())]
    for here, there in zip(lines_of(out), evaluated, strict=True):
        assert [tuple(click) for click in here["clicks"]] == list(there.clicks)
        assert here["ious"] == list(there.ious)


# When something goes wrong


def test_a_server_that_is_lost_loses_nothing_and_the_same_command_goes_on(
    data: Path, tmp_path: Path, said: Said
) -> None:
    store, out = tmp_path / "store", tmp_path / "results.json"
    sam = WatchedSam()
    # An image takes 1 + 2 * 3 requests: the second one is under way when the server goes.
    with running_strop(store, sam, last=10) as strop:
        with pytest.raises(ServerLost, match=r"is gone.* 1 of 3 images .* same command goes on"):
            run(options_for(data, strop.url, out=out), said.append)
    assert not out.exists()
    assert len(lines_of(out)) == 2
    with out.with_suffix(".jsonl").open("a") as file:
        file.write('{"key": "rectangles/im')  # as a crash in the middle of a line leaves it
    with running_strop(store, sam) as strop:
        assert run(options_for(data, strop.url, out=out), said.append) == 0
        assert strop.n_predicts == 14, "two images are left"
        until(lambda: len(finished_objects(store)) == N_OBJECTS)
    assert len(lines_of(out)) == N_OBJECTS

    whole = tmp_path / "whole.json"
    with running_strop(tmp_path / "other", sam) as strop:
        run(options_for(data, strop.url, out=whole), said.append)
    digests = [json.loads(path.read_text())["digests"] for path in (out, whole)]
    assert digests[0] == digests[1], "as if nothing had happened"


def test_what_is_done_needs_no_server(data: Path, tmp_path: Path, said: Said) -> None:
    out = tmp_path / "results.json"
    with running_strop(tmp_path / "store") as strop:
        options = options_for(data, strop.url, out=out)
        run(options, said.append)
    table = said[0]
    said.clear()
    assert run(options, said.append) == 0
    assert said[:2] == ["Everything is labelled already.", table]


def test_other_options_do_not_go_on_in_the_same_file(
    data: Path, tmp_path: Path, said: Said
) -> None:
    out = tmp_path / "results.json"
    with running_strop(tmp_path / "store") as strop:
        run(options_for(data, strop.url, out=out), said.append)
        with pytest.raises(SettingsError, match=r"another simulation \(seed was 0, is 1\)"):
            run(options_for(data, strop.url, out=out, seed=1), said.append)
    out.with_suffix(".jsonl").write_text('{"lines": "of something else"}\n')
    with pytest.raises(SettingsError, match="not the file of a simulation"):
        run(options_for(data, strop.url, out=out), said.append)


def test_an_image_that_is_refused_is_told_and_the_others_go_on(
    data: Path, tmp_path: Path, said: Said
) -> None:
    good = (data / "images" / "im1.png").read_bytes()
    (data / "images" / "im1.png").write_bytes(b"no image at all")
    store, out = tmp_path / "store", tmp_path / "results.json"
    with running_strop(store) as strop:
        assert run(options_for(data, strop.url, out=out), said.append) == 1
        until(lambda: len(finished_objects(store)) == 4)
        assert any(line.startswith("failed: 2 x /predict was answered with 422") for line in said)
        # Mended, it is tried again: what failed is not done.
        (data / "images" / "im1.png").write_bytes(good)
        assert run(options_for(data, strop.url, out=out), said.append) == 0
        until(lambda: len(finished_objects(store)) == N_OBJECTS)
    assert json.loads(out.read_text())["all"]["failed"] == 0


def test_a_server_that_is_busy_for_a_moment_is_asked_again(
    data: Path, tmp_path: Path, said: Said
) -> None:
    with running_strop(tmp_path / "store") as strop:
        strop.app = busy_at_first(strop.app, n_times=2)
        assert run(options_for(data, strop.url, patience_s=20.0), said.append) == 0
    assert len(interactions_of(tmp_path / "store")) == 3 * N_OBJECTS


def test_a_password_is_asked_for_and_taken(data: Path, tmp_path: Path, said: Said) -> None:
    with running_strop(tmp_path / "store", server__password="open sesame") as strop:
        with pytest.raises(SettingsError, match="wants a password") as refused:
            run(options_for(data, strop.url), said.append)
        assert "sesame" not in str(refused.value)
        inside = strop.url.replace("//", "//strop:open%20sesame@")
        assert run(options_for(data, inside), said.append) == 0


def test_an_address_without_a_strop_is_told(data: Path, said: Said) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        free = probe.getsockname()[1]
    with pytest.raises(SettingsError, match=f"No Strop answers at http://127.0.0.1:{free} "):
        run(options_for(data, f"http://127.0.0.1:{free}"), said.append)
    site = Site()
    site.routes["/health"] = lambda _: json_reply({"status": "UP"})  # as Label Studio says it
    with site.running(), pytest.raises(SettingsError, match="is no Strop"):
        run(options_for(data, site.url), said.append)
    with pytest.raises(SettingsError, match="--url must look like"):
        run(options_for(data, "localhost:9090"), said.append)


def busy_at_first(app: Callable[..., Any], n_times: int) -> Callable[..., Any]:
    """The first requests for masks are answered with 503."""
    left = [None] * n_times

    def answer(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/predict" and left:
            left.pop()
            start_response("503 Busy", [("Content-Type", "application/json")])
            return [b"{}"]
        return app(environ, start_response)

    return answer
