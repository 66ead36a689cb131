"""`strop demo`: Strop and a Label Studio of its own, connected, with images to click on."""

from __future__ import annotations

from backend.demo.errors import DemoError
from backend.demo.run import DemoOptions, run

__all__ = ["DemoError", "DemoOptions", "run"]
