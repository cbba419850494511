"""The small protocols between rooms. Each states its contract; one contract suite in tests/contract runs over every implementation.

Specs (frozen dataclasses of plain data) cross processes. Live clients never do: they are opened in the process that uses them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from storagebench.manifest import Dataset
    from storagebench.sampling import EpochPlan

DECODE_LEVELS = ("none", "touch", "parse", "full")


class Extent(NamedTuple):
    """Bytes `offset .. offset + length` of the object `key`. length None: to the end, the size being unknown."""

    key: str
    offset: int = 0
    length: int | None = None


class ObjectInfo(NamedTuple):
    """One stored object."""

    key: str
    num_bytes: int


@dataclass(frozen=True)
class StoreSpec:
    """Where a dataset lives, as plain data: `kind` is posix, s3, memory or fsspec; no secret is ever in here."""

    kind: str
    root: str
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """How the user wrote it, for messages."""
        return self.root


@dataclass(frozen=True)
class IOCounters:
    """What a store did since it was opened. All monotone.

    `retries_by_kind` sums up to `retries` where the store knows the kinds. `bytes_by_endpoint` is of a store with several servers only.
    """

    num_bytes: int = 0
    requests: int = 0
    retries: int = 0
    errors: int = 0
    retries_by_kind: Mapping[str, int] = field(default_factory=dict)
    bytes_by_endpoint: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: IOCounters) -> IOCounters:
        return self._with(other, 1)

    def __sub__(self, other: IOCounters) -> IOCounters:
        return self._with(other, -1)

    def _with(self, other: IOCounters, sign: int) -> IOCounters:
        return IOCounters(
            self.num_bytes + sign * other.num_bytes,
            self.requests + sign * other.requests,
            self.retries + sign * other.retries,
            self.errors + sign * other.errors,
            with_counts(self.retries_by_kind, other.retries_by_kind, sign),
            with_counts(self.bytes_by_endpoint, other.bytes_by_endpoint, sign),
        )


def with_counts(counts: Mapping[str, int], more: Mapping[str, int], sign: int = 1) -> Mapping[str, int]:
    """The sum (`sign` -1: the difference) of counts by name; names whose count is 0 are left out."""
    if not more:
        return counts
    summed = {name: counts.get(name, 0) + sign * more.get(name, 0) for name in sorted({*counts, *more})}
    return {name: count for name, count in summed.items() if count}


class Sink(Protocol):
    """Where a shard is written to."""

    def write(self, data: Any, /) -> object:
        """Append a bytes-like object. Its memory may be reused after the call returns."""


class Store(Protocol):
    """Keys to bytes. Thread-safe. Counts what it returned. Raises StorageError, and DatasetError for a missing key.

    Every read checks that it got exactly the bytes asked for; a short or foreign answer is an error, never data.
    """

    spec: StoreSpec
    native_ranges: bool

    @property
    def url(self) -> str:
        """How messages call it; holds no secret."""

    def exists(self, key: str) -> bool:
        """Whether the key is there."""

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All objects below the prefix, in any order, with their sizes."""

    def read(self, extents: Sequence[Extent]) -> Sequence[memoryview]:
        """The bytes of each extent, in order. Several at once where the client can. Each extent has a length."""

    def read_into(self, extent: Extent, target: memoryview) -> None:
        """Read one extent into the caller's memory (`len(target) == extent.length`)."""

    def read_all(self, key: str, limit_bytes: int) -> memoryview:
        """A whole object of unknown size; StorageError above the limit."""

    def open_stream(self, key: str, num_bytes: int) -> Any:
        """A binary file object that reads the object from start to end, for libraries that want one. It checks the length, and counts."""

    def create(self, key: str) -> AbstractContextManager[Sink]:
        """Write an object: it appears whole and durable when the block ends, and not at all if the block raises."""

    def delete(self, keys: Iterable[str]) -> None:
        """Remove these keys; a missing one is not an error."""

    def counters(self) -> IOCounters:
        """Totals since open."""

    def close(self) -> None:
        """Release threads, connections and descriptors. May be called twice."""


class Record(NamedTuple):
    """One sample on its way into a shard; `crc32c` of its payload where its maker knows it."""

    sample_id: int
    payload: memoryview
    label: int
    suffix: str
    crc32c: int | None = None


class Format(Protocol):
    """How samples lie in a shard. No I/O: bytes in, bytes out."""

    name: str
    suffix: str
    one_sample_per_shard: bool
    byte_addressed: bool  # the index holds the byte offset of each record, so that a loader may read just the record

    def write_shard(self, sink: Sink, records: Iterable[Record], options: Mapping[str, Any]) -> list[int]:
        """Write a shard, holding at most one record (or row group) in memory; the offset of each record (for Parquet the row)."""

    def parse(self, stored: memoryview) -> memoryview:
        """The record in the stored bytes of one sample (`Dataset.extent`), found by reading the container's own fields.

        Raises DatasetError where the container is damaged. Never unpickles.
        """


@runtime_checkable
class ShardIndexed(Protocol):
    """A format that has an index file beside each shard, for other readers: storagebench has the manifest. Pure."""

    index_suffix: str

    def shard_index(self, first_sample: int, rows: NDArray[Any]) -> bytes:
        """The index file of a shard whose first sample this is; `rows` are those of the dataset's index (INDEX_DTYPE)."""


@runtime_checkable
class RowAddressed(Protocol):
    """A format whose records have no bytes of their own in the shard; the index holds their numbers. Pure."""

    def row_checksums(self, stored: memoryview, trusted: bool) -> NDArray[np.int64] | None:
        """CRC32C of each record of a whole shard, -1 where one cannot be had, None where the shard cannot be read. `trusted`: the bytes are those that were
        written. Raises DatasetError, for trusted bytes."""


@runtime_checkable
class DatasetIndexed(Protocol):
    """A format that has one file that names all shards, for other readers. Pure."""

    def dataset_index(self, names: Sequence[str], shard_bytes: Sequence[int], shard_samples: Sequence[int]) -> tuple[str, bytes]:
        """Its key and its bytes; the arguments are the columns of the manifest."""


@dataclass(frozen=True)
class LoadJob:
    """What a loader is asked to do for one rank: plain data, goes to worker processes as it is. `io_depth`: reads in flight of one worker of the loader
    `direct`, 0 leaves it to the loader. `counts_process`: this rank reports what the kernel counted of its whole process, as the first of those that
    share it. `shard_spans`: where each host holds a part of the dataset only, for each rank (all of them, in order) the shards [first, stop) of its host;
    empty where all ranks read all shards."""

    store: StoreSpec
    dataset: Dataset
    rank: int
    world_size: int
    batch_size: int
    seed: int = 1
    shuffle: bool = True
    keep_remainder: bool = False
    num_workers: int = 0
    prefetch_batches: int = 2
    io_depth: int = 0
    shuffle_buffer: int = 1000
    decode: str = "none"
    verify: str = "off"
    handover_bytes_per_sample: int = 0
    counts_process: bool = True
    shard_spans: tuple[tuple[int, int], ...] = ()

    @property
    def shards_here(self) -> range:
        """The shards that this rank's host holds."""
        return range(*self.shard_spans[self.rank]) if self.shard_spans else range(self.dataset.num_shards)

    @property
    def num_dealt_shards(self) -> int:
        """Shards of this rank in an epoch, where whole shards are dealt to the ranks."""
        if not self.shard_spans:
            return len(range(self.rank, self.dataset.num_shards, self.world_size))
        mine = self.shard_spans[self.rank]
        before, sharing = self.shard_spans[: self.rank].count(mine), self.shard_spans.count(mine)
        return len(range(before, len(self.shards_here), sharing))


@dataclass(frozen=True)
class Batch:
    """What a rank gets for one step.

    `sample_ids` int64[n]; `record_bytes` and `handover_bytes` are counted as they arrived; `checksums` uint32[n] with `checked` bool[n] where the
    record was read through; `ready_ns` (CLOCK_MONOTONIC) when the whole batch lay in this process, None where the loader cannot tell;
    `queue_level` batches that were ready behind this one; `spans_s` seconds spent per stage, summed over workers, `prep_cpu_s` CPU seconds of
    those after the fetch, `run_delay_s` seconds in which a worker was ready to go on and had no core.
    `data` is a list of sequences that together have one object a sample, in the order of `sample_ids`: the record's bytes (memoryview or uint8
    tensor), or at decode level full what decoding made of it. It is valid until the next `next()`, `drain()` or `close()`.
    """

    sample_ids: NDArray[np.int64]
    record_bytes: int
    handover_bytes: int
    data: Any = None
    checksums: NDArray[np.uint32] | None = None
    checked: NDArray[np.bool_] | None = None
    ready_ns: int | None = None
    queue_level: int | None = None
    spans_s: Mapping[str, float] = field(default_factory=dict)
    prep_cpu_s: float = 0.0
    run_delay_s: float = 0.0

    @property
    def num_samples(self) -> int:
        return len(self.sample_ids)


@dataclass(frozen=True)
class LoaderCounters:
    """What the processes of one rank's loader did since their first dataset read. None: this loader cannot know.

    `storage_bytes` the store returned; `device_read_bytes` and `rchar_bytes` as /proc/<pid>/io has them; `cpu_s` user + system of the worker
    processes (the rank's own CPU is the engine's to count); `storage_method` says where storage_bytes comes from. `local_cache_bytes`: what the
    library's own cache on local files holds now (no total), None where it has none. `retries` is None where a library reads, whose retries nobody sees.
    """

    storage_bytes: int | None = None
    storage_method: str = "unknown"
    device_read_bytes: int | None = None
    rchar_bytes: int | None = None
    worker_cpu_s: float = 0.0
    requests: int | None = None
    retries: int | None = 0
    errors: int = 0
    local_cache_bytes: int | None = None
    retries_by_kind: Mapping[str, int] = field(default_factory=dict)
    bytes_by_endpoint: Mapping[str, int] = field(default_factory=dict)


class LoaderRun(Protocol):
    """An opened loader. The harness owns the clock: a loader never times itself but for the spans of its stages."""

    def plan(self, epoch: int) -> EpochPlan:
        """What this rank will deliver in that epoch; pure."""

    def start(self, epoch: int) -> None:
        """Begin the epoch; returns at once, prefetch begins."""

    def next(self) -> Batch | None:
        """The next batch of the epoch, or None at its end. Exactly the non-idle steps of the plan."""

    def drain(self) -> None:
        """End the epoch (also in its middle): nothing is in flight and no file of the dataset is open or mapped afterwards."""

    def counters(self) -> LoaderCounters:
        """Totals since open. First called before `start`, when no rank of this process reads yet."""

    def effective(self) -> Mapping[str, Any]:
        """The settings really in force, `decode` (the level reached) and `workers` among them, and notes for the report."""

    def close(self) -> None:
        """Join all threads and worker processes. May be called twice."""


class Loader(Protocol):
    """A loader under test."""

    name: str

    def open(self, job: LoadJob) -> LoaderRun:
        """Start it for one rank. Raises UsageError for a job that it cannot do, with what fits instead."""
