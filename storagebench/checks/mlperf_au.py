"""AU and samples/s of a saved run in the window of an edition's engine (mlperf-storage.md section 1; E2, E3 `compute_metrics_train`).

Both engines leave out the load and the compute of an epoch's first step, and count from there to the end of the epoch's loop: the barrier of the first
step is inside. They differ in what that first step holds. E2 starts its workers in it. E3 starts them, pulls one batch, lets it go and drops the page
cache, and starts its clock then; so the workers' start is in neither window, and AU of one trace is the same in both. They differ in samples/s: E2 takes
two steps off whatever the window has (0 with two steps, below 0 with one), E3 counts the steps of the window. Prefetched batches are not corrected for.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from storagebench.checks.case import Case
from storagebench.ranks import RankEpoch

_EXCLUDED_START_STEPS = 1
_E2_STEPS_OFF = 2  # of all of a block's steps, the excluded one among them


class EditionFigures(NamedTuple):
    """`nominal`: AU with the configured compute time (R2 section 4, R3 3.3.2); `measured`: AU as the engine prints it, with the time that compute took.
    Both are means over epochs and ranks. `samples_per_s`: summed over ranks, mean over epochs."""

    nominal: float
    measured: float
    samples_per_s: float


def edition_figures(case: Case, engine: Literal["E2", "E3"]) -> EditionFigures | None:
    """None where a rank's epoch has no second step, or there are no ranks."""
    compute_ns = case.run["plan"]["compute_time_s"] * 1e9
    batch_size = case.run["config"]["train"]["batch_size"]
    nominal: list[float] = []
    measured: list[float] = []
    rates: dict[int, float] = {}
    for rank in case.ranks:
        ends = {record["epoch"]: record["end_ns"] for record in rank.of_kind("epoch_end")}
        for each in rank.epochs:
            length_ns = _length_ns(each, ends.get(each.epoch, each.end_ns))
            if each.work_steps <= _EXCLUDED_START_STEPS or length_ns <= 0:
                return None
            in_window = each.work_steps - _EXCLUDED_START_STEPS
            nominal.append(in_window * compute_ns / length_ns)
            measured.append(each.later_compute_ns / length_ns)
            counted = each.work_steps - _E2_STEPS_OFF if engine == "E2" else in_window
            rates[each.epoch] = rates.get(each.epoch, 0.0) + counted * batch_size / (length_ns / 1e9)
    if not nominal:
        return None
    return EditionFigures(sum(nominal) / len(nominal), sum(measured) / len(measured), sum(rates.values()) / len(rates))


def _length_ns(each: RankEpoch, loop_end_ns: int) -> int:
    return 0 if each.first_end_ns is None else loop_end_ns - each.first_end_ns
