"""Loaders whose library does its own work in threads of the rank's process: its samples, taken by one thread of ours, become batches of planned sizes."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, Protocol

from storagebench.adapters import Unit
from storagebench.errors import RankError
from storagebench.loaders.delivery import Deliverer, Piece, ProcessMeter, join, total_counters
from storagebench.plan import plan_job
from storagebench.protocols import Batch, IOCounters, LoaderCounters, LoadJob
from storagebench.sampling import EpochPlan, Indices
from storagebench.usage import Watch


class Source(Protocol):
    """A library, opened for one rank."""

    unit: Unit
    own_io: bool  # the library reads, so that what the kernel counts for this process stands for it

    def pieces(self, epoch: int) -> Generator[Piece]:
        """What was planned, in the library's order, in pieces of any size. All that was opened for the epoch is closed with the generator."""

    def store_counters(self) -> IOCounters | None:
        """What our store counted; None where the library reads."""

    def about(self) -> Mapping[str, Any]:
        """The settings in force, and notes."""

    def close(self) -> None:
        """Release the client. May be called twice."""


def deliver(deliverer: Deliverer, chunks: Iterator[tuple[Indices, Sequence[Any]]]) -> Iterator[Piece]:
    """(ids, records) that a library read and parsed, taken through the levels; waiting for the library is the fetch."""
    while True:
        watch = Watch()
        found = next(chunks, None)
        if found is None:
            return
        ids, records = found
        yield deliverer.deliver_records(ids, records, {"fetch": watch.wall_s()}, watch, watch.cpu_s())


class InProcessRun:
    """One rank. At most `prefetch_batches` batches are ready or being put together ahead of the consumer, on top of what the library itself reads ahead.
    Without workers there is no thread of ours: a batch is taken out of the library when it is asked for."""

    def __init__(self, job: LoadJob, source: Source, settings: Mapping[str, Any]) -> None:
        self._job, self._source, self._settings = job, source, settings
        self._meter: ProcessMeter | None = None
        self._thread: threading.Thread | None = None
        self._batches: Iterator[Batch] | None = None
        self._left = 0

    def plan(self, epoch: int) -> EpochPlan:
        return plan_job(self._source.unit, self._job, epoch)[0]

    def start(self, epoch: int) -> None:
        self.counters()  # from now on what this process reads is the dataset's
        sizes = [size for size in self.plan(epoch).sizes if size]
        self._left = len(sizes)
        pieces = self._source.pieces(epoch)
        self._batches = None
        if self._job.num_workers:
            self._ready: queue.SimpleQueue[Batch | BaseException] = queue.SimpleQueue()
            self._slots = threading.Semaphore(self._job.prefetch_batches)
            self._stopped = threading.Event()
            self._thread = threading.Thread(target=self._feed, args=(pieces, sizes), name="feeder", daemon=True)
            self._thread.start()
        else:
            self._batches = _batches(pieces, sizes)

    def _feed(self, pieces: Generator[Piece], sizes: list[int]) -> None:
        try:
            with closing(pieces), closing(_batches(pieces, sizes)) as batches:
                for _ in sizes:
                    self._slots.acquire()
                    if self._stopped.is_set():
                        return
                    self._ready.put(next(batches))
        except BaseException as error:  # `next` raises it
            self._ready.put(error)

    def next(self) -> Batch | None:
        if not self._left:
            return None
        self._left -= 1
        if self._thread is None:
            assert self._batches is not None, "start comes before next"
            return next(self._batches)
        found = self._ready.get()
        if isinstance(found, BaseException):
            raise found
        self._slots.release()
        return replace(found, queue_level=self._ready.qsize())

    def drain(self) -> None:
        self._left = 0
        if self._thread is not None:
            self._stopped.set()
            self._slots.release()
            self._thread.join()
            self._thread = None
            self._ready = queue.SimpleQueue()
        batches, self._batches = self._batches, None
        if batches is not None:
            batches.close()  # type: ignore[attr-defined]  # a generator

    def counters(self) -> LoaderCounters:
        found = total_counters([self._meter.read()] if self._meter else [], in_rank=True, own_io=self._source.own_io)
        if self._meter is None:
            self._meter = ProcessMeter(lambda: self._source.store_counters() or IOCounters(), self._job.counts_process)
        if not self._source.own_io and self._source.store_counters() is None:
            return replace(
                found, storage_bytes=None, storage_method="unknown: the library's own I/O", device_read_bytes=None, requests=None, retries=None
            )
        return found

    def effective(self) -> Mapping[str, Any]:
        return {"decode": self._job.decode, "workers": self._job.num_workers, "notes": [], **self._settings, **self._source.about()}

    def close(self) -> None:
        self.drain()
        if self._meter is not None:
            self._meter.close()
            self._meter = None
        self._source.close()


def _batches(pieces: Generator[Piece], sizes: Sequence[int]) -> Generator[Batch]:
    """Pieces, cut and joined to batches of these sizes; a piece may end in one batch and go on in the next."""
    with closing(pieces):
        rest: deque[Piece] = deque()
        for size in sizes:
            need, parts = size, []
            while need:
                piece = rest.popleft() if rest else next(pieces, None)
                if piece is None:
                    raise RankError("the library ended the epoch early", "run with --debug and report it")
                have = len(piece.sample_ids)
                take = min(need, have)
                parts.append(piece if take == have else piece.part(0, take))
                if take < have:
                    rest.appendleft(piece.part(take, have))
                need -= take
            yield replace(join(parts, queue_level=None), ready_ns=time.monotonic_ns())
