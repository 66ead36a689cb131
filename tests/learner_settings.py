"""How sessions learn in tests: every value pinned here, whatever the product's defaults are."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from adaptation.learning.settings import LearnerSettings

PINNED: dict[str, Any] = {
    "subset": "all",
    "rank": 0,
    "learning_rate": 4e-4,
    "steps": 8,
    "batch": 3,
    "replay": 48,
    "lessons": 6,
    "simulated_share": 0.5,
    "simulated_clicks": 4,
    "erosion_share": 0.0,
    "anchor": 0.0,
    "iou_weight": 0.25,
    "think_steps": 16,
    "think_patience": 2,
    "keep_out": 5,
    "clip": 1.0,
    "half": False,
    "correction": {
        "is_on": True,
        "click_weight": 10.0,
        "anchor_weight": 10.0,
        "n_anchors": 1500,
        "sure_logit": 2.0,
        "sigma": 2.0,
        "l2": 1.0,
        "n_newton": 4,
        "margin": 0.5,
    },
    "guard": {
        "window": 8,
        "least": 4,
        "margin": 0.03,
        "largest_share": 0.9,
        "agreement": 0.8,
        "least_overlap": 0.2,
        "probe_drop": 0.15,
        "n_probes": 3,
    },
    "trust": {
        "is_on": True,
        "scores": True,
        "start": 0.0,
        "memory": 0.9,
        "least": 4.5,
        "margin": 0.0,
        "n_errors": 0.0,
        "alarm": 0.02,
    },
}


def pinned(**changes: Any) -> dict[str, Any]:
    """The pinned values with some changed; those of a nested group one by one."""
    merged = {
        name: {**PINNED[name], **value} if isinstance(value, dict) else value
        for name, value in changes.items()
    }
    return {**PINNED, **merged}


def learner_settings(**changes: Any) -> LearnerSettings:
    """The same as an object."""
    return TypeAdapter(LearnerSettings).validate_python(pinned(**changes))
