"""Reads of one thread, several in flight: how the loader `direct` asks a store. One class for each way; `best_way` chooses, `how` says which.

Chosen by measurement (benchmarks/read_ways.py and its row in benchmarks/README.md): native AIO for O_DIRECT, since files of 115 KB come 1.5 times as fast as by
reader threads at a third of their CPU time (of 20 MB 0.8 as fast, at 0.14 instead of 0.02 CPU s/GB, both above what fio gets); preadv(2) for buffered reads,
where the time is copying. io_uring brought 1.1 times native AIO on large files and no more on small ones, and its kept-up binding takes no memory of the
caller's; memory mapping costs more CPU time than copying, and a truncated file kills the process.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol, cast

from storagebench.protocols import Extent, Store
from storagebench.storage.aio import Ring, is_available
from storagebench.storage.buffers import ALIGNMENT_BYTES, address_of, aligned
from storagebench.storage.posix import RWF_DONTCACHE, PosixStore

if TYPE_CHECKING:
    import asyncio

    from storagebench.storage.s3 import S3Store

# Longer reads are cut: pieces of 2 MiB fit a huge page; copies of 1 MiB stay in the core's cache until they are checksummed.
DIRECT_READ_BYTES = 2 * 2**20
BUFFERED_READ_BYTES = 2**20
RANGE_BYTES = 8 * 2**20
_MAX_OPEN_FILES = 64
# In flight where nobody says: of one worker on a local device, and of all workers of a rank on S3.
DIRECT_DEPTH = 32
S3_REQUESTS = 32
LONG_BYTES = 2**20  # from here on the bytes of a request cost more than the request

Done = tuple[int, memoryview | Exception]


class ReadQueue(Protocol):
    """For the one thread that opened it.

    Offset and memory of a read are multiples of `alignment_bytes` (1: any), and the memory is as long as the extent rounded up to it. `split_bytes`: longer
    extents are better asked for in parts of so many (None: never). `in_place`: reads need memory of the caller's; else the store brings its own.
    `whole_pieces`: all that is asked for together is one call of the store.
    """

    depth: int
    alignment_bytes: int
    split_bytes: int | None
    in_place: bool
    whole_pieces: bool
    how: str

    def put(self, tag: int, extent: Extent, target: memoryview | None, part: bool) -> None:
        """Ask for this extent (with a length); `part` of what lies there together. At most `depth` at a time."""

    def wait(self) -> Iterator[Done]:
        """Send what was put, wait for at least one, and give the tag and the bytes of each that is done, or the store's error for it."""

    def close_files(self) -> None:
        """Close what is kept open between reads. Nothing may be in flight."""

    def close(self) -> None:
        """Wait for what is in flight, and release everything. May be called twice."""


def best_way(store: Store, num_workers: int, depth: int, mean_bytes: float) -> tuple[int, Callable[[], ReadQueue]]:
    """The best way into this store for so many workers (0: the rank itself reads): how many threads are to read (0 for 0), and what opens the queue of each.
    `depth`: reads in flight of a worker where that is up to us, or as many as usually suffice where it is 0. `mean_bytes`: of a sample."""
    if isinstance(store, PosixStore):
        if store.io == "direct" and is_available():
            return num_workers, lambda: RingQueue(store, depth or DIRECT_DEPTH)
        return num_workers, lambda: FileQueue(store)
    if store.spec.kind == "s3":
        requests = depth or max(1, S3_REQUESTS // max(num_workers, 1))
        if mean_bytes >= LONG_BYTES and store.spec.options.get("client", "obstore") == "obstore":
            return num_workers, lambda: LoopQueue(cast("S3Store", store), requests)
        if num_workers:  # to hand a short object from thread to thread costs more than the object
            return num_workers * requests, lambda: StoreQueue(store, 1)
    return num_workers, lambda: StoreQueue(store, 2**31)


class _OpenFiles:
    """Descriptors by key; the longest unused is closed where too many are open (reads in flight do not mind)."""

    def __init__(self, store: PosixStore) -> None:
        self._store = store
        self._open: dict[str, int] = {}

    def fd(self, extent: Extent) -> int:
        found = self._open.pop(extent.key, None)
        if found is None:
            if len(self._open) >= _MAX_OPEN_FILES:
                os.close(self._open.pop(next(iter(self._open))))
            found = self._store.open_file(extent.key, extent.offset + (extent.length or 0))
        self._open[extent.key] = found
        return found

    def close(self) -> None:
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()


class RingQueue:
    """O_DIRECT reads through the kernel's native AIO, straight into the caller's memory."""

    alignment_bytes = ALIGNMENT_BYTES
    split_bytes: int | None = DIRECT_READ_BYTES
    in_place = True
    whole_pieces = False

    def __init__(self, store: PosixStore, depth: int) -> None:
        self.depth = depth
        self.how = f"O_DIRECT, native AIO, {depth} reads in flight a worker"
        self._store = store
        self._files = _OpenFiles(store)
        self._ring: Ring | None = Ring(depth)
        self._free = list(range(depth))
        self._wanted: list[tuple[int, Extent, memoryview] | None] = [None] * depth
        self._failed: deque[Done] = deque()

    def put(self, tag: int, extent: Extent, target: memoryview | None, part: bool) -> None:
        assert target is not None and self._ring is not None
        try:
            fd = self._files.fd(extent)
        except Exception as error:
            self._failed.append((tag, error))
            return
        slot = self._free.pop()
        self._wanted[slot] = (tag, extent, target)
        self._ring.put(slot, fd, extent.offset, aligned(extent.length or 0), address_of(target))

    def wait(self) -> Iterator[Done]:
        assert self._ring is not None
        try:
            self._ring.send()
            while self._failed:
                yield self._failed.popleft()
            if len(self._free) < self.depth:
                yield from self._reap(self._ring)
        except OSError as error:
            raise self._store.explain(error, "") from None

    def _reap(self, ring: Ring) -> Iterator[Done]:
        num_bytes = requests = 0
        for slot, got in ring.wait():
            entry = self._wanted[slot]
            assert entry is not None
            tag, extent, target = entry
            self._wanted[slot] = None
            self._free.append(slot)
            length = extent.length or 0
            if got >= length:
                num_bytes, requests = num_bytes + length, requests + 1
                yield tag, target[:length]
            elif got < 0:
                yield tag, self._store.explain(OSError(-got, os.strerror(-got)), extent.key)
            else:
                yield tag, self._store.ended(extent.key, extent.offset + got, extent.offset + length)
        self._store.count(num_bytes, requests)

    def close_files(self) -> None:
        self._files.close()

    def close(self) -> None:
        if self._ring is not None:
            self._ring.close()
            self._ring = None
        self._files.close()


class FileQueue:
    """preadv(2), one read at a time: buffered, leaving no pages behind, or O_DIRECT where there is no native AIO."""

    depth = 1
    in_place = True
    whole_pieces = False

    def __init__(self, store: PosixStore) -> None:
        self._store = store
        self._files = _OpenFiles(store)
        self._flags = RWF_DONTCACHE if store.io == "dontcache" else 0
        self.alignment_bytes = ALIGNMENT_BYTES if store.io == "direct" else 1
        self.split_bytes: int | None = DIRECT_READ_BYTES if store.io == "direct" else BUFFERED_READ_BYTES
        self.how = {"buffered": "buffered", "dontcache": "RWF_DONTCACHE", "direct": "O_DIRECT"}[store.io] + ", preadv, one read in flight a worker"
        self._asked: tuple[int, Extent, memoryview] | None = None

    def put(self, tag: int, extent: Extent, target: memoryview | None, part: bool) -> None:
        assert target is not None and self._asked is None
        self._asked = (tag, extent, target)

    def wait(self) -> Iterator[Done]:
        asked, self._asked = self._asked, None
        if asked is not None:
            tag, extent, target = asked
            yield tag, self._read(extent, target)

    def _read(self, extent: Extent, target: memoryview) -> memoryview | Exception:
        length, done = extent.length or 0, 0
        end = -(-length // self.alignment_bytes) * self.alignment_bytes
        try:
            fd = self._files.fd(extent)
            while done < length:
                got = os.preadv(fd, [target[done:end]], extent.offset + done, self._flags)
                if got == 0:
                    return self._store.ended(extent.key, extent.offset + done, extent.offset + length)
                done += got
        except OSError as error:
            return self._store.explain(error, extent.key)
        except Exception as error:
            return error
        self._store.count(length, 1)
        return target[:length]

    def close_files(self) -> None:
        self._files.close()

    def close(self) -> None:
        self._files.close()


class StoreQueue:
    """A store's own `read`: all that a piece of a batch needs in one call, or with a depth of 1 one extent."""

    alignment_bytes = 1
    split_bytes: int | None = None
    in_place = False

    def __init__(self, store: Store, depth: int) -> None:
        self.depth = depth
        self.whole_pieces = depth > 1
        self.how = "the store's read, a piece of a batch at a time" if self.whole_pieces else "the store's read, one request in flight a thread"
        self._store = store
        self._asked: list[tuple[int, Extent]] = []

    def put(self, tag: int, extent: Extent, target: memoryview | None, part: bool) -> None:
        self._asked.append((tag, extent))

    def wait(self) -> Iterator[Done]:
        asked, self._asked = self._asked, []
        if not asked:
            return
        try:
            found = self._store.read([extent for _, extent in asked])
        except Exception as error:
            yield from ((tag, error) for tag, _ in asked)
            return
        yield from zip((tag for tag, _ in asked), found, strict=True)

    def close_files(self) -> None:
        """Nothing is kept open."""

    def close(self) -> None:
        """Nothing is held."""


class LoopQueue:
    """Long objects, or parts of them, in flight beside one another on an event loop of the worker's own: what arrives is gathered where it arrives, and not
    handed from thread to thread chunk by chunk (0.9 instead of 1.6 CPU s/GB on 20 MB objects)."""

    alignment_bytes = 1
    in_place = False
    whole_pieces = False

    def __init__(self, store: S3Store, depth: int) -> None:
        import asyncio

        self.depth = depth
        self.how = f"obstore, {depth} requests in flight a worker"
        self.split_bytes: int | None = RANGE_BYTES if store.native_ranges else None
        self._store = store
        self._loop: asyncio.AbstractEventLoop | None = asyncio.new_event_loop()
        self._loop.set_default_executor(ThreadPoolExecutor(depth, "direct-s3"))  # for ranges that obstore does not read
        self._running: set[asyncio.Task[None]] = set()
        self._done: list[Done] = []

    def put(self, tag: int, extent: Extent, target: memoryview | None, part: bool) -> None:
        assert self._loop is not None
        if part:
            self._store.expect_longer(extent.key)
        self._running.add(self._loop.create_task(self._read(tag, extent, target)))

    async def _read(self, tag: int, extent: Extent, target: memoryview | None) -> None:
        assert self._loop is not None
        try:
            found = await self._store.read_async(extent)
            if target is not None:
                target[: len(found)] = found
                found = target[: len(found)]
            self._done.append((tag, found))
        except Exception as error:
            self._done.append((tag, error))
        self._loop.stop()

    def wait(self) -> Iterator[Done]:
        if self._running:
            assert self._loop is not None
            self._loop.run_forever()  # until one is done, or more
            self._running = {task for task in self._running if not task.done()}
        done, self._done = self._done, []
        yield from done

    def close_files(self) -> None:
        """Connections stay; no file is open."""

    def close(self) -> None:
        if self._loop is not None:
            while self._running:
                for _ in self.wait():
                    pass
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()
            self._loop = None
