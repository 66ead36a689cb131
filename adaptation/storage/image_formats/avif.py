"""AVIF: turned by its container's own boxes (``irot``, ``imir``), and by nothing else."""

from __future__ import annotations

import re

_EXIF_ITEM = re.compile(rb"(infe[\x02\x03].{3}(?:.{4}|.{6}))Exif", re.DOTALL)


def is_avif(content: bytes) -> bool:
    """Whether it begins like a file of the family."""
    return content[4:8] == b"ftyp"


def without_exif(content: bytes) -> bytes:
    """The file with its EXIF item unnamed.

    Pillow mixes the orientation of the boxes into the EXIF block, and fails where it cannot rewrite
    that; without one it makes a block of the boxes alone.
    """
    return _EXIF_ITEM.sub(rb"\1none", content)
