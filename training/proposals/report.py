"""Results of measuring proposals as files, and the progress bar."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from tqdm import tqdm

from adaptation.models.sam import PromptableSam
from adaptation.storage.provenance import provenance, rounded
from training.proposals.config import AnomalyConfig, SimilarConfig
from training.runtime.config import as_dict

SCHEMA_VERSION = 1
_FOLDERS = ("data", "out", "cache", "cache_gb", "models_dir", "checkpoint")


def write_result(
    config: AnomalyConfig | SimilarConfig,
    sam: PromptableSam,
    command: str,
    found: Mapping[str, Any],
) -> None:
    """Write result.json into the run folder: what was asked, of which model, and what was found.

    Args:
        config: What was asked; its folder is made.
        sam: The model that was measured.
        command: That does it again.
        found: Plain values.
    """
    report = {
        "schema_version": SCHEMA_VERSION,
        **provenance(command),
        "data": config.data.name,
        "model": {
            "model_id": sam.model_id,
            "encoder_id": sam.encoder_id,
            "decoder_id": sam.decoder_id,
        },
        "config": {k: v for k, v in as_dict(config).items() if k not in _FOLDERS},
        **found,
    }
    config.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(rounded(report), indent=2) + "\n"
    (config.out / "result.json").write_text(text, encoding="utf-8")


def progress(stems: Iterable[str], title: str) -> Iterable[str]:
    """A progress bar over stems."""
    return tqdm(list(stems), desc=title, unit="image", smoothing=0.05)
