"""How many epochs a training takes to its target: a few whole numbers, and so is the time to accuracy a few times, never a normal distribution.

In published results the time to accuracy is quantised by the epochs: DGX-1 v0.5 Transformer took 1803 to 1818 s four times (3 epochs) and 2414 s once (4;
reference/tta-cost-kubeflow.md section 1). What is known is either the counts of single trainings, or only the fewest and the most that were published.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class EpochsToTarget:
    """`counts`: epochs of each training that was seen, in rising order; empty where only the range from `fewest` to `most` is known. `source` says whose."""

    fewest: int
    most: int
    counts: tuple[int, ...]
    source: str

    def quantile(self, share: float) -> int | None:
        """The smallest count that at least this share (0..1) of the trainings did not exceed: always one that was seen. None for a range."""
        if not self.counts:
            return None
        return self.counts[max(0, math.ceil(share * len(self.counts) - 1e-9) - 1)]

    @property
    def mean(self) -> float | None:
        """Of the counts; None for a range, which says nothing of what lies in it."""
        return sum(self.counts) / len(self.counts) if self.counts else None

    def as_dict(self) -> dict[str, Any]:
        quantiles = {f"p{round(share * 100)}": self.quantile(share) for share in (0.1, 0.5, 0.9)}
        return {"fewest": self.fewest, "most": self.most, "counts": list(self.counts), "mean": self.mean, **quantiles, "source": self.source}


def observed(counts: Sequence[int], source: str) -> EpochsToTarget:
    """The distribution of these trainings. Raises ValueError for none, or a count below 1."""
    if not counts or min(counts) < 1:
        raise ValueError(f"epochs to a target are counts from 1, and these are {list(counts)}")
    return EpochsToTarget(min(counts), max(counts), tuple(sorted(counts)), source)


def between(fewest: int, most: int, source: str) -> EpochsToTarget:
    """Only the ends are known; where both are the same, so is every training. Raises ValueError for ends that are none."""
    if not 1 <= fewest <= most:
        raise ValueError(f"epochs to a target are from 1, the fewest first, and these are {fewest} and {most}")
    return EpochsToTarget(fewest, most, (fewest,) if fewest == most else (), source)


@dataclass(frozen=True)
class TimeSpread:
    """Seconds to the target over the epochs' distribution; what a range does not tell is None."""

    least_s: float
    p10_s: float | None
    p50_s: float | None
    p90_s: float | None
    most_s: float
    mean_s: float | None

    def as_dict(self) -> dict[str, float | None]:
        return dict(self.__dict__)


def time_spread(epochs: EpochsToTarget, time_of: Callable[[int], float]) -> TimeSpread:
    """The time to accuracy as a sum over the distribution of the epochs. `time_of`: seconds of a training of so many epochs, not falling."""
    quantiles = [epochs.quantile(share) for share in (0.1, 0.5, 0.9)]
    p10, p50, p90 = (None if count is None else time_of(count) for count in quantiles)
    mean = sum(map(time_of, epochs.counts)) / len(epochs.counts) if epochs.counts else None
    return TimeSpread(time_of(epochs.fewest), p10, p50, p90, time_of(epochs.most), mean)
