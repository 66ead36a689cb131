"""The simulated annotator, as the evaluation clicks with it; see `adaptation.annotator`."""

from __future__ import annotations

from adaptation.annotator import CLICKERS, PROMPTS, Annotator, Rules, click_beside

__all__ = ["CLICKERS", "PROMPTS", "Annotator", "Rules", "click_beside"]
