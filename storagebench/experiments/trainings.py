"""Several trainings of one request: time to the target and epochs over their seeds. A training repeated with one seed would tell nothing new."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from storagebench.checks.statistics import spread_of
from storagebench.model.olympic import OlympicMean, dropped_runs, olympic_mean

Summary = Mapping[str, Any]
FIGURES: Final = ("tta_s", "epochs_to_target")


@dataclass(frozen=True)
class TrainingSpread:
    """One figure over the runs. `values` in the order of the runs, None of one that missed its target; the median, the ends and the spread (max - min) / median
    (None for a single one) are of those that reached it."""

    values: tuple[float | None, ...]
    median: float | None
    minimum: float | None
    maximum: float | None
    spread: float | None
    olympic: OlympicMean

    def as_dict(self) -> dict[str, Any]:
        return {**self.__dict__, "values": list(self.values), "olympic": self.olympic._asdict()}


def seed_of(seed: int, number: int) -> int:
    """The seed of the run with this number, from 1: seed, seed + 1, ... within 63 bits.

    >>> seed_of(7, 1), seed_of(7, 3)
    (7, 9)
    """
    return (seed + number - 1) % 2**63


def training_spreads(summaries: Sequence[Summary]) -> dict[str, TrainingSpread]:
    """FIGURES over these runs (complete and valid ones); empty where nothing was trained to a target."""
    trained = [summary["training"] for summary in summaries if summary.get("training") is not None and summary["training"]["target"] is not None]
    benchmark = str(summaries[0]["workload"]) if trained else ""
    return {name: training_spread([training[name] for training in trained], benchmark) for name in FIGURES} if trained else {}


def training_spread(values: Sequence[float | None], benchmark: str) -> TrainingSpread:
    """One figure of several valid trainings of that benchmark, which says how many the olympic mean drops; None of one that missed its target."""
    known = [value for value in values if value is not None]
    olympic = olympic_mean(values, dropped_runs(benchmark))
    if not known:
        return TrainingSpread(tuple(values), None, None, None, None, olympic)
    reached = spread_of(known)
    return TrainingSpread(tuple(values), reached.median, reached.minimum, reached.maximum, reached.spread, olympic)
