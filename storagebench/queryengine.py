"""Queries against a store: they are issued as LoadGen would, served by a pool of threads, and every sample is timed, checked and written down.

Latency counts from when a query was due, so a queue before the workers, and an issuer that came late, are in it; how late the issuer came is told apart
(`issued_ns`). Single- and multi-stream: the next query on completion of the last. Server: an open loop, at the times of the schedule whatever the
storage does. Offline: all samples of one query at once. What is judged of it is elsewhere (`checks.queries`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np

from storagebench.clock import Clock
from storagebench.loaders.delivery import Deliverer
from storagebench.protocols import Extent, LoadJob, Store
from storagebench.queryplan import longest_bytes
from storagebench.queryrecords import SampleRecord
from storagebench.scenarios.schedule import Query, Scenario
from storagebench.storage.buffers import aligned_buffer
from storagebench.usage import Watch

# A query is due this long after the command to begin, so that the first is not late only because threads wake up.
LEAD_NS = 20_000_000


class Reader:
    """Reads and checks single samples in one thread: memory of its own, long enough for the longest sample before the first query is due."""

    def __init__(self, store: Store, job: LoadJob) -> None:
        self._store, self._deliverer = store, Deliverer(job)
        self._expected = job.dataset.index["crc32c"]
        self._memory = aligned_buffer(longest_bytes(job.dataset, self._deliverer.whole_shard))

    def read(self, sample: int) -> tuple[int, bool, bool]:
        """(record bytes, whether its checksum was compared, whether it differed). Raises StorageError, DatasetError."""
        extent = self._deliverer.dataset.extent(sample, self._deliverer.whole_shard)
        watch = Watch()
        piece = self._deliverer.deliver_stored(np.array([sample], np.int64), [self._fetch(extent)], watch)
        checked = piece.checked is not None and bool(piece.checked[0])
        bad = checked and piece.checksums is not None and int(piece.checksums[0]) != int(self._expected[sample])
        return int(piece.record_sizes[0]), checked, bad

    def _fetch(self, extent: Extent) -> memoryview:
        target = self._memory[: extent.length or 0]
        self._store.read_into(extent, target)
        return target


class _Item(NamedTuple):
    query: int
    sample: int
    scheduled_ns: int
    issued_ns: int


Read = Callable[[int], tuple[int, bool, bool]]


class Pool:
    """The workers, a thread for each reader. `write` is called for each sample by the worker that read it, before the sample counts as done for the
    issuer. `in_place`: the issuer reads itself, with the first reader: one read in flight, and no thread to wake (single-stream)."""

    def __init__(self, readers: Sequence[Read], clock: Clock, write: Callable[[SampleRecord], None], in_place: bool = False) -> None:
        self._clock, self._write = clock, write
        self._own = readers[0] if in_place else None
        self._items: SimpleQueue[_Item | None] = SimpleQueue()
        self._state = threading.Condition()
        self._open = 0
        self._dropping = False
        self.late = 0  # samples done after the limit
        self.limit_ns: int | None = None
        self.failure: Exception | None = None
        names = [] if in_place else list(enumerate(readers))
        self._threads = [threading.Thread(target=self._work, args=(read,), name=f"query-{index}", daemon=True) for index, read in names]
        for thread in self._threads:
            thread.start()

    def put(self, items: list[_Item]) -> None:
        if self._own is not None:
            for item in items:
                self.late += self._one(item, self._own)
            return
        with self._state:
            self._open += len(items)
        for item in items:
            self._items.put(item)

    def wait(self) -> None:
        """Until all that was put is done. Raises the first error of a worker."""
        with self._state:
            while self._open and self.failure is None:
                self._state.wait(1.0)  # not for ever, so that a signal is seen
        self.check()

    def check(self) -> None:
        if self.failure is not None:
            raise self.failure

    def drop(self) -> None:
        """Let go of what no worker has begun."""
        self._dropping = True

    def close(self) -> None:
        self._dropping = True
        for _ in self._threads:
            self._items.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self, read: Read) -> None:
        while (item := self._items.get()) is not None:
            is_late = False
            try:
                if not self._dropping:
                    is_late = self._one(item, read)
            except Exception as error:  # whoever waits raises it
                self.failure = self.failure or error
                self._dropping = True
            with self._state:
                self.late += is_late
                self._open -= 1
                if not self._open or self.failure is not None:
                    self._state.notify_all()

    def _one(self, item: _Item, read: Read) -> bool:
        """Read a sample and write it down; whether it came after the limit."""
        started_ns = self._clock.now_ns()
        num_bytes, verified, bad = read(item.sample)
        done_ns = self._clock.now_ns()
        self._write(SampleRecord(item.query, item.sample, item.scheduled_ns, item.issued_ns, started_ns, done_ns, num_bytes, verified, bad))
        return self.limit_ns is not None and done_ns - item.scheduled_ns > self.limit_ns


@dataclass(frozen=True)
class Pace:
    """When issuing ends: after so many queries and so long (both), of single- and multi-stream. `give_up_after`: server, in a search for a rate: end as soon
    as more queries than this were over `limit_ns`, since nothing can make the trial VALID then."""

    scenario: Scenario
    min_query_count: int
    min_duration_ns: int
    limit_ns: int | None = None
    give_up_after: int | None = None


class Issued(NamedTuple):
    """`start_ns`: when the schedule began. `last_issued_ns` and `last_scheduled_ns` of the last query, on the clock."""

    start_ns: int
    queries: int
    last_scheduled_ns: int
    last_issued_ns: int
    gave_up: bool

    def as_dict(self) -> Mapping[str, Any]:
        return self._asdict()


def issue(queries: Iterable[Query], pace: Pace, pool: Pool, clock: Clock) -> Issued:
    """Issue these queries and wait until all are answered. Raises the first error of a worker."""
    pool.limit_ns = pace.limit_ns
    start_ns = clock.now_ns() + (LEAD_NS if pace.scenario == "server" else 0)
    count, scheduled_ns, issued_ns, gave_up = 0, start_ns, start_ns, False
    for query in queries:
        if pace.scenario == "server":
            scheduled_ns = start_ns + query.due_ns
            issued_ns = clock.sleep_until_ns(scheduled_ns)
        else:
            scheduled_ns = issued_ns = start_ns if pace.scenario == "offline" else clock.now_ns()
        pool.put([_Item(query.number, sample, scheduled_ns, issued_ns) for sample in query.samples])
        count += 1
        pool.check()
        if pace.scenario != "server":
            pool.wait()
            if count >= pace.min_query_count and issued_ns - start_ns >= pace.min_duration_ns:
                break
        elif pace.give_up_after is not None and pool.late > pace.give_up_after:
            gave_up = True
            pool.drop()
            break
    pool.wait()
    return Issued(start_ns, count, scheduled_ns, issued_ns, gave_up)
