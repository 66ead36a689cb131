"""Fresh clicks on the mistakes that the decoder makes by now, for all objects of a batch at once.

Every object gets its first click, then the whole batch is decoded, each object gets its next one,
and so on: as many decodes as the longest row of clicks has, less one, not as there are clicks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from numpy.random import Generator

from adaptation.clicker import next_click
from adaptation.interaction import LOGIT_LIMIT
from adaptation.lessons import UNLABELLED, Lesson, simulated_prompt
from adaptation.sam import PromptableSam
from adaptation.types import Click, Embedding, Prompt
from training.tuning_policy import Policy


@dataclass(slots=True)
class _Row:
    """An object's clicks as they grow.

    Args:
        lesson: Gives the labels; its own clicks are not used.
        embedding: Of the lesson's view.
        n_clicks: How many are wanted.
        prompt: The clicks so far, and the mask after the last but one.
    """

    lesson: Lesson
    embedding: Embedding
    n_clicks: int
    prompt: Prompt

    @property
    def is_open(self) -> bool:
        return len(self.prompt.clicks) < self.n_clicks


def simulated_prompts(
    policy: Policy, lessons: Sequence[Lesson], counts: Sequence[int], rngs: Sequence[Generator]
) -> list[Lesson]:
    """The same lessons with clicks as their annotators would make them now.

    Args:
        policy: Whose mistakes the clicks correct.
        lessons: Their labels are kept; their embeddings are asked for once.
        counts: Clicks of each, at least 1; fewer are made where no error is left.
        rngs: Draws each one's first click inside the object.
    """
    rows = []
    for lesson, count, rng in zip(lessons, counts, rngs, strict=True):
        embedding = lesson.embedding()
        first = simulated_prompt(lesson, embedding, policy.sam, None, 1, rng)
        rows.append(_Row(lesson, embedding, count, first))
    while grown := [row for row in rows if row.is_open]:
        _click_again(policy, grown)
    return [_as_lesson(row) for row in rows]


def _click_again(policy: Policy, rows: Sequence[_Row]) -> None:
    """One more click for each, on what the decoder shows; a row without an error is closed."""
    with torch.no_grad():
        found = policy.decode([row.embedding for row in rows], [row.prompt for row in rows])
    logits = found.shown_logits().clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
    for row, shown in zip(rows, logits, strict=True):
        labels = row.lesson.labels.numpy()
        click = next_click(labels == 1, (shown[0] > 0).cpu().numpy(), ignore=labels == UNLABELLED)
        if click is None:
            row.n_clicks = len(row.prompt.clicks)
        else:
            clicks = (*row.prompt.clicks, _in_view(click, row.embedding, policy.sam))
            row.prompt = Prompt(clicks=clicks, mask_input=shown)


def _in_view(click: Click, embedding: Embedding, sam: PromptableSam) -> Click:
    """A click on the grid of the logits as one in the view's own pixels."""
    stride = sam.input_size / sam.low_res_size
    (height, width), (new_height, new_width) = embedding.original_size, embedding.input_size
    x = (click.x + 0.5) * stride * width / new_width - 0.5
    y = (click.y + 0.5) * stride * height / new_height - 0.5
    return replace(click, x=min(max(x, 0.0), width - 1.0), y=min(max(y, 0.0), height - 1.0))


def _as_lesson(row: _Row) -> Lesson:
    return replace(row.lesson, prompt=row.prompt, embedding=lambda: row.embedding)
