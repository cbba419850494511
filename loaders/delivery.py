"""What all of our own loaders share: taking stored bytes through the decode levels, and counting what a process did.

Levels are cumulative (DESIGN section 2): none - the record's bytes lie in memory of the process; touch - each was read once (CRC32C); parse - the
container's fields were read; full - decoded, and cropped or resized to what the accelerator gets.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from storagebench.datasets.decode import IMAGE_PAYLOADS, decode_full
from storagebench.errors import DatasetError, UsageError
from storagebench.manifest import Dataset
from storagebench.protocols import DECODE_LEVELS, Batch, IOCounters, LoaderCounters, LoadJob
from storagebench.registry import format_info, open_format
from storagebench.storage.buffers import address_of
from storagebench.usage import Watch

VERIFY_ONE_IN = 64
_SAMPLED_HASH = 0x9E3779B97F4A7C15
_NOTHING: Mapping[int, int] = {}


@dataclass(frozen=True)
class ProcessCounters:
    """What one process did since its first dataset read: device and read() bytes of the kernel, CPU seconds, and our store's own count."""

    device_read_bytes: int = 0
    rchar_bytes: int = 0
    cpu_s: float = 0.0
    store: IOCounters = field(default_factory=IOCounters)


class ProcessMeter:
    """Reads this process's counters, from a baseline taken when it is made (so: right before the first dataset read, after all imports).

    `counts_process` False leaves the kernel's counters at 0: another rank of this process reports them for all.
    """

    def __init__(self, store_counters: Callable[[], IOCounters] | None = None, counts_process: bool = True) -> None:
        self._store_counters = store_counters
        self._counts_process = counts_process
        self._fd = -1
        with suppress(OSError):
            self._fd = os.open("/proc/self/io", os.O_RDONLY | os.O_CLOEXEC) if counts_process else -1
        self._baseline = self._now()

    def _now(self) -> ProcessCounters:
        rchar = device = 0
        if self._fd >= 0:
            rows = dict(line.split(b": ") for line in os.pread(self._fd, 512, 0).splitlines())
            rchar, device = int(rows[b"rchar"]), int(rows[b"read_bytes"])
        cpu_s = time.process_time() if self._counts_process else 0.0
        return ProcessCounters(device, rchar, cpu_s, self._store_counters() if self._store_counters else IOCounters())

    def read(self) -> ProcessCounters:
        now, base = self._now(), self._baseline
        return ProcessCounters(
            now.device_read_bytes - base.device_read_bytes, now.rchar_bytes - base.rchar_bytes, now.cpu_s - base.cpu_s, now.store - base.store
        )

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def total_counters(processes: Sequence[ProcessCounters], in_rank: bool, own_io: bool) -> LoaderCounters:
    """Sum over the processes of one rank's loader. `in_rank`: it is the rank's own process, whose CPU the engine counts.

    A library's own I/O on local files is what the kernel counts as read (rchar); our stores count for themselves.
    """
    store = IOCounters()
    for process in processes:
        store = store + process.store
    rchar = sum(process.rchar_bytes for process in processes)
    return LoaderCounters(
        storage_bytes=rchar if own_io else store.num_bytes,
        storage_method="read() bytes of the loader's processes (/proc/<pid>/io rchar)" if own_io else "counted by the store",
        device_read_bytes=sum(process.device_read_bytes for process in processes),
        rchar_bytes=rchar,
        worker_cpu_s=0.0 if in_rank else sum(process.cpu_s for process in processes),
        requests=None if own_io else store.requests,
        retries=store.retries,
        errors=store.errors,
        retries_by_kind=store.retries_by_kind,
        bytes_by_endpoint=store.bytes_by_endpoint,
    )


def at_least_parse(decode: str) -> str:
    """The effective level of a library that cannot hand over a record without having parsed its container."""
    return DECODE_LEVELS[max(DECODE_LEVELS.index("parse"), DECODE_LEVELS.index(decode))]


def refuse_io_modes(loader: str, job: LoadJob) -> None:
    """UsageError where a library that does its own buffered reads is asked for another way of reading."""
    mode = job.store.options.get("io", "buffered")
    if job.store.kind == "posix" and mode != "buffered":
        raise UsageError(f"loader {loader} reads buffered, and the storage option io is {mode}", "leave it out, or use --loader direct or files")


@dataclass(frozen=True)
class Piece:
    """A part of a batch: plain arrays and memory, no client. `data` has one object a sample, the record or what decoding made of it.

    `record_sizes` and `handover_sizes` int64[n] are bytes as they arrived; `finished_ns` on CLOCK_MONOTONIC.
    """

    sample_ids: NDArray[np.int64]
    data: Sequence[Any]
    record_sizes: NDArray[np.int64]
    handover_sizes: NDArray[np.int64]
    checksums: NDArray[np.uint32] | None
    checked: NDArray[np.bool_] | None
    spans_s: dict[str, float]
    finished_ns: int
    worker: int = 0
    counters: ProcessCounters = field(default_factory=ProcessCounters)
    prep_cpu_s: float = 0.0
    run_delay_s: float = 0.0

    def part(self, low: int, high: int) -> Piece:
        """Samples low .. high of it; of the spans the same share."""
        share = (high - low) / len(self.sample_ids)
        return replace(
            self,
            sample_ids=self.sample_ids[low:high],
            data=self.data[low:high],
            record_sizes=self.record_sizes[low:high],
            handover_sizes=self.handover_sizes[low:high],
            checksums=None if self.checksums is None else self.checksums[low:high],
            checked=None if self.checked is None else self.checked[low:high],
            spans_s={name: seconds * share for name, seconds in self.spans_s.items()},
            prep_cpu_s=self.prep_cpu_s * share,
            run_delay_s=self.run_delay_s * share,
        )


class Deliverer:
    """Takes the stored bytes of samples through the asked level. One per worker; holds no client and no file."""

    def __init__(self, job: LoadJob) -> None:
        self.dataset: Dataset = job.dataset
        self.format = open_format(job.dataset.format)
        self.whole_shard = job.dataset.whole_shards
        self._in_container = self.whole_shard or not format_info(job.dataset.format).one_sample_per_shard
        self.level = DECODE_LEVELS.index(job.decode)
        self._verify = job.verify
        self._handover_bytes = job.handover_bytes_per_sample
        if self.level >= 3 and job.dataset.payload in IMAGE_PAYLOADS:
            from PIL import Image

            import storagebench.datasets.image  # noqa: F401 - it and the plug-ins are loaded now, or their bytes would be counted as the dataset's

            Image.preinit()

    def to_check(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which samples get a checksum: all at touch and above or with verify full, a fixed 1 in 64 of the ids with verify sample, else none."""
        if self.level >= 1 or self._verify == "full":
            return np.ones(len(ids), dtype=np.bool_)
        if self._verify == "sample":
            mixed = ids.astype(np.uint64) * np.uint64(_SAMPLED_HASH)
            return np.asarray((mixed >> np.uint64(32)) % np.uint64(VERIFY_ONE_IN) == 0)
        return np.zeros(len(ids), dtype=np.bool_)

    def checks(self, sample: int) -> bool:
        """Whether this sample gets a checksum."""
        return bool(self.to_check(np.array([sample], np.int64))[0])

    def stored_lengths(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64[n]: bytes of each sample's extent (`Dataset.extent`)."""
        if self.whole_shard:
            return np.asarray(self.dataset.shard_bytes[self.dataset.index["shard"][ids]])
        return self.dataset.index["record_bytes"][ids].astype(np.int64)

    def record_in_stored(self, sample: int) -> tuple[int, int]:
        """Where the manifest has the record in the sample's stored bytes: first byte, and the one behind the last."""
        entry = self.dataset.index[sample]
        start = int(entry["offset"]) if self.whole_shard else 0
        return start, start + int(entry["record_bytes"])

    def deliver_stored(
        self,
        ids: NDArray[np.int64],
        stored: Sequence[memoryview],
        watch: Watch,
        summed: Mapping[int, int] = _NOTHING,
        summed_s: float = 0.0,
    ) -> Piece:
        """Samples whose stored bytes (`Dataset.extent`) lie in memory; `watch` was started before they were fetched. DatasetError names the shard where
        the container is damaged.

        `summed`: checksums, by position, of records where the manifest has them, taken in `summed_s` of that time while they were fetched."""
        spans = {"fetch": watch.wall_s() - summed_s}
        fetch_cpu_s = watch.cpu_s() - summed_s
        begin = time.perf_counter()
        sizes = self.dataset.index["record_bytes"][ids].tolist()
        if self.level >= 2:
            records = [self._parse(sample, data, size) for sample, data, size in zip(ids.tolist(), stored, sizes, strict=True)]
            spans["parse"] = time.perf_counter() - begin
        elif self.whole_shard:
            starts = self.dataset.index["offset"][ids].tolist()
            records = [data[start : start + size] for data, start, size in zip(stored, starts, sizes, strict=True)]
        else:
            records = list(stored)
        if summed:
            spans["checksum"] = summed_s
            summed = {place: value for place, value in summed.items() if self._is_where_expected(int(ids[place]), stored[place], records[place])}
        return self.deliver_records(ids, records, spans, watch, fetch_cpu_s, summed)

    def _is_where_expected(self, sample: int, stored: memoryview, record: memoryview) -> bool:
        start, end = self.record_in_stored(sample)
        return address_of(record) - address_of(stored) == start and len(record) == end - start

    def deliver_records(
        self,
        ids: NDArray[np.int64],
        records: Sequence[memoryview],
        spans: Mapping[str, float],
        watch: Watch,
        fetch_cpu_s: float = 0.0,
        summed: Mapping[int, int] = _NOTHING,
    ) -> Piece:
        """Samples whose records lie in memory, after parsing: checksum, then decode. `spans`: the stages before this one; `fetch_cpu_s`: what the fetch
        used of this thread's CPU time since `watch` was started; `summed`: checksums that are known already, by position."""
        checked = self.to_check(ids)
        checksums = None
        spans = dict(spans)
        if checked.any():
            begin = time.perf_counter()
            checksums = np.zeros(len(ids), dtype=np.uint32)
            for index in np.flatnonzero(checked).tolist():
                checksums[index] = summed[index] if index in summed else crc32c(records[index])
            spans["checksum"] = spans.get("checksum", 0.0) + time.perf_counter() - begin
        sizes = handover = np.array([len(record) for record in records], np.int64)
        data: Sequence[Any] = records
        if self.level >= 3:
            begin = time.perf_counter()
            decoded = [self._decode(int(sample), record) for sample, record in zip(ids, records, strict=True)]
            data = [value for value, _ in decoded]
            handover = np.array([size for _, size in decoded], np.int64)
            spans["decode"] = time.perf_counter() - begin
        return Piece(
            sample_ids=ids,
            data=data,
            record_sizes=sizes,
            handover_sizes=handover,
            checksums=checksums,
            checked=checked if checksums is not None else None,
            spans_s=spans,
            finished_ns=time.monotonic_ns(),
            prep_cpu_s=watch.cpu_s() - fetch_cpu_s,
            run_delay_s=watch.delay_s(),
        )

    def _parse(self, sample: int, stored: memoryview, expected: int) -> memoryview:
        if not self._in_container:  # a range of a file that holds several: the container was needed to find it only
            return stored
        try:
            record = self.format.parse(stored)
        except DatasetError as error:
            raise DatasetError(
                f"sample {sample} in shard {self.dataset.shard_of(sample)} is damaged: {error.message}", "run `storagebench verify`"
            ) from None
        if len(record) != expected:
            raise DatasetError(
                f"sample {sample} in shard {self.dataset.shard_of(sample)} has {len(record)} bytes, and the manifest says {expected}",
                "run `storagebench verify`",
            )
        return record

    def _decode(self, sample: int, record: memoryview) -> tuple[Any, int]:
        try:
            return decode_full(self.dataset.payload, record, self._handover_bytes)
        except DatasetError as error:
            raise DatasetError(
                f"sample {sample} in shard {self.dataset.shard_of(sample)} does not decode: {error.message}", "run `storagebench verify`"
            ) from None


def join(pieces: Sequence[Piece], queue_level: int | None) -> Batch:
    """Pieces, in order, to a batch; ready when the last was."""
    spans: dict[str, float] = {}
    for piece in pieces:
        for name, seconds in piece.spans_s.items():
            spans[name] = spans.get(name, 0.0) + seconds
    checksums = checked = None
    if any(piece.checked is not None for piece in pieces):
        checksums = np.concatenate([_or_zeros(piece.checksums, piece, np.uint32) for piece in pieces])
        checked = np.concatenate([_or_zeros(piece.checked, piece, np.bool_) for piece in pieces])
    return Batch(
        sample_ids=np.concatenate([piece.sample_ids for piece in pieces]),
        record_bytes=sum(int(piece.record_sizes.sum()) for piece in pieces),
        handover_bytes=sum(int(piece.handover_sizes.sum()) for piece in pieces),
        data=[piece.data for piece in pieces],
        checksums=checksums,
        checked=checked,
        ready_ns=max(piece.finished_ns for piece in pieces),
        queue_level=queue_level,
        spans_s=spans,
        prep_cpu_s=sum(piece.prep_cpu_s for piece in pieces),
        run_delay_s=sum(piece.run_delay_s for piece in pieces),
    )


def _or_zeros(values: Any, piece: Piece, dtype: Any) -> Any:
    return np.zeros(len(piece.sample_ids), dtype) if values is None else values
