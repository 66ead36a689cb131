"""How long a click takes through HTTP, beside the bare decoder of the same model.

    python -m benchmarks.click_latency                  # both image sizes, 1 and 4 clients
    python -m benchmarks.click_latency --objects 4 --sizes 600x400 --clients 1
    git worktree add ../before HEAD~5
    python -m benchmarks.click_latency --beside ../before     # what a change has brought

A real `strop serve` runs on the loopback interface.  Every client draws objects of its own, five
clicks each, with a pause before every click as people make it; just before the click, while the
server has nothing to do, this process decodes the same prompt on the same model by itself.  All
times are wall-clock; what counts are the ratios, since both sides ran on the same machine within
the same second.

- *cold*: first click on an image that nobody has opened.
- *prefetched*: first click on an image whose task was opened before.
- *later*: clicks two to five of an object.  A click's time ends with the last byte of its answer.
- *bare decode*: `PromptableSam.decode` with as many clicks and the fed-back mask, one thread.
- *mask encoding*: logits to a mask at the image's size, its run lengths for the journal and for
  Label Studio.  (The server draws and keeps all of the decoder's masks.)
- *before*: the same clicks, answered by a server of another checkout, each just before or after
  this one's in turns (`--beside`).
- *CPU*: processor time of the server's process from the click to its answer, beside that of the
  bare decode; on a machine that does other work, too, this is the steadier ratio.  Only with one
  client it is that of the click alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from adaptation.masks import encode_rle
from adaptation.models.catalog import load_model
from adaptation.models.sam import PromptableSam
from adaptation.predictor.interactive import Answer, InteractivePredictor
from adaptation.predictor.settings import ZoomSettings
from adaptation.types import Click, Embedding
from backend.protocol.brush_rle import encode_brush
from benchmarks.click_server import Case, Server, clicks_of, request_of, serving, write_pictures
from benchmarks.environment import environment, load

BEFORE = ", before"
"""Behind the names of what the server of another checkout took."""

SETTLED_S = 0.3
"""Between clicks on two servers: what one does behind its reply shall not slow the other."""

RESULTS = Path(__file__).parent / "results" / "click_latency.json"


@dataclass
class Times:
    """Milliseconds by what was measured."""

    values: dict[str, list[float]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, name: str, milliseconds: float) -> None:
        """Keep one measurement."""
        with self.lock:
            self.values.setdefault(name, []).append(milliseconds)

    def summary(self) -> dict[str, dict[str, float]]:
        """Count, median and 95th percentile of each."""
        return {name: _summary(values) for name, values in self.values.items()}


def _summary(values: Sequence[float]) -> dict[str, float]:
    return {
        "n": len(values),
        "mean_ms": round(statistics.fmean(values), 2),
        "p50_ms": round(float(np.percentile(values, 50)), 2),
        "p95_ms": round(float(np.percentile(values, 95)), 2),
    }


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Milliseconds that a call took, and its result."""
    started = time.perf_counter()
    result = call()
    return 1000 * (time.perf_counter() - started), result


# Clicks ------------------------------------------------------------------------------------------


class Bare:
    """The model in this process, without anything around it."""

    def __init__(self, sam: PromptableSam, case: Case, embedding: Embedding) -> None:
        self.interaction = InteractivePredictor(sam, ZoomSettings(is_on=False))
        self.size = (case.height, case.width)
        self.embedding = embedding
        self.lock = threading.Lock()

    def measure(self, clicks: Sequence[Click], before: Answer | None, times: Times) -> Answer:
        """Decode what the server is about to decode; its time, and that of encoding a mask."""
        with self.lock:
            state = None if before is None else before.state
            answer = self.interaction.answer(
                lambda view: self.embedding, self.size, tuple(clicks), None, state
            )
            with torch.no_grad():
                began = time.thread_time()
                decoding, _ = timed(
                    lambda: self.interaction.sam.decode(self.embedding, [answer.prompt])
                )
                computing = 1000 * (time.thread_time() - began)
            drawing, mask = timed(lambda: self.interaction.mask(answer))
            encoding, _ = timed(lambda: (encode_rle(mask), encode_brush(mask)))
        if before is not None:
            times.add("bare decode", decoding)
            times.add("bare decode, CPU", computing)
            times.add("mask encoding", drawing + encoding)
        return answer


@dataclass
class Client:
    """One annotator: draws objects on an image whose embedding is there."""

    servers: dict[str, Server]
    case: Case
    bare: Bare
    times: Times
    task: int
    reference: str
    think_s: float

    def draw(self, n_objects: int, seed: int) -> None:
        """Click on one object after the other."""
        for number in range(n_objects):
            clicks, before = clicks_of(self.case, 1000 * seed + number), None
            for step in range(1, len(clicks) + 1):
                time.sleep(self.think_s)
                before = self.bare.measure(clicks[:step], before, self.times)
                name = f"c{seed}-{number}"
                body = request_of(self.case, self.task, self.reference, clicks[:step], name)
                for suffix in sorted(self.servers, reverse=bool((number + step) % 2)):
                    self.click(body, suffix, is_counted=step > 1)

    def click(self, body: Any, suffix: str, *, is_counted: bool) -> None:
        """Send one request to one of the servers."""
        server = self.servers[suffix]
        began = server.cpu_ms()
        elapsed = server.predict(body)
        if is_counted:
            self.times.add("later" + suffix, elapsed)
            self.times.add("later, CPU" + suffix, server.cpu_ms() - began)
        if len(self.servers) > 1:
            time.sleep(SETTLED_S)


def first_clicks(
    server: Server,
    case: Case,
    references: Sequence[str],
    times: Times,
    suffix: str,
    *,
    is_opened: bool,
) -> None:
    """The first click on each of some images."""
    for index, reference in enumerate(references):
        task = 100 + index if is_opened else 500 + index
        if is_opened:
            present = server.n_embeddings()
            server.predict(request_of(case, task, reference, (), ""))
            while server.n_embeddings() == present:
                time.sleep(0.02)
            time.sleep(0.2)
        clicks = clicks_of(case, index)[:1]
        body = request_of(case, task, reference, clicks, f"f{task}")
        elapsed = server.predict(body)
        times.add(("prefetched" if is_opened else "cold") + suffix, elapsed)
        time.sleep(0.5)  # the view of the next click is encoded behind the answer


def run_case(sam: PromptableSam, case: Case, args: argparse.Namespace) -> dict[str, Any]:
    """All measurements of one case, on a fresh server."""
    times = Times()
    with tempfile.TemporaryDirectory() as images:
        folder = Path(images)
        firsts = write_pictures(folder, case, 2 * args.firsts, first_seed=0)
        shared = write_pictures(folder, case, case.clients, first_seed=1000)
        with ExitStack() as stack:
            trees = {"": None} | ({BEFORE: args.beside} if args.beside is not None else {})
            servers = {
                suffix: stack.enter_context(serving(folder, args.model, tree))
                for suffix, tree in trees.items()
            }
            for suffix, server in servers.items():
                first_clicks(server, case, firsts[: args.firsts], times, suffix, is_opened=False)
                first_clicks(server, case, firsts[args.firsts :], times, suffix, is_opened=True)
            clients = []
            for number, reference in enumerate(shared):
                pixels = np.asarray(Image.open(folder / reference.rpartition("=")[2]))
                bare = Bare(sam, case, sam.embed(pixels))
                warm = request_of(case, number, reference, clicks_of(case, 99)[:1], f"w{number}")
                for server in servers.values():
                    server.predict(warm)
                clients.append(Client(servers, case, bare, times, number, reference, args.think))
            threads = [
                threading.Thread(target=client.draw, args=(args.objects, number))
                for number, client in enumerate(clients)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            memory = {suffix: server.memory_mb() for suffix, server in servers.items()}
    result = {"case": str(case), "times": times.summary(), "server_memory_mb": memory.pop("")}
    if memory:
        result["server_memory_mb" + BEFORE] = memory[BEFORE]
    return result


# Results -----------------------------------------------------------------------------------------


def ratios(result: dict[str, Any]) -> dict[str, float]:
    """What the goals speak of."""
    p50 = {name: value["p50_ms"] for name, value in result["times"].items()}
    mean = {name: value["mean_ms"] for name, value in result["times"].items()}
    goal = 1.5 * p50["bare decode"] + p50["mask encoding"]
    found = {
        "later / bare decode": round(p50["later"] / p50["bare decode"], 2),
        "CPU: later / bare": round(mean["later, CPU"] / mean["bare decode, CPU"], 2),
        "later / goal": round(p50["later"] / goal, 2),
        "prefetched / later": round(p50["prefetched"] / p50["later"], 2),
        "cold / later": round(p50["cold"] / p50["later"], 2),
    }
    if "later" + BEFORE in p50:
        found["later / before"] = round(p50["later"] / p50["later" + BEFORE], 2)
        found["CPU: later / before"] = round(mean["later, CPU"] / mean["later, CPU" + BEFORE], 2)
        found["before / bare decode"] = round(p50["later" + BEFORE] / p50["bare decode"], 2)
    return found


def print_table(results: Sequence[dict[str, Any]]) -> None:
    columns = ["cold", "prefetched", "later", "bare decode", "mask encoding"]
    columns += [name + BEFORE for name in columns[:3] if name + BEFORE in results[0]["times"]]
    print(f"\n{'p50 / p95 in ms':<22}" + "".join(f"{name:>18}" for name in columns))
    for result in results:
        cells = [result["times"][name] for name in columns]
        shown = "".join(f"{c['p50_ms']:>9.0f} /{c['p95_ms']:>7.0f}" for c in cells)
        print(f"{result['case']:<22}{shown}")
    names = list(results[0]["ratios"])
    print(f"\n{'ratios of p50':<22}" + "".join(f"{name:>22}" for name in names))
    for result in results:
        print(f"{result['case']:<22}" + "".join(f"{result['ratios'][n]:>22.2f}" for n in names))
    print("goal = 1.5 x bare decode + mask encoding; at most 1.00 meets it")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--model", default="compact")
    parser.add_argument("--sizes", nargs="+", default=["600x400", "4000x2667"])
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--objects", type=int, default=10, help="objects of each client")
    parser.add_argument("--firsts", type=int, default=12, help="first clicks of each kind")
    parser.add_argument("--think", type=float, default=1.5, help="seconds before a click")
    parser.add_argument("--beside", type=Path, help="another checkout, measured click by click too")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(1)
    sam = load_model(args.model, Path(".strop/models"), show_progress=True)
    before = environment("python -m benchmarks.click_latency", sam)
    results = []
    for size in args.sizes:
        width, height = map(int, size.split("x"))
        for clients in args.clients:
            result = run_case(sam, Case(width, height, clients), args)
            results.append({**result, "ratios": ratios(result)})
            print_table(results[-1:])
    print_table(results)
    report = {**before, "load_after": load(), "results": results}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=2) + "\n")
    print(f"median of all ratios to the goal: {_median(results):.2f}; written to {args.out}")


def _median(results: Sequence[dict[str, Any]]) -> float:
    return statistics.median(result["ratios"]["later / goal"] for result in results)


if __name__ == "__main__":
    main()
