"""pyarrow as training scripts use it on Parquet: whole row groups in a shuffled order, read ahead by threads, and a shuffle buffer of samples.

The order is computed on indices alone, so a row group is read when the first batch needs it and held while a sample of it is still needed.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Protocol

import numpy as np

from storagebench.loaders.delivery import Deliverer, Piece, ProcessMeter, at_least_parse, join, refuse_io_modes, total_counters
from storagebench.loaders.row_groups import Cost, RowGroup, RowGroupReader
from storagebench.plan import plan_job
from storagebench.protocols import Batch, IOCounters, LoaderCounters, LoaderRun, LoadJob
from storagebench.sampling import EpochPlan, Indices, buffer_shuffle, cut, split_work
from storagebench.usage import Watch


class ParquetLoader:
    """Opens a run over row groups, for which pyarrow reads all footers."""

    name = "parquet"

    def open(self, job: LoadJob) -> LoaderRun:
        refuse_io_modes(self.name, job)
        return RowGroupRun(replace(job, decode=at_least_parse(job.decode)), RowGroupReader(job.store, job.dataset, job.shards_here))


class GroupReader(Protocol):
    """What reads the row groups of a dataset, numbered as `Dataset.row_groups` has them; `sizes` are their rows. Thread-safe."""

    sizes: Indices
    own_io: bool  # a library reads local files, so that the kernel's count of this process stands for it

    def read(self, group: int) -> RowGroup:
        """The records of a row group."""

    def counters(self) -> IOCounters | None:
        """What our store counted; None where a library does its own I/O."""

    def about(self) -> Mapping[str, Any]:
        """The settings in force."""

    def close(self) -> None:
        """Release the client. May be called twice."""


@dataclass
class _Part:
    """Some samples of a batch: their positions in the rank's reading order, and the piece that they become."""

    positions: Indices
    missing: int = 0  # row groups that are still being read
    piece: Future[Piece] = field(default_factory=Future)


@dataclass
class _Reading:
    """A row group in flight or held; `first` is the position of its first row."""

    first: int
    left: int
    group: RowGroup | None = None
    error: Exception | None = None
    waiting: list[_Part] = field(default_factory=list)


class RowGroupRun:
    """One rank that shards by row groups, whoever reads them.

    At most `prefetch_batches` batches are ready or in flight ahead of the consumer. Row groups are read in the order of the plan, up to the last one
    that these batches need: with a shuffle buffer of s samples that is never further than s samples and a row group ahead of the last of them. The
    threads of one pool both read row groups and take batches (cut into pieces) through the decode level; none waits for another. The span fetch has
    reading and parsing of row groups, which pyarrow does in one call.
    """

    def __init__(self, job: LoadJob, reader: GroupReader) -> None:
        self._job = job
        self._deliverer = Deliverer(job)
        self._pieces_per_batch = split_work(job.prefetch_batches, job.num_workers, job.batch_size)[1]
        self._depth = job.prefetch_batches if job.num_workers else 0  # without threads a batch is read when it is asked for
        self._reader = reader
        self._meter: ProcessMeter | None = None
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None
        self._queue: deque[list[_Part]] = deque()
        self._sizes: deque[int] = deque()
        self._readings: dict[int, _Reading] = {}

    def plan(self, epoch: int) -> EpochPlan:
        return plan_job("row_group", self._job, epoch)[0]

    def start(self, epoch: int) -> None:
        job = self._job
        plan, self._units = plan_job("row_group", self._job, epoch)
        self._ids = plan.planned
        self._ends = np.cumsum(self._reader.sizes[self._units])
        self._order: Iterator[int] = iter(range(len(self._ids)))
        if job.shuffle:
            self._order = buffer_shuffle(job.seed, epoch, job.rank, len(self._ids), job.shuffle_buffer)
        self._sizes = deque(size for size in plan.sizes if size)
        self._num_begun = 0
        self.counters()  # from now on what this process reads is the dataset's
        if job.num_workers:
            self._threads = ThreadPoolExecutor(job.num_workers, thread_name_prefix="parquet")
        self._fill(self._depth)

    def _fill(self, depth: int) -> None:
        """Keep `depth` batches ready or in flight."""
        while len(self._queue) < depth and self._sizes:
            size = self._sizes.popleft()
            positions = np.fromiter(islice(self._order, size), np.int64, count=size)
            self._queue.append([self._part(positions[some]) for some in cut(size, self._pieces_per_batch)])

    def _part(self, positions: Indices) -> _Part:
        """Begin what is to be read for these samples."""
        numbers = sorted(set(np.searchsorted(self._ends, positions, side="right").tolist()))
        while self._num_begun <= numbers[-1]:
            number, self._num_begun = self._num_begun, self._num_begun + 1
            size = int(self._reader.sizes[self._units[number]])
            self._readings[number] = _Reading(int(self._ends[number]) - size, size)
            self._submit(self._read, self._readings[number], int(self._units[number]))
        part = _Part(positions)
        with self._lock:
            for number in numbers:
                reading = self._readings[number]
                if reading.group is None and reading.error is None:
                    reading.waiting.append(part)
                    part.missing += 1
            ready = part.missing == 0
        if ready:
            self._submit(self._deliver, part)
        return part

    def _submit(self, task: Any, *arguments: Any) -> None:
        if self._threads is None:
            task(*arguments)
        else:
            self._threads.submit(task, *arguments)

    def _read(self, reading: _Reading, unit: int) -> None:
        """In a thread of the pool: read a row group, and pass on the parts that waited for nothing else."""
        group, failure = None, None
        try:
            group = self._reader.read(unit)
        except Exception as error:  # whoever needs the row group raises it
            failure = error
        with self._lock:
            reading.group, reading.error = group, failure
            for part in reading.waiting:
                part.missing -= 1
            ready = [part for part in reading.waiting if part.missing == 0]
            reading.waiting.clear()
        for part in ready:
            try:
                self._submit(self._deliver, part)
            except RuntimeError as error:  # `drain` shut the pool down while this thread was reading, or there are no threads left to start
                part.piece.set_exception(error)

    def _deliver(self, part: _Part) -> None:
        """In a thread of the pool: take the records out of their row groups and through the decode level."""
        try:
            watch, costs, records = Watch(), [], []
            for position, number in zip(part.positions.tolist(), np.searchsorted(self._ends, part.positions, side="right").tolist(), strict=True):
                record, cost = self._take(number, position)
                records.append(record)
                costs.append(cost)
            spans = {"fetch": sum(cost.fetch_s for cost in costs)}
            piece = self._deliverer.deliver_records(self._ids[part.positions], records, spans, watch)
            part.piece.set_result(replace(piece, run_delay_s=piece.run_delay_s + sum(cost.run_delay_s for cost in costs)))
        except Exception as error:  # `next` raises it
            part.piece.set_exception(error)

    def _take(self, number: int, position: int) -> tuple[memoryview, Cost]:
        """A record and the cost to count for it; the row group is let go with its last record."""
        with self._lock:
            reading = self._readings[number]
            reading.left -= 1
            if reading.left == 0:
                del self._readings[number]
        if reading.group is None:
            raise reading.error or AssertionError("a part is delivered when its row groups were read")
        return reading.group.take(position - reading.first)

    def next(self) -> Batch | None:
        self._fill(max(self._depth, 1))
        if not self._queue:
            return None
        pieces = [part.piece.result() for part in self._queue.popleft()]
        self._fill(self._depth)
        return join(pieces, queue_level=sum(1 for parts in self._queue if all(part.piece.done() for part in parts)))

    def drain(self) -> None:
        self._sizes.clear()
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)
            self._threads = None
        self._queue.clear()
        self._readings.clear()

    def counters(self) -> LoaderCounters:
        own_io = self._reader.own_io
        found = total_counters([self._meter.read()] if self._meter else [], in_rank=True, own_io=own_io)
        if self._meter is None:
            self._meter = ProcessMeter(lambda: self._reader.counters() or IOCounters(), self._job.counts_process)
        if self._reader.counters() is None and not own_io:
            return replace(
                found, storage_bytes=None, storage_method="unknown: pyarrow's own I/O", device_read_bytes=None, requests=None, retries=None
            )
        return found

    def effective(self) -> Mapping[str, Any]:
        return {
            "decode": self._job.decode,
            "workers": self._job.num_workers,
            "pieces_per_batch": self._pieces_per_batch,
            "shuffle_buffer": self._job.shuffle_buffer if self._job.shuffle else 0,
            **self._reader.about(),
            "notes": [],
        }

    def close(self) -> None:
        self.drain()
        if self._meter is not None:
            self._meter.close()
            self._meter = None
        self._reader.close()
