"""Intervals for few runs: pure arithmetic with numpy, the same for the same numbers (nothing is drawn at random, so nothing needs a seed).

Every interval says which method made it. All are two-sided at `LEVEL`; what they assume stands with each function. None of them knows what changed
on the machine between one set of runs and the other: repeats of both sides should be taken in turns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from storagebench.checks.distributions import rank_counts, student_t_quantile

LEVEL: Final = 0.95
Series = NDArray[np.float64]

ORDER: Final = "exact order statistics of the median"
T_LOGS: Final = "Student's t on logs (few runs, taken as log-normal)"
RANKS: Final = "exact ranks (Mann and Whitney) of the runs"
WELCH: Final = "Welch's t on logs of the runs (taken as log-normal)"
ONE_AGAINST_SEVERAL: Final = (
    "t on logs; the side with one run is taken to spread like the repeated one, or like its own blocks of steps where those spread more"
)
BLOCKS: Final = "overlapping blocks of steps of one run on each side"
NO_INTERVAL: Final = "none: one run on each side, and too few steps for blocks"

# Schmeiser, "Batch size effects in the analysis of simulation output", Operations Research 30 (1982): beyond some ten blocks more gain little, and
# longer blocks carry more of the autocorrelation. Simulated here: 12 blocks with no correction raised false alarms to 9 % on 100 correlated steps.
_NUM_BLOCKS: Final = 8
MIN_STEPS: Final = 5 * _NUM_BLOCKS
_MAX_CORRELATION: Final = 0.9
_MAX_EXACT_PAIRS: Final = 10_000


class Interval(NamedTuple):
    """Ends in the unit of the values; `coverage` 0..1 is what the method gives where its assumption holds (at least LEVEL)."""

    low: float
    high: float
    coverage: float
    method: str


@dataclass(frozen=True)
class Spread:
    """A few runs of one metric. `spread` is (max - min) / median and `variation` is stdev / mean, ratios; None where
    undefined, as for a single run."""

    num_runs: int
    median: float
    minimum: float
    maximum: float
    spread: float | None
    variation: float | None
    interval: Interval | None

    def as_dict(self) -> dict[str, Any]:
        return {**self.__dict__, "interval": None if self.interval is None else self.interval._asdict()}


@dataclass(frozen=True)
class StepSeries:
    """The measured steps of one run in order: what each delivered (samples, bytes or compute seconds), and the seconds that it took."""

    amounts: Series
    seconds: Series


@dataclass(frozen=True)
class Side:
    """The runs of one side: the metric of each (above 0), and the steps of the run where there is only one and its steps make up the metric."""

    values: tuple[float, ...]
    steps: StepSeries | None = None


@dataclass(frozen=True)
class Ratio:
    """NEW / BASE (the middle of all pairs of runs with RANKS, else of the geometric means), with its interval (None where none can be had). `weak`: a side has a single run, so what differs from run
    to run is not, or not well, in the interval."""

    value: float
    low: float | None
    high: float | None
    method: str
    weak: bool


def median_interval(values: Sequence[float], level: float = LEVEL) -> Interval | None:
    """An interval for the median of what these runs were drawn from; None for a single run, or for 2 to 5 runs that are not all above 0.

    From 6 runs on (at 95 %): the k-th smallest and the k-th largest with the largest k whose coverage 1 - 2 P(Bin(n, 1/2) < k) is at least `level`.
    Exact for independent runs of any continuous distribution (Conover, Practical Nonparametric Statistics, section 3.2; Le Boudec, Performance
    Evaluation, section 2.2). With fewer no such k exists: Student's t on the logs, which is an interval for the geometric mean, and one for the
    median only if the logs are symmetric; it is right for log-normal runs and cannot be checked on so few.
    """
    ordered = sorted(values)
    n = len(ordered)
    below, pick = 0.0, 0  # below: P(Bin(n, 1/2) < pick + 1)
    for k in range(1, n // 2 + 1):
        tail = below + math.comb(n, k - 1) / 2**n
        if 1 - 2 * tail < level:
            break
        below, pick = tail, k
    if pick:
        return Interval(ordered[pick - 1], ordered[n - pick], 1 - 2 * below, ORDER)
    if n < 2 or ordered[0] <= 0:
        return None
    logs = np.log(np.asarray(ordered))
    half = student_t_quantile((1 + level) / 2, n - 1) * float(np.std(logs, ddof=1)) / math.sqrt(n)
    centre = float(np.mean(logs))
    return Interval(math.exp(centre - half), math.exp(centre + half), level, T_LOGS)


def spread_of(values: Sequence[float]) -> Spread:
    """Median, range, spread and interval of the runs, all of them. Raises ValueError for none."""
    if not values:
        raise ValueError("0 values have no spread; at least 1 is needed")
    array = np.asarray(values, dtype=np.float64)
    median, mean = float(np.median(array)), float(np.mean(array))
    return Spread(
        num_runs=len(values),
        median=median,
        minimum=float(array.min()),
        maximum=float(array.max()),
        spread=float(array.max() - array.min()) / median if len(values) > 1 and median > 0 else None,
        variation=float(np.std(array, ddof=1)) / mean if len(values) > 1 and mean > 0 else None,
        interval=median_interval(values),
    )


def log_rate_variance(steps: StepSeries) -> tuple[float, float] | None:
    """(variance of the log of sum(amounts) / sum(seconds), its degrees of freedom), from one run's steps; None for fewer than 40 steps.

    The moving-block bootstrap (Kuensch, Annals of Statistics 17, 1989) in closed form: the variance that infinitely many resamples would give, for
    the linearised log rate, with blocks of an eighth of the run, since steps autocorrelate (bursts, workers that take turns). That is the estimator
    of overlapping batch means with its small-sample factor (Meketon and Schmeiser, Winter Simulation Conference 1984), with the b - 1 degrees of
    freedom of blocks that do not overlap, and with what blocks of this length miss. Assumes a steady run whose memory is shorter than a block.
    Knows nothing of what differs from run to run.
    """
    n = len(steps.seconds)
    if n < MIN_STEPS or steps.amounts.sum() <= 0 or steps.seconds.sum() <= 0:
        return None
    length = -(-n // _NUM_BLOCKS)
    influence = steps.amounts / steps.amounts.mean() - steps.seconds / steps.seconds.mean()
    sums = np.concatenate(([0.0], np.cumsum(influence)))
    means = (sums[length:] - sums[:-length]) / length
    variance = float(length * np.sum(means**2) / ((n - length + 1) * (n - length)))
    return variance / _share_seen(influence, length), n / length - 1


def _share_seen(influence: Series, length: int) -> float:
    """Share of the variance that blocks of `length` steps see, 0..1, were the steps a first-order autoregression with the lag-1 correlation found (bias
    taken out as in Kendall, Biometrika 41, 1954): 1 - 2 r (1 - r^l) / (l (1 - r^2)). 1 where steps alternate, which blocks overstate if anything."""
    power = float(influence @ influence)
    found = float(influence[1:] @ influence[:-1]) / power if power > 0 else 0.0
    r = min(_MAX_CORRELATION, found + (1 + 3 * found) / len(influence))
    return 1 - 2 * r * (1 - r**length) / (length * (1 - r * r)) if r > 0 else 1.0


def ratio_interval(base: Side, new: Side, level: float = LEVEL) -> Ratio:
    """The ratio NEW / BASE and its interval. Raises ValueError where a side has no run or a value that is not above 0.

    Several runs on both sides: exact ranks where there are enough (4 against 4, 3 against 5), else Welch's t on the logs with Satterthwaite's degrees
    of freedom, which assumes independent, roughly log-normal runs. One run against several: the repeated side's variance stands for both (or the
    single run's own by blocks, where larger). One against one: blocks of steps.
    """
    if not base.values or not new.values or min(base.values + new.values) <= 0:
        raise ValueError(f"a ratio needs values above 0 on both sides, and got {base.values} and {new.values}")
    logs = [np.log(np.asarray(side.values)) for side in (base, new)]
    centre = float(np.mean(logs[1]) - np.mean(logs[0]))
    weak = min(map(len, logs)) == 1
    ranked = None if weak else _rank_interval(logs[0], logs[1], level)
    if ranked is not None:
        middle, low, high = map(math.exp, ranked)
        return Ratio(middle, low, high, RANKS, weak)
    variances, method = _variances((base, new), logs)
    if variances is None:
        return Ratio(math.exp(centre), None, None, method, weak)
    half = student_t_quantile((1 + level) / 2, _satterthwaite(variances)) * math.sqrt(sum(variance for variance, _ in variances))
    return Ratio(math.exp(centre), math.exp(centre - half), math.exp(centre + half), method, weak)


def _rank_interval(base: Series, new: Series, level: float) -> tuple[float, float, float] | None:
    """(middle, low, high) of the shift new - base: the median and the k-th smallest and largest of all differences (Hodges and Lehmann, Annals of
    Mathematical Statistics 34, 1963; Conover, section 5.4), with the largest k whose coverage 1 - 2 P(U < k) is at least `level`; None where the runs
    are too few, or so many that Welch's t does. Exact for any continuous distribution, the same on both sides but for the shift. From 7
    runs on each side a disturbed one moves it little (k > n), where it would blow up a variance; with 5 that holds on its harmless side only."""
    pairs = len(base) * len(new)
    if pairs > _MAX_EXACT_PAIRS:
        return None
    tail_end = (1 - level) / 2 * math.comb(len(base) + len(new), len(base))
    counts = rank_counts(len(base), len(new))
    k = tail = 0
    while tail + counts[k] <= tail_end:
        tail += counts[k]
        k += 1
    if not k:
        return None
    differences = np.sort(np.subtract.outer(new, base).ravel())
    return float(np.median(differences)), float(differences[k - 1]), float(differences[pairs - k])


def _variances(sides: tuple[Side, Side], logs: Sequence[Series]) -> tuple[list[tuple[float, float]] | None, str]:
    """(variance of the mean log, degrees of freedom) of each side, and the method; None where a variance cannot be had."""
    several = [log for log in logs if len(log) > 1]
    if len(several) == 2:
        return [(float(np.var(log, ddof=1)) / len(log), len(log) - 1.0) for log in logs], WELCH
    own = [log_rate_variance(side.steps) if side.steps is not None else None for side in sides]
    if not several:
        known = [pair for pair in own if pair is not None]
        return (known, BLOCKS) if len(known) == 2 else (None, NO_INTERVAL)
    between, df = float(np.var(several[0], ddof=1)), len(several[0]) - 1.0
    within = next((pair[0] for pair in own if pair is not None), 0.0)
    # Both sides lean on one estimate: their sum has its degrees of freedom, not more.
    return [(between / len(several[0]) + max(between, within), df)], ONE_AGAINST_SEVERAL


def _satterthwaite(variances: Sequence[tuple[float, float]]) -> float:
    """Degrees of freedom of a sum of variances (Satterthwaite, Biometrics Bulletin 2, 1946); of sums of nothing all that there are."""
    total = sum(variance for variance, _ in variances)
    weight = sum((variance / total) ** 2 / df for variance, df in variances) if total > 0 else 0.0
    return 1 / weight if weight > 0 else sum(df for _, df in variances)
