"""torch DataLoader workers for our loaders: pieces of batches go to worker processes, come back in shared memory, in order.

Batches are formed in the rank, so that a batch can be worked on by several workers: prefetch then means what it says (`sampling.split_work`).
Workers start from the fork server, open their own store, and die with it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from storagebench.errors import StorageBenchError
from storagebench.loaders.delivery import Deliverer, Piece, ProcessMeter, join, total_counters
from storagebench.loaders.packed import ALIGNMENT_BYTES, Slabs
from storagebench.loaders.piece_stream import PieceStream, finished
from storagebench.plan import plan_job
from storagebench.protocols import Batch, Extent, LoaderCounters, LoadJob, Store
from storagebench.sampling import EpochPlan, cut, split_work
from storagebench.storage import open_spec, spec_of_reader
from storagebench.storage.buffers import aligned_buffer
from storagebench.usage import Watch


class PieceDataset(Dataset[Any]):  # type: ignore[misc]
    """Map style: the index is an int64 array of sample ids, the item a `Piece` (or the error, as a value: tracebacks are not for users).

    `read_many`: hand all extents of a piece to the store at once (S3), instead of one read a sample. `retries_unseen`: a library reads, which does not tell
    how often it asked again.
    """

    retries_unseen = False

    def __init__(self, job: LoadJob, read_many: bool, slabs: Slabs) -> None:
        self._job = job
        self._read_many = read_many
        self._slabs = slabs
        self._store: Store | None = None
        self._scratch: memoryview | None = None

    def __getitem__(self, ids: NDArray[np.int64]) -> Piece | StorageBenchError:
        try:
            if self._store is None:
                self._store = self._open_reads()
                self._deliverer = Deliverer(self._job)
                self._meter = ProcessMeter(self._store.counters)
            return self._piece(self._store, ids)
        except StorageBenchError as error:
            return copy(error)  # as out of a worker process: without the frames, which would keep the piece

    def _open_reads(self) -> Store:
        """What reads, in the process that uses it: our store, or what stands in for it (`read`, `read_into`, `counters`, `close`)."""
        info = torch.utils.data.get_worker_info()
        return open_spec(spec_of_reader(self._job.store, info.id if info is not None else 0))

    def _piece(self, store: Store, ids: NDArray[np.int64]) -> Piece:
        deliverer, info = self._deliverer, torch.utils.data.get_worker_info()
        extents = [deliverer.dataset.extent(int(sample), deliverer.whole_shard) for sample in ids]
        watch = Watch()
        slab = None
        if info is None:
            memory = aligned_buffer(_bytes_of(extents))
        elif deliverer.level >= 3:  # what is read is not what is handed over
            memory = self._take_scratch(_bytes_of(extents))
        else:
            slab = self._slabs.take(info.id, _bytes_of(extents))
            memory = slab.memory
        piece = deliverer.deliver_stored(ids, self._fetch(store, extents, memory), watch)
        if info is None:
            return finished(piece, piece.data, self._meter)
        begin = time.perf_counter()
        data = self._slabs.pack(info.id, piece.data) if slab is None else slab.send_in_place(piece.data)
        piece.spans_s["handover"] = time.perf_counter() - begin
        return finished(piece, data, self._meter)

    def _take_scratch(self, num_bytes: int) -> memoryview:
        if self._scratch is None or len(self._scratch) < num_bytes:
            self._scratch = aligned_buffer(num_bytes)
        return self._scratch

    def _fetch(self, store: Store, extents: Sequence[Extent], memory: memoryview) -> list[memoryview]:
        """Read into the memory, each sample page-aligned in it (O_DIRECT then needs no copy); where each extent lies."""
        targets, position = [], 0
        for extent in extents:
            targets.append(memory[position : position + (extent.length or 0)])
            position += _padded(extent)
        if self._read_many:
            for target, data in zip(targets, store.read(extents), strict=True):
                target[:] = data
        else:
            for target, extent in zip(targets, extents, strict=True):
                store.read_into(extent, target)
        return targets

    def close(self) -> None:
        """Close what was opened in this process: something only where there are no workers."""
        if self._store is not None:
            self._meter.close()
            self._store.close()
            self._store = None


def _padded(extent: Extent) -> int:
    return -(-(extent.length or 0) // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _bytes_of(extents: Sequence[Extent]) -> int:
    """Memory for these extents, each starting on a page."""
    return sum(_padded(extent) for extent in extents)


class _Pieces:
    """The sampler: the pieces of the coming epoch, set before each."""

    def __init__(self) -> None:
        self.pieces: list[Any] = []

    def __iter__(self) -> Iterator[Any]:
        return iter(self.pieces)

    def __len__(self) -> int:
        return len(self.pieces)


class TorchRun:
    """A `LoaderRun` over a torch DataLoader whose items are pieces. Files and s3 differ in `read_many` only; a library that reads in place of our store
    brings `pieces` and what the report is to have of its settings."""

    def __init__(self, job: LoadJob, read_many: bool, pieces: type[PieceDataset] = PieceDataset, settings: Mapping[str, Any] | None = None) -> None:
        self._job, self._settings = job, settings or {}
        self._workers, self._pieces_per_batch, self._prefetch = split_work(job.prefetch_batches, job.num_workers, job.batch_size)
        self._sampler = _Pieces()
        slabs = Slabs(self._workers)
        self._dataset = pieces(job, read_many, slabs)
        self._stream = PieceStream(self._dataset, self._sampler, self._workers, self._prefetch, slabs)
        self._counts: deque[int] = deque()

    def plan(self, epoch: int) -> EpochPlan:
        return plan_job("sample", self._job, epoch)[0]

    def start(self, epoch: int) -> None:
        plan, ids = plan_job("sample", self._job, epoch)
        self._sampler.pieces = []
        self._counts.clear()
        position = 0
        for size in plan.sizes:
            if size:
                parts = cut(size, self._pieces_per_batch)
                self._sampler.pieces += [ids[position + part.start : position + part.stop] for part in parts]
                self._counts.append(len(parts))
            position += size
        self._stream.start()

    def next(self) -> Batch | None:
        self._stream.release()
        if not self._counts:
            return None
        return join([self._stream.next() for _ in range(self._counts.popleft())], queue_level=None)

    def drain(self) -> None:
        self._counts.clear()
        self._sampler.pieces.clear()  # what was not sent to a worker yet
        self._stream.drain()

    def counters(self) -> LoaderCounters:
        found = total_counters(self._stream.counters(), in_rank=self._workers == 0, own_io=False)
        return replace(found, retries=None) if self._dataset.retries_unseen else found

    def effective(self) -> Mapping[str, Any]:
        notes = []
        if self._workers < self._job.num_workers:
            notes.append(
                f"{self._workers} of {self._job.num_workers} workers are used: {self._job.prefetch_batches} prefetched batches "
                f"of {self._job.batch_size} give no work for more"
            )
        return {
            "decode": self._job.decode,
            "workers": self._workers,
            "pieces_per_batch": self._pieces_per_batch,
            "prefetch_factor": self._prefetch,
            "start_method": "forkserver",
            **self._settings,
            "notes": notes,
        }

    def close(self) -> None:
        self._stream.close()
        self._dataset.close()
