"""Clicks a second, and how long each takes, with one worker and with several.

    python -m benchmarks.load                           # 1 and 2 workers, 1 and 4 clients
    python -m benchmarks.load --workers 1 2 4 --clients 16 --seconds 20

Every server is a real `strop serve` on the loopback interface; all of them are up during the whole
run, and are asked in turns, a few seconds each, so that whatever else the machine does meets all of
them.  Each client draws objects on an image of its own, whose embedding is there, five clicks each,
without a pause: as fast as answers come.  The zoom is off, so that a click is one decode.  Beside
them this process decodes the same prompts by itself, one after the other (*bare*).

- *clicks / s*: answers by the time that all clients together took.
- *CPU*: processor time of the workers and the learner for a click.  On a machine that does other
  work, too, this is the steadier figure.
- *memory*: of parent, workers and learner together, with what they share counted once (Linux).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from adaptation.models.catalog import load_model
from adaptation.models.sam import PromptableSam
from adaptation.predictor.interactive import Answer, InteractivePredictor
from adaptation.predictor.settings import ZoomSettings
from benchmarks.click_server import Case, Server, clicks_of, request_of, serving, write_pictures
from benchmarks.environment import environment, load

RESULTS = Path(__file__).parent / "results" / "load.json"


@dataclass
class Load:
    """What one number of workers did for one number of clients.

    Args:
        times_ms: Of every click.
        elapsed_s: Of all rounds.
        cpu_ms: Of all processes of the server.
    """

    times_ms: list[float] = field(default_factory=list)
    elapsed_s: float = 0.0
    cpu_ms: float = 0.0

    def summary(self) -> dict[str, float]:
        """As the table shows it."""
        p50, p95, p99 = np.percentile(self.times_ms, [50, 95, 99])
        return {
            "clicks": len(self.times_ms),
            "clicks_per_s": round(len(self.times_ms) / self.elapsed_s, 2),
            "p50_ms": round(float(p50), 1),
            "p95_ms": round(float(p95), 1),
            "p99_ms": round(float(p99), 1),
            "cpu_ms": round(self.cpu_ms / len(self.times_ms), 1),
        }


def draw(
    server: Server, case: Case, number: int, reference: str, until: float, times: list[float]
) -> None:
    """Click on one object after the other until a moment has come."""
    turn = 0
    while True:
        clicks = clicks_of(case, 1000 * number + turn)
        name = f"c{number}-{turn}-{time.monotonic_ns()}"
        for step in range(1, len(clicks) + 1):
            if time.monotonic() >= until:
                return
            times.append(server.predict(request_of(case, number, reference, clicks[:step], name)))
        turn += 1


def run_round(server: Server, case: Case, references: Sequence[str], seconds: float) -> Load:
    """All clients at once for some seconds."""
    times: list[list[float]] = [[] for _ in references]
    cpu, began = server.cpu_ms(), time.monotonic()
    threads = [
        threading.Thread(target=draw, args=(server, case, n, reference, began + seconds, times[n]))
        for n, reference in enumerate(references)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.monotonic() - began
    return Load([t for of in times for t in of], elapsed, server.cpu_ms() - cpu)


def run_bare(sam: PromptableSam, case: Case, path: Path, seconds: float) -> Load:
    """Decode the same prompts in this process, for some seconds."""
    interaction = InteractivePredictor(sam, ZoomSettings(is_on=False))
    embedding = sam.embed(np.asarray(Image.open(path)))
    found, turn = Load(), 0
    cpu, began = time.process_time(), time.monotonic()
    while time.monotonic() - began < seconds:
        before: Answer | None = None
        clicks = clicks_of(case, turn)
        for step in range(1, len(clicks) + 1):
            start = time.perf_counter()
            state = None if before is None else before.state
            size = case.height, case.width
            before = interaction.answer(
                lambda view: embedding, size, tuple(clicks[:step]), None, state
            )
            found.times_ms.append(1000 * (time.perf_counter() - start))
        turn += 1
    found.elapsed_s, found.cpu_ms = time.monotonic() - began, 1000 * (time.process_time() - cpu)
    return found


def add(total: dict[str, Load], name: str, found: Load) -> None:
    """Add a round to what a row has."""
    row = total.setdefault(name, Load())
    row.times_ms += found.times_ms
    row.elapsed_s += found.elapsed_s
    row.cpu_ms += found.cpu_ms


def measure(sam: PromptableSam, args: argparse.Namespace) -> dict[str, Any]:
    """Everything, in turns."""
    width, height = map(int, args.size.split("x"))
    rows: dict[str, Load] = {}
    with tempfile.TemporaryDirectory() as images, ExitStack() as stack:
        folder = Path(images)
        case = Case(width, height, max(args.clients))
        references = write_pictures(folder, case, case.clients, first_seed=0)
        servers = {n: stack.enter_context(started(folder, args.model, n)) for n in args.workers}
        for server in servers.values():
            for number, reference in enumerate(references):
                server.predict(
                    request_of(case, number, reference, clicks_of(case, 7)[:1], f"w{number}")
                )
        for _ in range(args.rounds):
            add(rows, "bare", run_bare(sam, case, _path(folder, references[0]), args.seconds / 2))
            for clients in args.clients:
                for n, server in servers.items():
                    found = run_round(server, case, references[:clients], args.seconds)
                    add(rows, f"{n} workers, {clients} clients", found)
        memory = {f"{n} workers": server.own_mb() for n, server in servers.items()}
    return {"rows": {name: row.summary() for name, row in rows.items()}, "memory_mb": memory}


def started(images: Path, model: str, n_workers: int) -> Any:
    """A server, to be entered as a context."""
    more = ["--workers", str(n_workers), "--set", "zoom.is_on=false"]
    return serving(images, model, more=[*more, "--set", "inference.torch_threads=1"])


def _path(folder: Path, reference: str) -> Path:
    return folder / reference.rpartition("=")[2]


def print_table(found: dict[str, Any]) -> None:
    names = ["clicks", "clicks_per_s", "p50_ms", "p95_ms", "p99_ms", "cpu_ms"]
    print(f"{'':<24}" + "".join(f"{name:>14}" for name in names))
    for name, row in found["rows"].items():
        print(f"{name:<24}" + "".join(f"{row[key]:>14}" for key in names))
    for name, values in found["memory_mb"].items():
        print(f"memory of {name}: {sum(values):.0f} MB (parent, then children: {values})")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--model", default="compact")
    parser.add_argument("--size", default="1200x800")
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--rounds", type=int, default=4, help="turns of every server")
    parser.add_argument("--seconds", type=float, default=10, help="of each turn")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(1)
    sam = load_model(args.model, Path(".strop/models"), show_progress=True)
    before = environment("python -m benchmarks.load", sam)
    found = measure(sam, args)
    print_table(found)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({**before, "load_after": load(), **found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
