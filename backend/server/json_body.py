"""A request's body as JSON, within what Label Studio ever sends."""

from __future__ import annotations

import json

from adaptation.errors import ProtocolError

MAX_CONTAINERS = 1_000_000
"""Lists and objects of one body: reading them holds up every thread, a million for half a second.
A task with a hundred polygons of a thousand corners each has a tenth of that."""

MAX_ELEMENTS = 10_000_000
"""Values of one body, mostly the run lengths of masks; ten million take a second."""


def parse_body(body: bytes) -> object:
    """Read JSON.

    Args:
        body: Of any content type, in UTF-8, UTF-16 or UTF-32.

    Raises:
        ProtocolError: It is not JSON, or holds more than any task does.
    """
    # Brackets and commas inside of texts count as well: far from the limits that does not matter.
    if body.count(b"[") + body.count(b"{") > MAX_CONTAINERS:
        raise ProtocolError(
            f"The request's body holds more than {MAX_CONTAINERS} lists and objects: no task of "
            "Label Studio does."
        )
    if body.count(b",") > MAX_ELEMENTS:
        raise ProtocolError(
            f"The request's body holds more than {MAX_ELEMENTS} values: remove old predictions "
            "and drafts of the task, which travel with every click."
        )
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise ProtocolError("The request's body must be JSON, and it is not.") from None
