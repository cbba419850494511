"""Traces -> what each step did over time: the whole run in buckets, and the steps around its longest wait one by one. Pure; imports no plotting.

A step of a rank goes from the end of the step before it (the start of the epoch for the first) to its own, in the schedule, and is divided into the
parts of `wording.STEP_PARTS`. They are the parts of `summary.json`: added up over the measured steps, as a mean of the ranks, they give its figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from storagebench.records import Trace
from storagebench.report import wording as w
from storagebench.report.load import LoadedRun
from storagebench.report.series import Floats, offset_ns

PARTS: Final = tuple(w.STEP_PARTS)
FETCH, COMPUTE, HOST_DELAY = PARTS.index("fetch_s"), PARTS.index("compute_s"), PARTS.index("host_delay_s")
MAX_RANKS: Final = 8
_MAX_BUCKETS: Final = 400
_LEAST_BUCKETS: Final = 60
_NEAR_STEPS: Final = 30


class RankSteps(NamedTuple):
    """The steps of one rank as columns: `begins_s` since the first epoch of the run began, `parts_s` (parts, steps) in the order of PARTS."""

    rank: int
    epochs: NDArray[np.int64]
    steps: NDArray[np.int64]
    measured: NDArray[np.bool_]
    begins_s: Floats
    parts_s: Floats

    @property
    def ends_s(self) -> Floats:
        return np.asarray(self.begins_s + self.parts_s.sum(axis=0))


class Timeline(NamedTuple):
    """The steps of the ranks that made one, of `num_ranks`; when the epochs began, and until when the warm-up took (0 without one)."""

    ranks: tuple[RankSteps, ...]
    num_ranks: int
    epoch_starts_s: tuple[float, ...]
    warmup_end_s: float
    length_s: float


class Overview(NamedTuple):
    """The run in buckets of `bucket_s`: `shares` (parts, buckets) of a bucket's time as the mean of all ranks; `waiting` (ranks, buckets) the share
    of it in which each of the ranks `shown` waited for data. What is missing to 1 is between the epochs, or after a rank's end."""

    bucket_s: float
    shares: Floats
    shown: tuple[int, ...]
    waiting: Floats


class Wait(NamedTuple):
    """The longest wait of a step: of the rank at `row` of the timeline, its step at `at`; `part` is PARTS' FETCH or HOST_DELAY."""

    row: int
    at: int
    part: int
    wait_s: float


def timeline(loaded: LoadedRun) -> Timeline | None:
    """All steps but those of the null loader, idle ones left out; None without one."""
    least_ns = _least_sync_ns(loaded.ranks)
    tables = [(trace, _columns(trace, least_ns)) for trace in loaded.ranks]
    kept = [(int(trace.header["rank"]), rows, offset_ns(loaded, trace)) for trace, rows in tables if rows]
    if not kept:
        return None
    zero_ns = min(rows[0][3] + offset for _, rows, offset in kept)
    ranks = tuple(_rank_steps(rank, rows, offset - zero_ns) for rank, rows, offset in kept)
    starts: dict[int, float] = {}
    for rank in ranks:
        firsts = np.flatnonzero(np.diff(rank.epochs, prepend=-1))
        for epoch, begin_s in zip(rank.epochs[firsts].tolist(), rank.begins_s[firsts].tolist(), strict=True):
            starts[epoch] = min(starts.get(epoch, begin_s), begin_s)
    warm = [float(rank.ends_s[~rank.measured].max()) for rank in ranks if not rank.measured.all()]
    length_s = max(float(rank.ends_s[-1]) for rank in ranks)
    return Timeline(ranks, len(loaded.ranks), tuple(sorted(starts.values())), max(warm, default=0.0), length_s)


def _least_sync_ns(ranks: Sequence[Trace]) -> dict[tuple[int, int], int]:
    """The least sync time of each step over the ranks: what the sync itself costs. The rest of a rank's is its wait for the slowest."""
    least: dict[tuple[int, int], int] = {}
    for trace in ranks:
        for step in trace.steps:
            if step.kind in ("warmup", "step"):
                sync_ns = step.release_ns - step.host_delay_ns - step.due_ns
                key = (step.epoch, step.step)
                least[key] = min(least.get(key, sync_ns), sync_ns)
    return least


def _columns(trace: Trace, least_ns: dict[tuple[int, int], int]) -> list[tuple[int, ...]]:
    """(epoch, step, measured, begin in ns, and the parts in ns) of each step."""
    starts = {record["epoch"]: record["start_ns"] for record in trace.of_kind("epoch_start")}
    rows: list[tuple[int, ...]] = []
    epoch, begin_ns = -1, 0
    for step in trace.steps:
        if step.kind not in ("warmup", "step") or step.epoch not in starts:
            continue
        if step.epoch != epoch:
            epoch, begin_ns = step.epoch, starts[step.epoch]
        cost_ns = least_ns[step.epoch, step.step]
        wait_ns = step.release_ns - step.host_delay_ns - step.due_ns - cost_ns
        parts_ns = (step.start_ns - begin_ns, step.due_ns - step.start_ns, wait_ns, cost_ns, step.host_delay_ns)
        rows.append((epoch, step.step, step.kind == "step", begin_ns, *parts_ns))
        begin_ns = step.release_ns
    return rows


def _rank_steps(rank: int, rows: Sequence[tuple[int, ...]], shift_ns: int) -> RankSteps:
    table = np.asarray(rows, dtype=np.int64).T
    return RankSteps(rank, table[0], table[1], table[2].astype(bool), (table[3] + shift_ns) / 1e9, table[4:] / 1e9)


def overview(found: Timeline, with_warmup: bool = True) -> Overview:
    """The whole run in some hundred buckets. A step's parts are spread evenly over it, so that steps longer than a bucket do not look like a comb."""
    steps = max(len(rank.steps) for rank in found.ranks)
    buckets = min(_MAX_BUCKETS, max(_LEAST_BUCKETS, 4 * steps))
    edges = np.linspace(0.0, found.length_s, buckets + 1)
    bucket_s = max(found.length_s / buckets, 1e-9)
    shown = shown_rows(found)
    total, waiting = np.zeros((len(PARTS), buckets)), []
    for row, rank in enumerate(found.ranks):
        spread = _spread(rank, edges, with_warmup) / bucket_s
        total += spread
        if row in shown:
            waiting.append(spread[FETCH])
    return Overview(bucket_s, total / found.num_ranks, shown, np.asarray(waiting))


def _spread(rank: RankSteps, edges: Floats, with_warmup: bool) -> Floats:
    """Seconds of each part (parts, buckets) in each bucket."""
    parts_s = rank.parts_s if with_warmup else rank.parts_s * rank.measured
    times = np.maximum.accumulate(np.stack([rank.begins_s, rank.ends_s], axis=1).ravel())
    done = np.zeros((len(PARTS), 2 * len(rank.steps)))
    done[:, 1::2] = np.cumsum(parts_s, axis=1)
    done[:, 2::2] = done[:, 1:-1:2]
    return np.stack([np.diff(np.interp(edges, times, one)) for one in done])


def shown_rows(found: Timeline) -> tuple[int, ...]:
    """Rows of the ranks that have room: all up to MAX_RANKS, else that of the longest wait and those that waited most."""
    if len(found.ranks) <= MAX_RANKS:
        return tuple(range(len(found.ranks)))
    first = longest_wait(found).row
    most = sorted(range(len(found.ranks)), key=lambda row: (row != first, -float(found.ranks[row].parts_s[FETCH].sum()), row))
    return tuple(sorted(most[:MAX_RANKS]))


def longest_wait(found: Timeline) -> Wait:
    """The measured step that lost most by itself, for data or by a late wake-up. Where none is measured, of the warm-up."""
    best: Wait | None = None
    for row, rank in enumerate(found.ranks):
        counts = rank.measured if any(other.measured.any() for other in found.ranks) else np.ones(len(rank.steps), dtype=bool)
        for part in (FETCH, HOST_DELAY):
            waits = np.where(counts, rank.parts_s[part], -1.0)
            index = int(waits.argmax())
            if best is None or waits[index] > best.wait_s:
                best = Wait(row, index, part, float(waits[index]))
    assert best is not None
    return best


def around(found: Timeline, wait: Wait) -> tuple[float, float]:
    """From when to when the 60 steps around a wait took. Where ranks go on alone and others make more steps meanwhile, it is the time of their 60."""
    rank = found.ranks[wait.row]
    end_s = float(rank.begins_s[wait.at] + rank.parts_s[: wait.part + 1, wait.at].sum())
    begins, ends = [], []
    for row in shown_rows(found):
        other = found.ranks[row]
        near = min(int(np.searchsorted(other.ends_s, end_s)), len(other.steps) - 1)
        # A whole window even at the run's begin and end.
        first = max(0, min(near - _NEAR_STEPS, len(other.steps) - 2 * _NEAR_STEPS))
        begins.append(float(other.begins_s[first]))
        if near + 1 < len(other.steps):
            ends.append(float(other.ends_s[min(first + 2 * _NEAR_STEPS, len(other.steps)) - 1]))
    begin_s, end_s = max(begins), min(ends, default=found.length_s)
    # Clocks of several hosts may be apart by more than the steps are long.
    return (begin_s, end_s) if begin_s < end_s else (float(rank.begins_s[wait.at]), float(rank.ends_s[wait.at]))
