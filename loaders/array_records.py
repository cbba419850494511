"""ArrayRecord files as Grain's users read them: `grain.sources.ArrayRecordDataSource` over all shards, a record at a time by its global number.

Settings and where they are from (array_record 0.8.6, array_record/python/array_record_data_source.py). It is given FileInstructions out of the manifest, as its
docstring recommends: else it opens each file to count its records. One reader a shard, opened at the first read from it, with `readahead_buffer_size:0` and 32 KiB
of buffer, as it does itself; a reader takes up to 1 MiB at the end of its file for the index. The reads run in Grain's threads, and array_record keeps a pool of some 64
threads of its own beside them, which has no setting. Records go through the library's hash of each chunk, and the Example is read by us.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from grain.sources import ArrayRecordDataSource

from storagebench.datasets.tfrecord import read_example
from storagebench.errors import RankError
from storagebench.loaders.blame import explain
from storagebench.loaders.delivery import Deliverer, Piece
from storagebench.loaders.store_samples import ThreadedSamples
from storagebench.protocols import IOCounters, LoadJob
from storagebench.sampling import Indices
from storagebench.usage import Watch


@dataclass(frozen=True)
class FileInstruction:
    """The library's protocol of that name: which records of a file, and how many it has."""

    filename: str
    skip: int
    take: int
    examples_in_shard: int


class ArrayRecordSamples(ThreadedSamples):
    """Reads samples through the library and takes them through the levels. Thread-safe."""

    def __init__(self, job: LoadJob) -> None:
        super().__init__()
        self._job = job
        self._deliverer = Deliverer(job)
        counts = job.dataset.shard_samples.tolist()
        names = [os.path.join(job.store.root, name) for name in job.dataset.names]
        self._files = [FileInstruction(name, 0, count, count) for name, count in zip(names, counts, strict=True)]
        self._source: Any = None

    def begin(self) -> None:
        self._source = ArrayRecordDataSource(self._files)  # opens none of them

    def _read(self, ids: Indices) -> Piece:
        watch, source = Watch(), self._source
        if source is None:  # a thread of Grain's that begins a read while the epoch ends
            raise RankError("the epoch has ended", "run with --debug and report it")
        try:
            stored = [source[int(sample)] for sample in ids]
            spans, fetch_cpu_s = {"fetch": watch.wall_s()}, watch.cpu_s()
            records = [self._record(int(sample), data) for sample, data in zip(ids, stored, strict=True)]
        except Exception as error:  # the library's are RuntimeErrors, among others
            failure = explain(self._job, dict.fromkeys(self._job.dataset.index["shard"][ids].tolist()), "array_record", error)
        else:
            spans["parse"] = watch.wall_s() - spans["fetch"]
            return self._deliverer.deliver_records(np.asarray(ids, np.int64), records, spans, watch, fetch_cpu_s)
        raise failure

    def _record(self, sample: int, data: bytes) -> memoryview:
        found = read_example(memoryview(data))
        if found.sample_id != sample or len(found.record) != self._job.dataset.index["record_bytes"][sample]:
            raise ValueError(f"its record for sample {sample} is sample {found.sample_id} with {len(found.record)} bytes")
        return found.record

    def wait_until_idle(self) -> None:
        """And all files are closed."""
        source, self._source = self._source, None
        super().wait_until_idle()
        with suppress(RuntimeError):  # a reader that failed says so again; those behind it go with the source
            source.__exit__(None, None, None)

    def counters(self) -> IOCounters | None:
        """None: the library reads."""
        return None

    def close(self) -> None:
        """Nothing is open between epochs; the library's pool of threads stays until the process ends."""
