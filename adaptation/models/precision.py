"""Which arithmetic a processor is good at."""

from __future__ import annotations

import torch


def has_fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 natively; elsewhere it is slower than float32."""
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return probe is not None and bool(probe())
