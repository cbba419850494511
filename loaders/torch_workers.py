"""torch DataLoader workers for our loaders: pieces of batches go to worker processes, come back in shared memory, in order.

Batches are formed in the rank, so that a batch can be worked on by several workers: prefetch then means what it says (`sampling.split_work`).
Workers start from the fork server, open their own store, and die with it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from storagebench.errors import RankError, StorageBenchError
from storagebench.loaders.delivery import Deliverer, Piece, ProcessCounters, ProcessMeter, join, total_counters
from storagebench.plan import plan_epoch
from storagebench.process import die_with_parent, fork_server_context
from storagebench.protocols import Batch, Extent, LoaderCounters, LoadJob, Store
from storagebench.sampling import EpochPlan, cut, split_work
from storagebench.storage import open_spec

_ALIGNMENT_BYTES = 4096


def init_worker(_worker_id: int) -> None:
    """Runs first in each worker process."""
    die_with_parent()
    torch.set_num_threads(1)


def identity(value: Any) -> Any:
    """Collate nothing: pieces are whole already."""
    return value


def shared_bytes(num_bytes: int) -> tuple[torch.Tensor, memoryview]:
    """A uint8 tensor in shared memory (page-aligned) and its memory, so that reads land where the rank will find them."""
    storage = torch.UntypedStorage._new_shared(max(num_bytes, 1))
    tensor = torch.empty(0, dtype=torch.uint8).set_(storage, 0, (num_bytes,))
    return tensor, memoryview(tensor.numpy())


class PieceDataset(Dataset[Any]):  # type: ignore[misc]
    """Map style: the index is an int64 array of sample ids, the item a `Piece` (or the error, as a value: tracebacks are not for users).

    `read_many`: hand all extents of a piece to the store at once (S3), instead of one read a sample.
    """

    def __init__(self, job: LoadJob, read_many: bool) -> None:
        self._job = job
        self._read_many = read_many
        self._store: Store | None = None

    def __getitem__(self, ids: NDArray[np.int64]) -> Piece | StorageBenchError:
        try:
            if self._store is None:
                self._store = open_spec(self._job.store)
                self._deliverer = Deliverer(self._job)
                self._meter = ProcessMeter(self._store.counters)
            return self._piece(self._store, ids)
        except StorageBenchError as error:
            return error

    def _piece(self, store: Store, ids: NDArray[np.int64]) -> Piece:
        deliverer = self._deliverer
        extents = [deliverer.dataset.extent(int(sample), deliverer.whole_shard) for sample in ids]
        begin = time.perf_counter()
        tensor, stored = self._fetch(store, extents)
        fetch_s = time.perf_counter() - begin
        done = deliverer.deliver_stored(ids, stored)
        data: Any = tensor if deliverer.level < 3 else [torch.from_numpy(value) for value in done.data]
        info = torch.utils.data.get_worker_info()
        return Piece(
            sample_ids=ids,
            data=data,
            record_bytes=done.record_bytes,
            handover_bytes=done.handover_bytes,
            checksums=done.checksums,
            checked=done.checked,
            spans_s={"fetch": fetch_s, **done.spans_s},
            finished_ns=time.monotonic_ns(),
            worker=info.id if info else 0,
            counters=self._meter.read(),
        )

    def _fetch(self, store: Store, extents: Sequence[Extent]) -> tuple[torch.Tensor, list[memoryview]]:
        """Read into one shared tensor, each sample page-aligned in it (O_DIRECT then needs no copy)."""
        starts, total = [], 0
        for extent in extents:
            starts.append(total)
            total += -(-(extent.length or 0) // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
        tensor, memory = shared_bytes(total)
        targets = [memory[start : start + (extent.length or 0)] for start, extent in zip(starts, extents, strict=True)]
        if self._read_many:
            for target, data in zip(targets, store.read(extents), strict=True):
                target[:] = data
        else:
            for target, extent in zip(targets, extents, strict=True):
                store.read_into(extent, target)
        return tensor, targets


class _Pieces:
    """The sampler: the pieces of the coming epoch, set before each."""

    def __init__(self) -> None:
        self.pieces: list[Any] = []

    def __iter__(self) -> Iterator[Any]:
        return iter(self.pieces)

    def __len__(self) -> int:
        return len(self.pieces)


class TorchRun:
    """A `LoaderRun` over a torch DataLoader whose items are pieces. Subclasses of nothing: files and s3 differ in `read_many` only."""

    def __init__(self, job: LoadJob, read_many: bool) -> None:
        self._job = job
        self._workers, self._pieces_per_batch, self._prefetch = split_work(job.prefetch_batches, job.num_workers, job.batch_size)
        self._sampler = _Pieces()
        self._stream = PieceStream(PieceDataset(job, read_many), self._sampler, self._workers, self._prefetch)
        self._counts: deque[int] = deque()

    def plan(self, epoch: int) -> EpochPlan:
        return self._plan(epoch)[0]

    def _plan(self, epoch: int) -> tuple[EpochPlan, NDArray[np.int64]]:
        job = self._job
        return plan_epoch(
            "sample",
            job.dataset,
            epoch=epoch,
            rank=job.rank,
            world_size=job.world_size,
            batch_size=job.batch_size,
            seed=job.seed,
            shuffle=job.shuffle,
            keep=job.keep_remainder,
        )

    def start(self, epoch: int) -> None:
        plan, ids = self._plan(epoch)
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
        if not self._counts:
            return None
        return join([self._stream.next() for _ in range(self._counts.popleft())], queue_level=None)

    def drain(self) -> None:
        self._counts.clear()
        self._stream.drain()

    def counters(self) -> LoaderCounters:
        return total_counters(self._stream.counters(), in_rank=self._workers == 0, own_io=False)

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
            "notes": notes,
        }

    def close(self) -> None:
        self._stream.close()


class PieceStream:
    """The DataLoader itself: pieces in order, errors raised, the last counters of each worker kept, workers alive over epochs."""

    def __init__(self, dataset: Any, sampler: Any, workers: int, prefetch: int) -> None:
        more: dict[str, Any] = {}
        if workers:
            more = {
                "prefetch_factor": prefetch,
                "multiprocessing_context": fork_server_context(),
                "persistent_workers": True,
                "worker_init_fn": init_worker,
            }
        collate: Callable[[Any], Any] = identity
        self._loader: DataLoader[Any] | None = DataLoader(
            dataset, batch_size=None, sampler=sampler, num_workers=workers, collate_fn=collate, **more
        )
        self._iterator: Any = None
        self._counters: dict[int, ProcessCounters] = {}

    def start(self) -> None:
        """Begin an epoch; the first one starts the workers."""
        if self._loader is None:
            raise RankError("the loader was closed before the epoch started", "this is a defect: run with --debug and report it")
        self._iterator = iter(self._loader)

    def next(self) -> Piece:
        """The next piece; StopIteration becomes a RankError, for the plan says how many there are."""
        try:
            piece = next(self._iterator)
        except StopIteration:
            raise RankError("the loader's workers ended the epoch early", "run with --debug and report it") from None
        except RuntimeError as error:
            raise RankError(f"a loader worker died: {str(error).splitlines()[0]}", "look for the kernel's OOM killer, or a signal sent by hand") from error
        if isinstance(piece, StorageBenchError):
            raise piece
        self._counters[piece.worker] = piece.counters
        assert isinstance(piece, Piece)
        return piece

    def drain(self) -> None:
        """Workers keep nothing open between pieces; what is in flight in mid-epoch is dropped when the workers end."""
        self._iterator = None

    def counters(self) -> list[ProcessCounters]:
        return list(self._counters.values())

    def close(self) -> None:
        """Dropping the DataLoader joins its workers."""
        self._iterator = None
        self._loader = None
