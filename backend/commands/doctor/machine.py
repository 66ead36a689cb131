"""Checks of what is on this machine: the model, the stores, the running server."""

from __future__ import annotations

import ipaddress
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import requests

from adaptation.errors import ModelError, StoreError
from adaptation.journal import Journal
from adaptation.models.costs import Cost, estimated, suiting
from backend.commands.doctor.findings import Finding, fail, ok, warn
from backend.settings import Settings

if TYPE_CHECKING:
    from adaptation.models.sam import PromptableSam

FAST_ENOUGH = Cost(encode=5.0, decode=0.5)
"""Seconds that an image may take, which is encoded before it is clicked on where that can be
foreseen, and a click, for which somebody waits."""

SLOW_S = 10.0
"""An encode that takes longer is measured once."""

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
            encoder=model.encoder,
            download=False,
        )
    except ModelError as error:
        yield fail(f"model {model.name}: {error}")
        return
    yield ok(f"model {sam.model_id} loads, and its digest fits")
    yield from _speed(settings, sam)


def _speed(settings: Settings, sam: PromptableSam) -> Iterator[Finding]:
    """What an image and a click cost here, and which other models would be fast enough."""
    from backend.wiring import use_threads

    use_threads(settings)
    cost = _measured(sam)
    yield ok(
        f"an image takes {cost.encode:.2f} s to encode, a click {cost.decode:.3f} s to decode "
        f"({settings.model.device})"
    )
    if cost.decode > FAST_ENOUGH.decode:
        yield warn(
            f"a click of {settings.model.name} is slow on this machine",
            "choose a lighter model (`strop models`), or give torch more cores",
        )
    if settings.model.device == "cpu":
        fitting = suiting(estimated(cost, settings.model.name), FAST_ENOUGH, _memory_bytes())
        rest = [
            f"{name} (about {seconds.encode:.1f} s an image, {seconds.decode:.2f} s a click)"
            for name, seconds in fitting.items()
            if name not in (settings.model.name, "compact-1")
        ]
        if rest:
            yield ok(f"also fast enough for this machine: {', '.join(rest)}")


def _measured(sam: PromptableSam) -> Cost:
    """Seconds of one encode and of one decode, each the fastest of three."""
    import numpy as np
    import torch

    from adaptation.types import Click, Prompt

    noise = np.random.default_rng(0).integers(0, 256, (600, 800, 3), dtype=np.uint8)
    prompt = Prompt(clicks=(Click(x=400, y=300, is_positive=True),))
    encode, decode = [], []
    for _ in range(3):
        began = time.perf_counter()
        embedding = sam.embed(noise, image_id="noise")
        encoded = time.perf_counter()
        with torch.no_grad():
            sam.decode(embedding, [prompt])
        encode.append(encoded - began)
        decode.append(time.perf_counter() - encoded)
        if encode[0] > SLOW_S:
            break
    return Cost(encode=min(encode), decode=min(decode))


def _memory_bytes() -> int | None:
    """Bytes of the machine's memory where the system tells."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


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
