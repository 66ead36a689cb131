"""The routes that people open: figures of their own work, and what they may change.

Nothing changes by opening a page.  What is to change is asked for by a form, which is taken
from the page's own site only: the browser has to say so, and the form has to hold the value of a
cookie that no other site can read or set.
"""

from __future__ import annotations

import hmac
import logging
import secrets
from typing import Any, cast
from urllib.parse import quote, urlsplit

from flask import Blueprint, Response, current_app, redirect, request
from werkzeug.wrappers import Response as AnyResponse

from adaptation.errors import InputError, ModelError, StoreError
from backend.insights.insights import Insights
from backend.insights.page import render_message
from backend.learning.commands import SessionCommand
from backend.service.service import SegmentationService

logger = logging.getLogger(__name__)

blueprint = Blueprint("insights", __name__)

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
"""Content-Security-Policy of the pages: nothing from another host, and no script at all."""

COOKIE = "strop-insights"
TOKEN_BYTES = 24
MOST_REASON = 200
"""Characters of a reason that are kept."""


def _insights() -> Insights:
    return cast(Insights, current_app.extensions["strop-insights"]())


@blueprint.get("/insights")
def projects() -> Response:
    """All projects."""
    return _page(_insights().projects_page(request.script_root))


@blueprint.get("/insights/versions")
def versions() -> Response:
    """The base decoders."""
    return _page(_insights().versions_page(request.script_root))


@blueprint.get("/insights/versions/roll-back")
def confirm_roll_back() -> Response:
    """Whether the base decoder before the one in use is really to come back."""
    token = _token()
    try:
        return _form(_insights().roll_back_page(token, request.script_root), token)
    except InputError as error:
        return _message("That cannot be done", str(error), 409)


@blueprint.post("/insights/versions/roll-back")
def roll_back() -> AnyResponse:
    """Bring it back."""
    if not (_is_own_site() and _has_token()):
        return _not_asked()
    said = request.form
    reason = " ".join(said.get("reason", "")[:MOST_REASON].split())
    try:
        _insights().roll_back(
            said.get("current", ""), said.get("to", ""), reason or "on the insights page"
        )
    except (InputError, ModelError, StoreError) as error:
        return _message(
            "Not rolled back", str(error), 503 if isinstance(error, StoreError) else 409
        )
    logger.info("rolled back from base %s to %s", said["current"], said["to"])
    return redirect(f"{request.script_root}/insights/versions", 303)


@blueprint.get("/insights/project/<project_id>")
def project(project_id: str) -> Response:
    """One project."""
    return _page(_insights().project_page(project_id, request.script_root))


@blueprint.get("/insights/project/<project_id>/sessions")
def confirm(project_id: str) -> Response:
    """Whether something is really to be asked of its sessions."""
    try:
        command = _command(project_id, request.args)
    except InputError as error:
        return _message("That cannot be asked", str(error), 400)
    token = _token()
    return _form(_insights().confirmation_page(command, token, request.script_root), token)


@blueprint.post("/insights/project/<project_id>/sessions")
def ask(project_id: str) -> AnyResponse:
    """Ask it."""
    if not (_is_own_site() and _has_token()):
        return _not_asked()
    try:
        command = _command(project_id, request.form)
    except InputError as error:
        return _message("That cannot be asked", str(error), 400)
    cast(SegmentationService, current_app.extensions["strop"]).ask(command)
    back = f"{request.script_root}/insights/project/{quote(project_id, safe='')}#sessions"
    return redirect(back, 303)


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


def _command(project_id: str, said: Any) -> SessionCommand:
    return SessionCommand(
        project_id=project_id,
        action=said.get("action", ""),
        session=said.get("session", ""),
        annotation_id=said.get("annotation_id", ""),
    )


def _is_own_site() -> bool:
    """Whether the browser says that the form is this site's; one that says nothing is refused."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("Origin")  # what older browsers say, and all of them without TLS
    return origin is not None and urlsplit(origin).netloc == request.host


def _token() -> str:
    """What a form gives back: the browser's own where it has one."""
    return request.cookies.get(COOKIE) or secrets.token_urlsafe(TOKEN_BYTES)


def _form(html: str, token: str) -> Response:
    """A page with a form, and the cookie that its token is held against."""
    page = _page(html)
    page.set_cookie(
        COOKIE,
        token,
        path=f"{request.script_root}/insights",
        secure=request.is_secure,
        httponly=True,
        samesite="Strict",
    )
    return page


def _not_asked() -> Response:
    text = (
        "The form did not come from this page, or cookies are off: open the page and press the "
        "button there."
    )
    return _message("Not asked", text, 403)


def _has_token() -> bool:
    held, given = request.cookies.get(COOKIE, ""), request.form.get("token", "")
    return bool(held) and hmac.compare_digest(held.encode(), given.encode())


def _message(title: str, text: str, status: int) -> Response:
    page = _page(render_message(title, text, request.script_root))
    page.status_code = status
    return page


def _page(html: str) -> Response:
    headers = {
        "Content-Security-Policy": POLICY,
        "Cache-Control": "no-store",
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
    }
    return Response(html, mimetype="text/html", headers=headers)
