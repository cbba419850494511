"""LitData as training scripts use it: `StreamingDataset` over its own chunks in torch DataLoader workers, shuffled chunk by chunk as the library does it.

Settings and where they are from (litdata 0.2.76, the source). A local path is read in place: chunks are mapped and the next ones announced with
`posix_fadvise`, no copy is made (streaming/posix_fast.py: "On a POSIX path the copy is wasted"); `max_pre_download=2` and `batch_decode="auto"` are its defaults.
Which chunks a worker reads is ours (`Shuffle` is the class that the library asks): the ranks of a plan have whole chunks. In a chunk the samples are shuffled
as `FullShuffle` does it, in blocks of 256; LitData has no shuffle buffer over chunks. The library's `StreamingDataLoader` is a torch DataLoader that counts
epochs for checkpoints; here the DataLoader is ours, with the same workers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

os.environ.setdefault("LITDATA_DISABLE_VERSION_CHECK", "1")  # it would ask the network for a newer one
import litdata
from litdata.streaming.shuffle import FullShuffle, NoShuffle
from litdata.utilities.env import _DistributedEnv

from storagebench.loaders.library_shards import LibraryStream
from storagebench.loaders.sequential import SequentialRun, refuse_idle_ranks
from storagebench.protocols import LoaderRun, LoadJob
from storagebench.sampling import Indices

_FOLDER = "shards"


class LitDataLoader:
    """UsageError where a rank would get no shard."""

    name = "litdata"

    def open(self, job: LoadJob) -> LoaderRun:
        refuse_idle_ranks(self.name, job)
        settings = {"litdata": str(litdata.__version__), "reads": "chunks mapped in place", "shuffle_buffer_of_a_worker": 0}
        return SequentialRun(job, Chunks(), settings, LibraryStream)


class Chunks:
    """One `StreamingDataset` an epoch and worker."""

    name = "litdata"
    maps_files = True

    def prepare(self) -> None:
        """Nothing to be set."""

    def chunks(self, job: LoadJob, shards: Indices, epoch: int, worker: int) -> Iterator[tuple[Indices, Sequence[Any]]]:
        dataset = _Planned(job, shards, os.path.join(job.store.root, _FOLDER))
        dataset.set_epoch(epoch)
        try:
            for sample, record, _ in iter(dataset):
                yield np.array([sample], np.int64), [memoryview(bytes(record))]  # not what lies in the mapping, which is about to go
        finally:
            dataset.close()


class _Planned(litdata.StreamingDataset):  # type: ignore[misc]
    """Reads these chunks in this order, whatever other workers do."""

    def __init__(self, job: LoadJob, shards: Indices, folder: str) -> None:
        super().__init__(folder, shuffle=job.shuffle, seed=job.seed, drop_last=False)
        self.distributed_env = _DistributedEnv(1, 0, 1)  # ranks are planned for
        self._shards = shards.tolist()

    def _create_shuffler(self, cache: Any) -> Any:
        kind = FullShuffle if self.shuffle else NoShuffle
        return _of_plan(kind)(cache, self.seed, False, self._shards)

    def close(self) -> None:
        """Close the mappings, which the library leaves to the garbage collector."""
        cache: Any = self.__dict__.pop("cache")
        self.shuffler = None
        if cache is not None:
            cache._reader._item_loader._close_open_chunk()
            cache._reader.__del__()


def _of_plan(kind: Any) -> Any:
    """The library's shuffle of this kind, but for the chunks of the workers."""

    class Planned(kind):  # type: ignore[misc]
        def __init__(self, cache: Any, seed: int, drop_last: bool, shards: list[int]) -> None:
            super().__init__(cache, seed, drop_last)
            self._shards = shards

        def get_chunks_and_intervals_per_workers(self, distributed_env: Any, num_workers: int, batch_size: int, current_epoch: int) -> Any:
            """The same for each worker: each of them has a dataset of its own, and asks for its own part only."""
            every = self.cache.get_chunk_intervals()
            return [self._shards] * num_workers, [[every[shard] for shard in self._shards]] * num_workers

    return Planned
