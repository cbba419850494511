"""The workers of the loader `direct`: each has its own reads in flight, and takes pieces of batches from one feed in the order of delivery.

A worker takes the next piece as soon as it has room for its reads, whatever batch that is, so that the depth stays full across samples, shards and batches.
When a piece's last read is done, the same thread checks and parses it, while its other reads go on in the kernel.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import NamedTuple

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from storagebench.loaders.delivery import Deliverer, Piece
from storagebench.loaders.direct_ranges import Range, ranges_of
from storagebench.protocols import Extent
from storagebench.storage.queues import ReadQueue
from storagebench.usage import Watch


class Assembly:
    """A batch in flight: its tasks, and the slab of memory that they share."""

    def __init__(self, slab: memoryview | None) -> None:
        self.tasks: list[Task] = []
        self.slab = slab
        self._lock = threading.Lock()
        self._left = 0
        self._unfinished = threading.Lock()  # held until the last task is done; a lock costs a tenth of an Event
        self._unfinished.acquire()

    def add(self, ids: NDArray[np.int64], memory: memoryview | None) -> None:
        """One more piece, before any worker knows of them."""
        self.tasks.append(Task(self, ids, memory))
        self._left += 1

    def task_done(self) -> None:
        """Called once for each task, by the worker that ended it."""
        with self._lock:
            self._left -= 1
            is_last = self._left == 0
        if is_last:
            self._unfinished.release()

    @property
    def is_ready(self) -> bool:
        return self._left == 0

    def pieces(self) -> list[Piece]:
        """Wait for all, and let the tasks go; the first error in their order is raised."""
        self._unfinished.acquire()
        self._unfinished.release()
        tasks, self.tasks = self.tasks, []  # they and this batch hold one another: their memory would stay until Python looks for such cycles
        for task in tasks:
            if task.error is not None:
                raise task.error
        return [task.piece for task in tasks if task.piece is not None]


class Task:
    """A piece of a batch on its way through one worker."""

    __slots__ = ("batch", "error", "ids", "memory", "piece", "ranges", "ranges_left", "sum_s", "sums")

    def __init__(self, batch: Assembly, ids: NDArray[np.int64], memory: memoryview | None) -> None:
        self.batch, self.ids, self.memory = batch, ids, memory
        self.ranges: list[Range] = []
        self.ranges_left = 0
        self.sums: dict[int, int] = {}  # checksums of the first samples' bytes so far, by position
        self.sum_s = 0.0
        self.piece: Piece | None = None
        self.error: Exception | None = None


class _Drain(NamedTuple):
    """Goes through the feed once for each worker, which passes `seen` when it has nothing in flight and no file open."""

    generation: int
    seen: threading.Barrier


class Feed:
    """Tasks that no worker has taken yet, in order. A queue of C's, since a `threading.Condition` that wakes many threads costs more than a short object."""

    def __init__(self, num_workers: int) -> None:
        self._items: SimpleQueue[Task | _Drain | None] = SimpleQueue()  # None: end
        self._num_workers = num_workers
        self._stopped = False
        self.generation = 0

    def put(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            self._items.put(task)

    def take(self) -> Task | None:
        """The next task, if there is one."""
        try:
            item = self._items.get_nowait()
        except Empty:
            return None
        if isinstance(item, Task):
            return item
        self._items.put(item)  # for `wait`, where a worker has nothing in flight
        return None

    def wait(self, worker: Worker) -> Task | None:
        """By a worker with nothing in flight: the next task. None: it is to end."""
        while not isinstance(item := self._items.get(), Task):
            if item is None:
                return None
            worker.queue.close_files()
            worker.generation = item.generation
            item.seen.wait()  # for all the others, so that each meets it once
        return item

    def drain(self) -> None:
        """Drop all tasks; return when no worker has a read in flight or a file open."""
        if self._stopped:
            return
        self.generation += 1  # from now on nothing more is sent
        self._clear()
        seen = threading.Barrier(self._num_workers + 1)
        for _ in range(self._num_workers):
            self._items.put(_Drain(self.generation, seen))
        seen.wait()

    def stop(self) -> None:
        """Have the workers end."""
        self._stopped = True
        self._clear()
        for _ in range(self._num_workers):
            self._items.put(None)

    def _clear(self) -> None:
        with suppress(Empty):
            while True:
                self._items.get_nowait()


class _Read(NamedTuple):
    """One read of a range: `low` is where it begins in the range."""

    task: Task
    range: Range
    low: int
    length: int


class Worker:
    """One thread's work; without a feed, the rank's own."""

    def __init__(self, queue: ReadQueue, deliverer: Deliverer, feed: Feed | None) -> None:
        self.queue = queue
        self.generation = 0
        self._deliverer = deliverer
        self._feed = feed
        self._to_send: deque[_Read] = deque()
        self._in_flight: dict[int, _Read] = {}
        self._next_tag = 0
        self._broken: Exception | None = None
        self._watch = Watch()

    def run(self) -> None:
        """Until the feed stops."""
        feed = self._feed
        assert feed is not None
        while (task := feed.wait(self)) is not None:
            self._watch = Watch()
            self._begin(task)
            try:
                self._keep_busy(feed)
            except Exception as error:  # of the queue itself; whoever waits for one of these tasks raises it
                self._broken = error
                for task in {read.task for read in (*self._in_flight.values(), *self._to_send)}:
                    self._fail(task, error)
                self._in_flight.clear()

    def _keep_busy(self, feed: Feed) -> None:
        """Until there is nothing to take, and nothing in flight."""
        while True:
            if self.generation != feed.generation:
                self._to_send.clear()
            else:
                self._top_up(feed)
            if not self._in_flight and not self._to_send:
                return
            self._reap()

    def work_off(self, tasks: Sequence[Task]) -> None:
        """All of these tasks, in the caller's thread."""
        self._watch = Watch()
        for task in tasks:
            self._begin(task)
            while self._to_send or self._in_flight:
                self._send()
                self._reap()

    def abandon(self) -> None:
        """Wait for what is in flight after an error, and let its files go."""
        self._to_send.clear()
        while self._in_flight:
            self._reap()
        self.queue.close_files()

    def _top_up(self, feed: Feed) -> None:
        """Take tasks while there is room for more reads."""
        queue = self.queue
        while len(self._in_flight) < queue.depth:
            if self._to_send:
                self._send()
                continue
            if queue.whole_pieces and self._in_flight:
                return
            task = feed.take()
            if task is None:
                return
            self._begin(task)

    def _begin(self, task: Task) -> None:
        """Plan the reads of a task."""
        if self._broken is not None:
            self._fail(task, self._broken)
            return
        try:
            task.ranges = ranges_of(self._deliverer, task.ids, task.memory, self.queue)
        except Exception as error:
            self._fail(task, error)
            return
        task.ranges_left = len(task.ranges)
        split = self.queue.split_bytes
        for some in task.ranges:
            if split is None or some.length <= split:
                self._to_send.append(_Read(task, some, 0, some.length))
            else:
                reads = [_Read(task, some, low, min(split, some.length - low)) for low in range(0, some.length, split)]
                some.left = len(reads)
                if self.queue.depth == 1 and len(some.members) == 1:  # its parts come one after another
                    position, start, _ = some.members[0]
                    sample = int(task.ids[position])
                    if self._deliverer.checks(sample):
                        low, high = self._deliverer.record_in_stored(sample)
                        some.record = (position, start + low, start + high)
                self._to_send.extend(reads)

    def _send(self) -> None:
        queue, in_flight = self.queue, self._in_flight
        while self._to_send and len(in_flight) < queue.depth:
            read = self._to_send.popleft()
            some = read.range
            tag = self._next_tag
            self._next_tag += 1
            in_flight[tag] = read
            queue.put(tag, Extent(some.key, some.offset + read.low, read.length), some.part(read.low, read.length), read.length < some.length)

    def _reap(self) -> None:
        for tag, found in self.queue.wait():
            read = self._in_flight.pop(tag)
            task, some = read.task, read.range
            if isinstance(found, Exception):
                self._fail(task, found)
                continue
            if some.memory is None:
                some.memory = found
            elif some.record is not None:
                self._sum_up(read, found)
            some.left -= 1
            if some.left == 0:
                task.ranges_left -= 1
                if task.ranges_left == 0 and task.error is None:
                    self._finish(task)

    def _sum_up(self, read: _Read, found: memoryview) -> None:
        """Checksum a part of a long record while it is in the core's cache."""
        assert read.range.record is not None
        position, low, high = read.range.record
        begin = time.perf_counter()
        part = found[max(low - read.low, 0) : max(high - read.low, 0)]
        read.task.sums[position] = crc32c(part, read.task.sums.get(position, 0))
        read.task.sum_s += time.perf_counter() - begin

    def _finish(self, task: Task) -> None:
        """All its bytes lie in memory."""
        stored: list[memoryview] = [memoryview(b"")] * len(task.ids)
        for some in task.ranges:
            memory = some.memory
            assert memory is not None
            for position, start, length in some.members:
                stored[position] = memory[start : start + length]
        try:
            task.piece = self._deliverer.deliver_stored(task.ids, stored, self._watch, task.sums, task.sum_s)
        except Exception as error:
            self._fail(task, error)
        else:
            task.batch.task_done()
        self._watch = Watch()

    def _fail(self, task: Task, error: Exception) -> None:
        """The first error of a task ends it; what it has in flight is awaited and not looked at."""
        if task.error is None:
            task.error = error
            self._to_send = deque(read for read in self._to_send if read.task is not task)
            task.batch.task_done()
