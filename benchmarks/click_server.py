"""What the benchmark of clicks talks to: pictures, requests, and a `strop serve` of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage import data

from adaptation.types import Click

CLICKS_PER_OBJECT = 5
CONFIG = """
<View>
  <Image name="image" value="$image"/>
  <KeyPointLabels name="kp" toName="image" smart="true"><Label value="Object"/></KeyPointLabels>
  <BrushLabels name="brush" toName="image" smart="false"><Label value="Object"/></BrushLabels>
</View>
"""


@dataclass(frozen=True)
class Case:
    """One row of the table: an image size (width, height) and a number of clients."""

    width: int
    height: int
    clients: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}, {self.clients} client{'s' * (self.clients > 1)}"


# Pictures ----------------------------------------------------------------------------------------


def picture(width: int, height: int, seed: int) -> NDArray[np.uint8]:
    """A photograph (scikit-image's coffee cup) at some size, a little different for every seed."""
    base = Image.fromarray(data.coffee()).resize((width, height), Image.Resampling.BICUBIC)
    shifted = np.roll(np.asarray(base), 7 * seed, axis=1)
    return np.clip(shifted.astype(np.int16) + seed % 5, 0, 255).astype(np.uint8)


def write_pictures(folder: Path, case: Case, count: int, first_seed: int) -> list[str]:
    """Write JPEG files; returns their references as a task would hold them."""
    references = []
    for seed in range(first_seed, first_seed + count):
        name = f"{case.width}x{case.height}-{seed}.jpg"
        Image.fromarray(picture(case.width, case.height, seed)).save(folder / name, quality=92)
        references.append(f"/data/local-files/?d={name}")
    return references


# The server --------------------------------------------------------------------------------------


class Server:
    """A `strop serve` of its own, with its data in a folder.

    Args:
        folder: Of its data.
        images: Which it may read.
        model: Its name.
        tree: Another checkout of Strop that serves instead of this one.
        more: Further arguments of `strop serve`.
    """

    def __init__(
        self,
        folder: Path,
        images: Path,
        model: str,
        tree: Path | None = None,
        more: Sequence[str] = (),
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.embeddings = folder / "embeddings"
        arguments = ["--port", str(self.port), "--data-dir", str(folder), "--model", model]
        arguments += ["--log-level", "warning", "--set", f"images.allowed_folders={images}"]
        arguments += more
        command = [sys.executable, "-c", "from backend.cli import main; main()", "serve"]
        environ = {k: v for k, v in os.environ.items() if not k.startswith("STROP_")}
        if tree is not None:
            environ["PYTHONPATH"] = str(tree.resolve())
        self.process = subprocess.Popen([*command, *arguments], env=environ, cwd=tree)

    def exchange(self, path: str, body: bytes | None = None) -> bytes:
        """GET, or POST where there is a body, up to the last byte of the reply."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body)
        with urllib.request.urlopen(request, timeout=300) as reply:
            received: bytes = reply.read()
            return received

    def predict(self, body: object) -> float:
        """POST to /predict; milliseconds until the last byte of the reply has come."""
        content = json.dumps(body).encode()
        began = time.perf_counter()
        reply = self.exchange("/predict", content)
        elapsed = 1000 * (time.perf_counter() - began)
        assert "results" in json.loads(reply)
        return elapsed

    def wait_until_up(self) -> None:
        """Return when it answers."""
        while True:
            try:
                self.exchange("/health")
                return
            except OSError:
                code = self.process.poll()
                assert code is None, f"the server ended with code {code}"
                time.sleep(0.1)

    def n_embeddings(self) -> int:
        """Embeddings that have reached the disk."""
        return sum(1 for path in self.embeddings.rglob("*") if path.suffix == ".safetensors")

    def children(self) -> list[Path]:
        """The workers, and the learner beside several of them, in /proc (Linux)."""
        parents = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                parents[stat.parent] = int(stat.read_text().rpartition(")")[2].split()[1])
        return [path for path, parent in parents.items() if parent == self.process.pid]

    def worker(self) -> Path:
        """The only worker, or one of them."""
        return self.children()[0]

    def cpu_ms(self) -> float:
        """Processor time of all workers so far, and of the learner beside several of them."""
        stats = ((path / "stat").read_text().rpartition(")")[2] for path in self.children())
        ticks = sum(int(fields[11]) + int(fields[12]) for fields in map(str.split, stats))
        return 1000 * ticks / os.sysconf("SC_CLK_TCK")

    def own_mb(self) -> list[float]:
        """Memory of the parent and of each child, what they share being shared out (Linux)."""
        found = []
        for path in (Path(f"/proc/{self.process.pid}"), *self.children()):
            lines = (path / "smaps_rollup").read_text().splitlines()
            found += [int(line.split()[1]) / 1000 for line in lines if line.startswith("Pss:")]
        return [round(value) for value in found]

    def memory_mb(self) -> dict[str, float]:
        """Resident memory of the worker, now and at its most (Linux)."""
        status = (self.worker() / "status").read_text().splitlines()
        found = {
            line.split(":")[0]: float(line.split()[1]) / 1000 for line in status if "kB" in line
        }
        return {"now": round(found["VmRSS"]), "most": round(found["VmHWM"])}

    def stop(self) -> None:
        """End it and wait for its end."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


@contextmanager
def serving(
    images: Path, model: str, tree: Path | None = None, more: Sequence[str] = ()
) -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(prefix="strop-benchmark-"))
    server = Server(folder, images, model, tree, more)
    try:
        server.wait_until_up()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


# Clicks ------------------------------------------------------------------------------------------


def request_of(case: Case, task: int, reference: str, clicks: Sequence[Click], name: str) -> Any:
    """A /predict request; without clicks, that of a task that is opened."""
    regions = [
        {
            "original_width": case.width,
            "original_height": case.height,
            "image_rotation": 0,
            "value": {
                "x": 100 * (click.x + 0.5) / case.width,
                "y": 100 * (click.y + 0.5) / case.height,
                "width": 0.2,
                "labels": ["Object"],
                "keypointlabels": ["Object"],
            },
            "is_positive": click.is_positive,
            "id": f"{name}-{index}",
            "from_name": "kp",
            "to_name": "image",
            "type": "keypointlabels",
            "origin": "manual",
        }
        for index, click in enumerate(clicks)
    ]
    return {
        "tasks": [{"id": task, "project": 1, "data": {"image": reference}}],
        "project": "1.1795252480",
        "label_config": CONFIG,
        "params": {"context": {"result": regions} if clicks else None},
    }


def clicks_of(case: Case, seed: int) -> list[Click]:
    """Five clicks around one spot, every third one negative and a little off."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(0.25, 0.75, 2)
    clicks = []
    for index in range(CLICKS_PER_OBJECT):
        is_positive = index % 3 != 2
        spread = 0.02 if is_positive else 0.12
        x, y = np.clip(centre + rng.normal(0, spread, 2) * (index > 0), 0.02, 0.98)
        clicks.append(Click(x=x * case.width, y=y * case.height, is_positive=is_positive))
    return clicks
