"""The mean of several trainings as MLPerf Training takes it, without the fastest and the slowest ("olympic").

Source: training_policies, training_rules.adoc, "Benchmark Results": the fastest and the slowest run are dropped; a single run that did not converge may
count as the slowest; with more than one the result is invalid. UNet3D: 40 runs, four dropped on either side, at most four without convergence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

# Runs of a result: mlcommons/logging, mlperf_logging/benchmark_meta.py (053c5ba), suite "training". In v0.5 it was more for NCF.
RUNS_REQUIRED: Final = {
    "bert": 10, "dlrm": 5, "dlrm_dcnv2": 10, "gnmt": 10, "gpt3": 3, "maskrcnn": 5, "minigo": 10, "ncf": 10, "resnet": 5, "rnnt": 10, "ssd": 5,
    "transformer": 10, "unet3d": 40,
}  # fmt: skip
_DROPPED: Final = {"unet3d": 4}


def dropped_runs(benchmark: str) -> int:
    """Runs that are dropped on either side: 4 of UNet3D, else 1."""
    return _DROPPED.get(benchmark, 1)


class OlympicMean(NamedTuple):
    """`value` None: there is none, or it is invalid. `dropped` runs on either side: 0 where there were too few, and `value` is the plain mean.
    `why` says what is special, and is empty for an ordinary one."""

    value: float | None
    dropped: int
    why: str


def olympic_mean(values: Sequence[float | None], drop: int = 1) -> OlympicMean:
    """The mean without the `drop` smallest and largest. None stands for a run that did not converge: it counts as the slowest, and more than `drop` of
    them make the result invalid. Fewer than 2 x drop + 1 runs: the plain mean, if all converged."""
    ordered = sorted(math.inf if value is None else value for value in values)
    missing = sum(value is None for value in values)
    if not ordered:
        return OlympicMean(None, 0, "no runs")
    if len(ordered) < 2 * drop + 1:
        if missing:
            return OlympicMean(None, 0, f"{missing} of {len(ordered)} runs did not converge, and none may be dropped of fewer than {2 * drop + 1}")
        return OlympicMean(sum(ordered) / len(ordered), 0, f"plain mean: {len(ordered)} runs are too few to drop {drop} on either side")
    if missing > drop:
        return OlympicMean(None, drop, f"invalid: {missing} runs did not converge, and {drop} may be dropped as the slowest")
    kept = ordered[drop : len(ordered) - drop]
    return OlympicMean(sum(kept) / len(kept), drop, "the slowest is one that did not converge" if missing else "")
