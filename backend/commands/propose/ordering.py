"""`strop propose --order`: the order in which a project's tasks are worth labelling.

Label Studio's Data Manager sorts tasks by a field of their data, and *Label Tasks As Displayed*
follows it.  It sorts such a field as text, so places are written with leading zeros.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from tqdm import tqdm

from adaptation.proposals.features import default_features
from adaptation.proposals.ordering import doubt, farthest_first, summary_vector
from backend.commands.propose.opening import OpenedProject, opened
from backend.label_studio.client import Task
from backend.proposals.maker import MakerOptions
from backend.settings import Settings
from backend.wiring import proposal_options

Order = Literal["uncertainty", "diversity", "anomaly"]

FIELD = "strop_order"
"""Key of a task's data that holds its place, from 1 on."""


@dataclass(slots=True)
class OrderSummary:
    """What became of a project's tasks.

    Args:
        order: By what they were ordered.
        n_ordered: Tasks that have their place now.
        n_labelled: Tasks that are annotated, and have no place.
        n_failed: Tasks whose image could not be read; the log names them.
    """

    order: Order
    n_ordered: int = 0
    n_labelled: int = 0
    n_failed: int = 0

    def __str__(self) -> str:
        return (
            f"{self.n_ordered} tasks ordered by {self.order} in their field {FIELD}; "
            f"{self.n_labelled} are labelled, {self.n_failed} could not be read."
        )


def order_project(settings: Settings, project_id: int, order: Order) -> OrderSummary:
    """Write into each open task's data the place at which it is worth labelling, from 1 on.

    - uncertainty: tasks first in which a proposal is most doubtful;
    - diversity: each task the one that is least like all labelled and earlier ones;
    - anomaly: tasks first in which a place is most unlike the project's other images.

    May be run again at any time, as after every day's work.

    Raises:
        SettingsError: No Label Studio is set, or there is nothing to look for yet.
        ProtocolError: The labeling config cannot be read.
        LabelStudioError: It cannot be reached, or the project is unknown.
    """
    summary = OrderSummary(order)
    with opened(settings, project_id, _options(settings, order), summary) as project:
        open_tasks = [task for task in project.tasks if not project.is_labelled(task)]
        summary.n_labelled = len(project.tasks) - len(open_tasks)
        ranked = (
            _by_diversity(project, open_tasks)
            if order == "diversity"
            else _by_worth(project, open_tasks, order)
        )
        width = len(str(len(ranked)))
        for place, task in enumerate(tqdm(ranked, desc="order"), start=1):
            value = f"{place:0{width}d}"
            if task.data.get(FIELD) != value:
                project.client.set_data(task, {FIELD: value})
            summary.n_ordered += 1
    return summary


def _options(settings: Settings, order: Order) -> MakerOptions:
    """As set, but that doubtful regions count, and that anomalies are looked for where asked."""
    options = proposal_options(settings)
    look_for = "anomalies" if order == "anomaly" else options.knowledge.look_for
    knowledge = dataclasses.replace(options.knowledge, look_for=look_for, min_score=0.0)
    return dataclasses.replace(options, knowledge=knowledge)


def _by_worth(project: OpenedProject, tasks: Sequence[Task], order: Order) -> list[Task]:
    """Those first whose image holds most of what is asked for; ties as they were."""
    knowledge = project.learned()
    worth: list[tuple[float, Task]] = []
    for task in tqdm(tasks, desc=order):
        for seen in project.seen(task):
            if order == "anomaly":
                value = knowledge.oddness(seen.image)
            else:
                found = project.maker.regions(knowledge, seen, project.config)
                value = doubt([item.region.score for item in found])
            worth.append((value, task))
    return [task for _, task in sorted(worth, key=lambda pair: -pair[0])]


def _by_diversity(project: OpenedProject, tasks: Sequence[Task]) -> list[Task]:
    features = default_features(project.maker.sam)
    known: list[Tensor] = []
    vectors: list[Tensor] = []
    readable: list[Task] = []
    open_ids = {task.task_id for task in tasks}
    for task in tqdm(project.tasks, desc="images"):
        for seen in project.seen(task):
            vector = summary_vector(features.layers(seen.image))
            if task.task_id in open_ids:
                vectors.append(vector)
                readable.append(task)
            else:
                known.append(vector)
    if not vectors:
        return []
    found = torch.stack(vectors)
    order = farthest_first(found, torch.stack(known) if known else found[:0])
    return [readable[position] for position in order]
