"""Optuna as the proposer of `tune`: its sampler of tree-structured Parzen estimators, over the places of the candidates in their order.

The study lives in memory, and is filled from our own journal again: Optuna's journal storage unpickles its snapshots, and nothing here is ever unpickled.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import Any, Final

import optuna
from optuna.distributions import CategoricalDistribution, IntDistribution

from storagebench.experiments.space import Dimension, Point

# Points at random before the model takes over; the first of all is the default.
STARTUP_TRIALS: Final = 8


class OptunaProposer:
    """Implements `experiments.tune.Proposer`, the same for the same seed and the same answers."""

    def __init__(self, space: Sequence[Dimension], seed: int) -> None:
        optuna.logging.set_verbosity(logging.WARNING)
        self._space = list(space)
        self._distributions: dict[str, Any] = {
            one.key: IntDistribution(0, len(one.values) - 1) if one.ordered else CategoricalDistribution(tuple(range(len(one.values))))
            for one in space
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some releases call `multivariate` experimental
            sampler = optuna.samplers.TPESampler(seed=seed % 2**32, multivariate=True, n_startup_trials=STARTUP_TRIALS)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)

    def ask(self) -> Point:
        trial = self._study.ask(self._distributions)
        self._study.tell(trial, state=optuna.trial.TrialState.FAIL)  # what it gave is told as a trial of its own, if it is run at all
        return {one.key: one.values[trial.params[one.key]] for one in self._space}

    def tell(self, point: Point, value: float | None) -> None:
        params = {one.key: one.values.index(point[one.key]) for one in self._space}
        state = optuna.trial.TrialState.COMPLETE if value is not None else optuna.trial.TrialState.FAIL
        told = optuna.trial.create_trial(params=params, distributions=self._distributions, value=value, state=state)
        self._study.add_trial(told)
