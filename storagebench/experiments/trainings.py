"""Several trainings of one request: time to the target and epochs over their seeds. A training repeated with one seed would tell nothing new."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from storagebench.model.olympic import OlympicMean, olympic_mean

Summary = Mapping[str, Any]
FIGURES: Final = ("tta_s", "epochs_to_target")


@dataclass(frozen=True)
class TrainingSpread:
    """One figure over the runs. `values` in the order of the runs, None of one that missed its target; the median and the ends are of those that reached it."""

    values: tuple[float | None, ...]
    median: float | None
    minimum: float | None
    maximum: float | None
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
    return {name: _spread([training[name] for training in trained]) for name in FIGURES} if trained else {}


def _spread(values: Sequence[float | None]) -> TrainingSpread:
    known = [value for value in values if value is not None]
    middle = median(known) if known else None
    return TrainingSpread(tuple(values), middle, min(known, default=None), max(known, default=None), olympic_mean(values))
