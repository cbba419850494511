"""storagebench's own loader: what the storage could give. Reader threads, reads into reused page-aligned memory, records as views on it.

A batch owns one slab of memory from a small pool; its samples are read in place (O_DIRECT straight into the slab), checked and parsed as views.
The slab goes back when the next batch is asked for: `Batch.data` is valid until then. Stores without `read_into` into foreign memory (S3) give
their own buffers, which are handed on without a copy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storagebench.loaders.delivery import Deliverer, Piece, ProcessMeter, join, total_counters
from storagebench.plan import plan_job
from storagebench.protocols import Batch, Extent, LoaderCounters, LoaderRun, LoadJob
from storagebench.sampling import EpochPlan, cut, split_work
from storagebench.storage import open_spec
from storagebench.storage.posix import ALIGNMENT_BYTES, aligned_buffer
from storagebench.usage import Watch


class DirectLoader:
    """Opens a `DirectRun`."""

    name = "direct"

    def open(self, job: LoadJob) -> LoaderRun:
        return DirectRun(job)


@dataclass
class _Pending:
    """A batch in flight."""

    pieces: list[Future[Piece]]
    slab: memoryview | None


class DirectRun:
    """One rank. All threads are joined by `close`; between epochs nothing is open."""

    def __init__(self, job: LoadJob) -> None:
        self._job = job
        self._store = open_spec(job.store)
        self._deliverer = Deliverer(job)
        self._in_place = job.store.kind == "posix"
        self._workers, self._pieces_per_batch, _ = split_work(job.prefetch_batches, job.num_workers, job.batch_size)
        self._threads = ThreadPoolExecutor(max(self._workers, 1), thread_name_prefix="direct") if self._workers else None
        self._depth = job.prefetch_batches if self._workers else 0  # without workers a batch is read when it is asked for
        self._meter: ProcessMeter | None = None
        self._free: list[memoryview] = []
        self._slab_bytes = 0
        self._batches: Iterator[NDArray[np.int64]] = iter(())
        self._queue: deque[_Pending] = deque()
        self._held: _Pending | None = None

    def plan(self, epoch: int) -> EpochPlan:
        return plan_job("sample", self._job, epoch)[0]

    def start(self, epoch: int) -> None:
        plan, ids = plan_job("sample", self._job, epoch)
        self.counters()  # from now on what this process reads is the dataset's
        bounds = np.cumsum([0, *plan.sizes])
        batches = [ids[low:high] for low, high in pairwise(bounds.tolist()) if high > low]
        if self._in_place and batches:
            self._slab_bytes = max(self._slab_bytes, max(self._bytes_of(batch) for batch in batches))
        self._batches = iter(batches)
        self._fill(self._depth)

    def _bytes_of(self, ids: NDArray[np.int64]) -> int:
        """Slab bytes of a batch: each sample starts on a page."""
        dataset = self._deliverer.dataset
        shards = dataset.index["shard"][ids]
        sizes = dataset.shard_bytes[shards] if self._deliverer.whole_shard else dataset.index["record_bytes"][ids].astype(np.int64)
        return int((-(-sizes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES).sum())

    def _fill(self, depth: int) -> None:
        """Keep `depth` batches ready or in flight."""
        while len(self._queue) < depth:
            ids = next(self._batches, None)
            if ids is None:
                return
            self._queue.append(self._submit(ids))

    def _submit(self, ids: NDArray[np.int64]) -> _Pending:
        slab = self._take_slab() if self._in_place else None
        pending = _Pending([], slab)
        position = 0
        for part in cut(len(ids), self._pieces_per_batch):
            some = ids[part]
            if slab is None:
                task: tuple[Any, ...] = (self._read_from_store, some)
            else:
                size = self._bytes_of(some)
                task = (self._read_in_place, some, slab[position : position + size])
                position += size
            if self._threads is None:
                future: Future[Piece] = Future()
                future.set_result(task[0](*task[1:]))
            else:
                future = self._threads.submit(*task)
            pending.pieces.append(future)
        return pending

    def _take_slab(self) -> memoryview:
        while self._free:
            slab = self._free.pop()
            if len(slab) >= self._slab_bytes:
                return slab
        return aligned_buffer(self._slab_bytes)

    def _extents(self, ids: NDArray[np.int64]) -> list[Extent]:
        deliverer = self._deliverer
        return [deliverer.dataset.extent(int(sample), deliverer.whole_shard) for sample in ids]

    def _read_in_place(self, ids: NDArray[np.int64], memory: memoryview) -> Piece:
        watch = Watch()
        stored, position = [], 0
        for extent in self._extents(ids):
            length = extent.length or 0
            target = memory[position : position + length]
            self._store.read_into(extent, target)
            stored.append(target)
            position += -(-length // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        return self._deliverer.deliver_stored(ids, stored, watch)

    def _read_from_store(self, ids: NDArray[np.int64]) -> Piece:
        watch = Watch()
        stored = self._store.read(self._extents(ids))
        return self._deliverer.deliver_stored(ids, stored, watch)

    def next(self) -> Batch | None:
        if self._held is not None and self._held.slab is not None:
            self._free.append(self._held.slab)
        self._held = None
        self._fill(max(self._depth, 1))
        if not self._queue:
            return None
        head = self._queue.popleft()
        pieces = [future.result() for future in head.pieces]
        self._held = head
        self._fill(self._depth)
        ready = sum(1 for pending in self._queue if all(future.done() for future in pending.pieces))
        return join(pieces, queue_level=ready)

    def drain(self) -> None:
        for pending in self._queue:
            for future in pending.pieces:
                future.cancel()
        for pending in self._queue:
            for future in pending.pieces:
                if not future.cancelled():
                    future.exception()
            if pending.slab is not None:
                self._free.append(pending.slab)
        self._queue.clear()
        self._batches = iter(())
        if self._held is not None and self._held.slab is not None:
            self._free.append(self._held.slab)
        self._held = None

    def counters(self) -> LoaderCounters:
        if self._meter is None:
            self._meter = ProcessMeter(self._store.counters, self._job.counts_process)
        return total_counters([self._meter.read()], in_rank=True, own_io=False)

    def effective(self) -> Mapping[str, Any]:
        notes = []
        if self._workers < self._job.num_workers:
            notes.append(f"{self._workers} of {self._job.num_workers} threads are used: no more pieces of a batch are in flight")
        return {
            "decode": self._job.decode,
            "workers": self._workers,
            "pieces_per_batch": self._pieces_per_batch,
            "io": getattr(self._store, "io", "client"),
            "notes": notes,
        }

    def close(self) -> None:
        self.drain()
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)
            self._threads = None
        self._free.clear()
        if self._meter is not None:
            self._meter.close()
            self._meter = None
        self._store.close()
