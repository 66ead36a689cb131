"""From settings to a client of Label Studio."""

from __future__ import annotations

from backend.label_studio.client import LabelStudioClient, Transport
from backend.settings import Settings


def build_client(settings: Settings) -> LabelStudioClient | None:
    """The client of the Label Studio that is set, or None."""
    options = settings.label_studio
    if options.url is None:
        return None
    return LabelStudioClient(
        Transport(
            options.url,
            None if options.token is None else options.token.get_secret_value(),
            token_kind=options.token_kind,
        )
    )
