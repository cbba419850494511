"""Reference convergence points: whether a submission needed significantly fewer epochs than the reference, and what its time then counts as.

Source: training_policies, training_rules.adoc at decaf38 (version 1.0), "Reference Convergence Points" and "Appendix: RCP Examples"; where it leaves a
choice, mlcommons/logging, rcp_checker/rcp_checker.py at 0257c34: standard deviations are of the population, an interpolated point counts as twice the runs
of a submission, and of the checker's bisection to 1e-4 this is the closed form. The standard deviation leaves out the dropped runs, as in the rules' examples;
the checker of mlperf-logging 4.1.68 takes it over all runs, which allows more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from storagebench.checks.distributions import student_t_quantile
from storagebench.model.olympic import olympic_mean

ALPHA: Final = 0.05


@dataclass(frozen=True)
class ReferencePoint:
    """Epochs that the reference took at one global batch size: mean and standard deviation over `num_runs`, those that were dropped not counted."""

    batch_size: float
    mean: float
    stdev: float
    num_runs: int


def reference_point(batch_size: float, epochs: Sequence[float], drop: int = 1) -> ReferencePoint:
    """The point of these runs without the `drop` fastest and slowest; more than 2 x drop runs. Raises ValueError."""
    kept = sorted(epochs)[drop : len(epochs) - drop]
    if not kept:
        raise ValueError(f"{len(epochs)} runs of the reference are too few to drop {drop} on either side")
    mean = sum(kept) / len(kept)
    return ReferencePoint(batch_size, mean, math.sqrt(sum((value - mean) ** 2 for value in kept) / len(kept)), len(kept))


def interpolated(batch_size: float, low: ReferencePoint, high: ReferencePoint, runs_required: int) -> ReferencePoint:
    """The point at a batch size between two others, linear in mean and standard deviation; it counts as 2 x runs_required runs."""
    share = (batch_size - low.batch_size) / (high.batch_size - low.batch_size)
    return ReferencePoint(
        batch_size, low.mean + share * (high.mean - low.mean), low.stdev + share * (high.stdev - low.stdev), num_runs=2 * runs_required
    )


def fewest_mean_epochs(point: ReferencePoint, submission_runs: int) -> float:
    """The least mean that is not significantly below the reference's: one-sided t-test of two samples of like variance, p = 0.05.

    `mean - t(0.95, n + m - 2) s sqrt(1/n + 1/m)`, from 0, with n the point's runs and m = `submission_runs` those of the submission that are not dropped.
    """
    if point.stdev == 0:
        return point.mean
    t = student_t_quantile(1 - ALPHA, point.num_runs + submission_runs - 2)
    return max(0.0, point.mean - t * point.stdev * math.sqrt(1 / point.num_runs + 1 / submission_runs))


@dataclass(frozen=True)
class Convergence:
    """A submission against the reference. `passed` None: there is no point to hold it against, and `why` says which would be needed. `factor` (from 1) is
    what its time is multiplied by; `max_speedup` is the reference's mean over `fewest`, infinity where that is 0."""

    mean_epochs: float | None
    point: ReferencePoint | None
    fewest: float | None
    max_speedup: float | None
    passed: bool | None
    factor: float
    why: str


def judge(points: Sequence[ReferencePoint], batch_size: float, epochs: Sequence[float | None], runs_required: int, drop: int = 1) -> Convergence:
    """Hold the epochs of a submission (None: did not converge) against the reference points of its benchmark, by its global batch size."""
    mean = olympic_mean(epochs, drop)
    if mean.value is None:
        return Convergence(None, None, None, None, False, 1.0, mean.why)
    point, why = _point_for(points, batch_size, runs_required)
    if point is None:
        return Convergence(mean.value, None, None, None, None, 1.0, why)
    fewest = fewest_mean_epochs(point, runs_required - 2 * drop)
    passed: bool | None = mean.value >= fewest
    if not passed and batch_size < point.batch_size:
        passed, why = None, f"no reference for batch size {batch_size:g}, and it is faster than the smallest allows: its own reference is needed"
    factor = max(1.0, point.mean / mean.value)
    speedup = point.mean / fewest if fewest > 0 else math.inf
    return Convergence(mean.value, point, fewest, speedup, passed, factor if passed else 1.0, why)


def normalised_s(time_s: float, convergence: Convergence) -> float:
    """The time that counts: `score x mean epochs of the reference / mean epochs of the submission` where it was faster than the reference within what is
    allowed, else the time itself."""
    return time_s * convergence.factor


def _point_for(points: Sequence[ReferencePoint], batch_size: float, runs_required: int) -> tuple[ReferencePoint | None, str]:
    """The point at that batch size, one between its neighbours, or the smallest for a smaller batch; none for a larger batch than any."""
    ordered = sorted(points, key=lambda point: point.batch_size)
    below = [point for point in ordered if point.batch_size < batch_size]
    above = [point for point in ordered if point.batch_size > batch_size]
    for point in ordered:
        if point.batch_size == batch_size:
            return point, "reference found"
    if below and above:
        return interpolated(batch_size, below[-1], above[0], runs_required), "reference interpolated"
    if above:
        return above[0], "held against the reference of the smallest batch size"
    return None, f"no reference for batch size {batch_size:g} or a larger one: its own reference is needed"
