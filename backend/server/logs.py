"""Logging of the commands: one line an event, to standard error."""

from __future__ import annotations

import logging


class LineFormatter(logging.Formatter):
    """Keeps an event on its line: ids and labels come from outside and may hold line breaks."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line, with control characters escaped; a traceback still follows on its own lines."""
        line = super().formatMessage(record)
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def configure_logging(level: str, libraries: str = "warning") -> None:
    """Send everything to standard error.

    Args:
        level: debug, info, warning or error.
        libraries: From which level on others' code speaks up.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=libraries.upper(), handlers=[handler], force=True)
    for name in ("adaptation", "backend"):
        logging.getLogger(name).setLevel(level.upper())
