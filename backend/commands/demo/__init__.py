"""`strop demo`: Strop and a Label Studio of its own, connected, with images to click on."""

from __future__ import annotations

from backend.commands.demo.errors import DemoError
from backend.commands.demo.run import DemoOptions, run

__all__ = ["DemoError", "DemoOptions", "run"]
