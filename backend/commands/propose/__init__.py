"""Work that is done before the first click.

::

    opening.py    the project: its tasks, what was submitted, its images
    storing.py    `strop propose`: proposals, stored as predictions
    ordering.py   `strop propose --order`: in which order tasks are worth labelling
"""

from __future__ import annotations

from backend.commands.propose.ordering import FIELD, Order, OrderSummary, order_project
from backend.commands.propose.storing import ProposeSummary, propose_project

__all__ = [
    "FIELD",
    "Order",
    "OrderSummary",
    "ProposeSummary",
    "order_project",
    "propose_project",
]
