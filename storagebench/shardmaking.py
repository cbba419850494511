"""Makes single shards: in threads of this process, or in processes of its own where the making of records is the work.

Python lets one thread at a time make records: two threads made tar shards of 115 KB records more slowly here than one did, and two processes made
them about 1.5 times as fast as two threads (JPEG: 1.9 times). A process gets its tasks as JSON lines on its standard input and answers on its output; it dies with the one that started it.
"""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from queue import SimpleQueue
from typing import Any, NamedTuple, Protocol

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from storagebench import errors
from storagebench.datasets.source import Source
from storagebench.datasets.synthetic import RecordMaker, SyntheticSource
from storagebench.errors import StorageBenchError, StorageError
from storagebench.manifest import INDEX_DTYPE, side_key
from storagebench.process import child_environment, die_with_parent
from storagebench.protocols import Format, Record, ShardIndexed, Sink, Store, StoreSpec
from storagebench.registry import open_format
from storagebench.storage import open_spec
from storagebench.workload import DatasetSpec

# What is summed up is copied next, out of the processor's cache.
_PIECE_BYTES = 2**18
_END_LIMIT_S = 10.0


class Made(NamedTuple):
    """A shard that is stored: its size, its checksum, and the index rows of its samples without the number of the shard."""

    num_bytes: int
    crc32c: int
    rows: NDArray[Any]


class Maker(Protocol):
    """Makes one shard at a time."""

    def make(self, name: str, first: int, count: int) -> Made:
        """Samples first .. first + count, stored under that name. Raises StorageBenchError."""

    def stop(self) -> None:
        """End what is being made, which leaves nothing behind; from any thread."""

    def close(self) -> None:
        """Release all; nothing is being made."""


class StoppedError(Exception):
    """Another shard failed; this one is not to be finished, and nobody sees this."""


class Makers:
    """Several makers, one of which takes each shard."""

    def __init__(self, makers: Sequence[Maker]) -> None:
        self._makers = makers
        self._free: SimpleQueue[Maker] = SimpleQueue()
        for maker in makers:
            self._free.put(maker)

    def __len__(self) -> int:
        return len(self._makers)

    def make(self, name: str, first: int, count: int) -> Made:
        maker = self._free.get()
        try:
            return maker.make(name, first, count)
        finally:
            self._free.put(maker)

    def stop(self) -> None:
        for maker in self._makers:
            maker.stop()

    def close(self) -> None:
        for maker in self._makers:
            maker.close()


class ThreadMaker:
    """Makes shards in the caller's thread. Several may share a source and a store."""

    def __init__(self, source: Source, form: Format, store: Store, options: Mapping[str, Any]) -> None:
        self._source, self._form, self._store, self._options = source, form, store, options
        self._stop = threading.Event()

    def make(self, name: str, first: int, count: int) -> Made:
        return write_shard(self._store, self._form, self._options, name, first, self._source.records(first, count), count, self._stop)

    def stop(self) -> None:
        self._stop.set()

    def close(self) -> None:
        """Nothing is held."""


class ProcessMaker:
    """Makes shards of a synthetic dataset in a process of its own, which starts while the first task waits for it."""

    def __init__(self, source: SyntheticSource, form: Format, store: StoreSpec, options: Mapping[str, Any]) -> None:
        self._source = source
        self._stopped = False
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the maker
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", f"from {__name__} import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=child_environment(),
        )
        self._ask(
            {
                "dataset": source.spec.model_dump(mode="json"),
                "longest": int(source.approx_bytes.max()),
                "format": form.name,
                "store": asdict(store),
                "options": dict(options),
            }
        )

    def make(self, name: str, first: int, count: int) -> Made:
        self._ask({"name": name, "first": first, "lengths": _packed(self._source.approx_bytes[first : first + count])})
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):  # it ended, perhaps within its answer
            if self._stopped:
                raise StoppedError
            raise self._died(name)
        answer = json.loads(line)
        if "error" in answer:
            raise getattr(errors, answer["error"], StorageError)(answer["message"], answer["hint"])
        return Made(answer["bytes"], answer["crc32c"], np.frombuffer(base64.b64decode(answer["rows"]), INDEX_DTYPE))

    def _ask(self, task: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it died: its answer says so
            self._process.stdin.write(json.dumps(task).encode() + b"\n")
            self._process.stdin.flush()

    def _died(self, name: str) -> StorageError:
        code = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
        return StorageError(
            f"the process that made {name} {how}{': ' + said[-1] if said else ''}",
            "the same command goes on with this dataset; --num-threads 1 takes one process and the least memory",
        )

    def stop(self) -> None:
        self._stopped = True
        self._process.terminate()

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(_END_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()


def main() -> None:
    """The process of a `ProcessMaker`: first the job, then a task a line."""
    die_with_parent()
    stop = threading.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the whole group: the parent says what is to be done
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    job = json.loads(sys.stdin.buffer.readline())
    maker = RecordMaker(DatasetSpec.model_validate(job["dataset"]), job["longest"])
    form, store = open_format(job["format"]), open_spec(StoreSpec(**job["store"]))
    try:
        for line in sys.stdin.buffer:
            task = json.loads(line)
            lengths = np.frombuffer(base64.b64decode(task["lengths"]), np.int64)
            answer: dict[str, Any]
            try:
                records = maker.records(task["first"], lengths)
                made = write_shard(store, form, job["options"], task["name"], task["first"], records, len(lengths), stop)
                answer = {"bytes": made.num_bytes, "crc32c": made.crc32c, "rows": _packed(made.rows)}
            except StorageBenchError as error:
                answer = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
            sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
            sys.stdout.buffer.flush()
    except StoppedError:
        pass
    finally:
        store.close()


def _packed(values: NDArray[Any]) -> str:
    return base64.b64encode(values.tobytes()).decode()


def write_shard(
    store: Store, form: Format, options: Mapping[str, Any], name: str, first: int, records: Iterable[Record], count: int, stop: threading.Event
) -> Made:
    """Store the `count` records as a shard of that name, and its index file where the format has one. Raises StorageError, and StoppedError once `stop` is set."""
    rows = np.zeros(count, INDEX_DTYPE)
    with store.create(name) as sink:
        counting = _CountingSink(sink)
        offsets = form.write_shard(counting, _noted(records, rows, stop), options)
    rows["offset"] = offsets
    if isinstance(form, ShardIndexed):
        with store.create(side_key(form, name)) as sink:
            sink.write(form.shard_index(first, rows))
    return Made(counting.num_bytes, counting.crc32c, rows)


def _noted(records: Iterable[Record], rows: NDArray[Any], stop: threading.Event) -> Iterator[Record]:
    for row, record in enumerate(records):
        if stop.is_set():
            raise StoppedError
        checksum = crc32c(record.payload) if record.crc32c is None else record.crc32c
        rows[row] = (0, len(record.payload), checksum, 0, record.label, 0)
        yield record


class _CountingSink:
    """Passes on, and knows how many bytes with which checksum."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.num_bytes = 0
        self.crc32c = 0

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        for start in range(0, len(view), _PIECE_BYTES):
            piece = view[start : start + _PIECE_BYTES]
            self.crc32c = crc32c(piece, self.crc32c)
            self._sink.write(piece)
        self.num_bytes += len(view)
        return len(view)
