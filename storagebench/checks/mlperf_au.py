"""AU and samples/s of a saved run in the window of an edition's engine (mlperf-storage.md section 1; E2, E3 `compute_metrics_train`).

Both engines leave out the load and the compute of an epoch's first step, and count from there to the end of the epoch's loop: the barrier of the first
step is inside. They differ in what that first step holds. E2 starts its workers in it. E3 starts them, pulls one batch, lets it go and drops the page
cache, and starts its clock then; so the workers' start is in neither window, and AU of one trace is the same in both. They differ in samples/s: E2 takes
two steps off whatever the window has (0 with two steps, below 0 with one), E3 counts the steps of the window. Prefetched batches are not corrected for.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from storagebench.checks.case import Case

_EXCLUDED_START_STEPS = 1
_E2_STEPS_OFF = 2  # of all of a block's steps, the excluded one among them


class EditionFigures(NamedTuple):
    """`nominal`: AU with the configured compute time (R2 section 4, R3 3.3.2); `measured`: AU as the engine prints it, with the time that compute took.
    Both are 0..1, means over epochs and ranks. `samples_per_s`: summed over ranks, mean over epochs."""

    nominal: float
    measured: float
    samples_per_s: float


class EpochFigures(NamedTuple):
    """The same of one epoch (from 0): AU as means over ranks, the rate as their sum."""

    epoch: int
    nominal: float
    measured: float
    samples_per_s: float


def edition_figures(case: Case, engine: Literal["E2", "E3"]) -> EditionFigures | None:
    """None where a rank's epoch has no second step, or there are no ranks."""
    rows = epoch_figures(case, engine)
    if not rows:
        return None
    return EditionFigures(*(sum(column) / len(rows) for column in list(zip(*rows, strict=True))[1:]))


def epoch_figures(case: Case, engine: Literal["E2", "E3"]) -> list[EpochFigures]:
    """Each epoch's figures, in order; empty where a rank's epoch has no second step."""
    of_ranks: dict[int, list[tuple[float, float, float]]] = {}
    compute_ns = case.run["plan"]["compute_time_s"] * 1e9
    batch_size = case.run["config"]["train"]["batch_size"]
    for rank in case.ranks:
        ends = {record["epoch"]: record["end_ns"] for record in rank.of_kind("epoch_end")}
        for each in rank.epochs:
            length_ns = 0 if each.first_end_ns is None else ends.get(each.epoch, each.end_ns) - each.first_end_ns
            if each.work_steps <= _EXCLUDED_START_STEPS or length_ns <= 0:
                return []
            in_window = each.work_steps - _EXCLUDED_START_STEPS
            counted = each.work_steps - _E2_STEPS_OFF if engine == "E2" else in_window
            # Both ends of the window are wake-ups, and a late one lies in its own compute and in the next: jitter can bring a ratio a little over 1.
            nominal, measured = (min(1.0, part_ns / length_ns) for part_ns in (in_window * compute_ns, each.later_compute_ns))
            row = (nominal, measured, counted * batch_size / (length_ns / 1e9))
            of_ranks.setdefault(each.epoch, []).append(row)
    return [_over_ranks(epoch, rows) for epoch, rows in sorted(of_ranks.items())]


def _over_ranks(epoch: int, rows: list[tuple[float, float, float]]) -> EpochFigures:
    nominal, measured, rate = (sum(column) for column in zip(*rows, strict=True))
    return EpochFigures(epoch, nominal / len(rows), measured / len(rows), rate)
