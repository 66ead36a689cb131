"""What an embedding costs wherever it comes from, and what prefetching costs the clicks beside it.

python -m benchmarks.embeddings
python -m benchmarks.embeddings --redis-url redis://127.0.0.1:6379/0

The compact model's architecture with random weights, which cost what trained ones do. The first
table times `EmbeddingCache.get`; the second times decoding one click while another image is
encoded again and again: not at all, by a prefetch worker, and by a thread like those of clicks.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch

from adaptation.models.compact.model import build_compact
from adaptation.models.sam import PromptableSam
from adaptation.predictor.zoom import View
from adaptation.types import Embedding, Prompt, as_clicks
from backend.embeddings.cache import EmbeddingCache
from backend.embeddings.disk_store import DiskStore
from backend.embeddings.redis_store import RedisStore
from backend.embeddings.store import EmbeddingKey, EmbeddingStore
from backend.threads import limit_torch_threads, lower_priority

IMAGE = np.random.default_rng(0).integers(0, 256, (400, 600, 3), dtype=np.uint8)
MEMORY_BYTES = 1 << 30


def times_ms(run: Callable[[int], object], n: int) -> tuple[float, float]:
    """Median and 95th percentile of n calls, each with its number."""
    times = []
    for number in range(n):
        start = time.perf_counter()
        run(number)
        times.append(1000 * (time.perf_counter() - start))
    p50, p95 = np.percentile(times, [50, 95])
    return float(p50), float(p95)


def row(name: str, run: Callable[[int], object], n: int) -> None:
    """Print one line of a table."""
    p50, p95 = times_ms(run, n)
    print(f"| {name} | {p50:.1f} | {p95:.1f} |", flush=True)


def key_of(sam: PromptableSam, number: int) -> EmbeddingKey:
    """A key of its own for every number."""
    return EmbeddingKey(
        image_id=str(number),
        encoder_id=sam.encoder_id,
        input_size=sam.input_size,
        view=View.full((IMAGE.shape[0], IMAGE.shape[1])),
    )


def time_sources(sam: PromptableSam, n: int, stores: dict[str, EmbeddingStore]) -> None:
    """Where an embedding comes from."""
    print("\n| an embedding from | p50, ms | p95, ms |\n|---|---|---|")

    def get(cache: EmbeddingCache, number: int) -> Embedding:
        return cache.get(key_of(sam, number), partial(sam.embed, IMAGE))

    warm = EmbeddingCache(memory_bytes=MEMORY_BYTES)
    row("the encoder, no store", partial(get, warm), n)
    row("memory", partial(get, warm), n)
    for name, store in stores.items():
        row(
            f"the encoder, then {name}",
            partial(get, EmbeddingCache(memory_bytes=MEMORY_BYTES, store=store)),
            n,
        )
        row(name, partial(get, EmbeddingCache(memory_bytes=MEMORY_BYTES, store=store)), n)


@contextmanager
def encoding_beside(sam: PromptableSam, prepare: Callable[[], None]) -> Iterator[None]:
    """Encode in another thread until the block ends."""
    is_over = threading.Event()

    def encode() -> None:
        prepare()
        while not is_over.is_set():
            sam.embed(IMAGE)

    thread = threading.Thread(target=encode)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def as_prefetch() -> None:
    """Make the calling thread what a prefetch worker is."""
    limit_torch_threads(1)
    lower_priority(5)


def time_clicks(sam: PromptableSam, n: int) -> None:
    """A click's decode beside other work."""
    embedding = sam.embed(IMAGE)
    prompt = Prompt(clicks=as_clicks([(300.0, 200.0, True)]))

    def click(_: int) -> None:
        with torch.no_grad():
            sam.decode(embedding, [prompt])

    click(0)
    print("\n| decoding a click, beside | p50, ms | p95, ms |\n|---|---|---|")
    row("nothing", click, n)
    with encoding_beside(sam, as_prefetch):
        row("a prefetch", click, n)
    with encoding_beside(sam, lambda: None):
        row("an encode of equal rank", click, n)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--redis-url", help="a Redis to measure too; its entries stay there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sam = PromptableSam(build_compact(), "compact")
    with tempfile.TemporaryDirectory() as folder:
        stores: dict[str, EmbeddingStore] = {"disk": DiskStore(Path(folder), MEMORY_BYTES)}
        if options.redis_url:
            stores["Redis"] = RedisStore(options.redis_url, MEMORY_BYTES)
        print(f"{options.threads} torch threads, image {IMAGE.shape[1]}x{IMAGE.shape[0]}")
        time_sources(sam, options.repeats, stores)
        time_clicks(sam, options.repeats)


if __name__ == "__main__":
    main()
