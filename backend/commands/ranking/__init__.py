"""People rank the decoder's masks in a Label Studio project of its own.

::

    choosing.py   which prompts of the journal are worth ranking, and in which order they are drawn
    picture.py    a mask, its clicks and the image around them as one small picture
    tasks.py      the labeling config (labels.xml), tasks and annotations: Label Studio's JSON, pure
    projects.py   which project of Label Studio holds the rankings of which
    create.py     `strop ranking create`       collect.py   `strop ranking collect`
"""

from __future__ import annotations

from backend.commands.ranking.choosing import Wanted
from backend.commands.ranking.collect import Collected, collect_rankings
from backend.commands.ranking.create import Created, create_rankings

__all__ = ["Collected", "Created", "Wanted", "collect_rankings", "create_rankings"]
