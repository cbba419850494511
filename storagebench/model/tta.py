"""Time to accuracy out of a rate, and what stalls are of it: each formula of reference/tta-cost-kubeflow.md section 2 once.

Seconds, samples per second (of all accelerators together), ratios 0..1. `epochs` is a count, from 1; what is asked of a formula outside its range raises
ValueError, since the callers have refused it with a better message before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import linear_regression


def rate_with_overlap(*limits_per_s: float) -> float:
    """`R_eff = min(R_compute, R_storage, R_prep)`: the parts work at the same time, perfectly (section 2)."""
    return min(limits_per_s)


def stall_share(rate_per_s: float, compute_per_s: float) -> float:
    """`1 - AU`, with `AU = R_eff / R_compute` (section 2): the share of the training time in which accelerators wait for data."""
    return min(1.0, max(0.0, 1.0 - rate_per_s / _above_0("the compute rate", compute_per_s)))


def epoch_s(samples: float, rate_per_s: float, eval_s: float = 0.0, evals_per_epoch: float = 1.0) -> float:
    """`N / R_eff + t_eval x f_eval`: one epoch with the evaluations that fall on it (section 2)."""
    return samples / _above_0("the rate", rate_per_s) + eval_s * evals_per_epoch


def time_to_target_s(epochs: float, one_epoch_s: float, start_s: float = 0.0) -> float:
    """`TTA = t_start + E x (N / R_eff + t_eval x f_eval)` (section 2), with the bracket from `epoch_s`."""
    return start_s + epochs * one_epoch_s


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
