"""NVIDIA DALI over TFRecords, written against its documented API (DALI 1.50, `nvidia.dali.fn.readers.tfrecord`) and not run yet: it is published for NVIDIA's devices.

Settings and where they are from (DALI's documentation, "TFRecord reader", and "Performance"). `prefetch_queue_depth=2` of the pipeline, its default; `num_threads` =
`--num-workers`; `initial_fill` = `--shuffle-buffer`, a reservoir and no shuffle of the whole dataset; `dont_use_mmap=True`, as what is mapped is no read() that the
kernel would count; `read_ahead=True`, which needs that. The index files are those beside our shards. The pipeline is one of the CPU and hands over records, not
images: decoding is ours, so that loaders can be compared. Readers never end, so we end the epoch; each epoch has its own pipeline over its files in their order.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from nvidia import dali
from nvidia.dali import fn
from nvidia.dali import tfrecord as features

from storagebench.adapters import Unit
from storagebench.loaders.blame import checked
from storagebench.loaders.delivery import Deliverer, Piece, at_least_parse
from storagebench.loaders.in_process import InProcessRun, deliver
from storagebench.loaders.sequential import refuse_idle_ranks
from storagebench.manifest import side_key
from storagebench.plan import plan_job
from storagebench.protocols import IOCounters, LoaderRun, LoadJob, ShardIndexed
from storagebench.registry import open_format
from storagebench.sampling import Indices

PREFETCH_QUEUE_DEPTH = 2


class DaliLoader:
    """UsageError where a rank would get no shard."""

    name = "dali"

    def open(self, job: LoadJob) -> LoaderRun:
        refuse_idle_ranks(self.name, job)
        job = replace(job, decode=at_least_parse(job.decode))
        return InProcessRun(job, Records(job), {"dali": str(dali.__version__)})


class Records:
    """The pipelines over one rank's files."""

    unit: Unit = "shard"
    own_io = True

    def __init__(self, job: LoadJob) -> None:
        self._job = job
        self._deliverer = Deliverer(job)
        self._threads = max(job.num_workers, 1)

    def pieces(self, epoch: int) -> Generator[Piece]:
        _, shards = plan_job("shard", self._job, epoch)
        yield from deliver(self._deliverer, checked(self._job, shards, "dali", lambda: self._chunks(shards, epoch)))

    def _chunks(self, shards: Indices, epoch: int) -> Iterator[tuple[Indices, Sequence[Any]]]:
        left = int(self._job.dataset.shard_samples[shards].sum())
        pipeline = self._pipeline(shards, epoch)
        pipeline.build()
        while left:
            records, ids = pipeline.run()
            count = min(left, len(records))
            # Copied: the pipeline uses its memory again.
            yield (
                np.array([int(np.asarray(ids.at(index)).reshape(-1)[0]) for index in range(count)], np.int64),
                [memoryview(bytes(records.at(index))) for index in range(count)],
            )
            left -= count

    def _pipeline(self, shards: Indices, epoch: int) -> Any:
        job, form = self._job, open_format(self._job.dataset.format)
        assert isinstance(form, ShardIndexed), "the registry has only formats with index files"
        names = [job.dataset.names[shard] for shard in shards.tolist()]
        seed = int(np.random.SeedSequence([job.seed, epoch, job.rank]).generate_state(1)[0]) & (2**31 - 1)
        pipeline = dali.Pipeline(job.batch_size, self._threads, None, seed=seed, prefetch_queue_depth=PREFETCH_QUEUE_DEPTH)
        with pipeline:
            found = fn.readers.tfrecord(
                path=[os.path.join(job.store.root, name) for name in names],
                index_path=[os.path.join(job.store.root, side_key(form, name)) for name in names],
                features={
                    "id": features.FixedLenFeature([1], features.int64, -1),
                    "image": features.FixedLenFeature((), features.string, ""),
                },
                random_shuffle=job.shuffle,
                initial_fill=max(job.shuffle_buffer, 1),
                dont_use_mmap=True,
                read_ahead=True,
                name="reader",
            )
            pipeline.set_outputs(found["image"], found["id"])
        return pipeline

    def store_counters(self) -> IOCounters | None:
        return None

    def about(self) -> Mapping[str, Any]:
        return {"num_threads": self._threads, "prefetch_queue_depth": PREFETCH_QUEUE_DEPTH, "initial_fill": self._job.shuffle_buffer}

    def close(self) -> None:
        """A pipeline goes with its epoch."""
