"""Objects in this process's memory, for tests and tiny tries: `memory://name`. All stores of one name in one process see the same objects.

Nothing is shared with other processes, so loaders with worker processes cannot use it.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from storagebench.errors import DatasetError, StorageError, UsageError
from storagebench.protocols import Extent, IOCounters, ObjectInfo, Sink, StoreSpec
from storagebench.storage.counting import STREAM_BUFFER_BYTES, Tally, checked_stream

_HINT = "run `storagebench verify`, then generate or import again"
_lock = threading.Lock()
_roots: dict[str, dict[str, bytes]] = {}


class MemoryStore:
    """A dictionary. A key is whole or absent. Raises UsageError for any option: there are none."""

    native_ranges = True

    def __init__(self, spec: StoreSpec) -> None:
        if spec.options:
            raise UsageError(f"unknown storage option {next(iter(spec.options))!r} for memory", "memory has no options")
        self.spec = spec
        self._tally = Tally()
        with _lock:
            self._objects = _roots.setdefault(spec.root.rstrip("/"), {})

    @property
    def url(self) -> str:
        return self.spec.url

    def exists(self, key: str) -> bool:
        with _lock:
            return key in self._objects

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        with _lock:
            found = [ObjectInfo(key, len(data)) for key, data in self._objects.items() if key.startswith(prefix)]
        yield from found

    def read(self, extents: Sequence[Extent]) -> Sequence[memoryview]:
        return [self._read_one(extent) for extent in extents]

    def read_into(self, extent: Extent, target: memoryview) -> None:
        if extent.length != len(target):
            raise ValueError(f"extent of {extent.key} has length {extent.length}, and the target {len(target)}")
        target[:] = self._read_one(extent)

    def read_all(self, key: str, limit_bytes: int) -> memoryview:
        size = len(self._object(key))
        if size > limit_bytes:
            raise StorageError(f"{key} in {self.url} has {size} bytes, over the limit of {limit_bytes}", "this is not an object of storagebench")
        return self._read_one(Extent(key, 0, size))

    def open_stream(self, key: str, num_bytes: int) -> io.BufferedReader:
        data = memoryview(self._object(key))
        if len(data) < num_bytes:
            raise self._truncated(key, len(data), num_bytes)
        self._tally.add(requests=1)
        chunks = (data[start : start + STREAM_BUFFER_BYTES] for start in range(0, len(data), STREAM_BUFFER_BYTES))
        return checked_stream(chunks, num_bytes, f"{key} in {self.url}", self._tally, lambda error: error)

    @contextmanager
    def create(self, key: str) -> Iterator[Sink]:
        buffer = io.BytesIO()
        yield buffer
        with _lock:
            self._objects[key] = buffer.getvalue()

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            with _lock:
                self._objects.pop(key, None)

    def counters(self) -> IOCounters:
        return self._tally.counters()

    def close(self) -> None:
        """The objects stay for other stores of that name; nothing else is held."""

    def _object(self, key: str) -> bytes:
        with _lock:
            data = self._objects.get(key)
        if data is None:
            raise DatasetError(f"{key} in {self.url} is missing", _HINT)
        return data

    def _read_one(self, extent: Extent) -> memoryview:
        if extent.length is None:
            raise ValueError(f"extent of {extent.key} has no length")
        data, end = self._object(extent.key), extent.offset + extent.length
        if len(data) < end:
            raise self._truncated(extent.key, len(data), end)
        self._tally.add(num_bytes=extent.length, requests=1)
        return memoryview(data)[extent.offset : end]

    def _truncated(self, key: str, size: int, needed: int) -> DatasetError:
        return DatasetError(f"{key} in {self.url} has {size} bytes, and {needed} were asked for: it is truncated", _HINT)
