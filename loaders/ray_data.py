"""Ray Data as training scripts use it on one host: `read_parquet` in Ray's worker processes, batches through its object store, with its local shuffle buffer.

Settings and where they are from (ray 2.60, docs "Iterating over data" and "Shuffling data"). `iter_batches(batch_format="pyarrow", prefetch_batches=...)`;
`local_shuffle_buffer_size` = `--shuffle-buffer`, `local_shuffle_seed` from the seed, the epoch and the rank. `preserve_order`: without it blocks come as they are
ready and the same seed gives another order, which the loaders' contract forbids. Each rank has a Ray of its own (`address="local"`, on loopback) with `--num-workers`
cores, so that the budget is that of the other loaders; on a cluster one Ray would serve all ranks. Starting it takes some seconds, and each epoch starts tasks
anew. Usage statistics are off. Ray's processes end with `close`; its logs lie in a temporary folder that goes with it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
import numpy as np
import ray
import ray.data

from storagebench.adapters import Unit
from storagebench.datasets.parquet import row_group_records
from storagebench.loaders.blame import checked
from storagebench.loaders.delivery import Deliverer, Piece, at_least_parse
from storagebench.loaders.in_process import InProcessRun, deliver
from storagebench.loaders.local_cache import LocalCache
from storagebench.loaders.sequential import refuse_idle_ranks
from storagebench.plan import plan_job
from storagebench.protocols import IOCounters, LoaderRun, LoadJob
from storagebench.sampling import Indices

_LEAST_OBJECT_STORE_BYTES = 512 * 2**20
_COLUMNS = ["sample_id", "payload"]


class _Ray:
    """A process can have one Ray: the first user starts it, the last one ends it. What the first one said of cores and memory holds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._folder: LocalCache | None = None

    def enter(self, cores: int, object_store_bytes: int) -> None:
        with self._lock:
            if self._users == 0:
                self._start(cores, object_store_bytes)
            self._users += 1

    def _start(self, cores: int, object_store_bytes: int) -> None:
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what fails is raised, and said by us
        self._folder = LocalCache("ray")
        try:
            ray.init(
                address="local",
                num_cpus=cores,
                object_store_memory=object_store_bytes,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                _node_ip_address="127.0.0.1",
                _temp_dir=str(self._folder.path),
            )
        except BaseException:
            self._folder.close()
            raise
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                ray.shutdown()
                if self._folder is not None:
                    self._folder.close()


_ray = _Ray()


class RayDataLoader:
    """UsageError where a rank would get no shard."""

    name = "ray-data"

    def open(self, job: LoadJob) -> LoaderRun:
        refuse_idle_ranks(self.name, job)
        job = replace(job, decode=at_least_parse(job.decode))
        return InProcessRun(job, Blocks(job), {"ray": str(ray.__version__)})


class Blocks:
    """A Ray of one rank, and its dataset of each epoch."""

    unit: Unit = "shard"
    own_io = False

    def __init__(self, job: LoadJob) -> None:
        self._job = job
        self._deliverer = Deliverer(job)
        self._cores = max(job.num_workers, 1)
        batch_bytes = job.batch_size * job.dataset.record_bytes // job.dataset.num_samples
        self._store_bytes = max(_LEAST_OBJECT_STORE_BYTES, 8 * job.prefetch_batches * batch_bytes)
        self._is_open = False
        _ray.enter(self._cores, self._store_bytes)
        self._is_open = True

    def pieces(self, epoch: int) -> Generator[Piece]:
        _, shards = plan_job("shard", self._job, epoch)
        yield from deliver(self._deliverer, checked(self._job, shards, "ray-data", lambda: self._tables(shards, epoch)))

    def _tables(self, shards: Indices, epoch: int) -> Iterator[tuple[Indices, Sequence[Any]]]:
        job = self._job
        names = [os.path.join(job.store.root, job.dataset.names[shard]) for shard in shards.tolist()]
        shuffle: dict[str, Any] = {}
        if job.shuffle:
            seed = int(np.random.SeedSequence([job.seed, epoch, job.rank]).generate_state(1)[0])
            shuffle = {"local_shuffle_buffer_size": job.shuffle_buffer, "local_shuffle_seed": seed}
        dataset = ray.data.read_parquet(names).select_columns(_COLUMNS)
        batches = iter(
            dataset.iter_batches(batch_size=job.batch_size, batch_format="pyarrow", prefetch_batches=job.prefetch_batches, drop_last=False, **shuffle)
        )
        for table in batches:
            yield np.asarray(table.column("sample_id").to_numpy(), np.int64), row_group_records(table)

    def store_counters(self) -> IOCounters | None:
        return None

    def about(self) -> Mapping[str, Any]:
        return {
            "num_cpus": self._cores,
            "object_store_bytes": self._store_bytes,
            "preserve_order": True,
            "local_shuffle_buffer_size": self._job.shuffle_buffer if self._job.shuffle else 0,
        }

    def close(self) -> None:
        """Ray's processes end with the last of its users."""
        if self._is_open:
            self._is_open = False
            _ray.leave()
