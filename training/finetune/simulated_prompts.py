"""Fresh clicks on the mistakes that the decoder makes by now, for all objects of a batch at once.

Every object gets its first click, then the whole batch is decoded, each object gets its next one,
and so on: as many decodes as the longest row of clicks has, less one, not as there are clicks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from numpy.random import Generator

from adaptation.learning.examples import TrainingExample, first_prompt, next_prompt
from adaptation.types import Embedding, Prompt
from training.finetune.policy import Policy


@dataclass(slots=True)
class _Row:
    """An object's clicks as they grow.

    Args:
        example: Gives the labels; its own clicks are not used.
        embedding: Of the example's view.
        n_clicks: How many are wanted.
        prompt: The clicks so far, and the mask after the last but one.
    """

    example: TrainingExample
    embedding: Embedding
    n_clicks: int
    prompt: Prompt

    @property
    def is_open(self) -> bool:
        return len(self.prompt.clicks) < self.n_clicks


def simulated_prompts(
    policy: Policy,
    examples: Sequence[TrainingExample],
    counts: Sequence[int],
    rngs: Sequence[Generator],
) -> list[TrainingExample]:
    """The same examples with clicks as their annotators would make them now.

    Args:
        policy: Whose mistakes the clicks correct.
        examples: Their labels are kept; their embeddings are asked for once.
        counts: Clicks of each, at least 1; fewer are made where no error is left.
        rngs: Draws each one's first click inside the object.
    """
    rows = []
    for example, count, rng in zip(examples, counts, rngs, strict=True):
        embedding = example.embedding()
        first = first_prompt(example, embedding, policy.sam, rng)
        rows.append(_Row(example, embedding, count, first))
    while grown := [row for row in rows if row.is_open]:
        _click_again(policy, grown)
    return [_as_example(row) for row in rows]


def _click_again(policy: Policy, rows: Sequence[_Row]) -> None:
    """One more click for each, on what the decoder shows; a row without an error is closed."""
    with torch.no_grad():
        found = policy.decode([row.embedding for row in rows], [row.prompt for row in rows])
    for row, shown in zip(rows, found.shown_logits(), strict=True):
        following = next_prompt(row.example, row.prompt, shown, row.embedding, policy.sam)
        if following is None:
            row.n_clicks = len(row.prompt.clicks)
        else:
            row.prompt = following


def _as_example(row: _Row) -> TrainingExample:
    return replace(row.example, prompt=row.prompt, embedding=lambda: row.embedding)
