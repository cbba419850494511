"""One cell: its threads are started, timed and joined, and their logs become rates and quantiles.

A read cell takes `seconds` of reading after a ramp that is left out. Direct and warm reads go round and round over the data; before each pass of
a cold cell the pages are dropped, outside of the time. A write cell is timed from its first request to the end of the last fdatasync, ramp included,
and writes no byte twice but with O_DIRECT: of what goes through the page cache only the last version would reach the device.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np
from numpy.typing import NDArray

from storagebench.errors import StorageError
from storagebench.probe.plan import Cell, Requests, lanes
from storagebench.probe.workers import Log, Source, Until, Worker

# A cell takes no longer than so many times the seconds that it is to measure.
MAX_STRETCH = 2
MAX_RAMP_S = 0.5
_NS = 1e9


@dataclass(frozen=True)
class Measured:
    """One cell, once. `seconds` is the time that counts; rates are bytes and requests over it, `cpu_s_per_gb` of this process, user and system."""

    cell: Cell
    bytes_per_s: float
    requests_per_s: float
    latency_p50_s: float
    latency_p99_s: float
    cpu_s_per_gb: float | None
    seconds: float
    num_bytes: int
    passes: int


@dataclass(frozen=True)
class Segment:
    """A stretch without a pause: its ends (CLOCK_MONOTONIC ns), rows (begin_ns, end_ns, bytes), and CPU seconds of this process."""

    begin_ns: int
    end_ns: int
    rows: NDArray[np.int64]
    cpu_s: float


@dataclass(frozen=True)
class Work:
    """What a cell needs of a place: a worker for each thread, one pass for a seed, and what is done before a pass (None: passes follow at once)."""

    make_worker: Callable[[], Worker]
    one_pass: Callable[[int], Requests]
    before_pass: Callable[[], None] | None


def measure(cell: Cell, work: Work, seconds: float | None, seed: int) -> Measured:
    """Run a cell. `seconds` None: one whole pass, timed from its first request to its last, nothing left out. What lies between passes (dropping pages)
    does not count, and where it would take long, less is measured.

    Raises StorageError or DatasetError where a request fails. When it returns or raises, no thread of it is left.
    """
    writes = cell.group.direction == "write"
    ramp_s = 0.0 if writes or seconds is None else ramp_of(seconds)
    wanted_s = None if seconds is None else seconds + ramp_s
    endless = seconds is not None and work.before_pass is None and (not writes or cell.group.mode == "direct")
    segments: list[Segment] = []
    began_ns = time.monotonic_ns()
    while True:
        if work.before_pass is not None:
            work.before_pass()
        left_s = None if wanted_s is None else wanted_s - _length_s(segments)
        segments.append(_segment(cell, work, seed + len(segments), left_s, endless))
        length_s = _length_s(segments)
        if wanted_s is None or endless or writes or length_s >= wanted_s:
            return summarise(cell, segments, ramp_s, whole=writes or wanted_s is None)
        if time.monotonic_ns() - began_ns > MAX_STRETCH * wanted_s * _NS:  # small data: most of the time goes into what lies between the passes
            return summarise(cell, segments, ramp_s * length_s / wanted_s, whole=False)


def ramp_of(seconds: float) -> float:
    """Seconds that are left out before so many that count: half a second, less for cells under two.

    >>> ramp_of(2.0), ramp_of(10.0), ramp_of(0.4)
    (0.5, 0.5, 0.1)
    """
    return min(MAX_RAMP_S, seconds / 4)


def _length_s(segments: Sequence[Segment]) -> float:
    return sum(segment.end_ns - segment.begin_ns for segment in segments) / _NS


def _segment(cell: Cell, work: Work, seed: int, left_s: float | None, endless: bool) -> Segment:
    one_pass = work.one_pass(seed)
    if not len(one_pass.file):
        raise StorageError("there is nothing to read: all files or objects are empty", "generate a dataset, or choose a larger --size")
    sources = [_source(lane, endless) for lane in lanes(one_pass, cell.group.pattern, cell.threads)]
    crew = _Crew([work.make_worker() for _ in range(cell.threads)], sources)
    cpu_before_s = time.process_time()
    begin_ns, log = crew.run(left_s)
    cpu_s = time.process_time() - cpu_before_s
    rows = np.array(log, np.int64).reshape(-1, 3)
    begin_ns = min(begin_ns, int(rows[:, 0].min())) if len(rows) else begin_ns  # a thread may pass the gate before this one does
    end_ns = int(rows[:, 1].max()) if len(rows) else begin_ns + 1
    if left_s is not None and cell.group.direction == "read":
        end_ns = min(end_ns, begin_ns + round(left_s * _NS))
    return Segment(begin_ns, end_ns, rows, cpu_s)


def _source(part: Requests, endless: bool) -> Source:
    rows = zip(part.file.tolist(), part.offset.tolist(), part.length.tolist(), strict=True)
    return cycle(rows) if endless and len(part.file) else rows


class _Crew:
    """The threads of one segment. The first error ends all of them."""

    def __init__(self, workers: Sequence[Worker], sources: Sequence[Source]) -> None:
        self._until = Until()
        self._gate = threading.Barrier(len(workers) + 1)
        self._failures: list[BaseException] = []
        self._logs: list[Log] = [[] for _ in workers]
        self._threads = [
            threading.Thread(target=self._run, args=(worker, sources[index % len(sources)], self._logs[index]), name=f"probe-{index}")
            for index, worker in enumerate(workers)
        ]

    def run(self, seconds: float | None) -> tuple[int, Log]:
        """Start, wait, join; (when the first could begin, the rows of all)."""
        begin_ns = time.monotonic_ns()
        try:
            for thread in self._threads:
                thread.start()
            try:
                self._gate.wait()
                begin_ns = time.monotonic_ns()
                if seconds is not None:
                    self._until.deadline_ns = begin_ns + round(seconds * _NS)
            except threading.BrokenBarrierError:
                pass  # a thread failed before it began: its error is raised below
            for thread in self._threads:
                thread.join()
        finally:
            self._until.deadline_ns = 0
            self._gate.abort()
            for thread in self._threads:
                if thread.ident is not None:
                    thread.join()
        if self._failures:
            raise self._failures[0]
        return begin_ns, [row for log in self._logs for row in log]

    def _run(self, worker: Worker, source: Source, log: Log) -> None:
        try:
            worker.run(source, self._gate, self._until, log)
        except threading.BrokenBarrierError:
            return
        except BaseException as error:
            self._failures.append(error)
            self._until.deadline_ns = 0
            self._gate.abort()


def summarise(cell: Cell, segments: Sequence[Segment], ramp_s: float, whole: bool) -> Measured:
    """Rates over the segments' time after the first `ramp_s`. A request that reaches over an end of the time counts with the share inside.

    `whole`: all of it counts, to the end of the last row.
    """
    left_ns, seconds, num_bytes, num_requests = round(ramp_s * _NS), 0.0, 0.0, 0.0
    latencies: list[NDArray[np.int64]] = []
    for segment in segments:
        low = min(segment.begin_ns + left_ns, segment.end_ns)
        left_ns -= low - segment.begin_ns
        rows = segment.rows[segment.rows[:, 2] > 0]
        begins, ends, sizes = rows[:, 0], rows[:, 1], rows[:, 2]
        inside = np.clip(np.minimum(ends, segment.end_ns) - np.maximum(begins, low), 0, None)
        shares = np.ones(len(rows)) if whole else inside / np.maximum(ends - begins, 1)
        seconds += (segment.end_ns - low) / _NS
        num_bytes += float((sizes * shares).sum())
        num_requests += float(shares.sum())
        latencies.append((ends - begins)[shares > 0])
    waits = np.concatenate(latencies) / _NS
    if seconds <= 0 or not len(waits):
        raise StorageError(f"no request of {cell.group.request_bytes} bytes ended within the time of a cell", "use a longer --seconds")
    all_bytes = sum(int(segment.rows[:, 2].sum()) for segment in segments)
    cpu_s = sum(segment.cpu_s for segment in segments)
    return Measured(
        cell=cell,
        bytes_per_s=num_bytes / seconds,
        requests_per_s=num_requests / seconds,
        latency_p50_s=float(np.quantile(waits, 0.5)),
        latency_p99_s=float(np.quantile(waits, 0.99)),
        cpu_s_per_gb=cpu_s / (all_bytes / 1e9) if all_bytes else None,
        seconds=seconds,
        num_bytes=all_bytes,
        passes=len(segments),
    )
