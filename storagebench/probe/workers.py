"""What one thread of a cell does: take requests off its list, issue them, note when each began and ended. Nothing else stands on the timed path.

A log row is (begin_ns, end_ns, bytes), stamps of CLOCK_MONOTONIC. Each worker prepares (buffers, context), meets the others at the gate, and reads
until its list ends or the deadline has passed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from time import monotonic_ns
from typing import NoReturn, Protocol

import numpy as np

from storagebench.errors import DatasetError, StorageError
from storagebench.probe.plan import align
from storagebench.protocols import Extent, Store
from storagebench.storage.aio import Ring
from storagebench.storage.buffers import address_of, faulted_buffer, unique_block

Source = Iterator[tuple[int, int, int]]  # file, offset, bytes; may be shared by threads
Log = list[tuple[int, int, int]]
_MAX_OPEN_FILES = 32
_STAMP_BYTES = 512


class Gate(Protocol):
    """Where all threads of a cell meet before the first request."""

    def wait(self) -> object: ...


@dataclass
class Until:
    """When to stop, in CLOCK_MONOTONIC nanoseconds; written by the cell's own thread only."""

    deadline_ns: int = field(default=2**62)


class Worker(Protocol):
    """One thread's work; `run` is called once, in that thread."""

    def run(self, source: Source, gate: Gate, until: Until, log: Log) -> None:
        """Raises StorageBenchError for a read that fails or comes short."""


class _Files:
    """Descriptors of one thread: each has a readahead state of its own. The longest unused is closed where too many are open."""

    def __init__(self, paths: list[str], flags: int) -> None:
        self._paths = paths
        self._flags = flags | os.O_CLOEXEC | os.O_NOFOLLOW
        self._open: dict[int, int] = {}

    def fd(self, index: int) -> int:
        found = self._open.pop(index, None)
        if found is None:
            if len(self._open) >= _MAX_OPEN_FILES:
                os.close(self._open.pop(next(iter(self._open))))
            found = os.open(self._paths[index], self._flags)
        self._open[index] = found
        return found

    def sync(self) -> None:
        """Make what was written through these descriptors durable."""
        for fd in self._open.values():
            os.fdatasync(fd)

    def close(self) -> None:
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()

    def raise_failed(self, error: OSError, index: int, action: str) -> NoReturn:
        path = self._paths[index]
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP) and self._flags & os.O_DIRECT:
            raise StorageError(f"{path} cannot be {action} with O_DIRECT ({error.strerror})", "use --buffered") from None
        raise StorageError(f"{path} cannot be {action}: {error.strerror}", "check the path, its permissions and the device") from None

    def raise_short(self, index: int, offset: int, wanted: int, got: int) -> NoReturn:
        raise DatasetError(
            f"{self._paths[index]} gave {got} of {wanted} bytes at {offset}", "run `storagebench verify`; nothing may write to it during a probe"
        )


class FileReader:
    """preadv(2) into one reused page-aligned buffer: one request in flight."""

    def __init__(self, paths: list[str], buffer_bytes: int, direct: bool) -> None:
        self._files = _Files(paths, os.O_RDONLY | (os.O_DIRECT if direct else 0))
        self._buffer = faulted_buffer(align(buffer_bytes))
        self._direct = direct

    def run(self, source: Source, gate: Gate, until: Until, log: Log) -> None:
        files, target, now = self._files, self._buffer, monotonic_ns
        index = 0
        gate.wait()
        try:
            for index, offset, length in source:
                begin = now()
                if begin >= until.deadline_ns:
                    break
                fd, got = files.fd(index), 0
                while got < length:  # more than one call only where the kernel returns short
                    done = os.preadv(fd, [target[got : align(length) if self._direct else length]], offset + got)
                    if done == 0:
                        files.raise_short(index, offset, length, got)
                    got += done
                log.append((begin, now(), length))
        except OSError as error:
            files.raise_failed(error, index, "read")
        finally:
            files.close()


class DeepFileReader:
    """Native AIO: `depth` O_DIRECT reads in flight from one thread."""

    def __init__(self, paths: list[str], buffer_bytes: int, depth: int) -> None:
        self._files = _Files(paths, os.O_RDONLY | os.O_DIRECT)
        self._buffer_bytes = align(buffer_bytes)
        self._depth = depth

    def run(self, source: Source, gate: Gate, until: Until, log: Log) -> None:
        files = self._files
        wanted = [(0, 0, 0)] * self._depth
        try:
            memory = faulted_buffer(self._depth * self._buffer_bytes)
            ring = Ring(self._depth)
            gate.wait()
            try:
                self._read(ring, address_of(memory), source, until, wanted, log)
            finally:
                ring.close()
        except OSError as error:
            files.raise_failed(error, wanted[0][0], "read")
        finally:
            files.close()

    def _read(self, ring: Ring, base: int, source: Source, until: Until, wanted: list[tuple[int, int, int]], log: Log) -> None:
        files, now, more = self._files, monotonic_ns, True
        free = list(range(self._depth))
        begins = [0] * self._depth
        while True:
            begin = now()
            more = more and begin < until.deadline_ns
            while free and more:
                request = next(source, None)
                if request is None:
                    more = False
                    break
                slot = free.pop()
                wanted[slot], begins[slot] = request, begin
                ring.put(slot, files.fd(request[0]), request[1], align(request[2]), base + slot * self._buffer_bytes)
            ring.send()
            if len(free) == self._depth:
                return
            for slot, got in ring.wait():
                index, offset, length = wanted[slot]
                if got < 0:
                    files.raise_failed(OSError(-got, os.strerror(-got)), index, "read")
                if got < length:
                    files.raise_short(index, offset, length, got)
                log.append((begins[slot], now(), length))
                free.append(slot)


class FileWriter:
    """pwrite(2) over existing scratch files, then fdatasync(2), which the last row of the log carries. Each 512 bytes written are unique."""

    def __init__(self, paths: list[str], request_bytes: int, direct: bool) -> None:
        self._files = _Files(paths, os.O_WRONLY | (os.O_DIRECT if direct else 0))
        self._buffer = unique_block(align(request_bytes))

    def run(self, source: Source, gate: Gate, until: Until, log: Log) -> None:
        files, now = self._files, monotonic_ns
        stamps = np.frombuffer(self._buffer, np.uint64)[:: _STAMP_BYTES // 8]
        index = 0
        gate.wait()
        try:
            for index, offset, length in source:
                begin = now()
                if begin >= until.deadline_ns:
                    break
                stamps += np.uint64(1)
                done = os.pwrite(files.fd(index), self._buffer[:length], offset)
                if done != length:
                    raise StorageError(f"a scratch file took {done} of {length} bytes", "free space, or choose a smaller --size")
                log.append((begin, now(), length))
            begin = now()
            files.sync()
            log.append((begin, now(), 0))
        except OSError as error:
            files.raise_failed(error, index, "written")
        finally:
            del stamps
            files.close()


class StoreReader:
    """One request at a time through a store that all threads share; it checks lengths and raises the store's own errors."""

    def __init__(self, store: Store, keys: list[str]) -> None:
        self._store = store
        self._keys = keys

    def run(self, source: Source, gate: Gate, until: Until, log: Log) -> None:
        read, keys, now = self._store.read, self._keys, monotonic_ns
        gate.wait()
        for index, offset, length in source:
            begin = now()
            if begin >= until.deadline_ns:
                break
            read([Extent(keys[index], offset, length)])
            log.append((begin, now(), length))


class StoreWriter:
    """New objects of our own, each made whole and durable by the store; `written` gets each key before the object can exist."""

    def __init__(self, store: Store, prefix: str, request_bytes: int, written: list[str]) -> None:
        self._store = store
        self._prefix = prefix
        self._buffer = unique_block(align(request_bytes))
        self._written = written

    def run(self, source: Source, gate: Gate, until: Until, log: Log) -> None:
        now = monotonic_ns
        stamps = np.frombuffer(self._buffer, np.uint64)[:: _STAMP_BYTES // 8]
        gate.wait()
        for index, offset, length in source:
            begin = now()
            if begin >= until.deadline_ns:
                break
            stamps += np.uint64(1)
            key = f"{self._prefix}/written-{index}-{offset}"
            self._written.append(key)
            with self._store.create(key) as sink:
                sink.write(self._buffer[:length])
            log.append((begin, now(), length))
