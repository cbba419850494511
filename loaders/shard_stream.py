"""The worker's side of loaders that read whole shards in sequence (webdataset, tfrecord): their samples, through a shuffle buffer, in pieces.

A `ShardReader` reads and shuffles; what is here tells it which shards to read, checks what it gives, and never skips an error.
"""

from __future__ import annotations

import random
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from copy import copy
from itertools import islice
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch.utils.data import IterableDataset

from storagebench.errors import DatasetError, StorageBenchError, StorageError
from storagebench.loaders.delivery import Deliverer, Piece, ProcessMeter
from storagebench.loaders.packed import Slabs
from storagebench.loaders.piece_stream import finished
from storagebench.plan import plan_job
from storagebench.protocols import LoadJob, Store, StoreSpec
from storagebench.sampling import EpochPlan, Indices
from storagebench.storage import open_spec, spec_of_reader
from storagebench.usage import Watch

_HINT = "run `storagebench verify`, then generate or import the dataset again"


class ShardReader(Protocol):
    """How one kind of shard is read. Plain data: it goes to the worker processes. `what` names the kind in messages, `damages` are the exceptions that
    stand for a shard that is not what it was."""

    what: str
    damages: tuple[type[Exception], ...]

    def prepare(self) -> None:
        """Once in each process that reads."""

    def samples(self, store: Store | None, root: str, name: str, num_bytes: int) -> Generator[tuple[int, memoryview]]:
        """(sample id, record) of a shard in its order; `store` None: a file below the local path `root`. All that it opened is closed with it."""

    def shuffled(self, samples: Iterator[tuple[int, memoryview]], buffer_samples: int, rng: random.Random) -> Iterator[tuple[int, memoryview]]:
        """The same samples in another order, out of a buffer of so many."""


def plan_shards(job: LoadJob, epoch: int) -> tuple[EpochPlan, Indices]:
    """The plan of the job's rank, and its shards in reading order."""
    return plan_job("shard", job, epoch)


class _StrangerError(Exception):
    """A sample that the manifest does not have there."""


class SampleStream(IterableDataset[Any]):  # type: ignore[misc]  # torch is not type-checked
    """Pieces of the shards of one worker, of `piece_samples` each, then an empty one with the worker's last counters. An error comes as a value.

    `reader` has a method `prepare`, and `counters` if it counts what it reads of local files; what else it does is the subclass's, which gives the samples of
    the worker's shards. Persistent workers keep their copy of this, so the epoch, and the wish to end it early, are handed over in shared memory.
    """

    def __init__(self, job: LoadJob, reader: Any, num_workers: int, piece_samples: int, buffer_samples: int, slabs: Slabs) -> None:
        self._job = job
        self._reader = reader
        self._slabs = slabs
        self._num_workers = max(num_workers, 1)
        self._piece_samples = piece_samples
        self._buffer_samples = buffer_samples
        self._signal = torch.zeros(2, dtype=torch.int64)
        if num_workers:
            self._signal.share_memory_()
        self._meter: ProcessMeter | None = None
        self._store: Store | None = None

    def begin(self, epoch: int) -> None:
        """What the next iteration reads; called while all workers are idle."""
        self._signal[0] = epoch
        self._signal[1] = 0

    def end(self) -> None:
        """Have all workers stop after the piece that they are at."""
        self._signal[1] = 1

    def __iter__(self) -> Iterator[Piece | StorageBenchError]:
        try:
            meter = self._open()
            yield from self._pieces(meter)
            yield self._last_piece(meter)
        except StorageBenchError as error:
            yield copy(error)  # as out of a worker process: without the frames, which would keep the stream

    def close(self) -> None:
        """Close what was opened in this process: something only where there are no workers."""
        if self._meter is not None:
            self._meter.close()
            self._meter = None
        if self._store is not None:
            self._store.close()
            self._store = None
        self._signal = self._signal.clone()  # the shared one holds a descriptor

    def _open(self) -> ProcessMeter:
        if self._meter is None:
            self._reader.prepare()
            self._deliverer = Deliverer(self._job)
            self._store = None if self._job.store.kind == "posix" else open_spec(self._spec_of_worker())
            self._meter = ProcessMeter(self._store.counters if self._store is not None else getattr(self._reader, "counters", None))
        return self._meter

    def _spec_of_worker(self) -> StoreSpec:
        info = torch.utils.data.get_worker_info()
        return spec_of_reader(self._job.store, info.id if info is not None else 0)

    def _pieces(self, meter: ProcessMeter) -> Iterator[Piece]:
        info = torch.utils.data.get_worker_info()
        worker, epoch = info.id if info else 0, int(self._signal[0])
        _, shards = plan_shards(self._job, epoch)
        with closing(self._samples(shards[worker :: self._num_workers], epoch, worker)) as samples:
            while not self._signal[1]:
                watch = Watch()
                some = list(islice(samples, self._piece_samples))
                if not some:
                    return
                ids = np.array([sample for sample, _ in some], np.int64)
                yield self._finish(ids, [record for _, record in some], watch, meter)

    def _finish(self, ids: Indices, records: list[memoryview], watch: Watch, meter: ProcessMeter) -> Piece:
        piece = self._deliverer.deliver_records(ids, records, {"fetch": watch.wall_s()}, watch, watch.cpu_s())
        info = torch.utils.data.get_worker_info()
        if info is None:
            return finished(piece, piece.data, meter)
        begin = time.perf_counter()
        data = self._slabs.pack(info.id, piece.data)
        piece.spans_s["handover"] = time.perf_counter() - begin
        return finished(piece, data, meter)

    def _last_piece(self, meter: ProcessMeter) -> Piece:
        nothing = np.empty(0, np.int64)
        return finished(Piece(nothing, [], nothing, nothing, None, None, {}, 0), [], meter)

    def _samples(self, shards: Indices, epoch: int, worker: int) -> Generator[tuple[int, memoryview]]:
        """(sample id, record) of these shards, each sample once, in another order if the job wants that."""
        raise NotImplementedError


class ShardStream(SampleStream):
    """One shard after the other out of a `ShardReader`, through a shuffle buffer."""

    def _samples(self, shards: Indices, epoch: int, worker: int) -> Generator[tuple[int, memoryview]]:
        """(sample id, record) of these shards, through the shuffle buffer."""
        read = (sample for shard in shards.tolist() for sample in self._samples_of(shard))
        if not self._job.shuffle:
            yield from read
            return
        rng = random.Random(f"{self._job.seed} {epoch} {self._job.rank} {worker}")
        yield from self._reader.shuffled(read, self._buffer_samples, rng)

    def _samples_of(self, shard: int) -> Iterator[tuple[int, memoryview]]:
        """One shard. DatasetError where it is not what the manifest says: a library alone would pass it over."""
        dataset, reader = self._job.dataset, cast(ShardReader, self._reader)
        name, first, count = dataset.names[shard], int(dataset.first_sample[shard]), int(dataset.shard_samples[shard])
        damages: tuple[type[Exception], ...] = (_StrangerError, *reader.damages)
        done = 0
        try:
            with closing(reader.samples(self._store, self._job.store.root, name, int(dataset.shard_bytes[shard]))) as samples:
                for sample_id, record in samples:
                    if not first <= sample_id < first + count or len(record) != dataset.index["record_bytes"][sample_id]:
                        raise _StrangerError(f"sample {sample_id} with {len(record)} bytes is not in the manifest")
                    done += 1
                    yield sample_id, record
        except FileNotFoundError:
            raise DatasetError(f"shard {name} is missing in {self._job.store.url}", _HINT) from None
        except OSError as error:
            raise StorageError(
                f"cannot read shard {name} in {self._job.store.url}: {error.strerror}", "check its permissions and the device"
            ) from None
        except damages as error:
            said = error.message if isinstance(error, StorageBenchError) else error.args[0] if error.args else error
            raise DatasetError(f"shard {name} does not read as the {reader.what} it was: {said}", _HINT) from None
        if done != count:
            raise DatasetError(f"shard {name} ended after {done} samples, and the manifest says {count}", _HINT)
