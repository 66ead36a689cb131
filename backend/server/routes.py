"""The routes that Label Studio calls: each one hands its JSON to the service, and no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from flask import Blueprint, current_app, request

from backend.server.buffering import BufferedSocket
from backend.server.json_body import parse_body
from backend.service.service import SegmentationService

blueprint = Blueprint("strop", __name__)

Reply = dict[str, Any]


def _service() -> SegmentationService:
    return cast(SegmentationService, current_app.extensions["strop"])


def _body() -> object:
    """The request's JSON, whatever its content type says."""
    return parse_body(request.get_data(cache=False))


def _is_gone() -> Callable[[], bool]:
    """Tells whether this request's client has hung up, where the server can tell."""
    connection = request.environ.get("gunicorn.socket")
    return connection.is_gone if isinstance(connection, BufferedSocket) else lambda: False


@blueprint.get("/")
@blueprint.get("/health")
def health() -> Reply:
    """Answered while everything else computes; the port is open only once the model is loaded."""
    return {"status": "UP", "model_version": _service().model_version}


@blueprint.post("/setup")
def setup() -> Reply:
    """A project was connected, or its list of models was opened."""
    return _service().setup(_body())


@blueprint.post("/predict")
def predict() -> Reply:
    """A click, an opened task, or a batch of tasks."""
    return _service().predict(_body(), _is_gone())


@blueprint.post("/webhook")
def webhook() -> Reply:
    """An annotation was submitted, changed or deleted, or something else happened."""
    _service().webhook(_body())
    return {"status": "ok"}


@blueprint.get("/versions")
def versions() -> Reply:
    """The one version that answers."""
    return {"versions": [_service().model_version]}
