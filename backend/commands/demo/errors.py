"""The one error of the demo."""

from __future__ import annotations

from adaptation.errors import StropError


class DemoError(StropError):
    """The demo cannot start or go on; the message says what to do."""
