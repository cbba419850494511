"""The loader that costs nothing: batches of the right shape, ready at once, without a byte read. It shows the harness's own limit (au_null)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from storagebench.plan import plan_job
from storagebench.protocols import Batch, LoaderCounters, LoadJob
from storagebench.sampling import EpochPlan


class NullLoader:
    """Opens a `NullRun`; fits every format and store."""

    name = "null"

    def open(self, job: LoadJob) -> NullRun:
        return NullRun(job)

    def open_endless(self, job: LoadJob) -> NullRun:
        """One prebuilt batch for ever, for measuring the harness itself whatever the size of the dataset."""
        return EndlessNullRun(job)


class NullRun:
    """Gives the planned sample ids with their record bytes. Started before it ended, it simply begins again."""

    def __init__(self, job: LoadJob) -> None:
        self._job = job
        self._ids = np.empty(0, np.int64)
        self._sizes: tuple[int, ...] = ()
        self._next = 0
        self._position = 0
        self._record_bytes = job.dataset.index["record_bytes"]  # a view: ranks that share a process share the index

    def plan(self, epoch: int) -> EpochPlan:
        return plan_job("sample", self._job, epoch)[0]

    def start(self, epoch: int) -> None:
        plan, self._ids = plan_job("sample", self._job, epoch)
        self._sizes = plan.sizes
        self._next, self._position = 0, 0

    def next(self) -> Batch | None:
        while self._next < len(self._sizes) and self._sizes[self._next] == 0:
            self._next += 1
        if self._next >= len(self._sizes):
            return None
        size = self._sizes[self._next]
        ids = self._ids[self._position : self._position + size]
        self._next += 1
        self._position += size
        num_bytes = int(self._record_bytes[ids].sum())
        return Batch(ids, record_bytes=num_bytes, handover_bytes=num_bytes, ready_ns=0)

    def drain(self) -> None:
        self._sizes = ()

    def counters(self) -> LoaderCounters:
        return LoaderCounters(storage_bytes=0, storage_method="reads nothing", device_read_bytes=0, rchar_bytes=0, requests=0)

    def effective(self) -> Mapping[str, Any]:
        return {"decode": "none", "workers": 0}

    def close(self) -> None:
        self.drain()


class EndlessNullRun(NullRun):
    """The same full batch at every `next()`."""

    def __init__(self, job: LoadJob) -> None:
        super().__init__(job)
        ids = np.arange(job.batch_size, dtype=np.int64) % job.dataset.num_samples
        num_bytes = int(self._record_bytes[ids].sum())
        self._batch = Batch(ids, record_bytes=num_bytes, handover_bytes=num_bytes, ready_ns=0)

    def next(self) -> Batch | None:
        return self._batch
