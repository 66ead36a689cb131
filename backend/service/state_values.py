"""An object's state as plain values: what stands beside its logits, in files of either kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from adaptation.predictor.interactive import ObjectState
from adaptation.predictor.zoom import View
from adaptation.types import Box, Click


def values_of(state: ObjectState) -> dict[str, Any]:
    """Everything of a state but its logits, as JSON values."""
    return {
        "clicks": [asdict(click) for click in state.clicks],
        "box": None if state.box is None else asdict(state.box),
        "view": [state.view.x0, state.view.y0, state.view.x1, state.view.y1],
        "input_size": list(state.input_size),
    }


def state_of(values: Mapping[str, Any], logits: Tensor) -> ObjectState:
    """The state that :func:`values_of` wrote down.

    Raises:
        KeyError, TypeError, ValueError: The values are no state's.
    """
    height, width = values["input_size"]
    return ObjectState(
        clicks=tuple(Click(**click) for click in values["clicks"]),
        box=None if values["box"] is None else Box(**values["box"]),
        view=View(*values["view"]),
        input_size=(height, width),
        low_res_logits=logits,
    )
