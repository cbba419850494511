"""Is a stored dataset what its manifest says: each shard's presence, size and checksum, and each sample's. Reads; never writes or deletes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from storagebench.errors import DatasetError
from storagebench.inorder import in_order
from storagebench.manifest import INDEX_KEY, MANIFEST_KEY, Dataset, side_files, side_key
from storagebench.protocols import Extent, RowAddressed, ShardIndexed, Store
from storagebench.registry import open_format
from storagebench.storage import data_store

_PIECE_BYTES = 8 * 2**20
_MOST_THREADS = 16
# A shard that is wrong from end to end would name each of its samples; so many are enough to act on.
_MOST_SAMPLES_NAMED = 100


@dataclass(frozen=True)
class Problem:
    """What is wrong with a shard, or with one sample in it. A `note` is no damage: a file that the manifest does not list."""

    shard: str
    sample_id: int | None
    message: str
    severity: Literal["error", "note"] = "error"


def verify(
    store: Store,
    dataset: Dataset,
    *,
    num_threads: int = 0,
    progress: Callable[[int, int], None] | None = None,
    shards: Sequence[int] | None = None,
    beside: range | None = None,
) -> list[Problem]:
    """Everything that differs from the manifest, in shard order, notes last; empty when all is well.

    `shards`: those that are read, all of them by default. `beside`: the shards that belong into this storage, whose index files are looked at, as is what
    else lies there; all of them by default, and of none nothing beside the shards is looked at.

    Every shard is read once, with at most `num_threads` in flight (0: one per core); byte-addressed formats pass through a buffer of 8 MiB a thread,
    others take a shard's bytes. `progress(done, total)` is called with samples, from the calling thread. StorageError where reading fails.
    """
    with data_store(store, dataset) as data:
        every = range(dataset.num_shards)
        return _verify(data, dataset, num_threads, progress, every if shards is None else shards, every if beside is None else beside)


def _verify(
    store: Store, dataset: Dataset, num_threads: int, progress: Callable[[int, int], None] | None, shards: Sequence[int], beside: range
) -> list[Problem]:
    sizes = {info.key: info.num_bytes for info in store.list()}
    checker = _Checker(store, dataset, sizes)
    threads = num_threads or min(len(os.sched_getaffinity(0)), _MOST_THREADS)
    problems: list[Problem] = []
    done, total = 0, int(dataset.shard_samples[list(shards)].sum())
    for shard, found in in_order(shards, checker.check, threads):
        problems.extend(found)
        done += int(dataset.shard_samples[shard])
        if progress is not None:
            progress(done, total)
    if dataset.data_root or not beside:
        return problems  # what else lies there is not ours to judge
    elsewhere = {name for shard, name in enumerate(dataset.names) if shard not in beside}
    form = open_format(dataset.format)
    ends = {side_key(form, name) for name in elsewhere} if isinstance(form, ShardIndexed) else set()
    sides = {key: data for key, data in side_files(form, dataset) if key not in ends}
    problems += _check_sides(store, sides, sizes)
    # Of a partitioned dataset, shards of other hosts may lie here too, where hosts share a storage.
    known = {MANIFEST_KEY, INDEX_KEY, *dataset.names, *sides, *ends}
    extra = sorted(key for key in sizes if key not in known)
    return problems + [Problem(key, None, "is not listed in the manifest; nothing reads it", "note") for key in extra]


def checksums_in_one_pass(read: Callable[[int, int], memoryview], num_bytes: int, rows: NDArray[Any]) -> tuple[int, NDArray[np.uint32]]:
    """CRC32C of a shard, and uint32[n] of the records that `rows` (INDEX_DTYPE[n]) place in it; `read(offset, length)` is called front to back, for 8 MiB
    at most. Raises DatasetError for records outside of the shard or over one another."""
    order = np.argsort(rows["offset"], kind="stable")
    starts = rows["offset"][order].astype(np.int64).tolist()
    ends = (rows["offset"] + rows["record_bytes"])[order].astype(np.int64).tolist()
    if any(low < 0 or high > num_bytes or high < low for low, high in zip(starts, ends, strict=True)):
        raise DatasetError("the index places a sample outside of its shard")
    if any(low < high for low, high in zip(starts[1:], ends[:-1], strict=True)):
        raise DatasetError("the index places two samples over one another")
    sums, total, current = np.zeros(len(starts), np.uint32), 0, 0
    for position in range(0, num_bytes, _PIECE_BYTES):
        piece = read(position, min(_PIECE_BYTES, num_bytes - position))
        stop = position + len(piece)
        total = crc32c(piece, total)
        while current < len(starts) and starts[current] < stop:
            place = order[current]
            sums[place] = crc32c(piece[max(starts[current] - position, 0) : ends[current] - position], int(sums[place]))
            if ends[current] > stop:
                break
            current += 1
    return total, sums


def _check_sides(store: Store, sides: dict[str, bytes], sizes: dict[str, int]) -> list[Problem]:
    """The files that a format has beside its shards: what they hold follows from the manifest."""
    problems = []
    for key, expected in sides.items():
        if key not in sizes:
            problems.append(Problem(key, None, "is missing; other readers of this format need it"))
        elif sizes[key] != len(expected) or bytes(store.read_all(key, len(expected))) != expected:
            problems.append(Problem(key, None, "does not say what the manifest says; other readers of this format go by it"))
    return problems


class _Checker:
    """Checks single shards, from any thread."""

    def __init__(self, store: Store, dataset: Dataset, sizes: dict[str, int]) -> None:
        self._store, self._dataset, self._sizes = store, dataset, sizes
        self._buffers = threading.local()
        form = open_format(dataset.format)
        self._rows = form if isinstance(form, RowAddressed) else None

    def check(self, shard: int) -> list[Problem]:
        """Problems of one shard: of the samples in it, and of the shard where no sample explains it."""
        dataset = self._dataset
        name, expected = dataset.names[shard], int(dataset.shard_bytes[shard])
        first, count = int(dataset.first_sample[shard]), int(dataset.shard_samples[shard])
        span = f"sample {first}" if count == 1 else f"samples {first} to {first + count - 1}"
        found = self._sizes.get(name)
        if found is None:
            return [Problem(name, first if count == 1 else None, f"is missing ({span})")]
        if found != expected:
            what = "it is truncated" if found < expected else "bytes were added"
            return [Problem(name, first if count == 1 else None, f"has {found} bytes, and the manifest says {expected}: {what} ({span})")]
        rows = dataset.index[first : first + count]
        try:
            checksum, damaged, note = self._check_rows(name, expected, rows, int(dataset.shard_crc32c[shard]))
        except DatasetError as error:
            return [Problem(name, None, f"cannot be read: {error.message} ({span})")]
        wrong = [first + row for row in damaged[:_MOST_SAMPLES_NAMED]]
        problems = [Problem(name, sample, f"sample {sample} does not have the checksum of the manifest") for sample in wrong]
        if len(damaged) > _MOST_SAMPLES_NAMED:
            problems.append(Problem(name, None, f"{len(damaged)} of its {count} samples do not have the checksum of the manifest"))
        if checksum != int(dataset.shard_crc32c[shard]) and not damaged:
            problems.append(Problem(name, None, f"does not have the checksum of the manifest{note or ', outside of its samples'} ({span})"))
        return problems

    def _check_rows(self, name: str, num_bytes: int, rows: NDArray[Any], expected: int) -> tuple[int, list[int], str]:
        """The shard's checksum, the numbers of damaged rows, and what else is to be said."""
        if self._rows is None:
            checksum, damaged = self._stream(name, num_bytes, rows)
            return checksum, damaged, ""
        stored = self._store.read([Extent(name, 0, num_bytes)])[0]
        checksum = crc32c(stored)
        found = self._rows.row_checksums(stored, trusted=checksum == expected)
        if found is None or len(found) != len(rows):
            return checksum, [], ", and can no longer be decoded"
        return checksum, np.flatnonzero(found != rows["crc32c"].astype(np.int64)).tolist(), ""

    def _stream(self, name: str, num_bytes: int, rows: NDArray[Any]) -> tuple[int, list[int]]:
        """The shard's checksum, and the numbers of the rows whose record does not have its own."""
        total, sums = checksums_in_one_pass(lambda offset, length: self._piece(Extent(name, offset, length)), num_bytes, rows)
        return total, np.flatnonzero(sums != rows["crc32c"]).tolist()

    def _piece(self, extent: Extent) -> memoryview:
        buffer: memoryview | None = getattr(self._buffers, "buffer", None)
        if buffer is None:
            buffer = self._buffers.buffer = np.empty(_PIECE_BYTES, dtype=np.uint8).data
        target = buffer[: extent.length]
        self._store.read_into(extent, target)
        return target
