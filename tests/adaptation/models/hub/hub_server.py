"""A Hugging Face hub of one folder, on this machine: the listing and the files, as the real one."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What is served, and what was asked.

    Args:
        folder: The model's files.
        hub_id: Its name.
        token: Without it nothing but the listing is given, as for gated models.
        damaged: A file of which other bytes are sent than the listing says.
    """

    folder: Path
    hub_id: str = "someone/tiny"
    token: str | None = None
    damaged: str | None = None
    url: str = ""
    asked: list[str] = field(default_factory=list)

    def listing(self) -> dict[str, Any]:
        files = []
        for path in sorted(self.folder.iterdir()):
            content = path.read_bytes()
            entry: dict[str, Any] = {"rfilename": path.name, "size": len(content)}
            if path.suffix == ".safetensors":
                entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
                entry["blobId"] = "of the pointer"
            else:
                blob = b"blob %d\0" % len(content) + content
                entry["blobId"] = hashlib.sha1(blob, usedforsecurity=False).hexdigest()
            files.append(entry)
        return {"sha": COMMIT, "siblings": files, "cardData": {"license": "apache-2.0"}}

    def answer(self, path: str, authorization: str | None) -> tuple[int, bytes]:
        if path == f"/api/models/{self.hub_id}/revision/main":
            return 200, json.dumps(self.listing()).encode()
        prefix = f"/{self.hub_id}/resolve/{COMMIT}/"
        if not path.startswith(prefix):
            return 404, b"Repository not found"
        if self.token is not None and authorization != f"Bearer {self.token}":
            return 401, b"Access to model is restricted"
        name = path.removeprefix(prefix)
        content = (self.folder / name).read_bytes()
        return 200, content[:-1] + b"!" if name == self.damaged else content


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve until the block ends; ``hub.url`` is its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            hub.asked.append(path)
            status, content = hub.answer(path, self.headers.get("Authorization"))
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
