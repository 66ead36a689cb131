"""The scores that Label Studio is told: the IoU that is to be expected of a mask in its project."""

from __future__ import annotations

from backend.insights.calibration import N_OBJECTS, ScoreCurves, fitted
from backend.insights.store import FactStore


class CalibratedScores:
    """Curves of each project and decoder, from the objects that were finished last.

    `score` is for any thread and never waits; `refit` is for the one that keeps the rows.

    Args:
        store: Of the rows.
    """

    def __init__(self, store: FactStore) -> None:
        self._store = store
        self._curves: dict[tuple[str, str], tuple[str, ScoreCurves]] = {}

    def score(self, project_id: str, decoder_id: str, predicted: float, n_prompts: int) -> float:
        """What is to be expected of a mask.

        Args:
            project_id: The project.
            decoder_id: Digest of the decoder, as the session left it.
            predicted: Its predicted IoU.
            n_prompts: Clicks and boxes so far.
        """
        known = self._curves.get((project_id, decoder_id))
        return predicted if known is None else known[1].of(predicted, n_prompts)

    def refit(self) -> int:
        """Fit the curves of the projects with news; returns of how many."""
        n_fitted = 0
        for project_id in self._store.projects():
            decoder_id = self._store.last_decoder(project_id)
            if decoder_id is None:
                continue
            stamp, key = self._store.stamp(project_id), (project_id, decoder_id)
            if self._curves.get(key, ("", None))[0] != stamp:
                facts = self._store.last_facts(project_id, decoder_id, N_OBJECTS)
                self._curves[key] = stamp, fitted(facts)
                n_fitted += 1
        return n_fitted
