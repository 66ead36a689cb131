"""The routes that people open: figures of their own work, and metrics for machines."""

from __future__ import annotations

from typing import cast

from flask import Blueprint, Response, current_app, request

from adaptation.errors import InputError
from backend.insights.insights import Insights

blueprint = Blueprint("insights", __name__)

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; base-uri 'none'"
"""Content-Security-Policy of the pages: nothing from another host, and no script at all."""


def _insights() -> Insights:
    return cast(Insights, current_app.extensions["strop-insights"]())


@blueprint.get("/insights")
def projects() -> Response:
    """All projects."""
    return _page(_insights().projects_page(request.script_root))


@blueprint.get("/insights/project/<project_id>")
def project(project_id: str) -> Response:
    """One project."""
    return _page(_insights().project_page(project_id, request.script_root))


@blueprint.get("/insights/object/<int:submission_seq>/<int:position>.jpg")
def picture(submission_seq: int, position: int) -> Response:
    """An object's clicks and masks."""
    try:
        content = _insights().picture(submission_seq, position)
    except InputError as error:
        return Response(str(error), 404, mimetype="text/plain")
    return Response(
        content, mimetype="image/jpeg", headers={"Cache-Control": "private, max-age=60"}
    )


def _page(html: str) -> Response:
    headers = {
        "Content-Security-Policy": POLICY,
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    return Response(html, mimetype="text/html", headers=headers)
