"""Traces -> the few numbers that a plot is drawn from. Pure; every series is thinned to what a screen can show."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from storagebench.metrics import fetch_times_s
from storagebench.records import Trace
from storagebench.report.load import LoadedRun

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
    times = np.sort(np.asarray([time for trace in loaded.ranks for time in fetch_times_s(trace)], dtype=np.float64))
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
    curves = [curve for curve in (_cumulative(trace, offset_ns(loaded, trace)) for trace in loaded.ranks) if curve is not None]
    if not curves:
        return None
    begin_s = min(times[0] for times, _ in curves)
    length_s = max(times[-1] for times, _ in curves) - begin_s
    bucket_s = _bucket_s(length_s)
    edges = np.minimum(np.arange(0, np.ceil(length_s / bucket_s) + 1) * bucket_s, length_s)
    total = np.sum([np.interp(edges, times - begin_s, done) for times, done in curves], axis=0)
    widths = np.diff(edges)
    rates = np.divide(np.diff(total), widths, out=np.zeros_like(widths), where=widths > 0)
    starts: dict[int, float] = {}
    for trace in loaded.ranks:
        for record in trace.of_kind("epoch_start"):
            start_s = (record["start_ns"] + offset_ns(loaded, trace)) / 1e9 - begin_s
            starts[record["epoch"]] = min(starts.get(record["epoch"], start_s), start_s)
    return Throughput(bucket_s, edges, rates, tuple(start for _, start in sorted(starts.items())))


def offset_ns(loaded: LoadedRun, trace: Trace) -> int:
    """What makes stamps of several hosts comparable: each one's monotonic clock is put on its wall clock. On one host it is common already."""
    if len({other.header.get("host") for other in loaded.ranks}) == 1:
        return 0
    return int(trace.header["wall_ns"]) - int(trace.header["monotonic_ns"])


def _cumulative(trace: Trace, shift_ns: int) -> tuple[Floats, Floats] | None:
    """(seconds, bytes delivered until then) of one rank, flat between its epochs."""
    starts = {record["epoch"]: record["start_ns"] for record in trace.of_kind("epoch_start")}
    times: list[int] = []
    done: list[int] = []
    epoch, total = -1, 0
    for step in trace.steps:
        if step.kind == "null":
            continue
        if step.epoch != epoch:
            epoch = step.epoch
            times.append(starts.get(epoch, step.asked_ns) + shift_ns)
            done.append(total)
        total += step.record_bytes
        times.append(step.sync_end_ns + shift_ns)
        done.append(total)
    return (np.asarray(times) / 1e9, np.asarray(done, dtype=np.float64)) if times else None


def _bucket_s(length_s: float) -> float:
    """A second; less for a run of under a minute, and doubled as often as it takes to stay below MAX_POINTS."""
    bucket_s = next((bucket for bucket in reversed(_BUCKETS_S) if length_s / bucket >= _WANTED_BUCKETS), _BUCKETS_S[0])
    while length_s / bucket_s > MAX_POINTS:
        bucket_s *= 2
    return bucket_s
