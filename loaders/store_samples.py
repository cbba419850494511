"""What adapters share whose library runs our reads in its threads (grain, spdl): samples in the planned order, through our store, errors as values."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from copy import copy

import numpy as np

from storagebench.errors import StorageBenchError
from storagebench.loaders.delivery import Deliverer, Piece
from storagebench.protocols import IOCounters, LoadJob, Store
from storagebench.sampling import Indices
from storagebench.storage import open_spec
from storagebench.usage import Watch


class ThreadedSamples(ABC):
    """Reads samples in the threads of a library. Thread-safe."""

    def __init__(self) -> None:
        self._idle = threading.Condition()
        self._reading = 0

    def begin(self) -> None:  # noqa: B027 - a client of ours stays open between epochs
        """An epoch begins."""

    @abstractmethod
    def _read(self, ids: Indices) -> Piece:
        """These samples, taken through the levels. Raises StorageBenchError."""

    @abstractmethod
    def counters(self) -> IOCounters | None:
        """What our store counted; None where a library reads."""

    @abstractmethod
    def close(self) -> None:
        """Release the client."""

    def piece(self, ids: Indices) -> Piece | StorageBenchError:
        """These samples; the error as a value, since libraries skip or wrap what is raised in their threads."""
        with self._idle:
            self._reading += 1
        try:
            return self._read(ids)
        except StorageBenchError as error:
            return copy(error)  # without the frames, which would keep the memory
        finally:
            with self._idle:
                self._reading -= 1
                self._idle.notify_all()

    def wait_until_idle(self) -> None:
        """Returns when no read is going on: some libraries leave theirs running when they are closed."""
        with self._idle:
            self._idle.wait_for(lambda: self._reading == 0)


class StoreSamples(ThreadedSamples):
    """Reads samples through our store."""

    def __init__(self, job: LoadJob) -> None:
        super().__init__()
        self._deliverer = Deliverer(job)
        self._store: Store = open_spec(job.store)

    def _read(self, ids: Indices) -> Piece:
        watch = Watch()
        extents = [self._deliverer.dataset.extent(int(sample), self._deliverer.whole_shard) for sample in ids]
        return self._deliverer.deliver_stored(np.asarray(ids, np.int64), self._store.read(extents), watch)

    def counters(self) -> IOCounters:
        return self._store.counters()

    def close(self) -> None:
        self._store.close()
