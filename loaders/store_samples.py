"""What adapters share whose library runs our reads in its threads (grain, spdl): samples through our store, in the planned order, errors as values."""

from __future__ import annotations

import threading
from copy import copy

import numpy as np

from storagebench.errors import StorageBenchError
from storagebench.loaders.delivery import Deliverer, Piece
from storagebench.protocols import IOCounters, LoadJob, Store
from storagebench.sampling import Indices
from storagebench.storage import open_spec
from storagebench.usage import Watch


class StoreSamples:
    """Reads samples and takes them through the levels. Thread-safe."""

    def __init__(self, job: LoadJob) -> None:
        self._deliverer = Deliverer(job)
        self._store: Store = open_spec(job.store)
        self._idle = threading.Condition()
        self._reading = 0

    def piece(self, ids: Indices) -> Piece | StorageBenchError:
        """These samples; the error as a value, since libraries skip or wrap what is raised in their threads."""
        with self._idle:
            self._reading += 1
        try:
            watch = Watch()
            extents = [self._deliverer.dataset.extent(int(sample), self._deliverer.whole_shard) for sample in ids]
            return self._deliverer.deliver_stored(np.asarray(ids, np.int64), self._store.read(extents), watch)
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

    def counters(self) -> IOCounters:
        return self._store.counters()

    def close(self) -> None:
        self._store.close()
