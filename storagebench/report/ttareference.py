"""Several trainings held against the epochs of a reference, by the rules of MLPerf Training: did they need significantly fewer, and what does their time count as?

The test is `model.convergence`'s. The reference is one at the global batch size of the trainings: whoever gives it says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from storagebench.errors import UsageError
from storagebench.model.convergence import judge, normalised_s, reference_point
from storagebench.model.olympic import dropped_runs


def held_against(reference: Sequence[int], group: Mapping[str, Any]) -> dict[str, Any]:
    """The verdict on a group of `ttagroups`. `passed` None: it cannot be judged, and `why` says so; `max_speedup` is a ratio from 1 (None: no bound).

    Raises UsageError for a reference with too few runs."""
    drop = dropped_runs(str(group["workload"]))
    needed = 2 * drop + 1
    if len(reference) < needed:
        raise UsageError(
            f"--reference-epochs has {len(reference)} runs, and {drop} on either side do not count", f"give the epochs of at least {needed}"
        )
    batch, epochs = float(group["global_batch_size"]), group["epochs_of_runs"]
    point = reference_point(batch, reference, drop)
    found: dict[str, Any] = {
        "reference_epochs": list(reference),
        "reference_mean": point.mean,
        "reference_stdev": point.stdev,
        "runs": len(epochs),
        **dict.fromkeys(("mean_epochs", "fewest_epochs", "max_speedup", "passed", "normalised_s")),
        "factor": 1.0,
    }
    if len(epochs) < needed:
        return {**found, "why": f"{len(epochs)} valid trainings are too few: {drop} on either side do not count, so give at least {needed}"}
    verdict = judge([point], batch, epochs, len(epochs), drop)
    time_s = group["tta_s"]["olympic"]["value"]
    return {
        **found,
        "mean_epochs": verdict.mean_epochs,
        "fewest_epochs": verdict.fewest,
        "max_speedup": verdict.max_speedup if verdict.max_speedup is not None and math.isfinite(verdict.max_speedup) else None,
        "passed": verdict.passed,
        "factor": verdict.factor,
        "normalised_s": normalised_s(time_s, verdict) if verdict.passed and time_s is not None else None,
        "why": "" if verdict.point is not None else verdict.why,
    }


def reference_rows(found: Mapping[str, Any], batch: int, normalised: str) -> list[tuple[str, str]]:
    """(name, text) of each line about it; `normalised` is the normalised time as text."""
    sizes = (
        f"{len(found['reference_epochs'])} runs at batch {batch}, mean {found['reference_mean']:.2f} epochs, deviation {found['reference_stdev']:.2f}"
    )
    rows = [("reference", f"{sizes} (without the fastest and the slowest)")]
    if found["fewest_epochs"] is not None:
        speedup = "" if found["max_speedup"] is None else f", a speed-up of {found['max_speedup'] - 1.0:.2%}"
        rows.append(("allowed", f"{found['fewest_epochs']:.2f} epochs at least{speedup} at most (one-sided t-test, p = 0.05, {found['runs']} runs)"))
    if found["passed"] is None or found["mean_epochs"] is None:
        rows.append(("convergence", f"{'FAIL' if found['passed'] is False else 'not judged'}: {found['why']}"))
        return rows
    less = "" if found["passed"] else ", fewer than is allowed: the trainings are not those of the reference"
    rows.append(("convergence", f"{'PASS' if found['passed'] else 'FAIL'}: mean {found['mean_epochs']:.2f} epochs{less}"))
    if found["normalised_s"] is not None:
        rows.append(("normalised time", f"{normalised} (olympic mean x {found['factor']:.4f})"))
    return rows
