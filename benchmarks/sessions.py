"""What many learning sessions cost in one process: memory, and the time of a click.

    python -m benchmarks.sessions                         # 200 sessions, the embedded model
    python -m benchmarks.sessions --sessions 20 --objects 10

Two whole services share one model, one of them learns.  Both are asked the same clicks, in turn, so
that whatever else the machine does hits both; what counts are the ratios.  Every session of the
learning one has weights of its own (random, of full size).  Then the same with a memory for a
quarter of the sessions only, where most clicks find theirs on the disk, and once more while
sessions are trained on finished masks behind the clicks.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from adaptation.learning.adapter import Adapter
from adaptation.models.catalog import load_model
from adaptation.models.sam import PromptableSam
from backend.learning.worker import OnlineLearning
from backend.protocol.brush_rle import encode_brush
from backend.service.service import SegmentationService
from backend.settings import load_settings
from backend.wiring import build_service
from benchmarks.environment import environment

RESULTS = Path(__file__).parent / "results" / "sessions.json"
WIDTH, HEIGHT, N_CLICKS = 600, 400, 4

CONFIG = """<View><Image name="image" value="$image"/>
<KeyPointLabels name="kp" toName="image" smart="true"><Label value="Object"/></KeyPointLabels>
<BrushLabels name="brush" toName="image" smart="false"><Label value="Object"/></BrushLabels>
</View>"""


@dataclass
class Side:
    """One service, and how long its clicks took, in milliseconds."""

    service: SegmentationService
    later_ms: list[float] = field(default_factory=list)
    processor_ms: list[float] = field(default_factory=list)

    def click(self, task: int, image: str, clicks: list[dict[str, Any]]) -> dict[str, Any]:
        """Ask for a mask; the time of every click but an object's first is kept."""
        body = request_of(task, image, clicks)
        began, used = time.perf_counter(), time.process_time()
        answer = self.service.predict(body)
        if len(clicks) > 1:
            self.later_ms.append(1000 * (time.perf_counter() - began))
            self.processor_ms.append(1000 * (time.process_time() - used))
        return answer

    def summary(self) -> dict[str, float]:
        """Percentiles."""
        p50, p95 = np.percentile(self.later_ms, [50, 95])
        return {
            "n": len(self.later_ms),
            "p50_ms": round(float(p50), 1),
            "p95_ms": round(float(p95), 1),
            "processor_p50_ms": round(statistics.median(self.processor_ms), 1),
        }


def request_of(task: int, image: str, clicks: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "tasks": [{"id": task, "data": {"image": image}, "project": 1}],
        "project": "1.1",
        "label_config": CONFIG,
        "params": {"context": {"result": clicks}},
    }


def keypoint(x: float, y: float, is_positive: bool, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "type": "keypointlabels",
        "from_name": "kp",
        "to_name": "image",
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "image_rotation": 0,
        "is_positive": is_positive,
        "value": {"x": x, "y": y, "width": 0.2, "keypointlabels": ["Object"]},
    }


def picture(seed: int) -> str:
    """Soft noise with an ellipse, as a data URI."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(0, 1, (HEIGHT // 8, WIDTH // 8, 3)).astype(np.float32)
    ground = cv2.resize(coarse, (WIDTH, HEIGHT)) * 25 + 120
    cv2.ellipse(ground, (300, 200), (110, 80), 20, 0, 360, (200, 90, 60), -1)
    stream = io.BytesIO()
    Image.fromarray(ground.clip(0, 255).astype(np.uint8)).save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def clicks_of(rng: np.random.Generator, name: str) -> list[dict[str, Any]]:
    """Clicks on the ellipse, every third one beside it."""
    clicks = []
    for index in range(N_CLICKS):
        inside = index % 3 != 2
        x, y = rng.normal(50, 6 if inside else 2), rng.normal(50 if inside else 85, 5)
        x, y = float(np.clip(x, 2, 98)), float(np.clip(y, 2, 98))
        clicks.append(keypoint(x, y, inside, f"{name}-{index}"))
    return clicks


# Services ----------------------------------------------------------------------------------------


@contextmanager
def running(sam: PromptableSam, *, is_on: bool, **learning: object) -> Iterator[Side]:
    with tempfile.TemporaryDirectory() as folder:
        given = {f"learning.{key}": value for key, value in learning.items()}
        overrides = {
            "data_dir": folder,
            "inference.torch_threads": 1,
            "learning.is_on": is_on,
            "learning.scope": "task",
            "learning.merge": 0,
            "log_level": "warning",
            **given,
        }
        side = Side(build_service(load_settings(overrides=overrides, environ={}), sam))
        try:
            yield side
        finally:
            side.service.close()


def learning_of(side: Side) -> OnlineLearning:
    found = side.service.served.learning
    assert isinstance(found, OnlineLearning)
    return found


def fill(side: Side, sam: PromptableSam, n_sessions: int) -> None:
    """Give every session weights of its own, as if it had learned."""
    adapters = learning_of(side).adapters
    for task in range(n_sessions):
        generator = torch.Generator().manual_seed(task)
        deltas = {
            name: (1e-4 * torch.randn(value.shape, generator=generator)).half()
            for name, value in sam.decoder_parameters().items()
        }
        adapters.publish(f"project-1-task-{task}", Adapter(deltas, sam.decoder_id))


def memory_mb() -> float:
    """Resident memory of this process, in megabytes of 1 000 000 bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


# Measurements ------------------------------------------------------------------------------------


def draw(sides: list[Side], images: list[str], tasks: list[int], name: str) -> None:
    """Objects in many sessions; every click is asked of all sides, in turn."""
    rng = np.random.default_rng(0)
    for number, task in enumerate(tasks):
        clicks = clicks_of(rng, f"{name}-{number}")
        for step in range(1, N_CLICKS + 1):
            for side in sides if step % 2 else reversed(sides):
                side.click(task, images[task % len(images)], clicks[:step])


def measure_memory(sam: PromptableSam, n_sessions: int) -> dict[str, Any]:
    with running(sam, is_on=True, max_sessions=n_sessions) as side:
        before = memory_mb()
        fill(side, sam, n_sessions)
        taken = memory_mb() - before
        assert len(learning_of(side).adapters) == n_sessions
    adapter_mb = 2 * sum(v.nelement() for v in sam.decoder_parameters().values()) / 1e6
    return {
        "sessions": n_sessions,
        "all_mb": round(taken, 1),
        "each_mb": round(taken / n_sessions, 2),
        "adapter_mb": round(adapter_mb, 2),
    }


def measure_clicks(
    sam: PromptableSam, images: list[str], args: argparse.Namespace, max_sessions: int
) -> dict[str, Any]:
    """Clicks over all sessions, learning on and off."""
    rng = np.random.default_rng(1)
    tasks = [int(task) for task in rng.integers(0, args.sessions, args.objects)]
    with (
        running(sam, is_on=False) as off,
        running(sam, is_on=True, max_sessions=max_sessions) as on,
    ):
        fill(on, sam, args.sessions)
        draw([off, on], images, tasks[:2], "warm")
        for side in (off, on):
            side.later_ms.clear()
            side.processor_ms.clear()
        draw([off, on], images, tasks, "object")
        return compared(off, on)


def measure_taught(
    sam: PromptableSam, images: list[str], args: argparse.Namespace
) -> dict[str, Any]:
    """Clicks while sessions are trained on one finished mask after the other."""
    with running(sam, is_on=False) as off, running(sam, is_on=True) as on:
        for number in range(args.taught):
            wait_for_rest(on)
            draw([Side(on.service)], images, [number % 4], f"taught-{number}")
            draw([off], images, [4 + number % 8], f"beside-{number}")  # nobody learns meanwhile
            submit(on, number)
            draw([on], images, [4 + number % 8], f"beside-{number}")
        wait_for_rest(on)
        return {**compared(off, on), "objects_taught": args.taught}


def wait_for_rest(side: Side) -> None:
    """Wait until no session is trained."""
    while not learning_of(side).idle():
        time.sleep(0.05)


def submit(side: Side, number: int) -> None:
    """Submit the mask that was shown last, painted over a little."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    mask = ((rows - 200) / 85) ** 2 + ((columns - 300) / 105) ** 2 < 1
    shown = list(side.service._journal.interactions(task_id=str(number % 4)))[-1]
    region = {
        "id": shown.candidates[0].region_id,
        "type": "brushlabels",
        "from_name": "brush",
        "to_name": "image",
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "value": {"format": "rle", "rle": encode_brush(mask), "brushlabels": ["Object"]},
    }
    annotation = {"id": number, "task": number % 4, "project": 1, "result": [region]}
    side.service.webhook(
        {
            "action": "ANNOTATION_CREATED",
            "annotation": annotation,
            "task": {"id": number % 4, "data": {}},
            "project": {"id": 1, "label_config": CONFIG},
        }
    )


def compared(off: Side, on: Side) -> dict[str, Any]:
    frozen, learning = off.summary(), on.summary()
    ratios = {
        name: round(learning[name] / frozen[name], 2)
        for name in ("p50_ms", "p95_ms", "processor_p50_ms")
    }
    return {"off": frozen, "on": learning, "on / off": ratios}


def print_row(name: str, found: dict[str, Any]) -> None:
    off, on, ratio = found["off"], found["on"], found["on / off"]
    print(
        f"{name:<34}{off['p50_ms']:>8.0f} /{off['p95_ms']:>6.0f}"
        f"{on['p50_ms']:>10.0f} /{on['p95_ms']:>6.0f}"
        f"{ratio['p50_ms']:>9.2f} /{ratio['p95_ms']:>6.2f}{ratio['processor_p50_ms']:>12.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--sessions", type=int, default=200)
    parser.add_argument("--objects", type=int, default=60, help="objects that are clicked on")
    parser.add_argument("--taught", type=int, default=8, help="objects that are trained on")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    sam = load_model("compact", Path(".strop/models"))
    images = [picture(seed) for seed in range(4)]
    memory = measure_memory(sam, args.sessions)
    print(f"memory: {memory['each_mb']} MB a session ({memory['sessions']} of them)")
    print(f"\n{'p50 / p95 in ms':<34}{'off':>16}{'on':>18}{'on / off':>17}{'processor':>12}")
    cases = {
        "all sessions in memory": measure_clicks(sam, images, args, args.sessions),
        "a quarter of them in memory": measure_clicks(sam, images, args, args.sessions // 4),
        "while masks are taught": measure_taught(sam, images, args),
    }
    for name, found in cases.items():
        print_row(name, found)
    report = {
        **environment("python -m benchmarks.sessions", sam),
        "memory": memory,
        "clicks": cases,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=2) + "\n")
    print(f"written to {args.out}")


if __name__ == "__main__":
    main()
