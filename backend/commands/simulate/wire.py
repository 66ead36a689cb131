"""What Label Studio 1.23 sends to a backend, built from scratch: opened tasks, clicks, submissions.

Every message has the keys that Label Studio sends and that tell something; the counters and
settings of tasks and projects that a backend has no use for are left out.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any
from xml.sax.saxutils import quoteattr

from adaptation.masks import Mask
from adaptation.types import Click, Size
from backend.protocol.brush_rle import encode_brush

Body = dict[str, Any]
Region = Mapping[str, Any]

CREATED = 1_795_252_480
"""When the simulated projects were created: Label Studio names a project "1.1795252480"."""

_KEYPOINT_PERCENT = 0.25
"""Visual size of a keypoint; it has no meaning."""


def new_id() -> str:
    """An id as Label Studio's editor makes them: ten characters."""
    return secrets.token_urlsafe(8)[:10]


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedTask:
    """A task as Label Studio knows it.

    Args:
        project_id: Its project.
        task_id: Its number.
        label: The one label of the project.
        reference: Where its image is.
        size: (H, W) of the image.
    """

    project_id: int
    task_id: int
    label: str
    reference: str
    size: Size

    @property
    def label_config(self) -> str:
        """The project's labeling config: smart keypoints, brushes to answer with."""
        label = f"<Label value={quoteattr(self.label)}/>"
        return f"""<View>
  <Image name="image" value="$image" zoom="true" zoomControl="true"/>
  <KeyPointLabels name="kp" toName="image" smart="true">{label}</KeyPointLabels>
  <BrushLabels name="brush" toName="image" smart="false">{label}</BrushLabels>
</View>"""

    def setup(self) -> Body:
        """The project was connected."""
        return {
            "project": self._project,
            "schema": self.label_config,
            "hostname": "",
            "access_token": "",
            "extra_params": None,
        }

    def opened(self) -> Body:
        """The task was opened."""
        return self._predict(None, ())

    def clicked(self, keypoints: Sequence[Region], finished: Sequence[Region], user: int) -> Body:
        """A click was made.

        Args:
            keypoints: All on the object so far, oldest first.
            finished: The regions accepted before; they travel along in the user's draft.
            user: The annotator's number.
        """
        return self._predict({"result": list(keypoints)}, self._drafts(finished, user))

    def submitted(
        self, annotation_id: int, regions: Sequence[Region], user: int, lead_time_s: float
    ) -> Body:
        """The annotation was submitted."""
        now = _now()
        annotation = {
            "id": annotation_id,
            "task": self.task_id,
            "project": self.project_id,
            "completed_by": user,
            "updated_by": user,
            "result": list(regions),
            "result_count": len(regions),
            "was_cancelled": False,
            "ground_truth": False,
            "created_at": now,
            "updated_at": now,
            "draft_created_at": now if regions else None,
            "lead_time": round(lead_time_s, 3),
            "prediction": {},
            "parent_prediction": None,
            "parent_annotation": None,
        }
        return {
            "action": "ANNOTATION_CREATED",
            "annotation": annotation,
            "task": {**self._task(), "is_labeled": True, "total_annotations": 1},
            "project": {
                "id": self.project_id,
                "title": f"simulated: {self.label}",
                "label_config": self.label_config,
            },
        }

    def keypoint(self, click: Click, keypoint_id: str) -> Region:
        """A click as the smart keypoint that it is in Label Studio."""
        return {
            **self._on_image(),
            "value": {
                "x": 100 * (click.x + 0.5) / self.size[1],
                "y": 100 * (click.y + 0.5) / self.size[0],
                "width": _KEYPOINT_PERCENT,
                "labels": [self.label],
                "keypointlabels": [self.label],
            },
            "is_positive": click.is_positive,
            "id": keypoint_id,
            "from_name": "kp",
            "type": "keypointlabels",
            "origin": "manual",
        }

    def painted(self, mask: Mask, suggestion: Region | None) -> Region:
        """A region painted with the brush, over an accepted suggestion or from nothing."""
        kept = {"id": new_id()}
        if suggestion is not None:
            kept = {key: suggestion[key] for key in ("id", "score") if key in suggestion}
        return {
            **self._on_image(),
            "value": {"format": "rle", "rle": encode_brush(mask), "brushlabels": [self.label]},
            "from_name": "brush",
            "type": "brushlabels",
            "origin": "manual",
            **kept,
        }

    # What the messages share ---------------------------------------------------------------------

    @property
    def _project(self) -> str:
        return f"{self.project_id}.{CREATED}"

    def _on_image(self) -> Body:
        height, width = self.size
        return {
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "to_name": "image",
        }

    def _task(self) -> Body:
        return {
            "id": self.task_id,
            "data": {"image": self.reference},
            "meta": {},
            "inner_id": self.task_id,
            "project": self.project_id,
            "total_annotations": 0,
            "total_predictions": 0,
        }

    def _drafts(self, finished: Sequence[Region], user: int) -> list[Body]:
        """Autosaved regions; there is no draft before the first."""
        if not finished:
            return []
        name = f"annotator{user}@example.com"
        return [
            {
                "id": self.task_id,
                "task": self.task_id,
                "annotation": None,
                "user": name,
                "created_username": f"{name}, {user}",
                "result": list(finished),
                "created_at": _now(),
            }
        ]

    def _predict(self, context: Body | None, drafts: Sequence[Body]) -> Body:
        task = {**self._task(), "annotations": [], "predictions": []}
        if context is not None:
            task["drafts"] = list(drafts)
        return {
            "tasks": [task],
            "project": self._project,
            "label_config": self.label_config,
            "params": {"login": None, "password": None, "context": context},
        }


def accepted(suggestion: Region) -> Region:
    """A suggestion that was accepted as it is."""
    return {**suggestion, "origin": "manual"}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")
