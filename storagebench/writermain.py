"""What runs in the process of a writer, which `storagebench.writers` starts beside the ranks: shard after shard, made as `generate` makes them.

It builds everything anew from the run folder. Shards lie under `written/<run-id>/` in the dataset's storage, made through the store's own `create`: whole
and durable, on a local disk past the page cache. The n-th one has the record lengths of the dataset's n-th shard (or of so many samples as were asked),
and bytes that no sample of the dataset has. Each has two rows in the writer's trace: its keys before it is begun, and its figures when it is stored.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storagebench.clock import Clock, SystemClock
from storagebench.datasets.synthetic import RecordMaker
from storagebench.errors import StorageBenchError, UsageError
from storagebench.manifest import Dataset, load_dataset, side_key
from storagebench.members import hosts_of
from storagebench.process import die_with_parent
from storagebench.protocols import Format, ShardIndexed, Store, StoreSpec
from storagebench.records import SCHEMA_VERSION, TraceWriter, read_run, writer_trace_path
from storagebench.registry import open_format
from storagebench.shardmaking import write_shard
from storagebench.storage import open_spec
from storagebench.workload import DatasetSpec

READY = b"ready\n"
_FOLDER = "written"
_NEVER = threading.Event()


def folder_of(run_id: str) -> str:
    """The key prefix of all that a run's writers write."""
    return f"{_FOLDER}/{run_id}"


def main() -> None:
    """The process of a writer: `run_dir number` as arguments. It says that it is ready, waits for a byte, and writes until its input ends."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the whole group: the parent says when it ends
    run_dir, number = Path(sys.argv[1]), int(sys.argv[2])
    run, clock = read_run(run_dir), SystemClock()
    trace = TraceWriter(writer_trace_path(run_dir, number))
    facts = {"run_id": run["run_id"], "writer": number, "host": hosts_of(run)[number // run["config"]["run"]["writers"]]["host"], "pid": os.getpid()}
    trace.write({"kind": "header", "schema_version": SCHEMA_VERSION, **facts, "monotonic_ns": clock.now_ns(), "wall_ns": clock.wall_ns()})
    started = False
    try:
        writer = _Writer(run, number, trace, clock)
        os.write(1, READY)
        started = True
        if os.read(0, 1):
            writer.write_until(_end_of_input())
        trace.write({"kind": "end", "end_ns": clock.now_ns()})
    except Exception as error:
        said = _as_told(error, number)
        trace.write({"kind": "error", **said, "monotonic_ns": clock.now_ns()})
        if not started:
            os.write(1, json.dumps(said).encode() + b"\n")
    finally:
        trace.close()


def _as_told(error: Exception, number: int) -> dict[str, str]:
    if isinstance(error, StorageBenchError):
        return {"error": type(error).__name__, "message": f"writer {number}: {error.message}", "hint": error.hint}
    return {"error": "RankError", "message": f"writer {number} failed: {type(error).__name__}: {error}", "hint": "report this defect"}


def _end_of_input() -> threading.Event:
    """Set when the parent closes our input."""
    ended = threading.Event()

    def wait() -> None:
        os.read(0, 1)
        ended.set()

    threading.Thread(target=wait, name="end-of-input", daemon=True).start()
    return ended


class _Writer:
    """One writer: makes shard after shard, at its share of the asked rate. Behind the rate it catches up, as games that are over wait for nobody."""

    def __init__(self, run: Mapping[str, Any], number: int, trace: TraceWriter, clock: Clock) -> None:
        asked = run["config"]["run"]
        self._number, self._count, self._trace, self._clock = number, asked["writers"], trace, clock
        self._share_per_s = asked["write_rate"] / self._count
        self._keep, self._samples = asked["write_keep_shards"], asked["write_shard_samples"]
        self._prefix = folder_of(run["run_id"])
        self._store: Store = open_spec(StoreSpec(**run["store"]))
        self._dataset = load_dataset(self._store)
        self._form: Format = open_format(self._dataset.format)
        lengths = self._dataset.index["record_bytes"]
        self._maker = RecordMaker(_record_spec(self._dataset), int(lengths.max()))
        self._try_record(int(lengths.min()))
        self._standing: deque[list[str]] = deque()
        self._cpu_before_s = 0.0

    def _try_record(self, num_bytes: int) -> None:
        """What cannot be made is told before the run begins: UsageError. A real image may be shorter than any that can be made."""
        try:
            for _ in self._maker.records(0, np.array([num_bytes], np.int64)):
                pass
        except ValueError as error:
            raise UsageError(f"no record like the dataset's shortest can be made: {error}", "use --writers 0, or a synthetic dataset") from None

    def write_until(self, ended: threading.Event) -> None:
        """Raises StorageError. The shard that is begun when `ended` is set is finished."""
        begin_ns, num_bytes, number = self._clock.now_ns(), 0, 0
        self._cpu_before_s = _cpu_s()
        self._trace.write({"kind": "start", "begin_ns": begin_ns})
        while True:
            due_ns = begin_ns + round(num_bytes / self._share_per_s * 1e9) if self._share_per_s else 0
            if ended.wait(max(0, due_ns - self._clock.now_ns()) / 1e9):
                break
            num_bytes += self._one(number)
            number += 1
            while self._keep and len(self._standing) > self._keep:
                self._store.delete(self._standing.popleft())
        self._store.close()

    def _one(self, number: int) -> int:
        """Write a shard with its rows; its stored bytes."""
        key = f"{self._prefix}/{self._number:05d}-{number:08d}{self._form.suffix}"
        keys = [key, side_key(self._form, key)] if isinstance(self._form, ShardIndexed) else [key]
        first, lengths = shard_of(self._dataset, number * self._count + self._number, self._samples)
        begin_ns = self._clock.now_ns()
        self._trace.write({"kind": "writing", "keys": keys, "begin_ns": begin_ns})
        records = self._maker.records(first, lengths)
        made = write_shard(self._store, self._form, self._dataset.options, key, first, records, len(lengths), _NEVER)
        row = {"key": key, "bytes": made.num_bytes, "samples": len(lengths), "begin_ns": begin_ns, "end_ns": self._clock.now_ns()}
        self._trace.write({"kind": "shard", **row, "cpu_s": round(_cpu_s() - self._cpu_before_s, 6)})
        self._standing.append(keys)
        return made.num_bytes


def _cpu_s() -> float:
    """Of this process so far."""
    times = os.times()
    return times.user + times.system


def _record_spec(dataset: Dataset) -> DatasetSpec:
    """What the bytes of a record like the dataset's depend on, but for its length."""
    known = {name: dataset.origin[name] for name in ("seed", "compressibility") if name in dataset.origin}
    return DatasetSpec.model_validate({"payload": dataset.payload, **known})


def shard_of(dataset: Dataset, ordinal: int, num_samples: int) -> tuple[int, NDArray[np.int64]]:
    """(id of its first sample, record lengths) of the shard that all writers together write as their `ordinal`-th: the lengths of the dataset's shards in
    turn, or of its samples in turn where `num_samples` says how many a shard has. Ids begin where the dataset's end, and none comes twice."""
    if num_samples:
        rows = (ordinal * num_samples + np.arange(num_samples)) % dataset.num_samples
        first = dataset.num_samples + ordinal * num_samples
    else:
        shard = ordinal % dataset.num_shards
        begin = int(dataset.first_sample[shard])
        rows = np.arange(begin, begin + int(dataset.shard_samples[shard]))
        first = dataset.num_samples * (1 + ordinal // dataset.num_shards) + begin
    return first, dataset.index["record_bytes"][rows].astype(np.int64)
