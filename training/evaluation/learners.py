"""The learners that an evaluation can be run with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from adaptation.learning.learner import OnlineLearner
from adaptation.learning.settings import LearnerSettings
from adaptation.models.sam import PromptableSam
from adaptation.predictor.interactive import Answer, Corrector, Encode
from training.evaluation.baseline import SeedFactory, SeedSettings
from training.evaluation.config import ABLATIONS, EvaluateConfig
from training.runtime.config import load_config


class OnlineSession:
    """The service's learner in the evaluation's stream.

    Clicks are learned from in the answer itself (the corrector), finished masks right after they
    are submitted, and then for a while in idle time.

    Args:
        learner: The session's own.
        stretches: Stretches of idle training after each object at most; it ends sooner when
            nothing more is to be gained.
    """

    def __init__(self, learner: OnlineLearner, stretches: int) -> None:
        self._learner = learner
        self._stretches = stretches

    @property
    def corrector(self) -> Corrector | None:
        """What makes shown masks obey the clicks."""
        return self._learner.corrector

    def weights(self, n_clicks: int) -> Mapping[str, Tensor] | None:
        """Decoder weights that answer the newest of so many clicks on an object."""
        return self._learner.weights(n_clicks)

    def observe_click(self, answer: Answer) -> None:
        """Nothing is left to learn: the corrector has seen the click."""

    def observe_mask(
        self, answers: Sequence[Answer], mask: NDArray[np.bool_], encode: Encode
    ) -> None:
        """Learn from a finished object, then train in idle time."""
        self._learner.observe_mask(answers, answers[-1].state.clicks, mask, encode)
        for _ in range(self._stretches):
            if self._learner.train_idle() == 0:
                return


@dataclass(frozen=True)
class OnlineFactory:
    """Makes the sessions of one evaluation; picklable.

    Args:
        settings: How they learn.
        stretches: Stretches of idle training after each object at most.
    """

    settings: LearnerSettings
    stretches: int = 1

    def __call__(self, sam: PromptableSam, seed: int) -> OnlineSession:
        """A fresh session that starts from the model's own decoder."""
        return OnlineSession(OnlineLearner(sam, self.settings, seed), self.stretches)

    def identity(self) -> Mapping[str, Any]:
        """The settings as plain values."""
        return {"kind": "online", **dataclasses.asdict(self.settings), "stretches": self.stretches}


def make_learners(config: EvaluateConfig) -> OnlineFactory | SeedFactory | None:
    """What makes the learners of an evaluation; None where nothing adapts.

    With `adapt: seed` the learner file is the baseline's, see `SeedSettings`.

    Raises:
        ConfigError: The learner's YAML file is wrong.
    """
    if "adapted" not in config.modes:
        return None
    if config.adapt == "seed":
        return SeedFactory(load_config(SeedSettings, config.learner))
    settings = load_config(LearnerSettings, config.learner)
    for part in config.left_out():
        settings = without(settings, part)
    return OnlineFactory(settings, config.think)


def without(settings: LearnerSettings, part: str) -> LearnerSettings:
    """A learner's settings with one of :data:`~training.evaluation.config.ABLATIONS` left out."""
    changes = {
        name: dataclasses.replace(getattr(settings, name), **value)
        if isinstance(value, Mapping)
        else value
        for name, value in ABLATIONS[part].items()
    }
    return dataclasses.replace(settings, **changes)
