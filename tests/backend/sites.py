"""Real HTTP servers on the loopback interface: a plain site, and one that behaves as Label Studio.

The Label Studio here answers the few routes that Strop uses as version 1.23 answers them; what the
real one does with Strop is tested in ``tests/e2e``.
"""

from __future__ import annotations

import base64
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

LEGACY_TOKEN = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Request:
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        return {key: values[0] for key, values in parse_qs(urlsplit(self.target).query).items()}

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Reply:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


Answer = Callable[[Request], Reply]


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up, as tests make them do, are no news."""


class Site:
    """A server whose paths answer with functions; it keeps the requests it got."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.routes: dict[str, Answer] = {}
        self.requests: list[Request] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                request = Request(self.command, self.path, dict(self.headers), body)
                site.requests.append(request)
                reply = site.answer(request)
                self.send_response(reply.status)
                for name, value in {
                    "Content-Length": str(len(reply.body)),
                    **reply.headers,
                }.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(reply.body)

            do_GET = do_HEAD = do_POST = do_PATCH = do_DELETE = _serve

            def log_message(self, *args: object) -> None:
                pass

        self._server = _QuietServer(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = int(self._server.server_address[1])
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"

    def answer(self, request: Request) -> Reply:
        route = self.routes.get(request.path)
        return route(request) if route else Reply(404)

    def serve(self, path: str, content: bytes, media_type: str = "image/png") -> str:
        """Serve fixed bytes at a path, to pages of any origin; returns the address."""
        headers = {"Content-Type": media_type, "Access-Control-Allow-Origin": "*"}
        self.routes[path] = lambda _: Reply(200, content, dict(headers))
        return self.url + path

    def redirect(self, path: str, target: str) -> str:
        """Redirect a path as Label Studio's presign route does; returns the address."""
        self.routes[path] = lambda _: Reply(303, b"", {"Location": target})
        return self.url + path

    def paths(self) -> list[str]:
        return [request.path for request in self.requests]

    @contextmanager
    def running(self) -> Iterator[Site]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()


def json_reply(value: object, status: int = 200) -> Reply:
    return Reply(status, json.dumps(value).encode(), {"Content-Type": "application/json"})


def make_token(kind: str, *, issued: float, expires: float, serial: int = 0) -> str:
    """A JSON Web Token with the claims that Label Studio writes (the signature is not checked)."""

    def segment(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    claims = {"token_type": kind, "iat": int(issued), "exp": int(expires), "jti": str(serial)}
    return f"{segment({'alg': 'HS256', 'typ': 'JWT'})}.{segment(claims)}.c2lnbmF0dXJl"


PERSONAL_TOKEN = make_token("refresh", issued=1.0, expires=9e9)


class LabelStudioSite(Site):
    """Label Studio's answers to what Strop asks.

    Args:
        accepts: The kinds of token that the organization allows.
        lifetime_s: Seconds that an access token lives.
    """

    def __init__(self, accepts: tuple[str, ...] = ("legacy", "personal"), lifetime_s=300) -> None:
        super().__init__()
        self.accepts = accepts
        self.lifetime_s = lifetime_s
        self.access_tokens: list[str] = []
        self.revoked: set[str] = set()
        self.tasks: list[dict[str, Any]] = []
        self.backends: list[dict[str, Any]] = []
        self.hooks: list[dict[str, Any]] = []
        self.presigned: dict[tuple[str, str], str] = {}

    def answer(self, request: Request) -> Reply:
        if request.path in ("/api/version", "/api/token/refresh/"):
            return self._open_routes(request)
        refusal = self._refusal(request.headers.get("Authorization", ""))
        if refusal is not None:
            return json_reply({"status_code": 401, "detail": refusal}, 401)
        if request.path in self.routes:
            return self.routes[request.path](request)
        handlers: list[tuple[str, Answer]] = [
            (
                "/api/current-user/whoami",
                lambda _: json_reply({"id": 1, "email": "ann@example.com"}),
            ),
            ("/api/projects/7/import", lambda _: json_reply({"task_ids": [41]}, 201)),
            ("/api/projects/", self._projects),
            ("/api/tasks/", self._tasks),
            ("/api/ml", self._ml),
            ("/api/webhooks/", self._webhooks),
            ("/tasks/", self._presign),
        ]
        for prefix, handler in handlers:
            if request.path.startswith(prefix):
                return handler(request)
        return json_reply({"detail": "Not found."}, 404)

    def _open_routes(self, request: Request) -> Reply:
        if request.path == "/api/version":
            return json_reply({"release": "1.23.2"})
        if "personal" not in self.accepts or request.json()["refresh"] != PERSONAL_TOKEN:
            return json_reply({"detail": "Token is invalid or expired"}, 401)
        now = time.time()
        serial = len(self.access_tokens)
        token = make_token("access", issued=now, expires=now + self.lifetime_s, serial=serial)
        self.access_tokens.append(token)
        return json_reply({"access": token})

    def _refusal(self, authorization: str) -> str | None:
        scheme, _, token = authorization.partition(" ")
        if scheme == "Token" and token == LEGACY_TOKEN:
            return None if "legacy" in self.accepts else "legacy token authentication disabled"
        if scheme == "Bearer" and token in self.access_tokens and token not in self.revoked:
            return None
        return "Authentication credentials were not provided."

    def _projects(self, request: Request) -> Reply:
        config = '<View><Image name="image" value="$image"/></View>'
        project = {"id": 7, "title": "Potholes", "label_config": config, "task_number": 3}
        project |= {"model_version": "Strop", "show_collab_predictions": True}
        if request.path == "/api/projects/":
            return json_reply({"results": [project], "next": None})
        known = request.path == "/api/projects/7/"
        return json_reply(project) if known else json_reply({"detail": "No Project"}, 404)

    def _tasks(self, request: Request) -> Reply:
        query = json.loads(request.query["query"])
        found = list(self.tasks)
        for item in query["filters"]["items"]:
            name, value = item["filter"].removeprefix("filter:tasks:"), item["value"]
            if item["operator"] == "greater":
                found = [task for task in found if task[name] > value]
            else:
                found = [task for task in found if task[name] == value]
        found.sort(key=lambda task: task["id"])
        return json_reply({"tasks": found[: int(request.query["page_size"])], "total": len(found)})

    def _ml(self, request: Request) -> Reply:
        if request.method == "GET":
            return json_reply(_of_project(self.backends, request))
        return self._save(request, self.backends, {"state": "CO"})

    def _webhooks(self, request: Request) -> Reply:
        if request.method == "GET":
            return json_reply(_of_project(self.hooks, request))
        return self._save(request, self.hooks, {})

    def _save(self, request: Request, rows: list[dict[str, Any]], more: dict[str, Any]) -> Reply:
        if request.method == "POST":
            rows.append({"id": len(rows) + 1, **request.json(), **more})
            return json_reply(rows[-1], 201)
        number = int(request.path.rstrip("/").rsplit("/", 1)[1])
        row = next(row for row in rows if row["id"] == number)
        if request.method == "DELETE":
            rows.remove(row)
            return Reply(204)
        row.update(request.json())
        return json_reply(row)

    def _presign(self, request: Request) -> Reply:
        _, _, task_id, action, *_ = request.path.split("/")
        uri = base64.urlsafe_b64decode(request.query.get("fileuri", "")).decode()
        target = self.presigned.get((task_id, uri))
        if action not in ("presign", "resolve") or target is None:
            return Reply(404)
        return Reply(303, b"", {"Location": target, "Cache-Control": "no-store, max-age=60"})


def _of_project(rows: list[dict[str, Any]], request: Request) -> list[dict[str, Any]]:
    """Those of the project that is asked for, and those of no project in particular."""
    asked = request.query.get("project")
    return [row for row in rows if str(row.get("project", asked)) == str(asked)]
