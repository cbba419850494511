"""Time to accuracy out of a rate, and what stalls are of it: each formula of reference/tta-cost-kubeflow.md section 2 once.

Seconds, samples per second (of all accelerators together), ratios 0..1. `epochs` is a count, from 1; what is asked of a formula outside its range raises
ValueError, since the callers have refused it with a better message before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import linear_regression, median

from storagebench.checks.statistics import median_interval


def rate_with_overlap(*limits_per_s: float) -> float:
    """`R_eff = min(R_compute, R_storage, R_prep)`: the parts work at the same time, perfectly (section 2)."""
    return min(limits_per_s)


def rate_with_stall(compute_per_s: float, stall_s_per_sample: float) -> float:
    """`R_eff = 1 / (1 / R_compute + stall per sample)`: a stall that was measured, from 0 seconds of all accelerators' time (section 2)."""
    return 1.0 / (1.0 / _above_0("the compute rate", compute_per_s) + stall_s_per_sample)


def stall_share(rate_per_s: float, compute_per_s: float) -> float:
    """`1 - AU`, with `AU = R_eff / R_compute` (section 2): the share of the training time in which accelerators wait for data."""
    return min(1.0, max(0.0, 1.0 - rate_per_s / _above_0("the compute rate", compute_per_s)))


def epoch_s(samples: float, rate_per_s: float, eval_s: float = 0.0, evals_per_epoch: float = 1.0) -> float:
    """`N / R_eff + t_eval x f_eval`: one epoch with the evaluations that fall on it (section 2)."""
    return samples / _above_0("the rate", rate_per_s) + eval_s * evals_per_epoch


def time_to_target_s(epochs: float, one_epoch_s: float, start_s: float = 0.0) -> float:
    """`TTA = t_start + E x (N / R_eff + t_eval x f_eval)` (section 2), with the bracket from `epoch_s`."""
    return start_s + epochs * one_epoch_s


def scaling_efficiency(time_of_one_s: float, time_of_n_s: float, accelerators: int) -> float:
    """`e(n) = T(1) / (n T(n))`; the cost of n accelerators over that of one is 1 / e(n) (section 2)."""
    return time_of_one_s / (accelerators * _above_0("the time", time_of_n_s))


@dataclass(frozen=True)
class Knee:
    """`accelerators`: how many the storage can feed, no whole number. `low` and `high`: its interval, None where one rate alone was measured; `method`
    says how the interval was made, or why there is none."""

    accelerators: float
    low: float | None
    high: float | None
    method: str


def knee(storage_per_s: Sequence[float], demand_of_one_per_s: float) -> Knee:
    """`n* = R_storage / r_1` (section 2), of the median of the rates that the storage was measured to give; any unit that both sides share.

    The interval is that of the median of these rates (`median_interval`, 95 %).
    """
    demand = _above_0("the demand of one accelerator", demand_of_one_per_s)
    interval = median_interval(storage_per_s)
    if interval is None:
        return Knee(median(storage_per_s) / demand, None, None, "none: one measured rate")
    return Knee(median(storage_per_s) / demand, interval.low / demand, interval.high / demand, interval.method)


@dataclass(frozen=True)
class LinearTime:
    """`time = start + epochs x epoch`, in the unit of the times given; `largest_residual` is the largest distance of a time from that line."""

    start: float
    epoch: float
    largest_residual: float


def fit_time(epochs: Sequence[float], times: Sequence[float]) -> LinearTime:
    """Least squares through trainings of several lengths, at least two different ones. FFCV's table (reference section 2) is the oracle."""
    fitted = linear_regression(epochs, times)
    residuals = [abs(time - (fitted.intercept + fitted.slope * count)) for count, time in zip(epochs, times, strict=True)]
    return LinearTime(fitted.intercept, fitted.slope, max(residuals))


def _above_0(what: str, value: float) -> float:
    if value <= 0:
        raise ValueError(f"{what} is {value}, and must be above 0")
    return value
