"""The Flask application: routes, password, limits, and what becomes of errors."""

from __future__ import annotations

import logging
import secrets
from functools import cache, partial

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException

from adaptation.errors import ImageError, InputError, ModelError, StoreError, StropError
from backend.insights.insights import Insights
from backend.label_studio.client import LabelStudioError
from backend.server import insights, metrics, routes
from backend.server.password import PasswordCheck
from backend.service.service import BusyError, SegmentationService
from backend.settings import Settings
from backend.wiring import build_insights, build_service

logger = logging.getLogger(__name__)

STATUS_CODES: dict[type[StropError], int] = {
    ImageError: 422,
    InputError: 400,
    ModelError: 500,
    StoreError: 503,
    BusyError: 503,
    LabelStudioError: 502,
}
"""The first entry that an error is an instance of counts; other errors are 500."""

HTTP_MESSAGES = {
    404: "There is no such route: Label Studio calls /health, /setup, /predict and /webhook.",
    405: "This route does not take that method.",
    413: "The request is too large: raise server.max_request_mb if it should not be.",
}


def create_app(settings: Settings, service: SegmentationService | None = None) -> Flask:
    """Make the application.

    Args:
        settings: Of the server; the rest of them only where no service is given.
        service: The service behind the routes, or None to build it (which loads the model).
    """
    app = Flask("strop", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = int(settings.server.max_request_mb * 1e6)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.extensions["strop"] = build_service(settings) if service is None else service
    metrics.count_requests(app, app.extensions["strop"].metrics)
    app.register_blueprint(routes.blueprint)
    if settings.metrics.is_on:
        app.register_blueprint(metrics.blueprint)
    if settings.insights.is_on:
        app.extensions["strop-insights"] = cache(partial(_insights_of, settings, app))
        app.register_blueprint(insights.blueprint)
    if settings.basic_auth is not None:
        app.before_request(PasswordCheck(*settings.basic_auth))
    app.register_error_handler(StropError, _known_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unknown_error)
    return app


def _insights_of(settings: Settings, app: Flask) -> Insights:
    """Made when somebody looks: a server whose page nobody opens pays nothing for it."""
    service: SegmentationService = app.extensions["strop"]
    return build_insights(settings, service.journal)


def status_of(error: StropError) -> int:
    """The HTTP status that a deliberate error becomes."""
    return next((code for kind, code in STATUS_CODES.items() if isinstance(error, kind)), 500)


def _known_error(error: StropError) -> tuple[Response, int]:
    code = status_of(error)
    logger.warning("%s %s: %d %s", request.method, request.path, code, error)
    return jsonify(error=str(error)), code


def _http_error(error: HTTPException) -> tuple[Response, int]:
    code = error.code or 500
    logger.warning("%s %s: %d %s", request.method, request.path, code, error.name)
    return jsonify(error=HTTP_MESSAGES.get(code, f"{error.name}.")), code


def _unknown_error(error: Exception) -> tuple[Response, int]:
    number = secrets.token_hex(4)
    logger.error("%s %s failed, id=%s", request.method, request.path, number, exc_info=error)
    return jsonify(error=f"Internal error: see the server's log, id={number}."), 500
