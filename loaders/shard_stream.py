"""The worker's side of the webdataset loader: whole tar shards through the library's own pipeline, out of it pieces of samples.

The library reads and shuffles; what is here tells it which shards to read, checks what it gives, and never skips an error.
"""

from __future__ import annotations

import os
import random
import tarfile
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from copy import copy
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset
from webdataset import filters, tariterators

from storagebench.errors import DatasetError, StorageBenchError, StorageError
from storagebench.loaders.delivery import Deliverer, Piece, ProcessMeter
from storagebench.loaders.packed import Slabs
from storagebench.loaders.piece_stream import finished
from storagebench.plan import plan_job
from storagebench.protocols import LoadJob, Store
from storagebench.sampling import EpochPlan, Indices
from storagebench.storage import open_spec
from storagebench.usage import Watch

_HINT = "run `storagebench verify`, then generate or import the dataset again"
# Of local files, in place of the library's 8 KiB: its tar reader asks for 10 KiB at a time, and this takes a fifth of its CPU time away.
GOPEN_BUFFER = str(128 * 1024)
_DAMAGES = (tarfile.TarError, ValueError, EOFError, AssertionError)  # the library asserts on what it reads


def plan_shards(job: LoadJob, epoch: int) -> tuple[EpochPlan, Indices]:
    """The plan of the job's rank, and its shards in reading order."""
    return plan_job("shard", job, epoch)


class ShardStream(IterableDataset[Any]):  # type: ignore[misc]  # torch is not type-checked
    """Pieces of the shards of one worker, of `piece_samples` each, then an empty one with the worker's last counters. An error comes as a value.

    Persistent workers keep their copy of this, so the epoch, and the wish to end it early, are handed over in shared memory.
    """

    def __init__(self, job: LoadJob, num_workers: int, piece_samples: int, buffer_samples: int, slabs: Slabs) -> None:
        self._job = job
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
            os.environ.setdefault("GOPEN_BUFFER", GOPEN_BUFFER)
            self._deliverer = Deliverer(self._job)
            self._store = None if self._job.store.kind == "posix" else open_spec(self._job.store)
            self._meter = ProcessMeter(self._store.counters if self._store is not None else None)
        return self._meter

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
        """(sample id, record) of these shards, through the library's shuffle buffer."""
        read = (sample for shard in shards.tolist() for sample in self._samples_of(shard))
        if not self._job.shuffle:
            yield from read
            return
        rng = random.Random(f"{self._job.seed} {epoch} {self._job.rank} {worker}")
        yield from filters.shuffle(self._buffer_samples, rng=rng)(read)

    def _samples_of(self, shard: int) -> Iterator[tuple[int, memoryview]]:
        """One shard, opened and read by the library. DatasetError where it is not what the manifest says: the library alone would pass it over."""
        dataset = self._job.dataset
        name, first, count = dataset.names[shard], int(dataset.first_sample[shard]), int(dataset.shard_samples[shard])
        source: dict[str, Any] = {"url": name}
        done = 0
        try:
            for sample in self._read(source, shard):
                sample_id, record = _record(sample)
                if not first <= sample_id < first + count or len(record) != dataset.index["record_bytes"][sample_id]:
                    raise ValueError(f"sample {sample_id} with {len(record)} bytes is not in the manifest")
                done += 1
                yield sample_id, record
        except FileNotFoundError:
            raise DatasetError(f"shard {name} is missing in {self._job.store.url}", _HINT) from None
        except OSError as error:
            raise StorageError(
                f"cannot read shard {name} in {self._job.store.url}: {error.strerror}", "check its permissions and the device"
            ) from None
        except _DAMAGES as error:
            raise DatasetError(f"shard {name} does not read as the tar file it was: {error.args[0] if error.args else error}", _HINT) from None
        finally:
            if "stream" in source:
                source["stream"].close()  # the library leaves that to the garbage collector
        if done != count:
            raise DatasetError(f"shard {name} ended after {done} samples, and the manifest says {count}", _HINT)

    def _read(self, source: dict[str, Any], shard: int) -> Iterator[dict[str, Any]]:
        """The library's samples. A local path is opened by the library itself (gopen), on other storage it gets our store's stream."""
        raising = filters.reraise_exception
        if self._store is None:
            source["url"] = os.path.join(self._job.store.root, source["url"])
            samples: Iterator[dict[str, Any]] = tariterators.tarfile_samples(iter([source]), handler=raising)
            return samples
        source["stream"] = self._store.open_stream(source["url"], int(self._job.dataset.shard_bytes[shard]))
        files = tariterators.tar_file_expander(iter([source]), handler=raising)
        samples = tariterators.group_by_keys(files, handler=raising)
        return samples


def _record(sample: dict[str, Any]) -> tuple[int, memoryview]:
    """Sample id and record of a sample as the library gives it: the member that is neither the label nor the library's own."""
    names = [name for name in sample if name != "cls" and not name.startswith("__")]
    if len(names) != 1:
        raise ValueError(f"sample {sample.get('__key__')} has the members {sorted(names)} beside its label, and one is expected")
    return int(sample["__key__"]), memoryview(sample[names[0]])
