"""A real browser on Label Studio's labeling page, as an annotator uses it."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.protocol.brush_rle import decode_brush

FOLDER = Path(__file__).resolve().parent


class BrowserError(Exception):
    """The browser could not do what a test asked for."""


@dataclass(frozen=True)
class Region:
    """A region or suggestion on the canvas; ``mask`` as it is drawn, at the image's size."""

    region_id: str
    kind: str
    labels: list[str]
    mask: NDArray[np.bool_] | None


@dataclass(frozen=True)
class Canvas:
    regions: list[Region]
    suggestions: list[Region]


class Driver:
    """``driver.js`` as a child process: one command at a time."""

    def __init__(self) -> None:
        self._node = subprocess.Popen(
            [program("node", "nodejs"), str(FOLDER / "driver.js")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=FOLDER,
        )

    def close(self) -> None:
        assert self._node.stdin is not None and self._node.stdout is not None
        self._node.stdin.close()
        self._node.wait(timeout=30)
        self._node.stdout.close()

    def call(self, name: str, *args: object) -> Any:
        assert self._node.stdin is not None and self._node.stdout is not None
        self._node.stdin.write(json.dumps({"call": name, "args": args}) + "\n")
        self._node.stdin.flush()
        line = self._node.stdout.readline()
        if not line:
            raise BrowserError(f"the browser's driver ended at {name}")
        answer = json.loads(line)
        if "error" in answer:
            raise BrowserError(answer["error"])
        return answer["value"]


class ImageViewer:
    """Chromium on an empty page, showing one image file after the other."""

    def __init__(self) -> None:
        self._driver = Driver()
        self._driver.call("open", chromium_program())

    def close(self) -> None:
        self._driver.close()

    def show(self, content: bytes) -> NDArray[np.uint8] | None:
        """The pixels ``[H, W, 3]`` that an ``<img>`` shows on white; None where it shows none."""
        shown = self._driver.call("show", base64.b64encode(content).decode())
        if shown is None:
            return None
        rgba = np.frombuffer(base64.b64decode(shown["pixels"]), np.uint8)
        return rgba.reshape(shown["height"], shown["width"], 4)[:, :, :3]


class Browser:
    """Chromium on Label Studio's pages.

    Args:
        url: Label Studio's address.
        email: Login.
        password: Password.
        options: ``autoAccept`` and ``keepLabel``, switches of Label Studio's page.
    """

    def __init__(self, url: str, email: str, password: str, **options: bool) -> None:
        self._driver = Driver()
        self._driver.call("launch", url, email, password, chromium_program(), options)

    def close(self) -> None:
        self._driver.close()

    def open_task(self, project_id: str, task_id: str) -> None:
        self._driver.call("openTask", project_id, task_id)

    def choose(self, label: str, *, control: str = "click", tool: str = "KeyPointTool") -> None:
        """Choose a label and the Auto-Detect tool."""
        state = self._driver.call("chooseTool", control, label, tool)
        if not state["isSelected"] or state["tool"] != f"{tool}-dynamic":
            raise BrowserError(f"cannot choose {tool} for {label}: {state}")

    def click(
        self,
        x_percent: float,
        y_percent: float,
        *,
        is_positive: bool = True,
        is_inside_region: bool = False,
    ) -> list[str]:
        """Click on the image; returns the errors that Label Studio got from Strop.

        A click inside a box or an accepted mask would select that; Ctrl makes it a click again.
        """
        keys = ["Control"] * is_inside_region + ["Alt"] * (not is_positive)
        return list(self._driver.call("click", x_percent, y_percent, keys)["errors"])

    def draw_box(self, x0: float, y0: float, x1: float, y1: float) -> list[str]:
        return list(self._driver.call("drawBox", x0, y0, x1, y1)["errors"])

    def canvas(self) -> Canvas:
        shown = self._driver.call("canvas")
        return Canvas(
            regions=[_region(entry) for entry in shown["regions"]],
            suggestions=[_region(entry) for entry in shown["suggestions"]],
        )

    def accept_all(self) -> None:
        self._driver.call("acceptAll")

    def reject_all(self) -> None:
        self._driver.call("rejectAll")

    def submit(self) -> None:
        status = self._driver.call("submit")
        if status >= 300:
            raise BrowserError(f"Label Studio answered {status} to the submission")

    def screenshot(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._driver.call("screenshot", str(path))

    def text(self) -> str:
        return str(self._driver.call("visibleText"))

    def follow(self, url: str, login: tuple[str, str], selector: str) -> tuple[str, str] | None:
        """Open a page with its password and follow its first link of that kind.

        Returns:
            Where it leads and what is read there; None where the page has no such link.
        """
        shown = self._driver.call("follow", url, *login, selector)
        return None if shown is None else (shown["url"], shown["text"])

    def evaluate(self, source: str) -> Any:
        return self._driver.call("evaluate", source)

    def press(self, key: str) -> None:
        self._driver.call("press", key)


def _region(entry: dict[str, Any]) -> Region:
    value = entry.get("value") or {}
    mask = None
    if value.get("format") == "rle":
        mask = decode_brush(value["rle"], (entry["height"], entry["width"]))
    return Region(
        region_id=entry["id"], kind=entry["type"], labels=entry.get("labels") or [], mask=mask
    )


def chromium_program() -> str:
    return program("chromium", "chromium-browser", "google-chrome")


def program(*names: str) -> str:
    for name in names:
        path = shutil.which(name)
        if path is not None:
            return path
    raise BrowserError(f"The browser tests need {names[0]}; on Debian: apt-get install {names[0]}.")
