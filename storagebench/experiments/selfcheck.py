"""Does this machine measure known answers right: cells with a known AU, through the real loaders, engine, trace and metrics.

One launch for each world size (and share of a process) runs all its cells; then they are judged from their traces. The dataset is small and temporary; bandwidth and latency
are the shaped store's. Dataset and traces lie in memory (/dev/shm), so that other work on the disk is not in the answer.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from storagebench.build import generate
from storagebench.clock import Clock, SystemClock
from storagebench.experiments.cells import Cell, Check, dataset_spec, full_checks, quick_checks
from storagebench.experiments.rankcells import process_entry, write_cells
from storagebench.launch import rank_failure, run_ranks
from storagebench.manifest import Dataset
from storagebench.members import alone
from storagebench.metrics import Summary, summarise
from storagebench.plan import make_plan
from storagebench.ranks import Ranks
from storagebench.records import as_plain, rank_traces
from storagebench.storage import open_store
from storagebench.storage.wire import WIRE_DIR
from storagebench.traces import TraceFiles
from storagebench.workload import Workload

TOLERANCE = 0.01
MAX_RISE = 0.005
_HARNESS_MAY_LIMIT = 0.95
# Least au_null by seconds of compute: reference/measurement.md section 1, "au_null and harness budget".
_NULL_TOLERANCE = {0.001: 0.05}
_LEAST_HOGS = 2
_TIMER_STEPS, _TIMER_STEP_NS = 300, 5_000_000
Say = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """One answer. Ratios 0..1; `difference` is measured - expected, which may be `tolerance` at most (in a contention row: above it)."""

    name: str
    about: str
    expected: float
    measured: float
    tolerance: float
    passed: bool
    note: str = ""

    @property
    def difference(self) -> float:
        return self.measured - self.expected

    def as_dict(self) -> dict[str, Any]:
        return {**as_plain(self), "difference": self.difference}


def selfcheck(full: bool = False, tolerance: float = TOLERANCE, debug: bool = False, say: Say = lambda text: None) -> list[Row]:
    """All rows: the cells, and the timer. Takes one to two minutes, with `full` some ten. Call it inside `launch.handling_signals`."""
    hogs = max(_LEAST_HOGS, len(os.sched_getaffinity(0)))
    checks = full_checks(hogs) if full else quick_checks(hogs)
    return [timer_row(SystemClock()), *run_checks(checks, tolerance, debug, say)]


def run_checks(checks: Sequence[Check], tolerance: float = TOLERANCE, debug: bool = False, say: Say = lambda text: None) -> list[Row]:
    """The rows of these checks. Raises RankError where a rank dies."""
    with tempfile.TemporaryDirectory(prefix="storagebench-selfcheck-", dir=WIRE_DIR) as text:
        root = Path(text)
        cells = [cell for check in checks for cell in check.cells]
        data = Workload(name="selfcheck", dataset=dataset_spec(max(cell.num_samples for cell in cells)))
        dataset = generate(data, open_store(str(root / "data")))
        for size, share in sorted({(cell.world_size, cell.per_process) for cell in cells}):
            mine = [cell for cell in cells if (cell.world_size, cell.per_process) == (size, share)]
            together = f" in {mine[0].num_processes} process{'es' if mine[0].num_processes > 1 else ''}" if share > 1 else ""
            say(f"{len(mine)} cell{'s' if len(mine) > 1 else ''} on {size} accelerator{'s' if size > 1 else ''}{together}")
            folder = _folder(root, mine[0])
            folder.mkdir()
            write_cells(folder, str(root / "data"), mine)
            outcome = run_ranks(process_entry, str(folder), mine[0].num_processes, False, debug)
            if outcome.exit_code:
                failed = range((outcome.failed_process or 0) * share, size)[:share]
                raise rank_failure(failed, size, "", outcome.reason)
        return [judge(check, [measure(cell, _folder(root, cell)) for cell in check.cells], dataset, tolerance) for check in checks]


def _folder(root: Path, cell: Cell) -> Path:
    """Where the launch of a cell leaves its traces."""
    return root / f"{cell.world_size}-{cell.per_process}"


def measure(cell: Cell, folder: Path) -> Summary:
    """The summary of one cell's traces, by the metrics of every run."""
    workload = cell.workload()
    run = {
        "run_id": cell.name,
        "accelerator": f"{cell.compute_s:g} s a step",
        "command_start_ns": 0,
        "config": workload.model_dump(),
        "plan": as_plain(make_plan(workload, cell.world_size)),
        "store": {"kind": "shaped"},
        "dataset": {"format": "webdataset", "digest": ""},
        "hosts": [],
        "members": alone("", 0, cell.world_size, cell.world_size),
    }
    return summarise(run, Ranks(run, TraceFiles(rank_traces(folder / cell.name))), [])


def judge(check: Check, summaries: Sequence[Summary], dataset: Dataset, tolerance: float = TOLERANCE) -> Row:
    """The verdict on a check, from its cells' summaries. Where next to 1 is expected, the harness may be the limit, which au_null shows."""
    if check.kind == "null":
        return _null_row(check, summaries)
    if check.kind == "contention":
        return _contention_row(check, summaries, dataset)
    (cell,), (summary,) = check.cells, summaries
    expected, measured = cell.expected_au(dataset), summary["au_nominal"]
    least = min(expected, summary["au_null"]) if expected > _HARNESS_MAY_LIMIT else expected
    note = f"null {summary['au_null']:.3f}, uncorrected {summary['au_uncorrected']:.3f}"
    return Row(check.name, check.about, expected, measured, tolerance, least - tolerance <= measured <= expected + tolerance, note)


def _null_row(check: Check, summaries: Sequence[Summary]) -> Row:
    """The step length that misses its target most, or meets it most narrowly."""
    cells = list(zip(check.cells, summaries, strict=True))

    def excess(pair: tuple[Cell, Summary]) -> float:
        return (1.0 - float(pair[1]["au_nominal"])) / _NULL_TOLERANCE.get(pair[0].compute_s, TOLERANCE)

    worst = max(cells, key=excess)
    note = ", ".join(f"{cell.name} {summary['au_nominal']:.4f}" for cell, summary in cells)
    tolerance = _NULL_TOLERANCE.get(worst[0].compute_s, TOLERANCE)
    return Row(check.name, check.about, 1.0, worst[1]["au_nominal"], tolerance, excess(worst) <= 1.0, note)


def _contention_row(check: Check, summaries: Sequence[Summary], dataset: Dataset) -> Row:
    """Contention may lower AU, and must not raise it: neither above the quiet one nor above the truth."""
    quiet, busy = (float(summary["au_nominal"]) for summary in summaries)
    expected = max(quiet, check.cells[0].expected_au(dataset))
    note = f"quiet {quiet:.4f}, with measured compute {summaries[1]['au_measured']:.3f}"
    return Row(check.name, check.about, expected, busy, MAX_RISE, busy - expected <= MAX_RISE, note)


def timer_row(clock: Clock) -> Row:
    """Share of wake-ups that are in time: no later than what a step tolerates (min(c, 5 ms)), for deadlines every 5 ms."""
    begin_ns = clock.now_ns()
    late_ns = []
    for step in range(1, _TIMER_STEPS + 1):
        deadline_ns = begin_ns + step * _TIMER_STEP_NS
        late_ns.append(clock.sleep_until_ns(deadline_ns) - deadline_ns)
    early = min(late_ns) < 0
    in_time = 0.0 if early else float(np.mean(np.array(late_ns) <= _TIMER_STEP_NS))
    p50, p99 = np.percentile(late_ns, [50, 99]) / 1e3
    note = f"late by p50 {p50:.0f} us, p99 {p99:.0f} us"
    return Row("timer and sleep", "wake-ups in time", 1.0, in_time, TOLERANCE, 1.0 - in_time <= TOLERANCE, note)
