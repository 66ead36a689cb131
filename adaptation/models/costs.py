"""What models cost beside each other, so that measuring one tells about all.

Processor time of one encode and one decode, as multiples of the embedded model's, from
`benchmarks/results/models.json` (the published shapes with random weights, one thread, the same
run).  Other processors differ by some tens of percent, a GPU by far more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from adaptation.models.entries import CATALOG

BYTES_A_PARAMETER = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Seconds, or multiples of another model's.

    Args:
        encode: Of one image.
        decode: Of one click.
    """

    encode: float
    decode: float


RELATIVE: Mapping[str, Cost] = MappingProxyType(
    {
        "compact": Cost(encode=1.0, decode=1.0),
        "compact-1": Cost(encode=1.0, decode=1.0),
        "edgetam": Cost(encode=10.5, decode=2.2),
        "mobile_sam": Cost(encode=23.6, decode=1.6),
        "sam2.1-tiny": Cost(encode=49.7, decode=2.6),
        "sam2.1-small": Cost(encode=65.9, decode=2.2),
        "sam2.1-base+": Cost(encode=118.2, decode=2.5),
        "vit_b": Cost(encode=236.8, decode=1.8),
        "sam-vit-b": Cost(encode=186.8, decode=1.8),
        "medsam": Cost(encode=186.8, decode=1.8),
        "sam-hq-vit-b": Cost(encode=204.5, decode=2.8),
    }
)
"""By the catalog's name, in multiples of the embedded one's; what was not measured is not here."""


def estimated(measured: Cost, name: str) -> dict[str, Cost]:
    """Seconds of all models, from those of one.

    Args:
        measured: Seconds of the model `name`.
        name: As in the catalog; nothing can be told from others.
    """
    if name not in RELATIVE:
        return {}
    base = RELATIVE[name]
    return {
        other: Cost(
            encode=measured.encode * cost.encode / base.encode,
            decode=measured.decode * cost.decode / base.decode,
        )
        for other, cost in RELATIVE.items()
    }


def suiting(costs: Mapping[str, Cost], most: Cost, memory_bytes: int | None) -> dict[str, Cost]:
    """Those of the models that are fast and small enough, the lightest first.

    Args:
        costs: Seconds by name.
        most: Seconds that an image and a click may take.
        memory_bytes: The machine's; a model may take a quarter of it. None: not known.
    """
    return {
        name: costs[name]
        for name, entry in CATALOG.items()
        if name in costs
        and costs[name].encode <= most.encode
        and costs[name].decode <= most.decode
        and (
            memory_bytes is None
            or BYTES_A_PARAMETER * (entry.n_parameters or 0) <= memory_bytes / 4
        )
    }
