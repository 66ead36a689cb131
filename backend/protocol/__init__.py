"""Label Studio's JSON and Strop's types: the only place that knows Label Studio's words.

Everything here is pure: no network, no files, no clock.  Payloads were recorded from
Label Studio 1.23; whatever does not fit them becomes a `ProtocolError` of one sentence.

* `labeling` reads a project's labeling config (`config_tags` its tags, `task_values` what its
  ``$name`` stand for in a task),
* `tasks`, `clicks`, `predict` read /predict and /setup requests,
* `render` writes answers, under `region_ids`,
* `existing` finds the region that a click edits,
* `webhook` reads events, `submitted_regions` the objects in them, `regions` their masks,
* `fields` checks single values.

Percent of the image become pixels here and nowhere else.  A pixel is 100 / W percent wide, and
pixel centres are whole numbers: x percent is column ``x / 100 * W - 0.5``.
"""

from __future__ import annotations

from backend.protocol.clicks import Clicked, ProtocolBox, ProtocolClick, check_image_size
from backend.protocol.labeling import AnswerKind, Control, LabelConfig, parse_label_config
from backend.protocol.predict import PredictRequest, SetupRequest, parse_predict, parse_setup
from backend.protocol.region_ids import RegionId, new_request_id
from backend.protocol.render import (
    AnswerStyle,
    OfferedMask,
    RegionTarget,
    render_answer,
    render_nothing,
    render_prediction,
    render_proposals,
)
from backend.protocol.submitted_regions import MAX_MASK_PIXELS, SubmittedRegion
from backend.protocol.tasks import TaskRef
from backend.protocol.webhook import (
    Submission,
    WebhookEvent,
    WebhookKind,
    parse_webhook,
)

__all__ = [
    "MAX_MASK_PIXELS",
    "AnswerKind",
    "AnswerStyle",
    "OfferedMask",
    "Clicked",
    "Control",
    "LabelConfig",
    "PredictRequest",
    "ProtocolBox",
    "ProtocolClick",
    "RegionId",
    "RegionTarget",
    "SetupRequest",
    "Submission",
    "SubmittedRegion",
    "TaskRef",
    "WebhookEvent",
    "WebhookKind",
    "check_image_size",
    "new_request_id",
    "parse_label_config",
    "parse_predict",
    "parse_setup",
    "parse_webhook",
    "render_answer",
    "render_nothing",
    "render_prediction",
    "render_proposals",
]
