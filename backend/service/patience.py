"""How long a click is worth computing: until its client has gone, or Label Studio hangs up."""

from __future__ import annotations

import time
from collections.abc import Callable

from adaptation.errors import StropError

BUDGET_S = 90.0
"""Label Studio hangs up after 100 seconds; what is not there by then nobody sees."""


class BusyError(StropError):
    """More clicks wait than there are threads for, or one waited too long; HTTP 503."""


class GivenUpError(BusyError):
    """Nobody waits for the answer any more."""


class Patience:
    """What is left of a request's time.

    Args:
        is_gone: Whether the client has hung up.
        budget_s: Seconds from now on.
    """

    def __init__(
        self, is_gone: Callable[[], bool] = lambda: False, budget_s: float = BUDGET_S
    ) -> None:
        self._is_gone, self._budget_s = is_gone, budget_s
        self._end = time.monotonic() + budget_s

    def left_s(self) -> float:
        """Seconds left, above 0 even when none are."""
        return max(0.1, self._end - time.monotonic())

    def check(self) -> None:
        """Go on, or not.

        Raises:
            GivenUpError: The client has gone, or the time is over.
        """
        if self._is_gone():
            raise GivenUpError("The client hung up before its click was answered.")
        if time.monotonic() > self._end:
            raise GivenUpError(
                f"The click was not answered within {self._budget_s:.0f} seconds, as more is asked "
                "than this machine can do: click again in a moment."
            )
