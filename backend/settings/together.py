"""Settings that are right each for itself and wrong together."""

from __future__ import annotations

from adaptation.errors import SettingsError
from backend.settings.schema import Settings


def check_together(settings: Settings) -> None:
    """Refuse what a learner in a process of its own cannot do.

    Raises:
        SettingsError: Its message lists every mistake, one a line.
    """
    if settings.learns_inside:
        return
    why = (
        "server.workers is above 1" if settings.server.workers > 1 else "learning.process is apart"
    )
    mistakes = []
    if settings.learning.is_on and not settings.album.is_on:
        mistakes.append(
            f"album.is_on: {why}, so the learner reads images from the album: leave it on, or "
            "set learning.is_on to false"
        )
    if settings.proposals.is_on:
        mistakes.append(
            f"proposals.is_on: {why}, and proposals while people label are kept in one process: "
            "set it to false and run `strop propose`, or serve with one worker that learns itself"
        )
    if mistakes:
        raise SettingsError("\n".join(["These settings do not go together:", *mistakes]))
