"""Traces -> the few numbers that a plot is drawn from. Pure; every series is thinned to what a screen can show."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from storagebench.ranks import Ranks, epoch_starts
from storagebench.report.load import LoadedRun
from storagebench.traces import Trace
from storagebench.window import by_epoch, own_steps

MAX_POINTS: Final = 2000
_TAIL_POINTS: Final = 200
_BUCKETS_S: Final = (0.1, 0.25, 0.5, 1.0)
_WANTED_BUCKETS: Final = 60
Floats = NDArray[np.float64]


class FetchTimes(NamedTuple):
    """The distribution of the positive fetch times in seconds: `times_s` ascending, `shares` of all steps that waited no longer than that."""

    num_steps: int
    share_without_wait: float
    times_s: Floats
    shares: Floats


class Throughput(NamedTuple):
    """Delivered bytes per second of all ranks in buckets of `bucket_s` (the last one may be shorter); `edges_s`, one more than buckets, count from the start."""

    bucket_s: float
    edges_s: Floats
    bytes_per_s: Floats
    epoch_starts_s: tuple[float, ...]


def fetch_distribution(loaded: LoadedRun) -> FetchTimes | None:
    """The fetch times of the measured steps of all ranks; None where nothing was measured."""
    times = loaded.ranks.waits_ns / 1e9
    if not len(times):
        return None
    zeros = int(np.searchsorted(times, 0.0, side="right"))
    kept = zeros + _thinned(len(times) - zeros)
    return FetchTimes(len(times), zeros / len(times), times[kept], (kept + 1) / len(times))


def _thinned(count: int) -> NDArray[np.int64]:
    """At most MAX_POINTS of `count` ranks in order: spread evenly, but all of the tail, which is what one looks for."""
    if count <= MAX_POINTS:
        return np.arange(count)
    body = np.linspace(0, count - _TAIL_POINTS - 1, MAX_POINTS - _TAIL_POINTS).astype(np.int64)
    return np.concatenate([body, np.arange(count - _TAIL_POINTS, count)])


def throughput(loaded: LoadedRun) -> Throughput | None:
    """Bytes over time, warm-up included; None without a step.

    A step's bytes are spread evenly from the step end before it (the epoch's start for the first) to its own, so that steps longer than a bucket do
    not look like a comb. The area under the curve is what was delivered.
    """
    shifts_ns = offsets_ns(loaded.ranks)
    ends_ns = [
        (rank.epochs[0].begin_ns + shift_ns, rank.epochs[-1].end_ns + shift_ns)
        for rank, shift_ns in zip(loaded.ranks, shifts_ns, strict=True)
        if rank.epochs
    ]
    if not ends_ns:
        return None
    begin_s = min(begin_ns for begin_ns, _ in ends_ns) / 1e9
    length_s = max(end_ns for _, end_ns in ends_ns) / 1e9 - begin_s
    bucket_s = _bucket_s(length_s)
    edges = np.minimum(np.arange(0, np.ceil(length_s / bucket_s) + 1) * bucket_s, length_s)
    total = np.zeros(len(edges))
    for trace, shift_ns in zip(loaded.ranks.traces(), shifts_ns, strict=True):
        times, done = _cumulative(trace, shift_ns)
        if len(times):
            total += np.interp(edges, times - begin_s, done)
    widths = np.diff(edges)
    rates = np.divide(np.diff(total), widths, out=np.zeros_like(widths), where=widths > 0)
    starts: dict[int, float] = {}
    for rank, shift_ns in zip(loaded.ranks, shifts_ns, strict=True):
        for record in rank.of_kind("epoch_start"):
            start_s = (record["start_ns"] + shift_ns) / 1e9 - begin_s
            starts[record["epoch"]] = min(starts.get(record["epoch"], start_s), start_s)
    return Throughput(bucket_s, edges, rates, tuple(start for _, start in sorted(starts.items())))


def offsets_ns(ranks: Ranks) -> list[int]:
    """What puts the ranks of several hosts on one axis, for each rank: its host's first loader start is 0. A barrier before it lets all ranks begin within
    a message's time of one another, whatever their clocks say. On one host the clock is common already."""
    begins_ns: dict[object, int] = {}
    for rank in ranks:
        for start_ns in epoch_starts(rank.others).values():
            begins_ns[rank.host] = min(begins_ns.get(rank.host, start_ns), start_ns)
    if len({rank.host for rank in ranks}) <= 1:
        return [0] * len(ranks)
    return [-begins_ns.get(rank.host, 0) for rank in ranks]


def _cumulative(trace: Trace, shift_ns: int) -> tuple[Floats, Floats]:
    """(seconds, bytes delivered until then) of one rank, flat between its epochs; empty without a step."""
    starts = epoch_starts(trace.others)
    times: list[int] = []
    done: list[int] = []
    for epoch, steps in by_epoch(own_steps(trace.steps)):
        so_far = done[-1] if done else 0
        times += [starts.get(epoch, int(steps.asked_ns[0])), *steps.sync_end_ns.tolist()]
        done += [so_far, *(so_far + np.cumsum(steps.record_bytes)).tolist()]
    return (np.asarray(times, dtype=np.int64) + shift_ns) / 1e9, np.asarray(done, dtype=np.float64)


def _bucket_s(length_s: float) -> float:
    """A second; less for a run of under a minute, and doubled as often as it takes to stay below MAX_POINTS."""
    bucket_s = next((bucket for bucket in reversed(_BUCKETS_S) if length_s / bucket >= _WANTED_BUCKETS), _BUCKETS_S[0])
    while length_s / bucket_s > MAX_POINTS:
        bucket_s *= 2
    return bucket_s
