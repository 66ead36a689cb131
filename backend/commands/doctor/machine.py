"""Checks of what is on this machine: the model, the stores, the running server."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

import requests

from adaptation.errors import ModelError, StoreError
from adaptation.journal import Journal
from backend.commands.doctor.findings import Finding, fail, ok, warn
from backend.settings import Settings

# What brings torch along is imported where it is used, so that quick findings come at once.


def check_model(settings: Settings) -> Iterator[Finding]:
    """Whether the model is there, its digest fits, and it loads; downloads nothing."""
    from adaptation.models.catalog import load_model

    model = settings.model
    try:
        sam = load_model(
            model.name,
            settings.models_dir,
            device=model.device,
            checkpoint=model.checkpoint,
            download=False,
        )
    except ModelError as error:
        yield fail(f"model {model.name}: {error}")
        return
    yield ok(f"model {sam.model_id} loads, and its digest fits")


def check_journal(settings: Settings) -> Iterator[Finding]:
    """Whether the journal can be written."""
    try:
        with Journal(settings.journal_url) as journal:
            journal.check_writable()
            n_clicks = journal.counts().get("interactions", 0)
            yield ok(f"journal is writable: {journal.location} ({n_clicks} clicks so far)")
    except StoreError as error:
        yield fail(f"journal: {error}", "without it no click is answered; see journal.url")


def check_embeddings(settings: Settings) -> Iterator[Finding]:
    """Whether embeddings can be kept."""
    from backend.embeddings.disk_store import DiskStore
    from backend.embeddings.redis_store import RedisStore

    options = settings.embeddings
    try:
        if options.redis_url is not None:
            url = options.redis_url.get_secret_value()
            stats = RedisStore(url, int(options.redis_mb * 1e6)).stats()
            yield ok(f"embeddings are kept in Redis ({stats.entries} so far)")
        elif options.disk_mb > 0:
            stats = DiskStore(settings.embeddings_dir, int(options.disk_mb * 1e6)).stats()
            yield ok(f"embeddings are kept in {settings.embeddings_dir} ({stats.entries} so far)")
        else:
            lost = "embeddings are kept in memory only: each restart encodes all images anew"
            yield warn(lost, "set embeddings.disk_mb")
    except StoreError as error:
        yield fail(f"embeddings: {error}", "see the settings under embeddings")


def check_server(settings: Settings) -> Iterator[Finding]:
    """Whether Strop runs where the settings say, and whether strangers could use it."""
    server = settings.server
    host = "127.0.0.1" if server.host in ("0.0.0.0", "::") else server.host
    url = f"http://{f'[{host}]' if ':' in host else host}:{server.port}"
    try:
        with requests.Session() as session:
            session.trust_env = False
            reply = session.get(f"{url}/health", auth=settings.basic_auth, timeout=5)
    except requests.RequestException:
        yield warn(f"Strop does not run at {url}", "start it with `strop serve`")
    else:
        yield from _health(url, reply)
    if settings.basic_auth is None and not _is_loopback(server.host):
        yield warn(
            f"anyone who reaches {server.host}:{server.port} can use Strop",
            "set server.password, then `strop doctor --fix` tells it to Label Studio",
        )


def _health(url: str, reply: requests.Response) -> Iterator[Finding]:
    if reply.status_code == 401:
        yield fail(f"Strop at {url} wants another password", "restart it with these settings")
    elif not reply.ok:
        yield fail(f"what runs at {url} answers {reply.status_code}", "is it Strop?")
    else:
        elapsed_ms = 1000 * reply.elapsed.total_seconds()
        yield ok(f"Strop runs at {url} and answers in {elapsed_ms:.0f} ms")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
