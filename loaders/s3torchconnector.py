"""Amazon's connector for PyTorch as training scripts use it: `S3MapDataset` over objects in torch DataLoader workers, read by its own client (AWS CRT).

Settings and where they are from (s3torchconnector 1.5.0, its README and source). `from_objects` with the sequential reader: its default, "optimal for most use
cases, including full object reads" (s3reader/sequential.py). `throughput_target_gbps` 10, `part_size` 8 MiB, `max_attempts` 10: defaults (s3client_config.py); path
style where there is an endpoint, as servers other than Amazon's want it. `max_attempts` is the storage option `retries` plus 1 where that is given; its retries
are its own, and nobody sees them, so that the run's number of retries is unknown; `retry_budget` and `timeout` do not reach it. One object of a worker is in flight at a time (its issue 215), so it is the workers that
overlap requests. Map style, since the order is ours; its iterable dataset has the same reads, and without `enable_sharding` every worker reads everything.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from typing import Any

from s3torchconnector import S3ClientConfig, S3MapDataset, S3Reader, S3ReaderConstructor

from storagebench.errors import DatasetError, StorageBenchError
from storagebench.loaders.blame import HINT, explain
from storagebench.loaders.torch_workers import PieceDataset, TorchRun
from storagebench.protocols import Extent, IOCounters, LoaderRun, LoadJob
from storagebench.storage.s3_config import resolve


class S3TorchConnectorLoader:
    """One object a sample."""

    name = "s3torchconnector"

    def open(self, job: LoadJob) -> LoaderRun:
        settings = {"s3torchconnector": importlib.metadata.version("s3torchconnector"), "reader": "sequential"}
        return TorchRun(job, read_many=False, pieces=ConnectorPieces, settings=settings)


class ConnectorPieces(PieceDataset):
    """Pieces whose objects the connector reads."""

    retries_unseen = True

    def _open_reads(self) -> Any:
        return ConnectorReads(self._job)


class ConnectorReads:
    """The dataset of one process. Counts what it was given; the connector says nothing of requests and retries."""

    def __init__(self, job: LoadJob) -> None:
        self._job = job
        settings, _ = resolve(job.store)
        attempts = {"max_attempts": settings.retry.retries + 1} if "retries" in job.store.options else {}
        self._numbers = {name: number for number, name in enumerate(job.dataset.names)}
        self._objects: Any = S3MapDataset.from_objects(
            [f"s3://{settings.bucket}/{settings.base}{name}" for name in job.dataset.names],
            region=settings.region,
            endpoint=settings.endpoint,
            transform=_read,
            s3client_config=S3ClientConfig(force_path_style=settings.endpoint is not None, unsigned=settings.anonymous, **attempts),
            reader_constructor=S3ReaderConstructor.sequential(),
        )
        self._counted = IOCounters()

    def read(self, extents: Sequence[Extent]) -> Sequence[memoryview]:
        return [self._object(extent) for extent in extents]

    def read_into(self, extent: Extent, target: memoryview) -> None:
        """The object in the caller's memory: one copy more than the connector makes."""
        target[:] = self._object(extent)

    def _object(self, extent: Extent) -> memoryview:
        number = self._numbers[extent.key]
        failure: StorageBenchError | None = None
        data = b""
        try:
            data = self._objects[number]
        except Exception as error:  # S3Exception, and what the client raises where it is refused
            failure = explain(self._job, [number], "s3torchconnector", error)
        if failure is not None:
            raise failure
        if len(data) != extent.length:
            raise DatasetError(f"shard {extent.key} has {len(data)} bytes, and the manifest says {extent.length}", HINT)
        self._counted = self._counted + IOCounters(len(data), 1)
        return memoryview(data)

    def counters(self) -> IOCounters:
        return self._counted

    def close(self) -> None:
        """The client goes with the dataset."""
        self._objects = None


def _read(reader: S3Reader) -> bytes:
    data: bytes = reader.read()
    return data
