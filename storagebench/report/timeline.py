"""Traces -> what each step did over time: the whole run in buckets, and the steps around its longest wait one by one. Pure; imports no plotting.

A step of a rank goes from the end of the step before it (the start of the epoch for the first) to its own, in the schedule, and is divided into the
parts of `wording.STEP_PARTS`. They are the parts of `summary.json`: added up over the measured steps, as a mean of the ranks, they give its figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from storagebench.ranks import Ranks, epoch_starts
from storagebench.report import wording as w
from storagebench.report.load import LoadedRun
from storagebench.report.series import Floats, offsets_ns
from storagebench.traces import IDLE, STEP
from storagebench.window import before_ns, own_steps

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


class Wait(NamedTuple):
    """The longest wait of a step: of the rank at `row` of the timeline, its step at `at`; `part` is PARTS' FETCH or HOST_DELAY."""

    row: int
    at: int
    part: int
    wait_s: float


class _Looked(NamedTuple):
    """What one look through all ranks gives: the longest wait, the seconds that each waited for data, and the most steps that one has."""

    longest: Wait
    waited_s: tuple[float, ...]
    most_steps: int


@dataclass(frozen=True, eq=False)
class Timeline:
    """The steps of the ranks that made one, of `num_ranks`; when the epochs began, and until when the warm-up took (0 without one). `ranks` may read
    each one from its file when it is asked for."""

    ranks: Sequence[RankSteps]
    num_ranks: int
    epoch_starts_s: tuple[float, ...]
    warmup_end_s: float
    length_s: float

    @cached_property
    def longest_wait(self) -> Wait:
        """The measured step that lost most by itself, for data or by a late wake-up. Where none is measured, of the warm-up."""
        return self._looked_through.longest

    @cached_property
    def shown_rows(self) -> tuple[int, ...]:
        """Rows of the ranks that have room: all up to MAX_RANKS, else that of the longest wait and those that waited most."""
        first, waited_s = self.longest_wait.row, self._looked_through.waited_s
        most = sorted(range(len(waited_s)), key=lambda row: (row != first, -waited_s[row], row))
        return tuple(sorted(most[:MAX_RANKS]))

    @cached_property
    def most_steps(self) -> int:
        return self._looked_through.most_steps

    @cached_property
    def _looked_through(self) -> _Looked:
        of_measured: Wait | None = None
        of_all: Wait | None = None
        waited_s, most_steps = [], 0
        for row, rank in enumerate(self.ranks):
            most_steps = max(most_steps, len(rank.steps))
            waited_s.append(float(rank.parts_s[FETCH].sum()))
            of_all = _longer(of_all, rank, row, np.ones(len(rank.steps), dtype=bool))
            if rank.measured.any():
                of_measured = _longer(of_measured, rank, row, rank.measured)
        assert of_all is not None
        return _Looked(of_measured or of_all, tuple(waited_s), most_steps)


class Overview(NamedTuple):
    """The run in buckets of `bucket_s`: `shares` (parts, buckets) of a bucket's time as the mean of all ranks; `waiting` (ranks, buckets) the share
    of it in which each of the ranks `shown` waited for data. What is missing to 1 is between the epochs, or after a rank's end."""

    bucket_s: float
    shares: Floats
    shown: tuple[int, ...]
    waiting: Floats


class _Reread(Sequence[RankSteps]):
    """The steps of these ranks (index, ns to shift), read from their traces when they are asked for: a page shows few, and there may be thousands."""

    def __init__(self, ranks: Ranks, places: Sequence[tuple[int, int]]) -> None:
        self._ranks, self._places = ranks, places
        self._one = lru_cache(maxsize=2 * MAX_RANKS)(self._read)

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, row: int) -> RankSteps: ...
    @overload
    def __getitem__(self, row: slice) -> list[RankSteps]: ...
    def __getitem__(self, row: int | slice) -> RankSteps | list[RankSteps]:
        return [self._one(one) for one in range(len(self))[row]] if isinstance(row, slice) else self._one(range(len(self))[row])

    def _read(self, row: int) -> RankSteps:
        index, shift_ns = self._places[row]
        found = _rank_steps(self._ranks, index, shift_ns)
        assert found is not None
        return found


def timeline(loaded: LoadedRun) -> Timeline | None:
    """All steps but those of the null loader, idle ones left out; None without one."""
    shifts_ns = offsets_ns(loaded.ranks)
    begins_ns = [each.begin_ns + shift_ns for rank, shift_ns in zip(loaded.ranks, shifts_ns, strict=True) for each in rank.epochs[:1]]
    zero_ns = min(begins_ns, default=0)
    places: list[tuple[int, int]] = []
    starts: dict[int, float] = {}
    warmup_end_s = length_s = 0.0
    for index, shift_ns in enumerate(shifts_ns):
        rank = _rank_steps(loaded.ranks, index, shift_ns - zero_ns)
        if rank is None:
            continue
        places.append((index, shift_ns - zero_ns))
        firsts = np.flatnonzero(np.diff(rank.epochs, prepend=-1))
        for epoch, begin_s in zip(rank.epochs[firsts].tolist(), rank.begins_s[firsts].tolist(), strict=True):
            starts[epoch] = min(starts.get(epoch, begin_s), begin_s)
        warmup_end_s = max(warmup_end_s, float(rank.ends_s[~rank.measured].max(initial=0.0)))
        length_s = max(length_s, float(rank.ends_s[-1]))
    return Timeline(_Reread(loaded.ranks, places), len(loaded.ranks), tuple(sorted(starts.values())), warmup_end_s, length_s) if places else None


def _rank_steps(ranks: Ranks, index: int, shift_ns: int) -> RankSteps | None:
    """The steps with work of one rank, in epochs whose start is known; None without one. What a sync takes is what it took the rank that came last in
    that step, and the rest of a rank's is its wait for that one."""
    trace = ranks.trace(index)
    starts = epoch_starts(trace.others)
    own = own_steps(trace.steps)
    work = own.pick((own.kind != IDLE) & np.isin(own.epoch, list(starts)))
    if not len(work):
        return None
    begins_ns = before_ns(work, work.release_ns, starts)
    cost_ns = ranks.least_work_sync_ns.of(work.epoch, work.step)
    wait_ns = work.release_ns - work.host_delay_ns - work.due_ns - cost_ns
    parts_ns = np.stack([work.start_ns - begins_ns, work.due_ns - work.start_ns, wait_ns, cost_ns, work.host_delay_ns])
    return RankSteps(int(trace.header["rank"]), work.epoch, work.step, work.kind == STEP, (begins_ns + shift_ns) / 1e9, parts_ns / 1e9)


def overview(found: Timeline, with_warmup: bool = True) -> Overview:
    """The whole run in some hundred buckets. A step's parts are spread evenly over it, so that steps longer than a bucket do not look like a comb."""
    buckets = min(_MAX_BUCKETS, max(_LEAST_BUCKETS, 4 * found.most_steps))
    edges = np.linspace(0.0, found.length_s, buckets + 1)
    bucket_s = max(found.length_s / buckets, 1e-9)
    shown = found.shown_rows
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


def _longer(best: Wait | None, rank: RankSteps, row: int, counts: NDArray[np.bool_]) -> Wait:
    """The longest wait of this rank's steps that count, or the best one before it where that is as long."""
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
    for row in found.shown_rows:
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
