"""storagebench's own loader: what the storage could give. Reads planned a batch ahead, many in flight, into reused page-aligned memory; records are views on it.

A batch owns one slab of memory from a small pool; its samples are read in place (with O_DIRECT straight from the device), checked and parsed as views.
The slab goes back when the next batch is asked for: `Batch.data` is valid until then. Stores that bring their own memory (S3) have theirs handed on without a
copy. How a store is read is `storage.queues`, what is read together `direct_ranges`, who reads it `direct_worker`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storagebench.loaders.delivery import Deliverer, ProcessMeter, join, total_counters
from storagebench.loaders.direct_ranges import memory_bytes
from storagebench.loaders.direct_worker import Assembly, Feed, Worker
from storagebench.plan import plan_job
from storagebench.protocols import Batch, LoaderCounters, LoaderRun, LoadJob
from storagebench.registry import refuse_missing
from storagebench.sampling import EpochPlan, cut, split_work
from storagebench.storage import open_spec
from storagebench.storage.buffers import HUGE_BYTES, aligned_buffer, faulted_buffer
from storagebench.storage.queues import best_way


class DirectLoader:
    """Opens a `DirectRun`; for Parquet, whose samples have no places of their own, a run over row groups."""

    name = "direct"

    def open(self, job: LoadJob) -> LoaderRun:
        if job.dataset.format != "parquet":
            return DirectRun(job)
        refuse_missing("loader direct on Parquet", ("pyarrow",))
        from storagebench.loaders.direct_parquet import ChunkReader
        from storagebench.loaders.parquet import RowGroupRun

        return RowGroupRun(job, ChunkReader(job.store, job.dataset, job.shards_here))


class DirectRun:
    """One rank. All threads are joined by `close`; between epochs nothing is in flight and no file is open."""

    def __init__(self, job: LoadJob) -> None:
        self._job = job
        self._deliverer = Deliverer(job)
        self._store = open_spec(job.store)
        dataset = self._deliverer.dataset
        self._asked, open_queue = best_way(self._store, job.num_workers, job.io_depth, dataset.stored_bytes / max(dataset.num_samples, 1))
        self._num_workers, self._pieces_per_batch, _ = split_work(job.prefetch_batches, self._asked, job.batch_size)
        self._depth = job.prefetch_batches if self._num_workers else 0  # without workers a batch is read when it is asked for
        self._feed = Feed(self._num_workers) if self._num_workers else None
        self._workers: list[Worker] = []
        self._threads: list[threading.Thread] = []
        self._meter: ProcessMeter | None = None
        self._free: list[memoryview] = []
        self._slab_bytes = 0
        self._batches: Iterator[NDArray[np.int64]] = iter(())
        self._queue: deque[Assembly] = deque()
        self._held: Assembly | None = None
        try:
            for _ in range(max(self._num_workers, 1)):
                self._workers.append(Worker(open_queue(), self._deliverer, self._feed))
            self._batches_of(0)
            if self._slab_bytes >= HUGE_BYTES:  # zeroing huge pages takes its time, which is not the storage's
                self._free = [faulted_buffer(self._slab_bytes) for _ in range(self._depth + 1)]
        except BaseException:
            self.close()
            raise

    def plan(self, epoch: int) -> EpochPlan:
        return plan_job("sample", self._job, epoch)[0]

    def start(self, epoch: int) -> None:
        self.counters()  # from now on what this process reads is the dataset's
        self._batches = iter(self._batches_of(epoch))
        if self._feed is not None and not self._threads:
            self._threads = [threading.Thread(target=worker.run, name=f"direct-{index}", daemon=True) for index, worker in enumerate(self._workers)]
            for thread in self._threads:
                thread.start()
        self._fill(self._depth)

    def _batches_of(self, epoch: int) -> list[NDArray[np.int64]]:
        """The sample ids of each batch; slabs will be as long as the longest batch of all epochs so far needs."""
        plan, ids = plan_job("sample", self._job, epoch)
        bounds = np.cumsum([0, *plan.sizes])
        batches = [ids[low:high] for low, high in pairwise(bounds.tolist()) if high > low]
        self._slab_bytes = max([self._slab_bytes, *(self._memory_bytes(batch) for batch in batches)])
        return batches

    def _memory_bytes(self, ids: NDArray[np.int64]) -> int:
        return memory_bytes(self._deliverer, ids, self._workers[0].queue)

    def _fill(self, depth: int) -> None:
        """Keep `depth` batches ready or in flight."""
        while len(self._queue) < depth:
            ids = next(self._batches, None)
            if ids is None:
                return
            self._queue.append(self._begin(ids))

    def _begin(self, ids: NDArray[np.int64]) -> Assembly:
        batch = Assembly(self._take_slab() if self._slab_bytes else None)
        used = 0
        for part in cut(len(ids), self._pieces_per_batch):
            some = ids[part]
            if batch.slab is None:
                batch.add(some, None)
            else:
                size = self._memory_bytes(some)
                batch.add(some, batch.slab[used : used + size])
                used += size
        if self._feed is not None:
            self._feed.put(batch.tasks)
        else:
            self._workers[0].work_off(batch.tasks)
        return batch

    def _take_slab(self) -> memoryview:
        while self._free:
            slab = self._free.pop()
            if len(slab) >= self._slab_bytes:
                return slab
        return aligned_buffer(self._slab_bytes)

    def _give_back(self, batch: Assembly | None) -> None:
        if batch is not None and batch.slab is not None:
            self._free.append(batch.slab)
            batch.slab = None

    def next(self) -> Batch | None:
        self._give_back(self._held)
        self._held = None
        self._fill(max(self._depth, 1))
        if not self._queue:
            return None
        self._held = self._queue.popleft()
        pieces = self._held.pieces()
        self._fill(self._depth)
        return join(pieces, queue_level=sum(1 for batch in self._queue if batch.is_ready))

    def drain(self) -> None:
        if self._feed is not None and self._threads:
            self._feed.drain()
        for worker in self._workers if self._feed is None else ():
            worker.abandon()
        for batch in self._queue:
            self._give_back(batch)
        self._queue.clear()
        self._batches = iter(())
        self._give_back(self._held)
        self._held = None

    def counters(self) -> LoaderCounters:
        if self._meter is None:
            self._meter = ProcessMeter(self._store.counters, self._job.counts_process)
        return total_counters([self._meter.read()], in_rank=True, own_io=False)

    def effective(self) -> Mapping[str, Any]:
        notes = []
        if self._num_workers < self._asked:
            notes.append(f"{self._num_workers} of {self._asked} threads are used: no more pieces of a batch are in flight")
        queue = self._workers[0].queue
        return {
            "decode": self._job.decode,
            "workers": self._num_workers,
            "pieces_per_batch": self._pieces_per_batch,
            "io": getattr(self._store, "io", "client"),
            "reads": queue.how,
            "notes": notes,
        }

    def close(self) -> None:
        self.drain()
        if self._feed is not None:
            self._feed.stop()
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        for worker in self._workers:
            worker.queue.close()
        self._workers.clear()
        self._free.clear()
        if self._meter is not None:
            self._meter.close()
            self._meter = None
        self._store.close()
