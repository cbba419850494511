"""Mosaic streaming as training scripts use it: `StreamingDataset` in torch DataLoader workers, which copy whole shards into a local cache and read from there.

Settings and where they are from (mosaicml-streaming 0.13, docs "Dataset configuration" and the source). `predownload` = 8 batches, its default; `batch_size` given;
shuffle `py1e`, its default, with its default block of 2^18 samples; `cache_limit` none, its default: what was copied stays. `remote` is the dataset and `local` an
empty folder of the rank's own, so that the first epoch reads the storage and later ones the cache: the run says which. (The ranks of a host share one cache in the
library; here each has its own, since a shard goes to another rank in another epoch only if the plan says so.) Which shards a worker reads is ours; the order in them
is the library's shuffle. `StreamingDataLoader` is a torch DataLoader that counts samples for checkpoints; here the DataLoader is ours, with the same workers.

The library knows ranks by the environment and by torch.distributed, and meets the others in shared memory by number. Each rank is a world of its own here, which is
said to it in its own terms while its dataset is made; its lock files lie in the cache folder.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import tempfile
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import streaming
import streaming.base.dataset
import streaming.base.shared.prefix
from streaming.base.shuffle import get_shuffle

from storagebench.errors import StorageBenchError
from storagebench.loaders.blame import explain
from storagebench.loaders.library_shards import LibraryStream
from storagebench.loaders.local_cache import LocalCache
from storagebench.loaders.sequential import SequentialRun, refuse_idle_ranks
from storagebench.protocols import IOCounters, LoaderRun, LoadJob
from storagebench.sampling import Indices

_FOLDER = "shards"
_ALONE = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
_NO_DISTRIBUTED = SimpleNamespace(is_available=lambda: False, is_initialized=lambda: False)
_one_at_a_time = threading.Lock()


class MosaicStreamingLoader:
    """UsageError where a rank would get no shard."""

    name = "mosaicml-streaming"

    def open(self, job: LoadJob) -> LoaderRun:
        refuse_idle_ranks(self.name, job)
        cache = LocalCache(self.name)
        try:
            shards = Shards(job, cache)
        except BaseException as error:
            cache.close()
            if isinstance(error, StorageBenchError) or not isinstance(error, Exception):
                raise
            raise explain(job, job.shards_here, self.name, error) from None
        settings = {
            "mosaicml-streaming": str(streaming.__version__),
            "predownload": shards.dataset.predownload,
            "cache_limit": None,
            "local_cache": str(cache.path),
            "shuffle_algo": "py1e" if job.shuffle else None,
            "shuffle_buffer_of_a_worker": 0,
        }
        return SequentialRun(job, shards, settings, LibraryStream, cache, shards.close)


class Shards:
    """One `StreamingDataset` a rank, made in the rank and handed to its workers, as the library wants it: they share the cache and what is known of it."""

    name = "mosaicml-streaming"
    maps_files = False

    def __init__(self, job: LoadJob, cache: LocalCache) -> None:
        with _alone(str(cache.path)):
            self.dataset = _Planned(
                remote=os.path.join(job.store.root, _FOLDER),
                local=str(cache.path / _FOLDER),
                batch_size=job.batch_size,
                shuffle=job.shuffle,
                shuffle_seed=job.seed,
                num_canonical_nodes=1,
            )

    def prepare(self) -> None:
        """Count what is copied from now on."""
        self.dataset.copied = IOCounters()

    def counters(self) -> IOCounters:
        return self.dataset.copied

    def chunks(self, job: LoadJob, shards: Indices, epoch: int, worker: int) -> Iterator[tuple[Indices, Sequence[Any]]]:
        if not len(shards):
            return
        self.dataset.ids = self._order(job, shards, epoch)
        with closing(self.dataset.all_samples()) as samples:
            for sample, found in samples:
                yield np.array([sample], np.int64), [memoryview(found["x"])]

    def _order(self, job: LoadJob, shards: Indices, epoch: int) -> Indices:
        """Sample ids of these shards, as the library's own shuffle has them."""
        sizes = job.dataset.shard_samples[shards]
        places = np.repeat(job.dataset.first_sample[shards] - (np.cumsum(sizes) - sizes), sizes) + np.arange(int(sizes.sum()))
        if not job.shuffle:
            return np.asarray(places, np.int64)
        block = self.dataset.shuffle_block_size or 1 << 18
        return np.asarray(places[get_shuffle("py1e", sizes, 1, job.seed, epoch, block)], np.int64)

    def close(self) -> None:
        """Give back the shared memory, which the library keeps until the process ends."""
        self.dataset.forget_shared_memory()


class _Planned(streaming.StreamingDataset):  # type: ignore[misc]
    """Iterates over `ids`, and says which sample it gives."""

    ids: Indices
    copied = IOCounters()

    def _resume_incr_epoch(self) -> tuple[int, int]:
        return 0, 0

    def _get_work(self, epoch: int, sample_in_epoch: int) -> Indices:
        return self.ids

    def __getitem__(self, at: Any) -> Any:
        return int(at), super().__getitem__(at)

    def on_exception(self, future: Any) -> None:
        """In place of the library's, which has the traceback printed: the iteration ends, and the missing samples are noticed."""
        if future.exception() is not None:
            self._event.set()

    def prepare_shard(self, shard_id: int, blocking: bool = True) -> None:
        """The library's, with what its downloader copies counted."""
        self._count_copies(self.streams[self.stream_per_shard[shard_id]]._downloader)
        super().prepare_shard(shard_id, blocking)

    def _count_copies(self, downloader: Any) -> None:
        if hasattr(downloader, "counted"):
            return
        original = downloader.download

        def download(remote: str, local: str, timeout: float) -> None:
            original(remote, local, timeout)
            self.copied = self.copied + IOCounters(os.path.getsize(local), 1)

        downloader.download, downloader.counted = download, True

    def all_samples(self) -> Generator[Any]:
        """One epoch; its threads are gone when it is closed."""
        try:
            yield from iter(self)
        finally:
            if hasattr(self, "_iterator"):
                self._iterator.non_blocking_exit()
            if hasattr(self, "_executor"):
                self._executor.shutdown(wait=True)
                del self._executor
            self.__dict__.pop("_iterator", None)
            self.__dict__.pop("_event", None)

    def forget_shared_memory(self) -> None:
        for held in (self._next_epoch.arr, self._cache_usage.arr, self._shard_states, self._shard_access_times, *vars(self._shared_barrier).values()):
            memory = getattr(getattr(held, "arr", held), "shm", None)
            if memory is not None:
                _give_back(memory)
        _give_back(self._locals_shm)
        del self._locals_shm


def _give_back(memory: Any) -> None:
    atexit.unregister(memory.cleanup)
    memory.cleanup()


@contextmanager
def _alone(folder: str) -> Iterator[None]:
    """A world of one rank, as far as the library can see. One at a time on this host, as it takes the first number of shared memory that is free."""
    with _one_at_a_time, open(os.path.join(tempfile.gettempdir(), "storagebench-mosaicml-streaming.lock"), "w") as lock, ExitStack() as stack:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stack.enter_context(mock.patch.dict(os.environ, _ALONE))
        stack.enter_context(mock.patch.object(streaming.base.dataset, "dist", _NO_DISTRIBUTED))
        stack.enter_context(mock.patch.object(streaming.base.shared.prefix, "dist", _NO_DISTRIBUTED))
        stack.enter_context(mock.patch.object(streaming.base.dataset, "gettempdir", lambda: folder))
        yield
