"""Where a result comes from; see `adaptation.provenance`."""

from __future__ import annotations

from adaptation.provenance import command_line, commit, provenance

__all__ = ["command_line", "commit", "provenance"]
