"""What of the training data can be used; the rest is left out and counted, or the run refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from tqdm import tqdm

from adaptation.errors import InputError
from training.finetune.prompt_cache import Unusable
from training.runtime.distributed import Rank

_N_EXAMPLES = 3


class Named(Protocol):
    """An item that messages can name."""

    @property
    def name(self) -> str: ...  # noqa: D102


T = TypeVar("T", bound=Named)


@dataclass(slots=True)
class LeftOut:
    """Items that cannot be trained on, for one reason.

    Args:
        n: How many.
        examples: The first few, each with what is wrong.
    """

    n: int = 0
    examples: list[str] = field(default_factory=list)


def usable(
    items: Sequence[T], replay: Callable[[T], object], rank: Rank, max_unusable: float
) -> tuple[list[T], dict[str, LeftOut]]:
    """Replay every item once, the work shared by the ranks, and drop those that fail.

    Args:
        items: Image by image.
        replay: Makes an item's replay, or finds it on the disk; raises where that is no use.
        rank: This process.
        max_unusable: Share of the items that may fail.

    Raises:
        InputError: More fail, or nothing is left; the message says why, with examples.
    """
    first, last = (len(items) * i // rank.count for i in (rank.index, rank.index + 1))
    mine = list(_failures(items, replay, range(first, last), is_shown=rank.is_first))
    failures = [failure for share in rank.gather(mine) for failure in share]
    left_out: dict[str, LeftOut] = {}
    for index, reason, detail in failures:
        group = left_out.setdefault(reason, LeftOut())
        group.n += 1
        if len(group.examples) < _N_EXAMPLES:
            group.examples.append(f"{items[index].name}: {detail}")
    failed = {index for index, _, _ in failures}
    if len(failed) == len(items) or len(failed) > max_unusable * len(items):
        raise InputError(_refusal(len(items), len(failed), left_out))
    return [item for index, item in enumerate(items) if index not in failed], left_out


def _failures(
    items: Sequence[T], replay: Callable[[T], object], indices: range, *, is_shown: bool
) -> Iterator[tuple[int, str, str]]:
    for index in tqdm(indices, desc="replay", unit="item", disable=not is_shown, leave=False):
        try:
            replay(items[index])
        except Unusable as error:
            yield index, str(error), str(error)
        except InputError as error:
            yield index, "its image or prompt cannot be used", str(error)


def _refusal(n_items: int, n_failed: int, left_out: dict[str, LeftOut]) -> str:
    if not n_items:
        return "There is nothing to train on: no object, no pair and no list was found."
    lines = [f"{n_failed} of {n_items} items cannot be trained on; max_unusable allows fewer:"]
    for reason, group in left_out.items():
        lines.append(f"  - {reason} ({group.n}), for instance {group.examples[0]}")
    return "\n".join(lines)
