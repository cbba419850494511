"""SPDL as training scripts use it: a pipeline of stages in threads, each with its own concurrency and a bounded queue. Bytes come through our store.

Settings and where they are from (spdl 0.8.0, spdl/pipeline/_builder.py and the guide "Getting started"): `PipelineBuilder().add_source(...).pipe(..., concurrency=n)
.add_sink(buffer).build(num_threads=n)` with n = `--num-workers`, and a sink that holds `--prefetch-batches` batches (its default is 3). Items are pieces of batches
(`sampling.split_work`). `output_order="input"`: the default, "completion", gives the same seed another order, which the loaders' contract forbids. By default a stage
logs an item that fails and goes on without it; errors are handed on as values here, so that none is lost. Reading and decoding are one stage, as both release the
interpreter; `spdl.io` is for media files, and is not used.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Generator, Mapping
from typing import Any

from spdl.pipeline import PipelineBuilder

from storagebench.adapters import Unit
from storagebench.errors import StorageBenchError
from storagebench.loaders.delivery import Piece, refuse_io_modes
from storagebench.loaders.in_process import InProcessRun
from storagebench.loaders.store_samples import StoreSamples
from storagebench.plan import plan_job
from storagebench.protocols import IOCounters, LoaderRun, LoadJob
from storagebench.sampling import Indices, cut, split_work


class SpdlLoader:
    """Any dataset whose records lie at known places."""

    name = "spdl"

    def open(self, job: LoadJob) -> LoaderRun:
        refuse_io_modes(self.name, job)
        return InProcessRun(job, Stages(job), {"spdl": importlib.metadata.version("spdl_core")})


class Stages:
    """The pipeline of one rank."""

    unit: Unit = "sample"
    own_io = False

    def __init__(self, job: LoadJob) -> None:
        self._job = job
        self._samples = StoreSamples(job)
        self._threads = max(job.num_workers, 1)
        self._pieces = split_work(job.prefetch_batches, job.num_workers, job.batch_size)[1]
        self._sink_pieces = job.prefetch_batches * self._pieces

    def pieces(self, epoch: int) -> Generator[Piece]:
        pipeline = (
            PipelineBuilder()
            .add_source(self._parts(epoch))
            .pipe(self._samples.piece, concurrency=self._threads, output_order="input", name="read")
            .add_sink(self._sink_pieces)
            .build(num_threads=self._threads)
        )
        try:
            with pipeline.auto_stop():
                for found in pipeline.get_iterator():
                    if isinstance(found, StorageBenchError):
                        raise found
                    yield found
        finally:
            self._samples.wait_until_idle()

    def _parts(self, epoch: int) -> list[Indices]:
        """Sample ids of the pieces of all batches, in order."""
        plan, ids = plan_job("sample", self._job, epoch)
        found, position = [], 0
        for size in plan.sizes:
            found += [ids[position + part.start : position + part.stop] for part in cut(size, self._pieces)]
            position += size
        return found

    def store_counters(self) -> IOCounters | None:
        return self._samples.counters()

    def about(self) -> Mapping[str, Any]:
        return {"concurrency": self._threads, "sink_pieces": self._sink_pieces, "pieces_per_batch": self._pieces, "output_order": "input"}

    def close(self) -> None:
        self._samples.close()
