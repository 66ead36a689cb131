"""Sessions merged into a start for the next ones of their project.

The start is the mean of what the project's last finished sessions learned, each weighted by its
finished objects (as in federated averaging: McMahan et al. 2017, arXiv 1602.05629).  It is used
only where it does not lose against the base decoder on objects of these sessions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adaptation.learning.adapter import Adapter
from adaptation.learning.adapter_scale import ScaleSelector, pooled
from adaptation.learning.settings import LearnerSettings
from backend.learning.events import Merged
from backend.learning.objects import ReplayContext
from backend.learning.session import SessionObject, answering, interaction_of, mean_iou
from backend.learning.session_log import SessionLog

N_TRIED = 8
"""Objects that a merged start is tried on."""

MERGE_AFTER = 4
"""Objects learned in a project between two merges; fewer while it has fewer than eight."""


def mean_of(adapters: Sequence[Adapter], weights: Sequence[int]) -> Adapter:
    """The weighted mean of adapters to one base decoder; the base itself counts as no difference.

    It inherits what the sessions' own objects said of shares, not what these inherited in turn:
    each object is counted once.

    Args:
        adapters: At least one, all of one base decoder.
        weights: At least 0 each, above 0 together.
    """
    names = sorted({name for adapter in adapters for name in adapter.deltas})
    total = float(sum(weights))
    shares = zip(*(adapter.shares for adapter in adapters), strict=True)
    return Adapter(
        {name: _mean(name, adapters, weights, total) for name in names},
        adapters[0].decoder_id,
        tuple(sum(s * w for s, w in zip(of, weights, strict=True)) / total for of in shares),
        inherited=pooled([adapter.evidence for adapter in adapters]),
    )


def _mean(name: str, adapters: Sequence[Adapter], weights: Sequence[int], total: float) -> Tensor:
    found = [
        (adapter.deltas[name].double(), weight)
        for adapter, weight in zip(adapters, weights, strict=True)
        if name in adapter.deltas
    ]
    summed = torch.zeros_like(found[0][0])
    for delta, weight in found:
        summed += delta * weight
    return (summed / total).to(torch.float16)


@dataclass(frozen=True, slots=True)
class _Merged:
    """What a project's start was made of: objects learned, and the version of each session."""

    n_objects: int
    versions: Mapping[str, str]


NEVER = _Merged(0, {})


class Merger:
    """Makes starts for projects of what their sessions learned.

    Args:
        context: Answers the objects that a start is tried on.
        log: Which sessions learned how much, and what.
        settings: How sessions learn.
        most: Sessions that are merged, those that were trained last; 0 for none.
    """

    def __init__(
        self,
        context: ReplayContext,
        log: SessionLog,
        settings: LearnerSettings,
        most: int,
    ) -> None:
        self._context, self._index, self._adapters = context, log.index, log.adapters
        self._settings, self._most = settings, most
        self._interaction = interaction_of(context.sam, settings)
        self._merged: dict[str, _Merged] = {}

    def is_due(self, project_id: str, *, at_rest: bool) -> bool:
        """Whether a project's sessions learned enough since its last start to make a new one.

        Args:
            project_id: The project.
            at_rest: No session of it can gain by idle training: what they are now stays for a
                while, so any change is enough.
        """
        if not self._most:
            return False
        before, now = self._merged.get(project_id, NEVER), self._state(project_id)
        if at_rest:
            return now.versions != before.versions
        return now.n_objects - before.n_objects >= min(MERGE_AFTER, max(1, now.n_objects // 2))

    def merge(self, project_id: str) -> tuple[Adapter, Merged] | None:
        """A new start, and how it fared beside the base decoder; None without any session.

        Raises:
            StropError: An object that it is tried on cannot be read.
        """
        self._merged[project_id] = self._state(project_id)
        tally = self._index.tallies[project_id]
        found = [(name, self._adapters.adapter(name)) for name in self._last(project_id)]
        known = [(name, adapter) for name, adapter in found if adapter is not None]
        if not known:
            return None
        names = [name for name, _ in known]
        weights = [tally[name] for name in names]
        mean = mean_of([adapter for _, adapter in known], weights)
        merged = ScaleSelector(self._settings.trust, mean).applied(mean)
        objects = self._objects(project_id, names)
        merged_iou, frozen_iou = self._mean_iou(objects, merged), self._mean_iou(objects, None)
        return merged, Merged(
            sessions=tuple(names),
            weights=tuple(weights),
            shares=merged.shares,
            is_scored=merged.is_scored,
            version=merged.version,
            is_used=bool(objects) and merged_iou >= frozen_iou,
            merged_iou=merged_iou,
            frozen_iou=frozen_iou,
            n_tried=len(objects),
        )

    def _last(self, project_id: str) -> list[str]:
        """The sessions that would be merged now."""
        tally = self._index.tallies[project_id]
        return [name for name, n_objects in tally.items() if n_objects > 0][-self._most :]

    def _state(self, project_id: str) -> _Merged:
        versions = {name: self._index.versions[name][1] for name in self._last(project_id)}
        return _Merged(sum(self._index.tallies[project_id].values()), versions)

    def _objects(self, project_id: str, names: Sequence[str]) -> list[SessionObject]:
        """Objects of some sessions, the newest ones."""
        recent = [e for e in self._index.recent[project_id] if e.session in names]
        return [
            self._context.reader.again(project_id, event).session_object()
            for event in recent[-N_TRIED:]
        ]

    def _mean_iou(self, objects: Sequence[SessionObject], adapter: Adapter | None) -> float:
        weights = answering(self._context.sam, adapter or Adapter())
        found = [mean_iou(self._interaction, o, weights, self._context.pause) for o in objects]
        return sum(found) / max(1, len(found))
