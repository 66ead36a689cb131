"""Finished sessions merged into the start of their project's next ones."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from adaptation.learning.adapter import Adapter, load_adapter
from adaptation.learning.scale_evidence import NONE
from backend.commands.replay import replay
from backend.learning.events import Merged, read_events
from backend.learning.merging import mean_of
from tests.backend.learning_kit import (
    FAST,
    draw,
    events_of,
    handed_over,
    learning_of,
    learning_service,
    rest,
    version_now,
)
from tests.backend.making import until
from tests.backend.service_kit import HEIGHT, WIDTH, WatchedSam, journal_of, settings_for

RUINOUS = {
    **FAST,
    "learning_rate": 0.5,
    "guard": {**FAST["guard"], "probe_drop": 1.0, "margin": 1.0},
    "trust": {"is_on": False},
}
"""Learns so fast that nothing good can come of it, and nobody guards it."""


def adapter(**deltas: list[float]) -> Adapter:
    tensors = {name: torch.tensor(values).half() for name, values in deltas.items()}
    return Adapter(tensors, "decoder")


def test_the_mean_counts_each_session_by_its_objects() -> None:
    # (1 * 3 + 5 * 1) / 4 = 2;  b is missing in the second, which counts as 0: (8 * 3 + 0) / 4 = 6
    found = mean_of([adapter(a=[1.0], b=[8.0]), adapter(a=[5.0])], [3, 1])
    assert found.deltas["a"].tolist() == [2.0] and found.deltas["b"].tolist() == [6.0]
    assert found.deltas["a"].dtype == torch.float16 and found.decoder_id == "decoder"


def test_the_mean_with_a_base_decoder_is_nearer_to_it() -> None:
    found = mean_of([adapter(a=[4.0]), Adapter({}, "decoder")], [1, 3])
    assert found.deltas["a"].tolist() == [1.0]


def test_a_session_is_its_own_mean_bit_for_bit() -> None:
    one = adapter(a=[0.1, -3e-5, 7e-8])
    assert mean_of([one], [3]).version == one.version


def test_the_next_session_starts_where_the_last_ended(tmp_path: Path) -> None:
    with learning_service(tmp_path, learning__scope="label") as service:
        draw(service, 0)
        draw(service, 1)
        rest(service)
        start = version_now(service, tmp_path, label="Other")
        assert start == version_now(service, tmp_path) != "base", "the mean of one session"
        draw(service, 2, label="Other")
        rest(service)
        own = version_now(service, tmp_path, label="Other")
        assert own not in (start, version_now(service, tmp_path))
    began = [e.payload for e in events_of(tmp_path, "session_began")]
    assert [b["start"] for b in began] == ["base", "merged"] and began[1]["version"] == start
    first, *_, last = [e.payload for e in events_of(tmp_path, "sessions_merged")]
    assert first["is_used"] and first["merged_iou"] >= first["frozen_iou"]
    assert last["sessions"] == ["project-1-label-Object", "project-1-label-Other"]
    assert last["weights"] == [2, 1] and last["n_tried"] == 3
    found = replay(settings_for(tmp_path), None, check=True, sam=WatchedSam())
    assert len(found) == 2 + last["is_used"], "two sessions, and the start where there is one"
    assert all(session.is_as_saved for session in found)


def test_a_task_s_session_starts_from_those_of_other_tasks(tmp_path: Path) -> None:
    with learning_service(tmp_path, learning__scope="task") as service:
        draw(service, 0)
        rest(service)
        assert version_now(service, tmp_path, task=99) == version_now(service, tmp_path, task=10)
        assert version_now(service, tmp_path, task=99) != "base"


def test_sessions_of_one_object_gather_evidence_together(tmp_path: Path) -> None:
    # More evidence is asked for than there is, so the start answers as the base does and is kept.
    patient = {**FAST, "steps": 8, "learning_rate": 2e-3, "trust": {"least": 100.0}}
    with learning_service(tmp_path, patient, learning__scope="task") as service:
        for image in range(3):
            draw(service, image)
            rest(service)
    merged = [e.payload for e in events_of(tmp_path, "sessions_merged")]
    assert sorted({len(event["sessions"]) for event in merged}) == [1, 2, 3]
    start = load_adapter(
        settings_for(tmp_path).data_dir / "sessions" / "start-1.safetensors", WatchedSam()
    )
    assert start.inherited.stages[0].count == 2.0, "the first object judged nothing"
    assert start.evidence == NONE and start.shares == tuple(merged[-1]["shares"]) == (0.0,) * 4
    assert merged[-1]["is_used"]


def test_a_start_does_not_wait_until_idle_training_is_over(tmp_path: Path) -> None:
    restless = {**FAST, "think_patience": 10_000}
    with learning_service(tmp_path, restless, learning__scope="label") as service:
        draw(service, 0)
        draw(service, 1)
        handed_over(service)
        until(lambda: version_now(service, tmp_path, label="Other") != "base")
        until(lambda: bool(events_of(tmp_path, "thought")))
        assert not learning_of(service).idle(), "the session still trains"


def test_what_is_at_rest_unchanged_is_not_merged_again(tmp_path: Path) -> None:
    with learning_service(tmp_path, learning__scope="task") as service:
        draw(service, 0)
        rest(service)
        n_merged = len(events_of(tmp_path, "sessions_merged"))
        draw(service, 1, mask=np.zeros((HEIGHT, WIDTH), bool))
        rest(service)
    *_, last = events_of(tmp_path, "learned")
    assert last.payload["skipped"] and n_merged <= 2
    assert len(events_of(tmp_path, "sessions_merged")) == n_merged


def test_a_mean_inherits_what_each_object_said_once() -> None:
    said = NONE.after([1], np.array([[0.2], [0.2], [0.5], [0.8]]), 0.9)
    sessions = [replace(adapter(a=[1.0]), evidence=said, inherited=said)] * 3
    found = mean_of(sessions, [1, 1, 1])
    assert found.inherited.stages[0].count == 3.0 and found.evidence == NONE


def test_a_mean_that_loses_against_the_base_is_not_used(tmp_path: Path) -> None:
    with learning_service(tmp_path, RUINOUS, learning__scope="label") as service:
        draw(service, 0, as_shown=True)
        rest(service)
        assert version_now(service, tmp_path, label="Other") == "base"
    *_, event = events_of(tmp_path, "sessions_merged")
    assert not event.payload["is_used"]
    assert event.payload["merged_iou"] < event.payload["frozen_iou"]


@pytest.mark.parametrize("overrides", [{"learning__merge": 0}, {"learning__scope": "project"}])
def test_nothing_is_merged_unless_it_is_wanted(
    tmp_path: Path, overrides: dict[str, object]
) -> None:
    with learning_service(tmp_path, **{"learning__scope": "label", **overrides}) as service:
        draw(service, 0)
        rest(service)
    assert events_of(tmp_path, "sessions_merged") == []


def test_merges_of_a_strop_without_scores_are_read(tmp_path: Path) -> None:
    merged = Merged(
        sessions=("a",), weights=(1,), shares=(0.0,) * 4, version="base", is_used=False,
        merged_iou=0.5, frozen_iou=0.5, n_tried=1,
    )  # fmt: skip
    with journal_of(tmp_path) as journal:
        before = {k: v for k, v in asdict(merged).items() if k != "is_scored"}
        journal.append_event("sessions_merged", "1", before)
        journal.append_event("sessions_merged", "1", {"sessions": []})
        assert list(read_events(journal)) == [("1", merged)], "what lacks more is passed over"
