"""Grain as training scripts use it: a `MapDataset` over a random access source, read ahead by Grain's threads. Bytes come through our store.

Settings and where they are from (grain 0.2.18). `MapDataset.source(...).to_iter_dataset(ReadOptions(...))` is the documented pipeline; `num_threads` is
`--num-workers` and `prefetch_buffer_size` the samples of `--prefetch-batches` batches, where Grain's own defaults are 16 and 500 for records of 1 to 10 KiB
(grain/_src/python/options.py), so that the budget is that of the other loaders. The order is ours: the source has the samples of the plan in their order, as
Grain's samplers do it. Reading and decoding run in Grain's read threads (`num_workers=0` in Grain's words: its worker processes are for Python that holds the
interpreter, which neither our reads nor CRC32C nor Pillow do). Elements are single samples, as Grain has them: its cost for each of them is the library's.
Datasets of format `arrayrecord` lie on local files and are read by Grain's own source (`array_records`), in the same pipeline.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import Any

import grain

from storagebench.adapters import Unit
from storagebench.errors import StorageBenchError
from storagebench.loaders.delivery import Piece, at_least_parse, refuse_io_modes
from storagebench.loaders.in_process import InProcessRun
from storagebench.loaders.store_samples import StoreSamples, ThreadedSamples
from storagebench.plan import plan_job
from storagebench.protocols import IOCounters, LoaderRun, LoadJob
from storagebench.registry import loader_info
from storagebench.sampling import Indices


class GrainLoader:
    """Any dataset whose records lie at known places, and ArrayRecord files."""

    name = "grain"

    def open(self, job: LoadJob) -> LoaderRun:
        refuse_io_modes(self.name, job)
        versions = {"grain": importlib.metadata.version("grain")}
        if job.dataset.format not in loader_info(self.name).own_formats:
            return InProcessRun(job, Samples(job, StoreSamples(job)), versions)
        from storagebench.loaders.array_records import ArrayRecordSamples

        job = replace(job, decode=at_least_parse(job.decode))
        versions["array_record"] = importlib.metadata.version("array_record")
        return InProcessRun(job, Samples(job, ArrayRecordSamples(job), own_io=True), versions)


class PlannedSource:
    """Grain's RandomAccessDataSource: element i is the i-th sample of the plan."""

    def __init__(self, samples: ThreadedSamples, ids: Indices) -> None:
        self._samples, self._ids = samples, ids

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: Any) -> Piece | StorageBenchError:
        return self._samples.piece(self._ids[int(index) : int(index) + 1])


class Samples:
    """The pipeline of one rank."""

    unit: Unit = "sample"

    def __init__(self, job: LoadJob, samples: ThreadedSamples, own_io: bool = False) -> None:
        self._job, self._samples, self.own_io = job, samples, own_io
        self._options = grain.ReadOptions(num_threads=job.num_workers, prefetch_buffer_size=job.prefetch_batches * job.batch_size)

    def pieces(self, epoch: int) -> Generator[Piece]:
        _, ids = plan_job("sample", self._job, epoch)
        self._samples.begin()
        iterator: Any = iter(grain.MapDataset.source(PlannedSource(self._samples, ids)).to_iter_dataset(self._options))
        try:
            for found in iterator:
                if isinstance(found, StorageBenchError):
                    raise found
                yield found
        finally:
            iterator.close()  # cancels what it has not begun, and waits for nothing
            self._samples.wait_until_idle()

    def store_counters(self) -> IOCounters | None:
        return self._samples.counters()

    def about(self) -> Mapping[str, Any]:
        return {"num_threads": self._options.num_threads, "prefetch_buffer_size": self._options.prefetch_buffer_size}

    def close(self) -> None:
        self._samples.close()
