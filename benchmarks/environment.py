"""What timed results depend on beside the code: the model, the cores, and what else was running."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any

from adaptation.models.sam import PromptableSam
from adaptation.storage.provenance import provenance


def environment(program: str, sam: PromptableSam) -> dict[str, Any]:
    """Origin of a benchmark's figures, for its result file.

    Args:
        program: How it is called, as in "python -m benchmarks.sessions".
        sam: The model that was timed.
    """
    return {
        **provenance(shlex.join([*program.split(), *map(_without_folders, sys.argv[1:])])),
        "model": sam.model_id,
        "encoder": sam.encoder_id,
        "decoder": sam.decoder_id,
        "cores": os.cpu_count(),
        "load": load(),
    }


def _without_folders(word: str) -> str:
    """A word of the command line; of paths only the last part, as results tell of no machine."""
    return Path(word).name if Path(word).is_absolute() else word


def load() -> list[float]:
    """Processes that were ready to run over the last 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]
